//! One append-only file per log directory for the small facts of every partition.

use std::io;
use std::sync::Arc;

use ottla_protocol::types::{Offset, Uuid};

use crate::epochs::EpochHistory;

/// A place up to which a log was flushed: recovery scans only what lies past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurablePoint {
    /// The offset after the last record before this point.
    pub end: Offset,
    /// The base offset of the segment that the point lies in.
    pub segment: Offset,
    /// The byte within that segment at which `end` begins.
    pub position: u64,
}

/// What is remembered of one log beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Who the log belongs to (a topic's id), so that a directory of the same name made later is told apart.
    pub owner: Uuid,
    /// Records below are gone, also where their bytes are still there.
    pub log_start: Offset,
    /// `None`: nothing is known, everything is scanned.
    pub durable: Option<DurablePoint>,
    pub epochs: EpochHistory,
}

/// Counts changes of a journal; see [`Journal::sync`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct JournalSequence(pub u64);

/// The journal of a log directory. Recording changes memory only; [`Journal::sync`] makes everything recorded so far durable, for
/// all partitions at the price of one sync.
#[derive(Debug)]
pub struct Journal {}

impl Journal {
    /// The facts of every partition, by name.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        unimplemented!()
    }

    #[must_use]
    pub fn facts(&self, _name: &str) -> Option<Facts> {
        unimplemented!()
    }

    /// A handle on one partition's facts.
    #[must_use]
    pub fn entry(self: &Arc<Self>, _name: &str) -> JournalEntry {
        unimplemented!()
    }

    /// Forgets a partition.
    pub fn remove(&self, _name: &str) {
        unimplemented!()
    }

    /// Writes and syncs everything recorded before the call; returns the sequence that is now durable. Blocks: for flusher threads.
    /// After a failure the journal stays offline.
    pub fn sync(&self) -> io::Result<JournalSequence> {
        unimplemented!()
    }

    /// The last change recorded.
    #[must_use]
    pub fn recorded(&self) -> JournalSequence {
        unimplemented!()
    }

    /// The last change known to be on the disk.
    #[must_use]
    pub fn synced(&self) -> JournalSequence {
        unimplemented!()
    }
}

/// One partition's line in the journal; a [`crate::Log`] holds one.
#[derive(Clone, Debug)]
pub struct JournalEntry {
    pub journal: Arc<Journal>,
    pub name: Arc<str>,
}
