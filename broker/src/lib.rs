//! The broker: what runs in one `ottla` process.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod endpoints;
pub mod entropy;
pub mod net;
pub mod node;
pub mod session;
