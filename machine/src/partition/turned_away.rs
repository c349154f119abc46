//! Producers whose first batches were refused for a while (no space, too few replicas in sync).
//!
//! A log that does not know a producer takes any sequence from it, as Kafka's does, for its records may have been deleted. A producer
//! whose beginning was just refused has no such past: a later batch of it, of a request that was on its way for long, would stand
//! before the first one for good.

use std::collections::BTreeMap;

use ottla_protocol::batch::BatchHeader;

/// So many producers are remembered.
const REMEMBERED: usize = 1_024;

/// For each producer, by id and epoch, the lowest sequence that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnedAway(BTreeMap<(i64, i16), i32>);

fn key(header: &BatchHeader) -> (i64, i16) {
    (header.producer_id.0, header.producer_epoch.0)
}

impl TurnedAway {
    /// A batch was refused that may be taken later. Of no interest where the log knows its producer: there its sequence says enough.
    pub fn note(&mut self, header: &BatchHeader) {
        if header.producer_id.0 < 0 || self.0.len() >= REMEMBERED && !self.0.contains_key(&key(header)) {
            return;
        }
        let lowest = self.0.entry(key(header)).or_insert(header.base_sequence);
        *lowest = header.base_sequence.min(*lowest);
    }

    /// Whether a batch of a producer that the log does not know comes ahead of one that was refused.
    #[must_use]
    pub fn is_ahead(&self, header: &BatchHeader) -> bool {
        self.0.get(&key(header)).is_some_and(|lowest| header.base_sequence > *lowest)
    }

    /// A batch was appended.
    pub fn forget(&mut self, header: &BatchHeader) {
        if !self.0.is_empty() {
            self.0.remove(&key(header));
        }
    }

    /// Another leader may have taken what was refused here.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
