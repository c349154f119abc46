//! Ordered record batches on a disk: one segmented, append-only log per partition, the journal of small facts beside them, and the
//! disk itself behind a trait, so that a simulated one can crash, tear and fail by seed.
//!
//! Knows record batches and nothing above them: no topics, no groups, no replicas, no clocks, no async. The map of the rooms:
//!
//! - [`disk`]: the only door to the operating system; [`mmap`] is the real one, [`memory`] the simulated one, [`conformance`] the
//!   suite that both pass.
//! - [`logdir`]: one log directory: lock, identity, how the last process stopped, journal, logs.
//! - [`log`]: one partition's log: append, read, flush, truncate, trim; over [`segment`]s and their [`index`]es.
//! - [`journal`], [`epochs`], [`checkpoint`], [`producers`]: the small facts.
//! - [`recovery`], [`retention`], [`compaction`]: opening after a crash, what may go, rewriting.

pub mod disk;
pub mod epochs;
pub mod error;
pub mod journal;
pub mod log;
pub mod logdir;

pub use disk::{Disk, File};
pub use epochs::{EpochHistory, EpochStart};
pub use error::StorageError;
pub use journal::{DurablePoint, Facts, Journal, JournalEntry, JournalSequence};
pub use log::{
    Appended, ColdRead, Cut, FlushTicket, FoundTimestamp, Log, LogOptions, LogView, Read, Recovery, Removal,
    Slice,
};
pub use logdir::{LastStop, LogDir};
