//! Frozen views of a log, for reads that are long or may wait for the disk: loading a coordinator, searching by time, compaction.

use std::sync::Arc;

use ottla_protocol::batch::{BatchHeader, RecordBatch};
use ottla_protocol::types::{LeaderEpoch, Offset};

use crate::error::StorageError;
use crate::head::Head;
use crate::index::NO_TIMESTAMP;
use crate::read::{Slice, Temperature, Wanted, segment_at, walk_segments};
use crate::retention::SegmentSummary;
use crate::segment::{Segment, Walk, read_exactly};

/// Batches that unpack to more than this are not unpacked for a search.
pub(crate) const UNPACKED_BYTES_MAX: usize = 256 << 20;

/// A log as it was when the view was taken, readable by any thread without a lock. Its calls may wait for the disk. Where the log
/// has moved on in between (compaction, truncation), they say [`StorageError::ViewStale`]: take a new view and go on.
#[derive(Clone, Debug)]
pub struct LogView {
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundTimestamp {
    pub timestamp_ms: i64,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

impl LogView {
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// The same up to `end` only: what is committed, where more than that was appended.
    #[must_use]
    pub fn until(self, end: Offset) -> Self {
        Self { end: self.end.min(end), ..self }
    }

    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.end
    }

    /// Whole batches from the one that holds `from` on, at most `max_bytes` of them but at least one, CRCs checked; empty at the end.
    /// The first may begin below `from`.
    pub fn read(&self, from: Offset, max_bytes: usize) -> Result<Vec<Slice>, StorageError> {
        let (start, end) = (self.start, self.end);
        if from < start || from > end {
            return Err(StorageError::OutOfRange { requested: from, start, end });
        }
        let wanted = Wanted { from, end, max_bytes: max_bytes as u64, at_least_one: true };
        Ok(walk_segments(&self.segments, wanted, Temperature::Cold)?.expect("a cold read waits"))
    }

    /// Shows the headers of the batches from the one that holds `from` on, in order, without a look at bodies or checksums: for what
    /// this process, or one that the kernel outlived, checked when it wrote them.
    pub fn headers(&self, from: Offset, mut look: impl FnMut(&BatchHeader)) -> Result<(), StorageError> {
        let from = self.start.max(from);
        let first = segment_at(&self.segments, from).unwrap_or(0);
        for segment in self.segments.iter().skip(first) {
            let opened = segment.open()?;
            if !segment.knows_way_to(from.max(segment.base())) {
                segment.load_index(&opened)?;
            }
            let size = segment.size();
            let mut position = segment.index().floor(segment.base(), from.max(segment.base()));
            let mut walk = Walk::new(&**opened.file(), size);
            while position < size {
                let head = walk.head(position).map_err(|error| error.at(segment, position))?;
                if head.last >= self.end {
                    return Ok(());
                }
                if head.last >= from {
                    let header = BatchHeader::read(walk.header(position));
                    look(&header.map_err(|error| segment.corrupt(position, error.to_string()))?);
                }
                position += head.size;
            }
        }
        Ok(())
    }

    /// What retention wants to know of each segment, oldest first, found out as it goes: the first look at a segment since the start
    /// reads its index.
    pub fn summaries(&self) -> impl Iterator<Item = Result<SegmentSummary, StorageError>> + '_ {
        self.segments.iter().map(|segment| {
            let max_timestamp = max_timestamp_of(segment)?;
            Ok(SegmentSummary {
                base: segment.base(),
                end: segment.end(),
                size: segment.size(),
                max_timestamp,
                sealed: segment.is_sealed(),
            })
        })
    }

    /// The first record whose timestamp is at or after `timestamp_ms`. In a batch whose time the broker set, the first record.
    pub fn find_by_timestamp(&self, timestamp_ms: i64) -> Result<Option<FoundTimestamp>, StorageError> {
        for segment in self.segments.iter() {
            if max_timestamp_of(segment)? < timestamp_ms {
                continue;
            }
            let from = segment.index().floor_time(timestamp_ms);
            let found = self.walk(segment, from, |head, position| {
                if head.max_timestamp < timestamp_ms {
                    return Ok(None);
                }
                self.find_in_batch(segment, head, position, timestamp_ms)
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp; of several, the first. `None` if no record has one.
    pub fn max_timestamp(&self) -> Result<Option<FoundTimestamp>, StorageError> {
        let mut max_timestamp = NO_TIMESTAMP;
        for segment in self.segments.iter() {
            max_timestamp = max_timestamp.max(max_timestamp_of(segment)?);
        }
        if max_timestamp < 0 {
            return Ok(None);
        }
        if let Some(found) = self.find_by_timestamp(max_timestamp)? {
            return Ok(Some(found));
        }
        // The record lies below the start, or past the view's end: all headers are looked at.
        let mut exact = NO_TIMESTAMP;
        for segment in self.segments.iter() {
            self.walk(segment, 0, |head, _| {
                exact = exact.max(head.max_timestamp);
                Ok(None::<()>)
            })?;
        }
        if exact < 0 { Ok(None) } else { self.find_by_timestamp(exact) }
    }

    /// Shows the headers of a segment from a batch's position on, those within the view, until there is an answer.
    fn walk<T>(
        &self,
        segment: &Arc<Segment>,
        from: u64,
        mut look: impl FnMut(&Head, u64) -> Result<Option<T>, StorageError>,
    ) -> Result<Option<T>, StorageError> {
        let opened = segment.open()?;
        let size = segment.size();
        let mut walk = Walk::new(&**opened.file(), size);
        let mut position = from;
        while position < size {
            let head = walk.head(position).map_err(|error| error.at(segment, position))?;
            if head.last >= self.end {
                break;
            }
            if head.last >= self.start
                && let Some(found) = look(&head, position)?
            {
                return Ok(Some(found));
            }
            position += head.size;
        }
        Ok(None)
    }

    fn find_in_batch(
        &self,
        segment: &Arc<Segment>,
        head: &Head,
        position: u64,
        timestamp_ms: i64,
    ) -> Result<Option<FoundTimestamp>, StorageError> {
        let mut bytes = vec![0; head.size as usize];
        read_exactly(&**segment.open()?.file(), &mut bytes, position)
            .map_err(|error| StorageError::io("read", segment.path(), error))?;
        let corrupt = |error: ottla_protocol::batch::BatchError| segment.corrupt(position, error.to_string());
        let (batch, _) = RecordBatch::parse(&bytes).map_err(corrupt)?;
        batch.verify_crc().map_err(corrupt)?;
        let leader_epoch = head.epoch;
        let Ok(unpacked) = batch.uncompressed(UNPACKED_BYTES_MAX) else {
            // Stored as it was sent, and larger than is sensible: its first record is near enough.
            let offset = head.base.max(self.start);
            return Ok(Some(FoundTimestamp { timestamp_ms: head.max_timestamp, offset, leader_epoch }));
        };
        for record in batch.records(&unpacked) {
            let record = record.map_err(corrupt)?;
            if record.timestamp >= timestamp_ms && record.offset >= self.start {
                let (timestamp_ms, offset) = (record.timestamp, record.offset);
                return Ok(Some(FoundTimestamp { timestamp_ms, offset, leader_epoch }));
            }
        }
        Ok(None)
    }
}

/// Of all batches of a segment; may be too large after a truncation, never too small.
fn max_timestamp_of(segment: &Arc<Segment>) -> Result<i64, StorageError> {
    if !segment.knows_way_to(segment.base()) {
        segment.load_index(&*segment.open()?)?;
    }
    Ok(segment.index().max_timestamp())
}
