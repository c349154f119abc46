//! Making a log shorter: at its end (truncation), at its start (retention, DeleteRecords), altogether.
//!
//! Whatever goes was promised to nobody by then, or is told to the journal first: a restart that finds less than the journal's durable
//! point takes it for damage.

use std::sync::Arc;

use ottla_protocol::types::Offset;

use crate::epochs::EpochHistory;
use crate::error::StorageError;
use crate::journal::DurablePoint;
use crate::log::Log;
use crate::read::segment_at;
use crate::removal::{Removal, deleted_name, empty, unlink};
use crate::segment::{Segment, Walk};

impl Log {
    /// Cuts the log to `end`, or, where `end` lies within a batch, to the start of that batch, or the log's; returns the new end. Epochs that began
    /// at or past it are forgotten. Blocks on the journal's sync where flushed records or epochs go. Durable with the next flush.
    pub fn truncate_to(&mut self, end: Offset) -> Result<Offset, StorageError> {
        self.check_failure()?;
        if end < self.start {
            self.restart_at(end)?;
            return Ok(end);
        }
        if end >= self.end {
            // Epochs noted without a record may still be there (KAFKA-10706).
            if self.epochs.truncate_to(end) {
                self.record_epochs();
                self.journal().sync()?;
            }
            return Ok(self.end);
        }
        let at = segment_at(&self.segments, end).expect("records at or past the start lie in a segment");
        let segment = Arc::clone(&self.segments[at]);
        let (position, end) = batch_at(&segment, end)?;
        if end < self.start {
            // The log starts within the batch, so nothing is left. What lies between its start and the cut has to come again.
            let start = self.start;
            self.restart_at(start)?;
            return Ok(start);
        }
        self.lower_durable(at, position, end)?;
        self.producer_snapshots().remove_above(end)?;
        let gone: Vec<_> = if position == 0 {
            Arc::make_mut(&mut self.segments).drain(at..).collect()
        } else {
            segment.truncate(position, end)?;
            Arc::make_mut(&mut self.segments).drain(at + 1..).collect()
        };
        self.end = end;
        self.flush.truncate(end);
        self.flush.note_names(self.dir.clone());
        if position > 0 {
            // Its name says where the one before ends.
            self.create_segment()?;
        } else {
            self.allocated = 0;
            self.fill.begin_anew();
            self.first_timestamp = None;
        }
        for segment in gone.iter().rev() {
            segment.leave();
            unlink(self.files.disk(), segment)?;
        }
        Ok(end)
    }

    /// Before flushed records are cut, the journal says so. Epochs go with their records, and before others come: records of an older
    /// epoch than the journal's would look like leftovers.
    fn lower_durable(&mut self, at: usize, position: u64, end: Offset) -> Result<(), StorageError> {
        let epochs_go = self.epochs.truncate_to(end);
        let lowered = match position {
            0 => DurablePoint { end, segment: end, position },
            _ => DurablePoint { end, segment: self.segments[at].base(), position },
        };
        let mut below = false;
        self.entry.update(|facts| {
            below = facts.durable.is_some_and(|durable| durable.end > end);
            if below {
                facts.durable = Some(lowered);
            }
            facts.cleaned = facts.cleaned.min(end);
            facts.epochs.clone_from(&self.epochs);
        });
        if below || epochs_go {
            self.journal().sync()?;
        }
        Ok(())
    }

    /// Empties the log and lets it begin anew at `start`, also if it was quarantined; with the log, its epochs are forgotten. Blocks
    /// on the journal's sync.
    pub fn restart_at(&mut self, start: Offset) -> Result<(), StorageError> {
        if let Some(StorageError::Offline { .. }) = self.failure {
            self.check_failure()?;
        }
        self.epochs = EpochHistory::default();
        self.entry.update(|facts| {
            facts.log_start = start;
            facts.cleaned = start;
            facts.durable = Some(DurablePoint { end: start, segment: start, position: 0 });
            facts.epochs = EpochHistory::default();
        });
        self.journal().sync()?;
        let gone = std::mem::take(&mut self.segments);
        (self.start, self.end) = (start, start);
        self.flush.restart(start);
        if self.has_dir {
            self.flush.note_names(self.dir.clone());
        }
        self.failure = None;
        for segment in gone.iter() {
            segment.leave();
        }
        if self.has_dir {
            let disk = self.files.disk();
            empty(disk, &self.dir)?;
            disk.sync_dir(&self.dir).map_err(|error| StorageError::io("sync", &self.dir, error))?;
        }
        Ok(())
    }

    /// Raises the log start, at most to the log's end; never lowers it. Sealed segments below it go. The new start is durable after
    /// the next [`Journal::sync`], which the removal does, too.
    pub fn trim_start(&mut self, start: Offset) -> Option<Removal> {
        let start = start.min(self.end);
        if start <= self.start {
            return None;
        }
        self.start = start;
        if self.epochs.trim_start(start) {
            self.record_epochs();
        }
        let noted = self.entry.update(|facts| facts.log_start = start);
        self.flush.trim(start, noted);
        let sealed = self.segments.iter().take_while(|segment| segment.is_sealed() && segment.end() <= start);
        let count = sealed.count();
        self.drop_segments(count)
    }

    /// Lets the segments go that end at or below `offset`, the last one included: an empty log goes on at its end without a file.
    /// For retention; the log start moves with them.
    pub fn drop_segments_below(&mut self, offset: Offset) -> Option<Removal> {
        let gone = self.segments.iter().take_while(|segment| segment.size() > 0 && segment.end() <= offset);
        let count = gone.count();
        let end = self.segments.get(count.checked_sub(1)?)?.end();
        self.start = self.start.max(end);
        if self.epochs.trim_start(self.start) {
            self.record_epochs();
        }
        let noted = self.entry.update(|facts| facts.log_start = self.start);
        self.flush.trim(self.start, noted);
        self.drop_segments(count)
    }

    /// Takes the first segments, which lie below the log start, out.
    fn drop_segments(&mut self, count: usize) -> Option<Removal> {
        if count == 0 {
            return None;
        }
        let gone: Vec<_> = Arc::make_mut(&mut self.segments).drain(..count).collect();
        let base = self.segments.first().map_or(self.end, |first| first.base());
        self.entry.update(|facts| {
            // Recovery begins at a segment that is there.
            if facts.durable.is_none_or(|durable| durable.segment < base) {
                facts.durable = Some(DurablePoint { end: base, segment: base, position: 0 });
            }
        });
        for segment in &gone {
            segment.leave();
        }
        Some(Removal::of_segments(self.files.disk(), self.journal(), gone))
    }

    /// Removes the log and its directory; the name is free when this returns. The space comes back when the removal has run.
    pub fn delete(self) -> Result<Removal, StorageError> {
        for segment in self.segments.iter() {
            segment.leave();
        }
        self.journal().remove(self.entry.name());
        let aside = if self.has_dir {
            let aside = deleted_name(&self.dir);
            self.files
                .disk()
                .rename(&self.dir, &aside)
                .map_err(|error| StorageError::io("rename", &self.dir, error))?;
            Some(aside)
        } else {
            None
        };
        Ok(Removal::of_dir(self.files.disk(), self.journal(), aside))
    }
}

/// Where to cut a segment so that `offset` is gone: the position of the batch that holds it, or of the next one, and the offset that
/// the batch before ends at. Blocks.
fn batch_at(segment: &Arc<Segment>, offset: Offset) -> Result<(u64, Offset), StorageError> {
    let opened = segment.open()?;
    if !segment.knows_way_to(segment.base()) {
        segment.load_index(&opened)?;
    }
    let size = segment.size();
    // From the known batch before the one that is nearest, for the end of the batch before is wanted, too.
    let mut position = {
        let index = segment.index();
        index.before(index.floor(segment.base(), offset))
    };
    let mut walk = Walk::new(&**opened.file(), size);
    let mut end = segment.base();
    while position < size {
        let head = walk.head(position).map_err(|error| error.at(segment, position))?;
        if head.last >= offset {
            break;
        }
        end = head.next();
        position += head.size;
    }
    Ok((position.min(size), end))
}
