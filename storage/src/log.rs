//! One partition's log: segments in one directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};

use crate::disk::File;
use crate::epochs::EpochHistory;
use crate::error::StorageError;
use crate::journal::{DurablePoint, Journal};

/// What a log is told by its topic's configuration; may change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`: how old the first record of the active segment may be when the next one is appended.
    pub segment_ms: i64,
    /// Taken off `segment_ms`, so that many logs do not roll at once (`segment.jitter.ms`, already drawn).
    pub segment_jitter_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
}

impl Default for LogOptions {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
        }
    }
}

/// Bytes of a log: in memory (usually a page of the map, without a copy), and, where they also lie in a file, where.
#[derive(Clone, Debug)]
pub struct Slice {
    bytes: Bytes,
    file: Option<(Arc<dyn File>, u64)>,
}

impl Slice {
    /// The file and the position in it of these bytes, for `sendfile`.
    #[must_use]
    pub fn file(&self) -> Option<(&Arc<dyn File>, u64)> {
        self.file.as_ref().map(|(file, position)| (file, *position))
    }

    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl From<Bytes> for Slice {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, file: None }
    }
}

/// The answer to [`Log::read`].
#[derive(Debug)]
pub enum Read {
    /// Whole batches, in order; empty if there is nothing to read. The first may begin below the offset asked for.
    Hot(Vec<Slice>),
    /// The bytes are not in memory (or not known to be sound): call [`ColdRead::load`] on a thread that may wait for the disk,
    /// without the partition's lock.
    Cold(ColdRead),
}

/// A read to be done where waiting for the disk is allowed. It reads what the log was when the read was asked for.
#[derive(Debug)]
pub struct ColdRead {}

impl ColdRead {
    /// Reads with `pread`, checks CRCs. Blocks.
    pub fn load(&self) -> Result<Vec<Slice>, StorageError> {
        unimplemented!()
    }
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub first: Offset,
    pub last: Offset,
    pub max_timestamp: i64,
    /// In bytes.
    pub len: usize,
    /// The append began a new segment.
    pub rolled: bool,
}

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes past the durable point that were read and checked.
    pub scanned_bytes: u64,
    /// A torn tail above the durable point was cut.
    pub cut: Option<Cut>,
    /// Bytes below the durable point are missing or wrong: the log is quarantined.
    pub damage: Option<String>,
}

impl Recovery {
    /// Whether every flushed byte is known to be there.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.damage.is_none() && self.cut.as_ref().is_none_or(|cut| cut.whole_batches_after == 0)
    }
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: PathBuf,
    pub position: u64,
    pub bytes: u64,
    pub reason: String,
    /// Sound batches found past the cut: unusual, for a tail is torn at its end.
    pub whole_batches_after: u64,
}

/// What is to be synced, taken under the partition's lock, synced without it.
#[derive(Debug)]
pub struct FlushTicket {}

impl FlushTicket {
    /// The log end that this flush covers.
    #[must_use]
    pub fn end(&self) -> Offset {
        unimplemented!()
    }

    /// Syncs the files, and the directory if names are new. Blocks: for flusher threads, without the partition's lock.
    pub fn sync(&self) -> io::Result<()> {
        unimplemented!()
    }
}

/// Files that no log shows any more, to be removed where waiting is allowed, without the partition's lock.
#[derive(Debug)]
#[must_use = "until `run`, the space is not given back"]
pub struct Removal {}

impl Removal {
    /// Syncs the journal first, so that a restart does not miss what is removed. Blocks.
    pub fn run(self) -> Result<(), StorageError> {
        unimplemented!()
    }
}

/// One partition's log. `&mut self` where the log changes; what waits for the disk is handed out as a value to run elsewhere.
#[derive(Debug)]
pub struct Log {}

impl Log {
    #[must_use]
    pub fn dir(&self) -> &Path {
        unimplemented!()
    }

    /// Who the log belonged to when it was opened or made.
    #[must_use]
    pub fn owner(&self) -> Uuid {
        unimplemented!()
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        unimplemented!()
    }

    #[must_use]
    pub fn start_offset(&self) -> Offset {
        unimplemented!()
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        unimplemented!()
    }

    /// Everything below has been synced.
    #[must_use]
    pub fn flushed_end(&self) -> Offset {
        unimplemented!()
    }

    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }

    #[must_use]
    pub fn options(&self) -> &LogOptions {
        unimplemented!()
    }

    pub fn set_options(&mut self, _options: LogOptions) {
        unimplemented!()
    }

    /// Why the log takes no appends: `Offline` or `Quarantined`.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageError> {
        unimplemented!()
    }

    /// Appends whole batches: offsets and epochs stamped, the first one at [`Log::end_offset`] or above it (compacted leaders leave
    /// gaps), CRCs checked by the caller. All or nothing. Notes a new leader epoch in the history.
    pub fn append(&mut self, _batches: &[u8], _now_ms: i64) -> Result<Appended, StorageError> {
        unimplemented!()
    }

    /// Whole batches from the one that holds `from` on, below `end` (the high watermark, or the log's end), at most `max_bytes` of
    /// them, but if `at_least_one`, then the first one whatever its size.
    pub fn read(
        &self,
        _from: Offset,
        _end: Offset,
        _max_bytes: usize,
        _at_least_one: bool,
    ) -> Result<Read, StorageError> {
        unimplemented!()
    }

    /// A frozen view for long reads without the lock.
    #[must_use]
    pub fn view(&self) -> LogView {
        unimplemented!()
    }

    #[must_use]
    pub fn epochs(&self) -> &EpochHistory {
        unimplemented!()
    }

    /// Notes that a leader epoch begins at the log's end. Durable after the next [`Journal::sync`].
    pub fn assign_epoch(&mut self, _epoch: LeaderEpoch) {
        unimplemented!()
    }

    /// Starts a group commit; `None` if everything is flushed or a flush is under way.
    pub fn begin_flush(&mut self) -> Option<FlushTicket> {
        unimplemented!()
    }

    /// Ends it: returns the flushed end. A failed sync takes the log offline.
    pub fn finish_flush(
        &mut self,
        _ticket: FlushTicket,
        _result: io::Result<()>,
    ) -> Result<Offset, StorageError> {
        unimplemented!()
    }

    /// Cuts the log to `end`, or to the start of the batch that `end` lies in; returns the new end. Blocks on a sync where flushed
    /// records are cut.
    pub fn truncate_to(&mut self, _end: Offset) -> Result<Offset, StorageError> {
        unimplemented!()
    }

    /// Empties the log and lets it begin anew at `start`, also if it was quarantined. Blocks on a sync.
    pub fn restart_at(&mut self, _start: Offset) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// Raises the log start; never lowers it. Sealed segments below it go.
    pub fn trim_start(&mut self, _start: Offset) -> Result<Option<Removal>, StorageError> {
        unimplemented!()
    }

    /// Flushes, notes the durable end in the journal (which the caller syncs once for all logs), writes the index. Blocks.
    pub fn close(self) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// Removes the log and its directory; the name is free when this returns. The space comes back when the removal has run.
    pub fn delete(self) -> Result<Removal, StorageError> {
        unimplemented!()
    }

    /// The point up to which the log is flushed.
    #[must_use]
    pub fn durable_point(&self) -> Option<DurablePoint> {
        unimplemented!()
    }
}

/// A frozen view of a log: what it was when the view was taken, readable by any thread without a lock. Its calls may wait for the
/// disk.
#[derive(Clone, Debug)]
pub struct LogView {}

impl LogView {
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        unimplemented!()
    }

    #[must_use]
    pub fn end_offset(&self) -> Offset {
        unimplemented!()
    }

    /// Whole batches from the one that holds `from` on, about `max_bytes` of them and at least one, CRCs checked; empty at the end.
    pub fn read(&self, _from: Offset, _max_bytes: usize) -> Result<Bytes, StorageError> {
        unimplemented!()
    }

    /// The first record whose timestamp is at or after `timestamp_ms`.
    pub fn find_by_timestamp(&self, _timestamp_ms: i64) -> Result<Option<FoundTimestamp>, StorageError> {
        unimplemented!()
    }

    /// The record with the largest timestamp; of several, the first.
    pub fn max_timestamp(&self) -> Result<Option<FoundTimestamp>, StorageError> {
        unimplemented!()
    }
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundTimestamp {
    pub timestamp_ms: i64,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}
