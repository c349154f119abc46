//! A load generator for anything that speaks Kafka's protocol. It is cheap, so that on a small machine the broker and not the client is
//! measured: requests are encoded once, one thread serves all connections, and what comes is read where it lies.
//!
//! - [`plan`]: what is sent and read, how fast, for how long; [`run`](run()) does it
//! - [`payload`], [`produce_frame`], [`fetch_frame`]: requests that are encoded once and patched for each sending
//! - [`connection`]: one blocking connection; [`bootstrap`]: several brokers, and who leads what; [`admin`]: topics made and removed;
//!   [`served`]: waiting for new ones
//! - [`rebalance`]: a group of many members that come and go; [`gap`]: for how long nothing is acknowledged when a broker ends;
//!   [`first_record`]: how long one that starts takes until it serves; [`idle`]: connections that do nothing
//! - [`control`]: what the machine itself takes; [`processes`]: what a broker's processes take
//! - [`latency`], [`timeline`], [`figures`], [`clock`]: how it is counted and told
//!
//! Inside a run: `hire` opens the connections; `event_loop` is one thread, which owns `writer`s and `reader`s, each on a `link`, a socket that never waits;
//! `journeys` joins what was written with what was read; `tally` counts.

pub mod admin;
pub mod answers;
pub mod bootstrap;
pub mod clock;
pub mod connection;
pub mod control;
pub mod error;
mod event_loop;
pub mod fetch_frame;
pub mod figures;
pub mod first_record;
pub mod gap;
mod hire;
pub mod idle;
mod journeys;
pub mod latency;
mod link;
pub mod payload;
pub mod plan;
pub mod processes;
pub mod produce_frame;
mod reader;
pub mod rebalance;
mod run;
pub mod served;
mod tally;
pub mod timeline;
mod writer;

pub use run::{Watch, run};
