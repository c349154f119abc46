//! Which leader epoch began at which offset: how a follower and its leader find the last record that they share (KIP-101, KIP-279).

use ottla_protocol::types::{LeaderEpoch, Offset};

/// Where a leader epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    /// The offset of the first record that this epoch's leader appended, or would have.
    pub start: Offset,
}

/// The leader epochs of one log, oldest first: epochs rise, and starts do not fall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochHistory {
    entries: Vec<EpochStart>,
}

impl EpochHistory {
    /// From entries in order, as stored; entries out of order end the history there.
    #[must_use]
    pub fn from_entries(entries: impl IntoIterator<Item = EpochStart>) -> Self {
        let mut history = Self::default();
        for entry in entries {
            history.assign(entry.epoch, entry.start);
        }
        history
    }

    #[must_use]
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    #[must_use]
    pub fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    /// Notes that `epoch` begins at `start`, and says whether that is news. An epoch that is not newer than the latest changes
    /// nothing. Epochs noted at or past `start` that never got a record give way to it.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if epoch < LeaderEpoch(0) || self.latest().is_some_and(|latest| latest.epoch >= epoch) {
            return false;
        }
        while self.entries.last().is_some_and(|last| last.start >= start) {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start });
        true
    }

    /// The answer to a divergence query, as Kafka gives it: the largest known epoch that is not above `epoch`, and the offset at
    /// which it ended (the start of the next one, or `log_end` for the latest). An epoch older than all known ones ended where the
    /// first known one begins: what it wrote is gone. `None` for an epoch newer than all known ones.
    #[must_use]
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if epoch < LeaderEpoch(0) || self.latest().is_none_or(|latest| epoch > latest.epoch) {
            return None;
        }
        let next = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end = self.entries.get(next).map_or(log_end, |entry| entry.start);
        let found = next.checked_sub(1).map_or(epoch, |at| self.entries[at].epoch);
        Some((found, end))
    }

    /// The epoch that the record at `offset` was appended in.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let next = self.entries.partition_point(|entry| entry.start <= offset);
        Some(self.entries.get(next.checked_sub(1)?)?.epoch)
    }

    /// Forgets epochs that began at or after `end`; says whether there were any.
    pub fn truncate_to(&mut self, end: Offset) -> bool {
        let keep = self.entries.partition_point(|entry| entry.start < end);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// Forgets epochs that ended at or before `start`; the one that `start` lies in now begins there. Says whether anything changed.
    pub fn trim_start(&mut self, start: Offset) -> bool {
        let next = self.entries.partition_point(|entry| entry.start <= start);
        let Some(current) = next.checked_sub(1) else { return false };
        let changed = current > 0 || self.entries[current].start < start;
        self.entries.drain(..current);
        self.entries[0].start = start;
        changed
    }
}
