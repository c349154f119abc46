//! Idempotent producers leave neither duplicates nor gaps, nor records in another order; and an id is given out once.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::logs::Committed;

const CHECK: &str = "no duplicates, no gaps";

#[derive(Debug, Default)]
pub struct Idempotence {
    /// By producer: the number of its next record.
    next: BTreeMap<usize, u64>,
    ids: BTreeSet<i64>,
}

impl Idempotence {
    /// A producer got an id.
    ///
    /// # Errors
    /// Another one has it.
    pub fn see_id(&mut self, id: i64) -> Result<(), Violation> {
        if self.ids.insert(id) {
            return Ok(());
        }
        Err(Violation::new("a producer id is given once", format!("two producers have id {id}")))
    }

    /// More is committed.
    ///
    /// # Errors
    /// A record twice, or one before its predecessor.
    pub fn see(&mut self, partition: i32, news: &[Committed]) -> Result<(), Violation> {
        for record in news {
            let next = self.next.entry(record.producer).or_default();
            if record.number != *next {
                let what = format!(
                    "partition {partition}, offset {}: record {} of producer {} where {next} is next",
                    record.offset, record.number, record.producer
                );
                return Err(Violation::new(CHECK, what));
            }
            *next += 1;
        }
        Ok(())
    }

    /// Everything has converged.
    ///
    /// # Errors
    /// A record that was acknowledged is not there.
    pub fn finish(&self, made: &[(usize, i32, u64)]) -> Result<(), Violation> {
        for (producer, partition, made) in made {
            let there = self.next.get(producer).copied().unwrap_or(0);
            if there != *made {
                let what = format!(
                    "partition {partition}: producer {producer} was told that {made} records are there, and {there} are"
                );
                return Err(Violation::new("acknowledged records survive", what));
            }
        }
        Ok(())
    }
}
