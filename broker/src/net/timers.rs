//! When which connection wants to be looked at. Entries are never removed early: a connection that is looked at too soon says when
//! next, so a busy connection costs an entry or two and no churn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::session::mailbox::ConnectionId;

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(u64, ConnectionId)>>,
}

impl Timers {
    pub(super) fn push(&mut self, due_ms: u64, connection: ConnectionId) {
        self.heap.push(Reverse((due_ms, connection)));
    }

    pub(super) fn earliest_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due_ms, _))| *due_ms)
    }

    /// The next connection that is due, with the time for which it asked.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<(u64, ConnectionId)> {
        if self.earliest_ms()? > now_ms {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_in_order_and_nothing_else() {
        let mut timers = Timers::default();
        for (due, id) in [(30, 1), (10, 2), (20, 3)] {
            timers.push(due, ConnectionId(id));
        }
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(20), Some((10, ConnectionId(2))));
        assert_eq!(timers.pop_due(20), Some((20, ConnectionId(3))));
        assert_eq!(timers.pop_due(20), None);
        assert_eq!(timers.earliest_ms(), Some(30));
    }
}
