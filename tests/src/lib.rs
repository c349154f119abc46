//! What whole-process tests share: real `ottla` processes, and a client that says exactly what it is told to say.

pub mod client;
pub mod cluster;
pub mod process;
