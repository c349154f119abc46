//! Making a log durable: what is dirty is taken under the partition's lock as a ticket, synced without it, and noted with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_protocol::types::Offset;

use crate::disk::Disk;
use crate::files::Opened;
use crate::journal::{DurablePoint, Journal, JournalSequence};
use crate::segment::Segment;

/// So many flushed bytes without a save of the active segment's index, and it is saved.
const INDEX_SAVE_BYTES: u64 = 16 << 20;
/// So many appended bytes without a sync of the journal, and a flush does it: a restart scans little more than this of each log, even
/// if nobody else ever syncs the journal.
const JOURNAL_SYNC_BYTES: u64 = 16 << 20;

/// What is to be synced, taken under the partition's lock, synced without it.
#[derive(Debug)]
pub struct FlushTicket {
    disk: Arc<dyn Disk>,
    end: Offset,
    durable: DurablePoint,
    dirty: Vec<Dirty>,
    /// Directories with new names.
    dirs: Vec<PathBuf>,
    /// Save the index of the active segment.
    save_index: bool,
    journal: Arc<Journal>,
    /// Nothing is flushed before the journal says this much.
    journal_first: Option<JournalSequence>,
    /// The journal has not heard of this log for long.
    journal_due: bool,
}

impl FlushTicket {
    /// The log end that this flush covers.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Syncs the files, and the directory if names are new. Blocks: for flusher threads, without the partition's lock. Never to be
    /// called again after an error.
    pub fn sync(&self) -> io::Result<()> {
        if self.journal_first.is_some_and(|sequence| self.journal.synced() < sequence) {
            self.journal.sync().map_err(io::Error::other)?;
        }
        for dirty in &self.dirty {
            dirty.opened.file().sync_data()?;
        }
        for dir in &self.dirs {
            self.disk.sync_dir(dir)?;
        }
        for Dirty { segment, opened } in &self.dirty {
            if segment.is_sealed() {
                // Gives back what was allocated, and maybe filled, past the end. A truncated segment may still be shown there.
                let free =
                    !segment.is_truncated() || opened.file().len().is_ok_and(|len| len == segment.size());
                if free && let Err(error) = opened.file().set_len(segment.size()) {
                    tracing::debug!("cannot trim {}: {error}", segment.path().display());
                }
            }
            if segment.is_sealed() || self.save_index {
                segment.save_index();
            }
        }
        if self.journal_due
            && let Err(error) = self.journal.sync()
        {
            // It knows an older durable end of this log, so that a restart scans more.
            tracing::warn!("the journal falls behind: {error}");
        }
        Ok(())
    }
}

/// A segment with bytes that may not be on the disk, and the file that they were written through.
#[derive(Clone, Debug)]
struct Dirty {
    segment: Arc<Segment>,
    opened: Arc<Opened>,
}

/// A flush that was begun.
#[derive(Debug)]
struct UnderWay {
    /// The end that it covers; lowered by a truncation.
    end: Offset,
    /// What it is to sync, for a log that is closed before it is finished.
    dirty: Vec<Dirty>,
    dirs: Vec<PathBuf>,
}

/// What of a log is not on the disk yet.
#[derive(Debug)]
pub(crate) struct FlushState {
    flushed_end: Offset,
    dirty: Vec<Dirty>,
    dirs: Vec<PathBuf>,
    /// Directories that a killed process may have changed.
    suspects: Vec<PathBuf>,
    under_way: Option<UnderWay>,
    /// Flushes so far.
    begun: u64,
    /// Where the active segment's index was saved last.
    index_saved: (Offset, u64),
    journal_first: Option<JournalSequence>,
    /// Bytes appended since a flush synced the journal.
    unjournaled_bytes: u64,
}

impl FlushState {
    pub(crate) fn new(flushed_end: Offset) -> Self {
        let index_saved = (Offset::NONE, 0);
        Self {
            flushed_end,
            dirty: Vec::new(),
            dirs: Vec::new(),
            suspects: Vec::new(),
            under_way: None,
            begun: 0,
            index_saved,
            journal_first: None,
            unjournaled_bytes: 0,
        }
    }

    pub(crate) fn flushed_end(&self) -> Offset {
        self.flushed_end
    }

    /// How many flushes were begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    pub(crate) fn note_dirty(&mut self, segment: &Arc<Segment>, opened: &Arc<Opened>) {
        if self.dirty.last().is_none_or(|last| !Arc::ptr_eq(&last.segment, segment)) {
            self.dirty.push(Dirty { segment: Arc::clone(segment), opened: Arc::clone(opened) });
        }
    }

    pub(crate) fn note_appended(&mut self, bytes: usize) {
        self.unjournaled_bytes += bytes as u64;
    }

    pub(crate) fn note_names(&mut self, dir: PathBuf) {
        if !self.dirs.contains(&dir) {
            self.dirs.push(dir);
        }
    }

    /// The directory's names may not be on the disk: the next flush that has anything to do syncs them.
    pub(crate) fn suspect_names(&mut self, dir: &Path) {
        self.suspects = vec![dir.to_path_buf(), dir.parent().unwrap_or(Path::new("")).to_path_buf()];
    }

    /// The log now ends at `end`, and everything below that was flushed still is.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.flushed_end = self.flushed_end.min(end);
        if let Some(under_way) = &mut self.under_way {
            under_way.end = under_way.end.min(end);
        }
    }

    /// Nothing of the log is left, and it begins again at `start`.
    pub(crate) fn restart(&mut self, start: Offset) {
        self.flushed_end = start;
        if let Some(under_way) = &mut self.under_way {
            under_way.end = Offset::NONE;
        }
        self.dirty.clear();
    }

    /// Records below `start` are gone, which the journal says from `noted` on. Those of them that were never flushed count as flushed
    /// once the journal is.
    pub(crate) fn trim(&mut self, start: Offset, noted: JournalSequence) {
        if start > self.flushed_end {
            self.journal_first = Some(noted);
        }
    }

    pub(crate) fn begin(
        &mut self,
        disk: &Arc<dyn Disk>,
        journal: &Arc<Journal>,
        end: Offset,
        durable: DurablePoint,
    ) -> Option<FlushTicket> {
        let clean = self.dirty.is_empty() && self.dirs.is_empty() && self.flushed_end >= end;
        if clean || self.under_way.is_some() {
            return None;
        }
        for dir in std::mem::take(&mut self.suspects) {
            self.note_names(dir);
        }
        let (segment, saved) = self.index_saved;
        let save_index = segment != durable.segment && durable.position >= INDEX_SAVE_BYTES
            || segment == durable.segment && durable.position >= saved + INDEX_SAVE_BYTES;
        if save_index {
            self.index_saved = (durable.segment, durable.position);
        }
        let (dirty, dirs) = (std::mem::take(&mut self.dirty), std::mem::take(&mut self.dirs));
        self.under_way = Some(UnderWay { end, dirty: dirty.clone(), dirs: dirs.clone() });
        self.begun += 1;
        let journal_due = self.unjournaled_bytes >= JOURNAL_SYNC_BYTES
            || dirty.iter().any(|dirty| dirty.segment.is_sealed());
        if journal_due {
            self.unjournaled_bytes = 0;
        }
        Some(FlushTicket {
            disk: Arc::clone(disk),
            end,
            durable,
            dirty,
            dirs,
            save_index,
            journal: Arc::clone(journal),
            journal_first: self.journal_first.take(),
            journal_due,
        })
    }

    /// Forgets the flush under way: what it was to sync is dirty again.
    pub(crate) fn take_back(&mut self) {
        if let Some(UnderWay { dirty, dirs, .. }) = self.under_way.take() {
            self.dirty.extend(dirty);
            for dir in dirs {
                self.note_names(dir);
            }
        }
    }

    /// Notes a sync that succeeded; returns the durable point to journal, unless the log was cut below it since.
    pub(crate) fn finish(&mut self, ticket: &FlushTicket) -> Option<DurablePoint> {
        let under_way =
            self.under_way.take().expect("a ticket is finished once, on the log that gave it out");
        let covered = under_way.end;
        self.flushed_end = self.flushed_end.max(covered);
        (covered == ticket.end).then_some(ticket.durable)
    }
}
