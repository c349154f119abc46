//! What a machine may know of the world at one step. Everything else it knows is its own state.

use ottla_protocol::types::Uuid;

use crate::controller::image::Image;

/// The surroundings of one step: two clocks, the metadata image and a source of chance, all chosen by the caller.
pub struct Env<'a> {
    /// Wall clock, milliseconds since 1970. May jump in both directions; for timestamps that people and records see.
    pub now_ms: i64,
    /// Monotonic clock, milliseconds since some fixed point of this process. For every deadline.
    pub tick_ms: u64,
    pub image: &'a Image,
    pub random: &'a mut dyn FnMut() -> u64,
}

impl Env<'_> {
    /// A fresh id out of the caller's chance.
    pub fn fresh_uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(self.random)().to_be_bytes());
        bytes[8..].copy_from_slice(&(self.random)().to_be_bytes());
        Uuid::from_random(bytes)
    }

    /// A number below `bound` (which is not 0). The bias of the remainder does not matter for what machines draw lots about.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a draw needs at least one lot");
        (self.random)() % bound
    }
}
