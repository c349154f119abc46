//! The controller: the one place that decides about brokers, topics and configurations.
//!
//! `decide(command) -> records, answer`; the records go through the Raft log; every node applies them to its [`image::Image`].

pub mod codec;
pub mod command;
mod configs;
pub mod decide;
pub mod image;
mod placement;
pub mod record;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod wire;
