//! Every decision of the cluster, as deterministic state machines: `step(env, input) -> effects`. No clock, no entropy, no I/O.

pub mod controller;
pub mod env;
pub mod group;
pub mod partition;
pub mod sabotage;
