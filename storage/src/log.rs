//! One partition's log: segments in one directory, the last of which grows.
//!
//! Rooms around it: [`crate::read`] (what a read answers), [`crate::view`] (frozen views, searches by time), [`crate::flush`]
//! (group commit), `cut` (truncation, retention, deletion), [`crate::recovery`] (opening), [`crate::compaction`].
//!
//! - A segment is named by the end of the one before it. Nothing is created before the first append, and sealing creates nothing
//!   either: the next append does.
//! - What lies below a segment's size never changes. Truncation seals a segment at an earlier end and creates the next one, named by
//!   that end; bytes past the next segment's base do not exist, also after a restart.
//! - The journal's durable point is never above what is on the disk: it is lowered, and synced, before flushed records are cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};

use crate::epochs::EpochHistory;
use crate::error::{StorageError, is_full};
use crate::files::{FileCache, Opened};
use crate::fill::{FillAhead, FillFor, Upcoming};
use crate::flush::{FlushState, FlushTicket};
use crate::head::{HEAD_LEN, Head};
use crate::journal::{DurablePoint, Journal, JournalEntry, JournalSequence};
use crate::producers::ProducerSnapshots;
use crate::read::{ColdRead, Read, Temperature, Wanted, walk_segments};
use crate::segment::{SPAN_MAX, Segment, read_exactly};
use crate::view::LogView;

/// The first step of allocation of a segment; later ones are as large as what the segment has, up to the maximum.
const ALLOCATE_MIN: u64 = 64 << 10;
const ALLOCATE_MAX: u64 = 4 << 20;

/// What a log is told by its topic's configuration; may change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`: how much younger than the active segment's first batch a batch may be to still go there.
    pub segment_ms: i64,
    /// Taken off `segment_ms`, so that many logs do not roll at once (`segment.jitter.ms`, already drawn).
    pub segment_jitter_ms: i64,
    /// `index.interval.bytes`; acts on segments made or opened later.
    pub index_interval_bytes: u32,
    pub fill_for: FillFor,
}

impl Default for LogOptions {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            fill_for: FillFor::Nobody,
        }
    }
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub first: Offset,
    pub last: Offset,
    /// Of all batches.
    pub max_timestamp: i64,
    /// In bytes.
    pub len: usize,
    /// The append began a new segment.
    pub rolled: bool,
}

/// One partition's log. `&mut self` where the log changes; what waits for the disk is handed out as a value to run elsewhere, or
/// says that it blocks.
#[derive(Debug)]
pub struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) files: Arc<FileCache>,
    pub(crate) entry: JournalEntry,
    pub(crate) owner: Uuid,
    pub(crate) options: LogOptions,
    /// In order of their bases; each ends where the next begins. Shared with views, so it is copied when it changes.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) epochs: EpochHistory,
    pub(crate) flush: FlushState,
    /// Blocks of the last segment are reserved up to here.
    pub(crate) allocated: u64,
    pub(crate) fill: FillAhead,
    /// The largest timestamp of the last segment's first batch; `None` if nobody has looked yet.
    pub(crate) first_timestamp: Option<i64>,
    /// The directory exists.
    pub(crate) has_dir: bool,
    pub(crate) failure: Option<StorageError>,
    /// The journal's change that is to be durable before anything is appended.
    pub(crate) journal_first: Option<JournalSequence>,
    /// Headers of the batches of an append; kept for its memory.
    pub(crate) heads: Vec<Head>,
}

impl Log {
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who the log belongs to, as the journal has it.
    #[must_use]
    pub fn owner(&self) -> Uuid {
        self.owner
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        self.entry.journal()
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.end
    }

    /// Everything below has been synced.
    #[must_use]
    pub fn flushed_end(&self) -> Offset {
        self.flush.flushed_end()
    }

    /// Of all segments, in bytes. Segments that were found at start and not used since count with their file's length.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size()).sum()
    }

    #[must_use]
    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    pub fn set_options(&mut self, options: LogOptions) {
        self.options = options;
    }

    /// Why the log takes no appends: `Offline` or `Quarantined`. For good, but for [`Log::restart_at`] after a quarantine.
    #[must_use]
    pub fn failure(&self) -> Option<&StorageError> {
        self.failure.as_ref()
    }

    #[must_use]
    pub fn epochs(&self) -> &EpochHistory {
        &self.epochs
    }

    /// The largest epoch that is not above `epoch`, and where it ended; see [`EpochHistory::end_offset_for`].
    #[must_use]
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_offset_for(epoch, self.end)
    }

    fn offline(&mut self, what: &str, error: &io::Error) -> StorageError {
        let reason: Arc<str> = format!("{what} failed: {error}").into();
        tracing::error!("log {} goes offline: {reason}", self.dir.display());
        let failure = StorageError::Offline { dir: self.dir.clone(), reason };
        self.failure = Some(failure.clone());
        failure
    }

    /// Damage below the flushed end was found since the log was opened, as [`StorageError::CorruptBatch`] by a read: it takes no appends
    /// any more until [`Log::restart_at`] empties it, and is readable where it is sound. For who can get the records elsewhere.
    pub fn quarantine(&mut self, reason: &str) {
        if self.failure.is_none() {
            tracing::error!("log {} is quarantined: {reason}", self.dir.display());
            self.failure = Some(StorageError::Quarantined { dir: self.dir.clone(), reason: reason.into() });
        }
    }

    pub(crate) fn check_failure(&self) -> Result<(), StorageError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    // --- append ---

    /// Appends whole batches: offsets and epochs stamped, the first one at [`Log::end_offset`] or above it (compacted leaders leave
    /// gaps), CRCs checked by the caller, who thereby vouches for them. All or nothing. `now_ms` is the wall clock. Notes a new leader epoch in the history.
    /// A full disk fails this append only ([`StorageError::Full`]); a failed write takes the log offline.
    pub fn append(&mut self, batches: &[u8], now_ms: i64) -> Result<Appended, StorageError> {
        self.check_failure()?;
        if let Some(sequence) = self.journal_first {
            if self.journal().synced() < sequence {
                self.journal().sync()?;
            }
            self.journal_first = None;
        }
        let mut heads = std::mem::take(&mut self.heads);
        let result = parse_heads(batches, self.end, &mut heads)
            .and_then(|()| self.append_parsed(batches, &heads, now_ms));
        self.heads = heads;
        result
    }

    fn append_parsed(
        &mut self,
        batches: &[u8],
        heads: &[Head],
        now_ms: i64,
    ) -> Result<Appended, StorageError> {
        let (first, last) = (heads[0], heads[heads.len() - 1]);
        if self.epochs.latest().is_some_and(|latest| latest.epoch > first.epoch && latest.start >= self.end) {
            // It began here, never got a record, and gives way to an older one (its leader was followed by one whose log goes on in
            // that): on disk before the records come, for recovery would take them for leftovers.
            self.truncate_to(self.end)?;
        }
        let max_timestamp = heads.iter().map(|head| head.max_timestamp).fold(i64::MIN, i64::max);
        // A batch without timestamps is as old as its append.
        let timestamp = if first.max_timestamp >= 0 { first.max_timestamp } else { now_ms };
        let rolled = self.make_room(batches.len() as u64, timestamp, last.last)?;
        let segment = Arc::clone(self.segments.last().expect("there is an active segment now"));
        let opened = segment.open()?;
        let size = segment.size();
        self.allocate(&opened, size, batches.len() as u64)?;
        let filled = self.fill_ahead(&opened, size, batches.len() as u64, now_ms);
        if let Err(error) = filled.and_then(|()| segment.append(&**opened.file(), batches, heads)) {
            // Nobody was promised these bytes, but a part of them may be there, and must not be in the way of the next.
            self.fill.begin_anew();
            return Err(match opened.file().set_len(size) {
                Ok(()) if is_full(&error) => StorageError::Full { path: segment.path().to_path_buf() },
                _ => self.offline("a write", &error),
            });
        }
        if size == 0 {
            self.first_timestamp = Some(timestamp);
        }
        self.flush.note_dirty(&segment, &opened);
        self.flush.note_appended(batches.len());
        self.end = last.next();
        let mut news = false;
        for head in heads {
            news |= self.epochs.assign(head.epoch, head.base);
        }
        if news {
            self.record_epochs();
        }
        Ok(Appended { first: first.base, last: last.last, max_timestamp, len: batches.len(), rolled })
    }

    /// Reserves blocks for `len` more bytes, so that the next appends up to so many do not find the disk full.
    /// For callers that must know before they append.
    pub fn reserve(&mut self, len: u64, now_ms: i64) -> Result<(), StorageError> {
        self.check_failure()?;
        self.make_room(len, now_ms, self.end)?;
        let segment = Arc::clone(self.segments.last().expect("there is an active segment now"));
        let opened = segment.open()?;
        self.allocate(&opened, segment.size(), len)
    }

    /// Sees to it that the last segment takes the next batches; says whether it is a new one.
    fn make_room(&mut self, len: u64, timestamp: i64, last: Offset) -> Result<bool, StorageError> {
        if let Some(active) = self.active() {
            let segment = Arc::clone(active);
            let size = segment.size();
            let full = size + len > self.options.segment_bytes.min(SPAN_MAX as u64)
                || last.0 - segment.base().0 > SPAN_MAX;
            if size > 0 && (full || self.is_old(&segment, timestamp)?) {
                self.seal();
            }
        }
        if self.active().is_some() {
            return Ok(false);
        }
        if last.0 - self.end.0 > SPAN_MAX || len > SPAN_MAX as u64 {
            return Err(StorageError::Malformed(format!(
                "{len} bytes up to offset {last} are too many for a segment"
            )));
        }
        let rolled = !self.segments.is_empty();
        self.create_segment()?;
        Ok(rolled)
    }

    /// The segment that grows.
    fn active(&self) -> Option<&Arc<Segment>> {
        self.segments.last().filter(|segment| !segment.is_sealed())
    }

    /// Whether a batch is too young for a segment (`segment.ms`). As in Kafka, ages are judged by the records' timestamps.
    fn is_old(&mut self, segment: &Arc<Segment>, timestamp: i64) -> Result<bool, StorageError> {
        let first = match self.first_timestamp {
            Some(first) => first,
            None => {
                let mut bytes = [0; HEAD_LEN];
                let opened = segment.open()?;
                read_exactly(&**opened.file(), &mut bytes, 0)
                    .map_err(|error| StorageError::io("read", segment.path(), error))?;
                let head = Head::parse(&bytes).map_err(|reason| segment.corrupt(0, reason))?;
                *self.first_timestamp.insert(head.max_timestamp)
            }
        };
        let age_max = self.options.segment_ms.saturating_sub(self.options.segment_jitter_ms);
        Ok(first >= 0 && timestamp.saturating_sub(first) > age_max)
    }

    /// Seals the last segment, if it has records: the next append begins a new one.
    pub fn seal(&mut self) {
        if let Some(active) = self.active().filter(|active| active.size() > 0) {
            active.seal();
            // The flush that covers the seal saves the index and gives unused blocks back.
            if let Some(opened) = active.opened() {
                let segment = Arc::clone(active);
                self.flush.note_dirty(&segment, &opened);
            }
        }
    }

    /// Creates the segment that begins at the log's end.
    pub(crate) fn create_segment(&mut self) -> Result<(), StorageError> {
        let disk = Arc::clone(self.files.disk());
        let path = self.dir.join(crate::segment::file_name(self.end));
        let failed = |error: io::Error| match is_full(&error) {
            true => StorageError::Full { path: path.clone() },
            false => StorageError::io("create", &path, error),
        };
        if !self.has_dir {
            disk.create_dir_all(&self.dir).map_err(failed)?;
            self.has_dir = true;
            self.flush.note_names(self.dir.parent().unwrap_or(Path::new("")).to_path_buf());
        }
        let interval = self.options.index_interval_bytes;
        let segment = Segment::create(&self.files, &self.dir, self.end, interval).map_err(failed)?;
        self.flush.note_names(self.dir.clone());
        Arc::make_mut(&mut self.segments).push(segment);
        self.allocated = 0;
        self.fill.begin_anew();
        self.first_timestamp = None;
        Ok(())
    }

    /// Reserves blocks ahead of the tail, so that a full disk is noticed here and not in the middle of a write.
    fn allocate(&mut self, opened: &Opened, size: u64, len: u64) -> Result<(), StorageError> {
        let needed = size + len;
        if needed <= self.allocated {
            return Ok(());
        }
        let step = self.allocated.clamp(ALLOCATE_MIN, ALLOCATE_MAX).max(len);
        let mut roomy = size + step;
        if let Some(piece) = self.files.fill_bytes().of(self.options.fill_for)
            && roomy - roomy % piece >= needed
        {
            roomy -= roomy % piece;
        }
        let roomy = roomy.min(self.options.segment_bytes.max(needed));
        for target in [roomy, needed] {
            match opened.file().allocate(size, target - size) {
                Ok(()) => {
                    self.allocated = target;
                    return Ok(());
                }
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(self.offline("an allocation", &error)),
            }
        }
        Err(StorageError::Full { path: self.dir.clone() })
    }

    /// See [`crate::fill`].
    fn fill_ahead(&mut self, opened: &Opened, size: u64, len: u64, now_ms: i64) -> io::Result<()> {
        let fill_for = self.options.fill_for;
        let Some(piece) = self.files.fill_bytes().of(fill_for) else { return Ok(()) };
        let upcoming = Upcoming { size, len, now_ms, flushes: self.flush.begun() };
        let Some((from, to)) = self.fill.plan(fill_for, piece, upcoming) else { return Ok(()) };
        // Never where a write could find the disk full.
        let to = to.min(self.allocated);
        if from < to {
            let is_dear = opened.file().write_zeros(to - from, from)?;
            self.fill.note(is_dear && fill_for == FillFor::Memory);
        }
        Ok(())
    }

    pub(crate) fn record_epochs(&self) {
        self.entry.update(|facts| facts.epochs.clone_from(&self.epochs));
    }

    /// Notes that a leader epoch begins at the log's end; says whether that is news. Durable after the next [`Journal::sync`],
    /// which a leader waits for before it serves (KAFKA-7415).
    pub fn assign_epoch(&mut self, epoch: LeaderEpoch) -> bool {
        let news = self.epochs.assign(epoch, self.end);
        if news {
            self.record_epochs();
        }
        news
    }

    // --- read ---

    /// Whole batches from the one that holds `from` on, below `end` (the high watermark, or the log's end), at most `max_bytes` of
    /// them, but if `at_least_one`, then the first one whatever its size. A batch's CRC is checked when it is first read since its
    /// segment was opened, unless it was appended since.
    pub fn read(
        &self,
        from: Offset,
        end: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Read, StorageError> {
        if from < self.start || from > self.end {
            let (start, end) = (self.start, self.end);
            return Err(StorageError::OutOfRange { requested: from, start, end });
        }
        let wanted = Wanted { from, end: end.min(self.end), max_bytes: max_bytes as u64, at_least_one };
        Ok(match walk_segments(&self.segments, wanted, Temperature::Hot)? {
            Some(slices) => Read::Hot(slices),
            None => Read::Cold(ColdRead { segments: Arc::clone(&self.segments), wanted }),
        })
    }

    /// A frozen view for long reads without the lock.
    #[must_use]
    pub fn view(&self) -> LogView {
        LogView { segments: Arc::clone(&self.segments), start: self.start, end: self.end }
    }

    /// The snapshots of producer state that lie beside the segments.
    #[must_use]
    pub fn producer_snapshots(&self) -> ProducerSnapshots {
        ProducerSnapshots::new(self.files.disk(), &self.dir)
    }

    // --- flush ---

    /// Where the log ends on the disk.
    fn tail(&self) -> DurablePoint {
        match self.segments.last().filter(|last| !last.is_sealed()) {
            Some(last) => DurablePoint { end: self.end, segment: last.base(), position: last.size() },
            None => DurablePoint { end: self.end, segment: self.end, position: 0 },
        }
    }

    /// Starts a group commit of everything appended so far; `None` if everything is flushed, a flush is under way, or the log is
    /// offline. After opening a log that was not closed there is something to flush.
    pub fn begin_flush(&mut self) -> Option<FlushTicket> {
        if self.failure.is_some() {
            return None;
        }
        let tail = self.tail();
        self.flush.begin(self.files.disk(), self.entry.journal(), self.end, tail)
    }

    /// Ends it: returns the flushed end. A failed sync takes the log offline. The durable end is noted in the journal's memory.
    pub fn finish_flush(
        &mut self,
        ticket: FlushTicket,
        result: io::Result<()>,
    ) -> Result<Offset, StorageError> {
        if let Err(error) = result {
            return Err(self.offline("a sync", &error));
        }
        if let Some(durable) = self.flush.finish(&ticket) {
            self.entry.update(|facts| facts.durable = Some(durable));
        }
        match &self.failure {
            Some(offline @ StorageError::Offline { .. }) => Err(offline.clone()),
            // Damage elsewhere takes nothing from what was just written.
            Some(_) | None => Ok(self.flush.flushed_end()),
        }
    }

    /// Flushes, notes the durable end in the journal (which [`crate::LogDir::close`] syncs once for all logs), saves the index.
    /// Blocks.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.check_failure()?;
        // A flush that is under way elsewhere may not be done in time.
        self.flush.take_back();
        while let Some(ticket) = self.begin_flush() {
            let result = ticket.sync();
            self.finish_flush(ticket, result)?;
        }
        if let Some(last) = self.segments.last() {
            last.save_index();
            // What was filled ahead: the next start need not look at it.
            if let Some(opened) = last.opened()
                && !last.is_truncated()
                && let Err(error) = opened.file().set_len(last.size())
            {
                tracing::debug!("cannot trim {}: {error}", last.path().display());
            }
        }
        self.entry.update(|facts| facts.log_start = self.start);
        Ok(())
    }
}

/// Reads the headers of whole batches that continue a log ending at `expected`.
fn parse_heads(batches: &[u8], expected: Offset, heads: &mut Vec<Head>) -> Result<(), StorageError> {
    heads.clear();
    let (mut rest, mut next) = (batches, expected);
    while !rest.is_empty() {
        let head = Head::parse(rest).map_err(StorageError::Malformed)?;
        if head.size > rest.len() as u64 {
            let (have, size) = (rest.len(), head.size);
            return Err(StorageError::Malformed(format!("{have} bytes of a batch of {size}")));
        }
        if head.base < next {
            return Err(StorageError::OutOfOrder { expected: next, found: head.base });
        }
        next = head.next();
        rest = &rest[head.size as usize..];
        heads.push(head);
    }
    match heads.is_empty() {
        true => Err(StorageError::Malformed("no batch".to_owned())),
        false => Ok(()),
    }
}
