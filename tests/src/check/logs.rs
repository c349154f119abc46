//! Logs match below the high watermark: whatever any node says is committed is the same on all of them, for ever.

use std::collections::BTreeMap;

use ottla_protocol::batch::{self, BatchHeader};
use ottla_protocol::types::Offset;
use ottla_storage::StorageError;

use super::{Look, Violation};
use crate::sim::read_value;

const CHECK: &str = "logs match";
const READ_BYTES: usize = 1 << 20;

/// A batch as it is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    base: i64,
    next: i64,
    epoch: i32,
    crc: u32,
}

/// What is committed in each partition, as the first node that said so has it.
#[derive(Debug, Default)]
pub struct LogsMatch {
    committed: BTreeMap<i32, Vec<Held>>,
    /// By node and partition: in which life it was compared, and up to where.
    compared: BTreeMap<(usize, i32), (u64, i64)>,
    /// A log may begin later than where it began.
    retains: bool,
}

/// A committed record: who made it, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub producer: usize,
    pub number: u64,
}

impl LogsMatch {
    #[must_use]
    pub fn new(retains: bool) -> Self {
        Self { retains, ..Self::default() }
    }

    /// The end of what is committed in a partition.
    #[must_use]
    pub fn committed(&self, partition: i32) -> i64 {
        self.committed.get(&partition).and_then(|held| held.last()).map_or(0, |held| held.next)
    }

    /// Compares a node's log with what is committed; returns what is committed since.
    ///
    /// # Errors
    /// Another record at a committed place, or none.
    pub fn look(&mut self, look: &Look) -> Result<Vec<Committed>, Violation> {
        let Some(view) = &look.seen.view else { return Ok(Vec::new()) };
        let partition = look.partition.index;
        let compared = self.compared.entry((look.node, partition)).or_insert((look.life, 0));
        if compared.0 != look.life {
            *compared = (look.life, 0);
        }
        let until = look.seen.high_watermark.0;
        // A cut below that is the watermark's check; here the log is read again from there.
        compared.1 = compared.1.min(until);
        let held = self.committed.entry(partition).or_default();
        let mut from = compared.1;
        if self.retains {
            from = from.max(view.start_offset().0.min(until));
        }
        let mut news = Vec::new();
        while from < until {
            let slices = match view.read(Offset(from), READ_BYTES) {
                Ok(slices) => slices,
                Err(StorageError::ViewStale { .. }) => return Ok(news),
                Err(StorageError::CorruptBatch { .. } | StorageError::Quarantined { .. })
                    if look.seen.is_damaged || look.is_flipped =>
                {
                    return Ok(news);
                }
                Err(error) => {
                    let what = format!("{}: committed records cannot be read: {error}", look.name());
                    return Err(Violation::new(CHECK, what));
                }
            };
            let before = from;
            for slice in &slices {
                for batch in batch::batches(slice.bytes()).map_while(Result::ok) {
                    let header = *batch.header();
                    if header.next_offset().0 <= from || header.next_offset().0 > until {
                        continue;
                    }
                    let own = of(&header, slice.bytes());
                    let at = held.partition_point(|held| held.base < own.base);
                    match held.get(at) {
                        Some(other) if *other == own => {}
                        None if held.last().is_none_or(|last| last.next == own.base) => {
                            held.push(own);
                            let payload = batch.uncompressed(1 << 26).expect("a batch of ours");
                            for record in batch.records(&payload) {
                                let record = record.expect("a batch of ours");
                                let value = record.value.and_then(read_value);
                                let (producer, number) = value.expect("a record of ours");
                                news.push(Committed { offset: record.offset.0, producer, number });
                            }
                        }
                        other => {
                            let what = format!("{}: has {own:?} where {other:?} is committed", look.name());
                            return Err(Violation::new(CHECK, what));
                        }
                    }
                    from = header.next_offset().0;
                }
            }
            if from == before {
                let what = format!(
                    "{}: ends at {from} (its log at {}), though its high watermark is {until}",
                    look.name(),
                    view.end_offset()
                );
                return Err(Violation::new(CHECK, what));
            }
        }
        compared.1 = from;
        Ok(news)
    }
}

fn of(header: &BatchHeader, _bytes: &[u8]) -> Held {
    Held {
        base: header.base_offset.0,
        next: header.next_offset().0,
        epoch: header.partition_leader_epoch.0,
        crc: header.crc,
    }
}
