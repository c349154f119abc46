//! Bytes on the wire: frames, messages, the versions served, record batches. Knows no files, sockets, clocks or threads.

pub mod error;
pub mod types;
