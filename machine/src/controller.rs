//! The controller: the one place that decides about brokers, topics and configurations.
//!
//! `decide(command) -> records, answer`; the records go through the Raft log; every node applies them to its [`image::Image`].

pub mod codec;
pub mod image;
pub mod record;
