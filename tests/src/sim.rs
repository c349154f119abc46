//! Whole clusters of production parts on one thread, under one seed: the same seed gives the same run, byte for byte.
//!
//! What is real: sessions, APIs, partitions and their logs, replication's core, coordinators, the controller and its machine, the
//! membership's. What is not: the disk (`storage::memory`), the network (`net`), the clocks, and the loops of threads (`node`, `edges`).
//! Raft is real in the slower of two tiers (`voter`); in the faster one `quorum` stands in for it.
//!
//! A seed chooses its [`plan::Pace`]: some seconds full of faults and records, or up to an hour with time for slow timers. A run has a safety phase, in which the faults of its [`plan`] happen, and a liveness phase without any, in which everything must
//! converge within [`plan::Plan::converge_ms`] of virtual time. The invariants are in `crate::check`, one in each file.

pub mod client;
pub mod edges;
pub mod effects;
pub mod faults;
pub mod flip;
pub mod member;
pub mod net;
pub mod node;
pub mod plan;
pub mod quorum;
pub mod report;
pub mod trace;
pub mod voter;
pub mod world;

pub use client::read_value;
pub use voter::Tier;
pub use world::{Outcome, run, run_in};
