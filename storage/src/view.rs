//! Frozen views of a log, for reads that are long or may wait for the disk: loading a coordinator, searching by time, compaction.

use std::sync::Arc;

use ottla_protocol::types::Offset;

use crate::error::StorageError;
use crate::read::{Slice, Temperature, Wanted, walk_segments};
use crate::retention::SegmentSummary;
use crate::segment::Segment;

/// A log as it was when the view was taken, readable by any thread without a lock. Its calls may wait for the disk. Where the log
/// has moved on in between (compaction, truncation), they say [`StorageError::ViewStale`]: take a new view and go on.
#[derive(Clone, Debug)]
pub struct LogView {
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

impl LogView {
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start
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

    /// What retention wants to know of each segment, oldest first, found out as it goes: the first look at a segment since the start
    /// reads its index.
    pub fn summaries(&self) -> impl Iterator<Item = Result<SegmentSummary, StorageError>> + '_ {
        self.segments.iter().map(|segment| {
            if !segment.knows_way_to(segment.base()) {
                segment.load_index(&*segment.open()?)?;
            }
            let max_timestamp = segment.index().max_timestamp();
            Ok(SegmentSummary {
                base: segment.base(),
                end: segment.end(),
                size: segment.size(),
                max_timestamp,
                sealed: segment.is_sealed(),
            })
        })
    }
}
