//! A load generator for anything that speaks Kafka's protocol. It is cheap, so that on a small machine the broker and not the client is
//! measured: a produce request is encoded once, and each sending changes its correlation id alone.
//!
//! - [`connection`]: one blocking connection; [`bootstrap`]: several brokers, and who leads what; [`admin`]: topics made and removed
//! - [`produce_frame`]: the request that is sent again and again; [`answers`]: what comes back
//! - [`saturation`]: as much as the broker takes; [`offered_rate`]: an open loop, timed from the intended moment
//! - [`first_record`]: how long a broker that starts takes until it serves; [`gap`]: for how long nothing is acknowledged when one ends
//! - [`control`]: what the machine itself takes
//! - [`latency`], [`clock`]: how it is counted

pub mod admin;
pub mod answers;
pub mod bootstrap;
pub mod clock;
pub mod connection;
pub mod control;
pub mod error;
pub mod first_record;
pub mod gap;
pub mod latency;
pub mod load;
pub mod offered_rate;
pub mod produce_frame;
pub mod saturation;
