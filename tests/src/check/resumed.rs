//! A group passes over no record: whoever reads for it begins at the latest where somebody of the group has been.

use std::collections::BTreeMap;

use super::Violation;

#[derive(Debug, Default)]
pub struct Resumed {
    /// By group and partition: everything below was read by some member.
    read: BTreeMap<(usize, i32), i64>,
}

impl Resumed {
    /// What lay before `start` was past its retention.
    pub fn passed_over(&mut self, group: usize, partition: i32, start: i64) {
        let read = self.read.entry((group, partition)).or_default();
        *read = start.max(*read);
    }

    /// A member has read from `from` up to `next`.
    ///
    /// # Errors
    /// Nobody has read what lies before.
    pub fn processed(&mut self, group: usize, partition: i32, from: i64, next: i64) -> Result<(), Violation> {
        let read = self.read.entry((group, partition)).or_default();
        if from > *read {
            let what = format!(
                "group {group}: partition {partition} is read from {from} on, and was read up to {read} before"
            );
            return Err(Violation::new("groups pass over no record", what));
        }
        *read = next.max(*read);
        Ok(())
    }
}
