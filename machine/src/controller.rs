//! The controller: the one place that decides about brokers, topics and configurations.
//!
//! `decide(command) -> records, answer`; the records go through the Raft log; every node applies them to its [`image::Image`].

mod brokers;
pub mod codec;
pub mod command;
mod configs;
pub mod decide;
mod features;
pub mod image;
mod isr;
pub mod leadership;
mod placement;
mod reassignment;
pub mod record;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod wire;
