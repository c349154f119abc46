//! Rewriting sealed segments, keeping what a cleaner keeps. The cleaner decides which record of a key is the latest and which
//! producers live; here are the rules of the format and of the files.
//!
//! - Offsets never move: a batch keeps its first and last offset, whatever is left of it.
//! - A tombstone stays readable for `delete.retention.ms` after a cleaning first kept it: the batch then gets a delete horizon,
//!   which Kafka stores as attribute bit 6 with the base timestamp (KIP-534), and a cleaning after the horizon drops it.
//! - The last batch of each segment stays, if need be without records: so every segment still ends where the next one begins. An
//!   empty batch also stays where the cleaner wants it, as the last trace of a producer (KAFKA-5490).
//!
//! Several small neighbours become one file. It is written beside and synced (`rewrite`, without the partition's lock), then renamed
//! over the first of them (`finish_compaction`, under the lock); the others are removed once that name is durable (the [`Removal`]).
//! A crash in between leaves the new file cut at the next old segment's base, by the rule that bytes past it do not exist.

use std::path::PathBuf;
use std::sync::Arc;

use ottla_protocol::batch::{BatchHeader, RecordBatch, TimestampType};
use ottla_protocol::compression::Compression;
use ottla_protocol::record::{BatchBuilder, BatchOptions, Record};
use ottla_protocol::types::Offset;

use crate::disk::{File, OpenMode};
use crate::error::{StorageError, is_full};
use crate::files::FileCache;
use crate::head::Head;
use crate::index::Index;
use crate::journal::Journal;
use crate::log::Log;
use crate::removal::{Removal, unlink_index};
use crate::segment::{Found, Segment, Walk, read_exactly};
use crate::view::UNPACKED_BYTES_MAX;

/// So much is collected before it is written.
const WRITE_BYTES: usize = 1 << 20;
/// Written beside the segment that it will replace; what recovery finds of it is removed.
const UNFINISHED_SUFFIX: &str = ".compacting";

/// Decides what stays. Called on the thread that rewrites, in the order of offsets; may take its time there (throttling).
pub trait Cleaner {
    /// What is to become of a batch; control batches and aborted transactions are told by their headers.
    fn batch(&mut self, header: &BatchHeader) -> BatchFate;
    /// Whether a record is the latest of its key. Tombstones past their horizon go also if they are.
    fn is_latest(&mut self, header: &BatchHeader, record: &Record<'_>) -> bool;
    /// Whether a batch of which no record is left stays as an empty one: it is the last one of a producer that lives.
    fn keep_empty(&mut self, header: &BatchHeader) -> bool;
}

/// What a cleaner wants of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFate {
    /// It stays as it is.
    Keep,
    /// Its records are looked at one by one.
    Clean,
    /// It stays as it is, but not for ever: it gets a delete horizon, and goes once that has passed (a marker whose transaction is gone).
    Expire,
    /// Its records go.
    Drop,
}

/// How long tombstones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstones {
    /// The wall clock.
    pub now_ms: i64,
    /// `delete.retention.ms`.
    pub retention_ms: i64,
}

/// Sealed segments that are to become one; see [`Log::begin_compaction`].
#[derive(Debug)]
pub struct Compaction {
    files: Arc<FileCache>,
    journal: Arc<Journal>,
    dir: PathBuf,
    interval: u32,
    sources: Vec<Arc<Segment>>,
}

/// A rewritten file, waiting to take its place.
#[derive(Debug)]
pub struct Compacted {
    sources: Vec<Arc<Segment>>,
    /// The value of the new segment; its file still has the unfinished name.
    segment: Arc<Segment>,
    unfinished: PathBuf,
    /// Bytes before and after.
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Records that were looked at, or are in batches kept as they are, and how many of them stay.
    pub records_before: u64,
    pub records_after: u64,
}

impl Log {
    /// Compaction has seen everything below.
    #[must_use]
    pub fn cleaned_to(&self) -> Offset {
        self.entry.facts().map_or(Offset(0), |facts| facts.cleaned).max(self.start)
    }

    /// Notes it. Durable after the next [`Journal::sync`].
    pub fn set_cleaned_to(&mut self, offset: Offset) {
        self.entry.update(|facts| facts.cleaned = offset.min(self.end));
    }

    /// Picks the segment that holds `from` and as many after it as fit in one file, of those that are sealed, flushed, and end at or
    /// below `to`. `None` if there is none. Nothing changes yet.
    #[must_use]
    pub fn begin_compaction(&self, from: Offset, to: Offset) -> Option<Compaction> {
        if self.failure.is_some() {
            return None;
        }
        let durable = self.entry.facts().and_then(|facts| facts.durable)?;
        let to = to.min(durable.segment);
        let mut sources: Vec<Arc<Segment>> = Vec::new();
        let mut bytes = 0;
        for segment in self.segments.iter().filter(|segment| segment.end() > from) {
            bytes += segment.size();
            let first = sources.first().map_or(segment.base(), |first| first.base());
            let fits = sources.is_empty()
                || bytes <= self.options.segment_bytes && segment.end().0 - first.0 <= i64::from(i32::MAX);
            if !segment.is_sealed() || segment.end() > to || !fits {
                break;
            }
            sources.push(Arc::clone(segment));
        }
        (!sources.is_empty()).then(|| Compaction {
            files: Arc::clone(&self.files),
            journal: Arc::clone(self.entry.journal()),
            dir: self.dir.clone(),
            interval: self.options.index_interval_bytes,
            sources,
        })
    }

    /// Puts a rewritten file in its place; `None` if the log has changed there in between, and nothing happens.
    pub fn finish_compaction(&mut self, compacted: Compacted) -> Result<Option<Removal>, StorageError> {
        let Compacted { sources, segment, unfinished, .. } = compacted;
        let disk = Arc::clone(self.files.disk());
        let at = self.segments.iter().position(|held| Arc::ptr_eq(held, &sources[0]));
        let range = at.map(|at| at..at + sources.len());
        let unchanged = |range: &std::ops::Range<usize>| {
            self.segments.get(range.clone()).is_some_and(|held| {
                held.iter().zip(&sources).all(|(held, source)| Arc::ptr_eq(held, source))
                    && held.last().is_some_and(|last| last.end() == segment.end())
            })
        };
        let Some(range) = range.filter(unchanged).filter(|_| self.failure.is_none()) else {
            disk.remove_file(&unfinished).map_err(|error| StorageError::io("remove", &unfinished, error))?;
            return Ok(None);
        };
        // Readers that hold the old segment without its file learn that it is gone before the path means the new one.
        for source in &sources {
            source.leave();
        }
        if let Err(error) = disk.rename(&unfinished, segment.path()) {
            for source in &sources {
                source.come_back();
            }
            return Err(StorageError::io("rename", &unfinished, error));
        }
        Arc::make_mut(&mut self.segments).splice(range, [Arc::clone(&segment)]);
        self.flush.note_names(self.dir.clone());
        let others = sources[1..].to_vec();
        Ok(Some(Removal::of_replaced(&disk, self.entry.journal(), segment, others)))
    }
}

impl Compaction {
    /// The offsets that it covers.
    #[must_use]
    pub fn range(&self) -> (Offset, Offset) {
        (self.sources[0].base(), self.sources[self.sources.len() - 1].end())
    }

    /// Writes and syncs the new file. Blocks, for long; needs no lock. On an error nothing has changed.
    pub fn rewrite(
        &self,
        cleaner: &mut dyn Cleaner,
        tombstones: Tombstones,
    ) -> Result<Compacted, StorageError> {
        // The durable point that recovery will find must not lie in a file that changes.
        self.journal.sync()?;
        let disk = self.files.disk();
        let (base, end) = self.range();
        let found = Found { size: 0, end, sealed: true, settled: true, index: Index::at(0, base) };
        let segment = Segment::new(&self.files, &self.dir, base, self.interval, found);
        let mut unfinished = segment.path().as_os_str().to_owned();
        unfinished.push(UNFINISHED_SUFFIX);
        let unfinished = PathBuf::from(unfinished);
        let file = disk
            .open(&unfinished, OpenMode::Replace)
            .map_err(|error| StorageError::io("create", &unfinished, error))?;
        let mut rewrite = Rewrite {
            cleaner,
            tombstones,
            out: Out { file: &*file, segment: &segment, buffer: Vec::new() },
            records_before: 0,
            records_after: 0,
        };
        let mut bytes_before = 0;
        let result = self.sources.iter().try_for_each(|source| {
            bytes_before += source.size();
            rewrite.segment(source)
        });
        let result = result.and_then(|()| rewrite.out.finish()).and_then(|()| {
            // The old index must not outlive the old file.
            unlink_index(disk, &segment)?;
            disk.sync_dir(&self.dir).map_err(|error| StorageError::io("sync", &self.dir, error))
        });
        let Rewrite { records_before, records_after, .. } = rewrite;
        if let Err(error) = result {
            drop(file);
            if let Err(error) = disk.remove_file(&unfinished) {
                tracing::debug!("cannot remove {}: {error}", unfinished.display());
            }
            return Err(error);
        }
        segment.recount();
        let (sources, bytes_after) = (self.sources.clone(), segment.size());
        Ok(Compacted {
            sources,
            segment,
            unfinished,
            bytes_before,
            bytes_after,
            records_before,
            records_after,
        })
    }
}

/// The new file: batches are collected, written in large pieces, and known to the new segment's index.
struct Out<'a> {
    file: &'a dyn File,
    segment: &'a Segment,
    buffer: Vec<u8>,
}

impl Out<'_> {
    fn push(&mut self, batch: &[u8]) -> Result<(), StorageError> {
        let head = Head::parse(batch).expect("a batch that was read, or built");
        self.segment.accept_within(&head, true);
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StorageError> {
        let position = self.segment.size() - self.buffer.len() as u64;
        let result = self.file.write_at(&self.buffer, position);
        self.buffer.clear();
        result.map_err(|error| self.failed(error))
    }

    fn finish(&mut self) -> Result<(), StorageError> {
        self.write()?;
        self.file.sync_data().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> StorageError {
        let path = self.segment.path();
        match is_full(&error) {
            true => StorageError::Full { path: path.to_path_buf() },
            false => StorageError::io("compact", path, error),
        }
    }
}

struct Rewrite<'a> {
    cleaner: &'a mut dyn Cleaner,
    tombstones: Tombstones,
    out: Out<'a>,
    records_before: u64,
    records_after: u64,
}

impl Rewrite<'_> {
    fn segment(&mut self, source: &Arc<Segment>) -> Result<(), StorageError> {
        let opened = source.open()?;
        if !source.knows_way_to(source.base()) {
            // Settles where the data end.
            source.load_index(&opened)?;
        }
        let (file, size) = (&**opened.file(), source.size());
        let mut walk = Walk::new(file, size);
        let (mut position, mut bytes) = (0, Vec::new());
        while position < size {
            let head = walk.head(position).map_err(|error| error.at(source, position))?;
            bytes.resize(head.size as usize, 0);
            read_exactly(file, &mut bytes, position)
                .map_err(|error| StorageError::io("read", source.path(), error))?;
            let is_last = position + head.size == size;
            self.batch(&bytes, is_last).map_err(|error| match error {
                BatchTrouble::Corrupt(reason) => source.corrupt(position, reason),
                BatchTrouble::Other(error) => error,
            })?;
            position += head.size;
        }
        Ok(())
    }

    fn batch(&mut self, bytes: &[u8], is_last: bool) -> Result<(), BatchTrouble> {
        let (batch, _) = RecordBatch::parse(bytes)?;
        batch.verify_crc()?;
        let header = *batch.header();
        self.records_before += u64::from(header.records_count.max(0).unsigned_abs());
        match self.cleaner.batch(&header) {
            BatchFate::Keep => self.keep(&batch),
            BatchFate::Clean => self.clean(&batch, is_last),
            BatchFate::Drop => self.empty(&header, is_last),
            BatchFate::Expire => match header.delete_horizon_ms() {
                Some(horizon) if self.tombstones.now_ms >= horizon => self.empty(&header, is_last),
                Some(_) => self.keep(&batch),
                None => {
                    let Ok(unpacked) = batch.uncompressed(UNPACKED_BYTES_MAX) else {
                        return self.keep(&batch);
                    };
                    let records = batch.records(&unpacked).collect::<Result<Vec<_>, _>>()?;
                    self.rebuild(&header, &records, Some(self.tombstones.horizon()))
                }
            },
        }
    }

    fn keep(&mut self, batch: &RecordBatch<'_>) -> Result<(), BatchTrouble> {
        self.records_after += u64::from(batch.header().records_count.max(0).unsigned_abs());
        Ok(self.out.push(batch.bytes())?)
    }

    fn clean(&mut self, batch: &RecordBatch<'_>, is_last: bool) -> Result<(), BatchTrouble> {
        let header = batch.header();
        let Ok(unpacked) = batch.uncompressed(UNPACKED_BYTES_MAX) else {
            // Stored as it was sent, and larger than is sensible to unpack.
            return self.keep(batch);
        };
        let horizon = header.delete_horizon_ms();
        let expired = horizon.is_some_and(|horizon| self.tombstones.now_ms >= horizon);
        let (mut kept, mut dropped, mut has_tombstone) = (Vec::new(), false, false);
        for record in batch.records(&unpacked) {
            let record = record?;
            let tombstone = record.value.is_none();
            // A record without a key has no later one.
            if self.cleaner.is_latest(header, &record) && !(tombstone && expired) {
                has_tombstone |= tombstone;
                kept.push(record);
            } else {
                dropped = true;
            }
        }
        if kept.is_empty() {
            return self.empty(header, is_last);
        }
        let new_horizon = (has_tombstone && horizon.is_none()).then(|| self.tombstones.horizon());
        if !dropped && new_horizon.is_none() {
            return self.keep(batch);
        }
        self.rebuild(header, &kept, new_horizon.or(horizon))
    }

    /// Writes a batch with some of its records. Its first and last offset stay.
    fn rebuild(
        &mut self,
        header: &BatchHeader,
        records: &[Record<'_>],
        horizon: Option<i64>,
    ) -> Result<(), BatchTrouble> {
        let options = BatchOptions { delete_horizon_ms: horizon, ..BatchOptions::of(header)? };
        let mut builder = BatchBuilder::new(options);
        for record in records {
            builder.append_record(record);
        }
        builder.extend_to(header.last_offset());
        let append_time =
            (header.timestamp_type() == TimestampType::LogAppendTime).then_some(header.max_timestamp);
        self.records_after += records.len() as u64;
        Ok(self.out.push(&builder.build_with_max_timestamp(append_time))?)
    }

    /// Nothing of a batch is left but, perhaps, its header.
    fn empty(&mut self, header: &BatchHeader, is_last: bool) -> Result<(), BatchTrouble> {
        if !is_last && !self.cleaner.keep_empty(header) {
            return Ok(());
        }
        let options = BatchOptions {
            compression: Compression::None,
            delete_horizon_ms: None,
            ..BatchOptions::of(header)?
        };
        let mut builder = BatchBuilder::new(options);
        builder.extend_to(header.last_offset());
        Ok(self.out.push(&builder.build_with_max_timestamp(Some(header.max_timestamp)))?)
    }
}

impl Tombstones {
    fn horizon(self) -> i64 {
        self.now_ms.saturating_add(self.retention_ms)
    }
}

enum BatchTrouble {
    Corrupt(String),
    Other(StorageError),
}

impl From<ottla_protocol::batch::BatchError> for BatchTrouble {
    fn from(error: ottla_protocol::batch::BatchError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

impl From<StorageError> for BatchTrouble {
    fn from(error: StorageError) -> Self {
        Self::Other(error)
    }
}
