//! Producers whose first batches a node refused for a while: it did not know yet that it leads, there was no space, too few replicas in
//! sync.
//!
//! A log that does not know a producer takes any sequence from it, as Kafka's does, for its records may have been deleted. A producer
//! whose beginning was just refused has no such past: a later batch of it, sent before it heard of that, would stand before the first one for
//! good. So what refused the first refuses those behind it, until the first one comes again or time has passed.

use std::collections::BTreeMap;

use ottla_protocol::batch::BatchHeader;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::TopicId;

/// So many producers are remembered.
const REMEMBERED: usize = 1_024;
/// And for so long since the last refusal: more than a client's requests are under way, and less than clients try for. What is kept here in
/// error (the beginning went to another leader, whose records are gone) keeps a producer out for no longer.
const REMEMBERED_MS: u64 = 30_000;

/// Which topic a batch was meant for: a node that does not know the topic yet has only what the request says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Addressed {
    Id(TopicId),
    Name(Box<str>),
}

/// A producer in one of its epochs, and the partition that it writes to.
type Stream = (Addressed, i32, i64, i16);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    lowest_sequence: i32,
    code: ErrorCode,
    until_ms: u64,
}

/// What was refused, for all partitions of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnedAway(BTreeMap<Stream, Refusal>);

fn stream(topic: Addressed, partition: i32, header: &BatchHeader) -> Stream {
    (topic, partition, header.producer_id.0, header.producer_epoch.0)
}

impl TurnedAway {
    /// A batch was refused that may be taken later. Of no interest where the log knows its producer: there its sequence says enough.
    pub fn note(
        &mut self,
        topic: Addressed,
        partition: i32,
        header: &BatchHeader,
        code: ErrorCode,
        now_ms: u64,
    ) {
        if header.producer_id.0 < 0 {
            return;
        }
        let stream = stream(topic, partition, header);
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&stream) {
            self.0.retain(|_, refusal| refusal.until_ms > now_ms);
            if self.0.len() >= REMEMBERED {
                return;
            }
        }
        let (lowest_sequence, until_ms) = (header.base_sequence, now_ms.saturating_add(REMEMBERED_MS));
        let refusal = self.0.entry(stream).or_insert(Refusal { lowest_sequence, code, until_ms });
        refusal.until_ms = until_ms;
        if refusal.lowest_sequence >= lowest_sequence {
            (refusal.lowest_sequence, refusal.code) = (lowest_sequence, code);
        }
    }

    /// Why a batch of a producer that the log does not know is refused now: it comes ahead of one that was.
    #[must_use]
    pub fn refusal(
        &self,
        topic: Addressed,
        partition: i32,
        header: &BatchHeader,
        now_ms: u64,
    ) -> Option<ErrorCode> {
        let refusal = self.0.get(&stream(topic, partition, header))?;
        (header.base_sequence > refusal.lowest_sequence && now_ms < refusal.until_ms).then_some(refusal.code)
    }

    /// A batch of a producer that the log did not know was appended.
    pub fn forget(&mut self, topic: Addressed, partition: i32, header: &BatchHeader) {
        if !self.0.is_empty() {
            self.0.remove(&stream(topic, partition, header));
        }
    }
}
