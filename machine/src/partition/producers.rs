//! Idempotent producers (KIP-98, KIP-360): the last five batches of each, as a fold over the log's batch headers.
//!
//! The same [`Producers::apply`] runs when a batch is appended and when the log is read again after a restart, so that the state is
//! always what a replay of the log gives.

use std::collections::{BTreeMap, VecDeque};

use ottla_protocol::batch::{BatchHeader, add_sequence};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::Offset;

use crate::sabotage::{Bug, is_on};

/// Batches that may be in flight at once, and are recognised when they come again.
const REMEMBERED: usize = 5;

/// The producers of one partition, by producer id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers(BTreeMap<i64, Producer>);

/// One producer, as it stands after its last batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    pub epoch: i16,
    /// Wall clock of its last batch, milliseconds since 1970.
    pub last_timestamp: i64,
    batches: VecDeque<Remembered>,
}

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub timestamp: i64,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Append,
    /// It is in the log; to be acknowledged as it was, once it is committed.
    Duplicate(Remembered),
    Refuse(ErrorCode),
}

impl Producer {
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(-1, |batch| batch.last_sequence)
    }

    #[must_use]
    pub fn batches(&self) -> impl ExactSizeIterator<Item = &Remembered> {
        self.batches.iter()
    }
}

impl Producers {
    /// Judges a batch that is to be appended.
    #[must_use]
    pub fn check(&self, header: &BatchHeader) -> Verdict {
        let id = header.producer_id.0;
        let Some(producer) = self.0.get(&id).filter(|_| id >= 0) else { return Verdict::Append };
        let (epoch, first) = (header.producer_epoch.0, header.base_sequence);
        if epoch < producer.epoch {
            return Verdict::Refuse(ErrorCode::InvalidProducerEpoch);
        }
        if epoch > producer.epoch {
            return if first == 0 {
                Verdict::Append
            } else {
                Verdict::Refuse(ErrorCode::OutOfOrderSequenceNumber)
            };
        }
        let last = header.last_sequence();
        let same = |batch: &&Remembered| batch.first_sequence == first && batch.last_sequence == last;
        if is_on(Bug::ForgetDuplicates) && producer.batches.iter().any(|batch| same(&batch)) {
            return Verdict::Append;
        }
        if let Some(batch) = producer.batches.iter().find(same) {
            return Verdict::Duplicate(*batch);
        }
        match producer.batches.back() {
            Some(newest) if add_sequence(newest.last_sequence, 1) != first && !is_on(Bug::TakeGaps) => {
                Verdict::Refuse(ErrorCode::OutOfOrderSequenceNumber)
            }
            _ => Verdict::Append,
        }
    }

    /// Notes a batch that stands in the log.
    pub fn apply(&mut self, header: &BatchHeader) {
        if header.producer_id.0 < 0 || header.is_control() {
            return;
        }
        let epoch = header.producer_epoch.0;
        let fresh = || Producer { epoch, last_timestamp: -1, batches: VecDeque::new() };
        let producer = self.0.entry(header.producer_id.0).or_insert_with(fresh);
        if epoch != producer.epoch {
            *producer = fresh();
        }
        if producer.batches.len() == REMEMBERED - usize::from(is_on(Bug::RememberOneLess)) {
            producer.batches.pop_front();
        }
        producer.last_timestamp = header.max_timestamp;
        producer.batches.push_back(Remembered {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            timestamp: header.max_timestamp,
        });
    }

    /// Forgets producers that have been silent since before `horizon_ms` (`producer.id.expiration.ms` ago).
    pub fn expire(&mut self, horizon_ms: i64) {
        self.0.retain(|_, producer| producer.last_timestamp >= horizon_ms);
    }

    /// In order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.0.iter().map(|(id, producer)| (*id, producer))
    }

    /// Whether a producer has a batch here that is remembered.
    #[must_use]
    pub fn knows(&self, id: i64) -> bool {
        self.0.contains_key(&id)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As bytes, for a snapshot: numbers in big-endian order.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (id, producer) in &self.0 {
            out.extend(id.to_be_bytes());
            out.extend(producer.epoch.to_be_bytes());
            out.extend(producer.last_timestamp.to_be_bytes());
            out.push(u8::try_from(producer.batches.len()).expect("at most five"));
            for batch in &producer.batches {
                out.extend(batch.first_sequence.to_be_bytes());
                out.extend(batch.last_sequence.to_be_bytes());
                out.extend(batch.base_offset.0.to_be_bytes());
                out.extend(batch.last_offset.0.to_be_bytes());
                out.extend(batch.timestamp.to_be_bytes());
            }
        }
        out
    }

    /// Reads a snapshot; `None` if the bytes are none.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (taken, rest) = bytes.split_first_chunk::<N>()?;
            *bytes = rest;
            Some(*taken)
        }
        let mut producers = BTreeMap::new();
        while !bytes.is_empty() {
            let from = &mut bytes;
            let id = i64::from_be_bytes(take(from)?);
            let epoch = i16::from_be_bytes(take(from)?);
            let last_timestamp = i64::from_be_bytes(take(from)?);
            let [count] = take(from)?;
            let mut batches = VecDeque::new();
            for _ in 0..count {
                batches.push_back(Remembered {
                    first_sequence: i32::from_be_bytes(take(from)?),
                    last_sequence: i32::from_be_bytes(take(from)?),
                    base_offset: Offset(i64::from_be_bytes(take(from)?)),
                    last_offset: Offset(i64::from_be_bytes(take(from)?)),
                    timestamp: i64::from_be_bytes(take(from)?),
                });
            }
            producers.insert(id, Producer { epoch, last_timestamp, batches });
        }
        Some(Self(producers))
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::record::{BatchBuilder, BatchOptions};
    use ottla_protocol::types::{ProducerEpoch, ProducerId};
    use proptest::prelude::*;

    use super::*;

    fn header(epoch: i16, sequence: i32, count: i32, offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: Offset(offset),
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: sequence,
            ..BatchOptions::default()
        });
        for _ in 0..count {
            builder.append(offset, None, None);
        }
        BatchHeader::read(&builder.build()).expect("a header")
    }

    /// Appends what is judged fit and tells each verdict: A(ppend), D(uplicate at offset) or the error's number.
    fn run(batches: &[(i16, i32, i32)]) -> Vec<String> {
        let (mut producers, mut offset) = (Producers::default(), 0);
        let mut verdicts = Vec::new();
        for (epoch, sequence, count) in batches {
            let header = header(*epoch, *sequence, *count, offset);
            verdicts.push(match producers.check(&header) {
                Verdict::Append => {
                    producers.apply(&header);
                    offset += i64::from(*count);
                    "A".to_owned()
                }
                Verdict::Duplicate(batch) => format!("D{}", batch.base_offset),
                Verdict::Refuse(code) => code.code().to_string(),
            });
        }
        verdicts
    }

    #[test]
    fn sequences_are_judged_as_kafka_judges_them() {
        const MAX: i32 = i32::MAX;
        let cases: &[(&str, &[(i16, i32, i32)], &[&str])] = &[
            ("in order", &[(0, 0, 3), (0, 3, 1), (0, 4, 2)], &["A", "A", "A"]),
            (
                "a retry is a duplicate",
                &[(0, 0, 3), (0, 3, 1), (0, 0, 3), (0, 3, 1)],
                &["A", "A", "D0", "D3"],
            ),
            ("a gap", &[(0, 0, 3), (0, 4, 1)], &["A", "45"]),
            ("an overlap that is no duplicate", &[(0, 0, 3), (0, 2, 2)], &["A", "45"]),
            ("an unknown producer begins anywhere", &[(0, 100, 1), (0, 101, 1)], &["A", "A"]),
            ("an old epoch", &[(1, 0, 1), (0, 1, 1)], &["A", "47"]),
            (
                "a new epoch begins at 0",
                &[(0, 0, 5), (1, 5, 1), (1, 0, 1), (1, 1, 1)],
                &["A", "45", "A", "A"],
            ),
            (
                "older than five is out of order",
                &[(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 1), (0, 5, 1), (0, 0, 1), (0, 1, 1)],
                &["A", "A", "A", "A", "A", "A", "45", "D1"],
            ),
            ("the sequence wraps", &[(0, MAX - 1, 2), (0, 0, 1), (0, MAX - 1, 2)], &["A", "A", "D0"]),
            ("the sequence wraps within a batch", &[(0, MAX, 3), (0, 2, 1)], &["A", "A"]),
        ];
        for (name, batches, expected) in cases {
            assert_eq!(run(batches), *expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_snapshot_gives_back_the_state_and_the_rest_of_the_log_the_same_end(
            batches in proptest::collection::vec((0i16..3, 0i32..20, 1i32..4), 0..40), cut in 0usize..40
        ) {
            let (mut live, mut offset, mut log) = (Producers::default(), 0, Vec::new());
            for (epoch, sequence, count) in batches {
                let header = header(epoch, sequence, count, offset);
                if live.check(&header) == Verdict::Append {
                    live.apply(&header);
                    log.push(header);
                    offset += i64::from(count);
                }
            }
            let cut = cut.min(log.len());
            let mut replayed = Producers::default();
            log[..cut].iter().for_each(|header| replayed.apply(header));
            let mut restored = Producers::decode(&replayed.encode()).expect("a snapshot");
            log[cut..].iter().for_each(|header| restored.apply(header));
            prop_assert_eq!(restored, live);
        }
    }
}
