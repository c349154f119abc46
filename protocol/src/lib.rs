//! Bytes on the wire: frames, messages, the versions served, record batches. Knows no files, sockets, clocks or threads.

pub mod api;
pub mod batch;
pub mod compression;
pub mod error;
pub mod fetch_response;
pub mod frame;
pub mod messages;
pub mod record;
pub mod records;
pub mod replica_fetch;
pub mod types;
pub mod validate;
pub mod wire;
