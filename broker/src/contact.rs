//! Whether this node has heard of its cluster lately.
//!
//! A node that is cut off is fenced, and what it leads is led by others, without its knowing. Clients may still reach it, and ask it who
//! leads: an idempotent producer that comes back to it would be told that its sequence is out of order, which clients take as final.
//! So a leader that has heard neither of a controller nor of a follower for as long as a session lasts sends producers away. They lose
//! nothing by it: nothing could be committed there. A controller that is merely down makes no difference while followers are heard of.

use std::sync::atomic::{AtomicU64, Ordering};

/// When somebody was heard of last. Ticks are milliseconds.
#[derive(Debug)]
pub struct Contact {
    heard_ms: AtomicU64,
    /// Of a session; a node that is alone misses nobody.
    limit_ms: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self { heard_ms: AtomicU64::new(0), limit_ms: AtomicU64::new(u64::MAX) }
    }
}

impl Contact {
    /// There are others from here on, whose silence for `limit_ms` means something.
    pub fn expect(&self, limit_ms: u64, tick_ms: u64) {
        self.heard(tick_ms);
        self.limit_ms.store(limit_ms, Ordering::Release);
    }

    /// Another node was heard of: it sent something at the tick, or answered what was sent then.
    pub fn heard(&self, tick_ms: u64) {
        self.heard_ms.fetch_max(tick_ms, Ordering::AcqRel);
    }

    #[must_use]
    pub fn is_lost(&self, tick_ms: u64) -> bool {
        tick_ms.saturating_sub(self.heard_ms.load(Ordering::Acquire)) > self.limit_ms.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_where_others_are_expected_and_from_then_on() {
        let contact = Contact::default();
        assert!(!contact.is_lost(1 << 40), "alone");
        contact.expect(2_500, 10_000);
        assert!(!contact.is_lost(12_500) && contact.is_lost(12_501));
        contact.heard(12_000);
        contact.heard(11_000);
        assert!(!contact.is_lost(14_500) && contact.is_lost(14_501), "what was heard later counts");
    }
}
