//! The broker: what runs in one `ottla` process.

pub mod api;
pub mod clock;
pub mod node;
#[allow(dead_code, unreachable_pub, reason = "stands in for the protocol crate")]
mod pending;
pub mod session;
