//! What whole-process tests share: real `ottla` processes, and a client that says exactly what it is told to say. And the simulator:
//! whole clusters under one seed, and the invariants that they are checked against.

pub mod check;
pub mod client;
pub mod cluster;
pub mod process;
pub mod servers;
pub mod sim;
pub mod topic;
pub mod writer;
