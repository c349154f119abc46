//! Who waits for the high watermark, in the order of the offsets that they wait for, each with a time-out.

use std::collections::VecDeque;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::Offset;

use super::OnCommitted;

struct Entry {
    offset: Offset,
    deadline_ms: u64,
    on_committed: OnCommitted,
}

/// The queue of one partition.
pub(super) struct Waiting {
    entries: VecDeque<Entry>,
    /// No entry's time is over before this tick.
    earliest_ms: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { entries: VecDeque::new(), earliest_ms: u64::MAX }
    }
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Waits for `offset` until the tick `deadline_ms`.
    pub(super) fn push(&mut self, offset: Offset, deadline_ms: u64, on_committed: OnCommitted) {
        self.earliest_ms = self.earliest_ms.min(deadline_ms);
        let entry = Entry { offset, deadline_ms, on_committed };
        // A duplicate may wait for an earlier offset than the last one in the queue.
        let at = self.entries.partition_point(|known| known.offset <= offset);
        self.entries.insert(at, entry);
    }

    /// Takes out everybody whose offset is reached.
    pub(super) fn reached(&mut self, offset: Offset) -> impl Iterator<Item = OnCommitted> + '_ {
        let count = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries.drain(..count).map(|entry| entry.on_committed)
    }

    /// Takes out everybody whose time is over.
    pub(super) fn timed_out(&mut self, tick_ms: u64) -> Vec<OnCommitted> {
        if tick_ms < self.earliest_ms {
            return Vec::new();
        }
        let (over, rest): (VecDeque<_>, _) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| entry.deadline_ms <= tick_ms);
        self.entries = rest;
        self.earliest_ms = self.entries.iter().map(|entry| entry.deadline_ms).min().unwrap_or(u64::MAX);
        over.into_iter().map(|entry| entry.on_committed).collect()
    }

    /// Takes out everybody.
    pub(super) fn all(&mut self) -> impl Iterator<Item = OnCommitted> + '_ {
        self.earliest_ms = u64::MAX;
        self.entries.drain(..).map(|entry| entry.on_committed)
    }
}

/// Tells everybody of `waiting` the same.
pub(super) fn told(
    waiting: impl IntoIterator<Item = OnCommitted>,
    result: Result<(), ErrorCode>,
) -> Vec<(OnCommitted, Result<(), ErrorCode>)> {
    waiting.into_iter().map(|on_committed| (on_committed, result)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn offsets_release_in_order_and_time_releases_whoever_is_late() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Waiting::default();
        for (name, offset, deadline_ms) in [("a", 5, 100), ("b", 9, 50), ("c", 7, 300), ("d", 9, 200)] {
            let heard = Arc::clone(&heard);
            let on_committed: OnCommitted =
                Box::new(move |result| heard.lock().expect("not poisoned").push((name, result.is_ok())));
            waiting.push(Offset(offset), deadline_ms, on_committed);
        }
        let heard_after = |released: Vec<OnCommitted>, result: Result<(), ErrorCode>| {
            released.into_iter().for_each(|on_committed| on_committed(result));
            std::mem::take(&mut *heard.lock().expect("not poisoned"))
        };
        let late = Err(ErrorCode::RequestTimedOut);
        assert_eq!(heard_after(waiting.timed_out(49), late), []);
        assert_eq!(heard_after(waiting.timed_out(50), late), [("b", false)]);
        let reached: Vec<_> = waiting.reached(Offset(7)).collect();
        assert_eq!(heard_after(reached, Ok(())), [("a", true), ("c", true)]);
        assert_eq!(heard_after(waiting.timed_out(400), late), [("d", false)]);
        assert!(waiting.is_empty());
    }
}
