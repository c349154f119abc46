//! Acknowledged records survive, where the producer was told; and what a consumer has read stays what it was.

use std::collections::BTreeMap;

use super::Violation;
use super::logs::Committed;
use crate::sim::read_value;

const CHECK: &str = "acknowledged records survive";

#[derive(Debug, Default)]
pub struct Acknowledged {
    /// By partition and offset.
    committed: BTreeMap<i32, Vec<(usize, u64)>>,
    /// Told to producers and not seen yet: partition, producer, first number, count, offset (-1: not told).
    open: Vec<(i32, usize, u64, u64, i64)>,
    /// Read by consumers before any node was looked at: partition, offset, what.
    read: Vec<(i32, i64, Option<(usize, u64)>)>,
}

impl Acknowledged {
    /// A producer was told that its records are there.
    pub fn see(&mut self, producer: usize, partition: i32, first: u64, count: u64, offset: i64) {
        self.open.push((partition, producer, first, count, offset));
    }

    /// A consumer read records.
    ///
    /// # Errors
    /// Another one is committed at their place.
    pub fn consumed(&mut self, partition: i32, records: &[(i64, Vec<u8>)]) -> Result<(), Violation> {
        self.read.extend(records.iter().map(|(offset, value)| (partition, *offset, read_value(value))));
        self.compare()
    }

    /// More is committed.
    ///
    /// # Errors
    /// It is not what somebody was told.
    pub fn committed(&mut self, partition: i32, news: &[Committed]) -> Result<(), Violation> {
        if news.is_empty() {
            return Ok(());
        }
        let committed = self.committed.entry(partition).or_default();
        for record in news {
            if usize::try_from(record.offset).ok() != Some(committed.len()) {
                let what =
                    format!("partition {partition}: offset {} follows {}", record.offset, committed.len());
                return Err(Violation::new(CHECK, what));
            }
            committed.push((record.producer, record.number));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<(), Violation> {
        let mut wrong = None;
        let none = Vec::new();
        self.open.retain(|(partition, producer, first, count, offset)| {
            let committed = self.committed.get(partition).unwrap_or(&none);
            let Ok(from) = usize::try_from(*offset) else { return true };
            let Some(there) = committed.get(from..from + *count as usize) else { return true };
            if !there.iter().copied().eq((*first..*first + *count).map(|number| (*producer, number))) {
                wrong.get_or_insert_with(|| {
                    format!(
                        "partition {partition}: producer {producer} was told that its records {first}.. ({count}) are at {offset}, \
                         where {there:?} is committed"
                    )
                });
            }
            false
        });
        self.read.retain(|(partition, offset, value)| {
            let committed = self.committed.get(partition).unwrap_or(&none);
            let Some(there) = usize::try_from(*offset).ok().and_then(|at| committed.get(at)) else { return true };
            if Some(*there) != *value {
                wrong.get_or_insert_with(|| {
                    format!("partition {partition}: a consumer read {value:?} at {offset}, where {there:?} is committed")
                });
            }
            false
        });
        wrong.map_or(Ok(()), |what| Err(Violation::new(CHECK, what)))
    }

    /// Everything has converged.
    ///
    /// # Errors
    /// Something that was told is nowhere.
    pub fn finish(&mut self) -> Result<(), Violation> {
        self.compare()?;
        let gone = self.open.iter().find(|(_, _, _, _, offset)| *offset >= 0);
        if let Some((partition, producer, first, count, offset)) = gone {
            let what = format!(
                "partition {partition}: producer {producer} was told that its records {first}.. ({count}) are at {offset}, and nothing is"
            );
            return Err(Violation::new(CHECK, what));
        }
        if let Some((partition, offset, value)) = self.read.first() {
            let what =
                format!("partition {partition}: a consumer read {value:?} at {offset}, and nothing is there");
            return Err(Violation::new(CHECK, what));
        }
        Ok(())
    }
}
