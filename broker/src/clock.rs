//! The only door to the clocks. Handlers and machines are handed times; nothing else in the broker asks the system.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall clock and monotonic clock of a node: the system's, or one that a simulation moves by hand. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { start: Instant },
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    wall_ms: AtomicI64,
    tick_ms: AtomicU64,
}

impl Clock {
    /// The system's clocks; ticks are counted from this call.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System { start: Instant::now() })
    }

    /// A clock that stands still until it is advanced.
    #[must_use]
    pub fn manual(wall_ms: i64) -> Self {
        Self(Source::Manual(Arc::new(Manual {
            wall_ms: AtomicI64::new(wall_ms),
            tick_ms: AtomicU64::new(0),
        })))
    }

    /// Milliseconds since the Unix epoch. May jump in both directions: for record timestamps and retention only.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Source::System { .. } => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
                Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
            },
            Source::Manual(manual) => manual.wall_ms.load(Ordering::Relaxed),
        }
    }

    /// Milliseconds since this clock was made; never goes back. For deadlines and time-outs.
    #[must_use]
    pub fn tick_ms(&self) -> u64 {
        match &self.0 {
            Source::System { start } => u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            Source::Manual(manual) => manual.tick_ms.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock on; the system's clocks are not ours to move.
    ///
    /// # Panics
    /// On a clock made by [`Clock::system`].
    pub fn advance_ms(&self, by_ms: u64) {
        let Source::Manual(manual) = &self.0 else { panic!("only a manual clock can be advanced") };
        manual.tick_ms.fetch_add(by_ms, Ordering::Relaxed);
        manual.wall_ms.fetch_add(i64::try_from(by_ms).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Lets the wall clock of a manual clock jump; its ticks go on as they were.
    ///
    /// # Panics
    /// On a clock made by [`Clock::system`].
    pub fn jump_ms(&self, by_ms: i64) {
        let Source::Manual(manual) = &self.0 else { panic!("only a manual clock can jump") };
        manual.wall_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand_and_for_every_clone() {
        let clock = Clock::manual(1_000);
        let other = clock.clone();
        clock.advance_ms(250);
        assert_eq!((other.now_ms(), other.tick_ms()), (1_250, 250));
    }
}
