//! From the intended sending of a batch to its arrival at a reader. A batch is known by its partition and offset: the writer learns that
//! offset when the batch is acknowledged, the reader sees it; which of them comes first is chance.

use std::collections::BTreeMap;
use std::time::Instant;

/// What is known of a batch so far.
#[derive(Clone, Copy, Debug)]
enum Half {
    Written { due: Instant },
    Seen { at: Instant },
}

/// A batch that was written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Journey {
    pub(crate) due: Instant,
    pub(crate) seen: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Journeys {
    open: BTreeMap<(i32, i64), Half>,
    /// Acknowledged and not seen yet.
    on_the_way: usize,
}

impl Journeys {
    pub(crate) fn on_written(&mut self, partition: i32, base_offset: i64, due: Instant) -> Option<Journey> {
        match self.open.insert((partition, base_offset), Half::Written { due }) {
            Some(Half::Seen { at }) => {
                self.open.remove(&(partition, base_offset));
                Some(Journey { due, seen: at })
            }
            _ => {
                self.on_the_way += 1;
                None
            }
        }
    }

    pub(crate) fn on_seen(&mut self, partition: i32, base_offset: i64, at: Instant) -> Option<Journey> {
        match self.open.insert((partition, base_offset), Half::Seen { at }) {
            Some(Half::Written { due }) => {
                self.open.remove(&(partition, base_offset));
                self.on_the_way -= 1;
                Some(Journey { due, seen: at })
            }
            _ => None,
        }
    }

    /// Batches that were acknowledged and have not arrived.
    pub(crate) fn on_the_way(&self) -> usize {
        self.on_the_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_journey_is_whole_whichever_end_is_known_first() {
        let mut journeys = Journeys::default();
        let due = Instant::now();
        let seen = due + Duration::from_millis(3);
        let whole = Some(Journey { due, seen });
        assert_eq!(journeys.on_written(0, 5, due), None);
        assert_eq!((journeys.on_seen(1, 5, seen), journeys.on_the_way()), (None, 1));
        assert_eq!((journeys.on_seen(0, 5, seen), journeys.on_the_way()), (whole, 0));
        assert_eq!((journeys.on_written(1, 5, due), journeys.on_the_way()), (whole, 0));
    }
}
