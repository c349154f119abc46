//! The broker: what runs in one `ottla` process.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contact;
pub mod controller;
pub mod coordinator;
pub mod endpoints;
pub mod entropy;
pub mod fetch_sessions;
pub mod flusher;
pub mod founding;
pub mod in_sync;
pub mod janitor;
pub mod membership;
pub mod net;
pub mod node;
pub mod overdue;
pub mod partition;
pub mod partitions;
pub mod parts;
pub mod peers;
pub mod replicators;
pub mod session;
pub mod start;
pub mod throttle;
