//! The memory that requests in progress may take in all (`queued.max.request.bytes`).
//!
//! Counted are the bytes of frames that connections hold because they are not whole yet or may not run yet. Once the limit is
//! reached, connections stop reading. One of them, whichever asks first, holds an express ticket and may finish its frame, so that a
//! full house of half-read frames always drains; it overshoots the limit by one frame at most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::mailbox::{ConnectionId, Mail, Mailbox};

/// Nobody holds the express ticket.
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
pub struct RequestMemory {
    limit: u64,
    used: AtomicU64,
    express: AtomicU64,
    waiting: Mutex<Vec<(Arc<Mailbox>, ConnectionId)>>,
}

impl RequestMemory {
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit: limit_bytes,
            used: AtomicU64::new(0),
            express: AtomicU64::new(NOBODY),
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Bytes held at the moment.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// May this connection read on? If not, it gets [`Mail::Readable`] once memory was released.
    pub(crate) fn admit(&self, connection: ConnectionId, holds: usize, mailbox: &Arc<Mailbox>) -> bool {
        if self.used.load(Ordering::Acquire) < self.limit {
            return true;
        }
        if holds > 0 {
            let held =
                self.express.compare_exchange(NOBODY, connection.0, Ordering::AcqRel, Ordering::Acquire);
            if held.is_ok() || held == Err(connection.0) {
                return true;
            }
        }
        let mut waiting = self.waiting();
        if !waiting.iter().any(|(_, waits)| *waits == connection) {
            waiting.push((Arc::clone(mailbox), connection));
        }
        // Memory may have been released just before we were on the list.
        self.used.load(Ordering::Acquire) < self.limit
    }

    /// A connection holds `after` bytes where it held `before`.
    pub(crate) fn changed(&self, connection: ConnectionId, before: usize, after: usize) {
        if after > before {
            self.used.fetch_add((after - before) as u64, Ordering::AcqRel);
        } else if before > after {
            let released = (before - after) as u64;
            let old = self.used.fetch_sub(released, Ordering::AcqRel);
            assert!(old >= released, "request memory is released once");
            let ticket_back = after == 0
                && self
                    .express
                    .compare_exchange(connection.0, NOBODY, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok();
            if ticket_back || (old >= self.limit && old - released < self.limit) {
                self.call_waiting();
            }
        }
    }

    fn call_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        for (mailbox, connection) in waiting {
            mailbox.post(Mail::Readable { connection });
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<Mailbox>, ConnectionId)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_full_house_of_half_read_frames_drains_one_by_one() {
        let memory = RequestMemory::new(100);
        let mailbox = Arc::new(Mailbox::new(|| {}));
        let (a, b, c) = (ConnectionId(1), ConnectionId(2), ConnectionId(3));
        memory.changed(a, 0, 60);
        assert!(memory.admit(b, 0, &mailbox));
        memory.changed(b, 0, 60);
        assert!(memory.admit(a, 60, &mailbox), "the first to ask may finish its frame");
        assert!(!memory.admit(b, 60, &mailbox));
        assert!(!memory.admit(c, 0, &mailbox), "no frame is begun");
        assert!(memory.admit(a, 90, &mailbox), "still");
        memory.changed(a, 60, 90);
        memory.changed(a, 90, 0);
        let mut mail = VecDeque::new();
        mailbox.drain_into(&mut mail);
        assert_eq!(mail.len(), 2, "both that waited are called");
        assert!(memory.admit(c, 0, &mailbox));
        assert_eq!(memory.used(), 60);
    }
}
