//! Ordered record batches on a disk: one segmented, append-only log per partition, the journal of small facts beside them, and the
//! disk itself behind a trait, so that a simulated one can crash, tear and fail by seed.
//!
//! Knows record batches and nothing above them: no topics, no groups, no replicas, no clocks, no async. The map of the rooms:
//!
//! - [`disk`]: the only door to the operating system; [`mmap`] is the real one, [`memory`] the simulated one; one suite
//!   (conformance) that both pass.
//! - [`logdir`]: one log directory: lock, identity, how the last process stopped, journal, logs.
//! - [`log`]: one partition's log: append, read, flush, truncate, trim; over [`segment`]s and their [`index`]es, `fill`ed ahead.
//! - [`journal`], [`epochs`], [`checkpoint`], [`twin`], [`producers`]: the small facts.
//! - [`recovery`], [`retention`], [`compaction`]: opening after a crash, what may go, rewriting.

pub mod checkpoint;
pub mod compaction;
#[cfg(test)]
mod conformance;
mod cut;
pub mod disk;
pub mod epochs;
pub mod error;
mod files;
mod fill;
pub mod flush;
mod head;
mod index;
pub mod journal;
pub mod log;
pub mod logdir;
pub mod memory;
pub mod mmap;
pub mod producers;
pub mod read;
pub mod recovery;
pub mod removal;
pub mod retention;
mod segment;
#[cfg(test)]
mod tests;
pub mod twin;
mod verified;
pub mod view;

pub use compaction::{BatchFate, Cleaner, Compacted, Compaction, Tombstones};
pub use disk::{Disk, File};
pub use epochs::{EpochHistory, EpochStart};
pub use error::StorageError;
pub use fill::{FillBytes, FillFor};
pub use flush::FlushTicket;
pub use journal::{DurablePoint, Facts, Journal, JournalEntry, JournalSequence};
pub use log::{Appended, Log, LogOptions};
pub use logdir::{LastStop, LogDir};
pub use memory::MemoryDisk;
pub use mmap::RealDisk;
pub use producers::ProducerSnapshots;
pub use read::{ColdRead, Read, Slice};
pub use recovery::{Recovery, TornTail};
pub use removal::Removal;
pub use retention::{Retention, SegmentSummary};
pub use view::{FoundTimestamp, LogView};
