//! How other threads reach a connection: a queue per worker whose wake-ups are coalesced.
//!
//! A worker drains its whole mailbox in one turn of its loop, so a burst of completions costs one wake-up. The only thing a sender
//! does besides pushing is to wake the worker when the queue was empty.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::api::Output;

/// A connection for the life of the process: numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// The place of a request in its connection: 0 for the first frame, then counted up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestSequence(pub u64);

/// What a worker is told about one of its connections.
#[derive(Debug)]
pub enum Mail {
    /// The answer to a deferred request; `None` when its slot was dropped without one, which closes the connection.
    Completed { connection: ConnectionId, sequence: RequestSequence, answer: Option<Output> },
    /// Something that a parked request waits for has happened.
    Woken { connection: ConnectionId, sequence: RequestSequence },
    /// The connection may read again: request memory was released.
    Readable { connection: ConnectionId },
}

/// One worker's queue.
pub struct Mailbox {
    queue: Mutex<VecDeque<Mail>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Mailbox {
    /// `wake` is called (from any thread) when the queue becomes non-empty.
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { queue: Mutex::new(VecDeque::new()), wake: Box::new(wake) }
    }

    /// Queues `mail`; wakes the worker if it has not been woken for this turn yet.
    pub fn post(&self, mail: Mail) {
        let first = {
            let mut queue = self.lock();
            queue.push_back(mail);
            queue.len() == 1
        };
        if first {
            (self.wake)();
        }
    }

    /// Takes everything that waits, leaving the (empty) `spare` in its place so that both buffers are reused.
    pub fn drain_into(&self, spare: &mut VecDeque<Mail>) {
        assert!(spare.is_empty(), "mail must be delivered before more is taken");
        std::mem::swap(&mut *self.lock(), spare);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Mail>> {
        // A panic aborts the process in production; in tests a poisoned queue is still a queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("waiting", &self.lock().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_burst_of_mail_wakes_the_worker_once() {
        let wakes = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&wakes);
        let mailbox = Mailbox::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let mut mail = VecDeque::new();
        for turn in 1..=2 {
            for n in 0..5 {
                mailbox.post(Mail::Woken { connection: ConnectionId(n), sequence: RequestSequence(0) });
            }
            assert_eq!(wakes.load(Ordering::Relaxed), turn);
            mailbox.drain_into(&mut mail);
            assert_eq!(mail.len(), 5);
            mail.clear();
        }
    }
}
