//! How much of everything one connection, and all of them together, may take.

use super::memory::RequestMemory;

/// Shared by all sessions of a node. Times are in milliseconds.
#[derive(Debug)]
pub struct Limits {
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `connections.max.idle.ms`; `None` never closes an idle connection.
    pub idle_ms: Option<u64>,
    /// `queued.max.request.bytes`.
    pub memory: RequestMemory,
    /// Requests of one connection that are not answered yet.
    pub in_flight_max: usize,
    /// Bytes of answers of one connection that have not been sent; past it no further request is taken up. One answer may exceed it.
    pub unsent_bytes_max: usize,
    /// From the first byte of a frame to its last, plus the time that its bytes earn at `frame_bytes_per_s_min`.
    pub frame_ms: u64,
    pub frame_bytes_per_s_min: u64,
    /// Without a byte being accepted while there is something to send.
    pub write_stall_ms: u64,
    /// For answers that are still owed when the client has stopped sending.
    pub grace_ms: u64,
    /// For answers that are still owed when the broker stops.
    pub stop_grace_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 100 << 20,
            idle_ms: Some(10 * 60 * 1_000),
            memory: RequestMemory::new(256 << 20),
            in_flight_max: 512,
            unsent_bytes_max: 1 << 20,
            frame_ms: 30_000,
            frame_bytes_per_s_min: 4 * 1024,
            write_stall_ms: 60_000,
            grace_ms: 5_000,
            stop_grace_ms: 500,
        }
    }
}
