//! Opening a log. Costs the listing of its directory and a scan of what lies past its durable point, whatever the log's size.
//!
//! What is found wrong past the durable point was never acknowledged as durable:
//!
//! - after a power loss it is a torn tail, and cut: pages that were not synced survive at random, so that sound batches may even
//!   follow torn ones;
//! - after a kill every byte that was written is there, so that only an append that was under way may be there in part. Headers are
//!   walked and bodies left to their first reader, who checks them. Anything else that is wrong is damage.
//!
//! A file that was filled ahead (`fill`) ends in zeros: there the data end. An append that was under way over them is a batch whose own end is
//! zeros still, and whose checksum is wrong.
//!
//! Damage, and whatever is missing below the durable point, is never cut. The log opens quarantined: readable where it is sound, and
//! taking no appends until a replica refetches it ([`Log::restart_at`]) or somebody restores the file.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_protocol::types::{Offset, Uuid};

use crate::disk::File;
use crate::epochs::EpochHistory;
use crate::error::StorageError;
use crate::files::{FileCache, Opened};
use crate::fill::FillAhead;
use crate::flush::FlushState;
use crate::head::{HEAD_LEN, Head, is_sound};
use crate::index::Index;
use crate::journal::{DurablePoint, Facts, JournalEntry};
use crate::log::{Log, LogOptions};
use crate::logdir::LastStop;
use crate::producers;
use crate::removal::unlink;
use crate::segment::{Found, Segment, Walk, WalkError, parse_file_name, read_exactly};

/// How much is read at a time.
const SCAN_BYTES: u64 = 1 << 20;
/// The same where the end of what was written is looked for.
const LOOK_BYTES: u64 = 16 << 10;
/// A write that a kill interrupts ends where such a block of its file does: kernels look for signals between pages.
const BLOCK_BYTES: u64 = 512;
/// Files that were being written when the process stopped.
const UNFINISHED: [&str; 2] = [".compacting", ".tmp"];

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes past the durable point that were looked at.
    pub scanned_bytes: u64,
    /// From here on batches were found by their headers alone, their checksums not looked at: the kernel that they were written under
    /// still runs.
    pub walked_from: Option<Offset>,
    /// A torn tail above the durable point was cut.
    pub cut: Option<TornTail>,
    /// Flushed bytes are missing or changed: the log is quarantined.
    pub damage: Option<String>,
}

impl Recovery {
    /// Whether every flushed byte is there, as far as is known.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.damage.is_none()
    }
}

/// What was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub file: PathBuf,
    /// In the file, in bytes.
    pub position: u64,
    /// The log ends here now.
    pub end: Offset,
    /// Of this file and all later ones.
    pub bytes: u64,
    pub reason: String,
}

/// A segment file in a directory.
#[derive(Clone, Copy, Debug)]
struct FileFound {
    base: Offset,
    len: u64,
}

/// Opens the log in `dir`, or an empty one.
pub(crate) fn open(
    files: &Arc<FileCache>,
    dir: &Path,
    entry: JournalEntry,
    owner: Uuid,
    options: LogOptions,
    last_stop: &LastStop,
) -> Result<(Log, Recovery), StorageError> {
    let known = entry.facts();
    let facts = known.clone().unwrap_or_else(|| Facts { owner, ..Facts::default() });
    let listing = list(files, dir)?;
    let (found, has_dir) = (listing.found, listing.has_dir);
    let durable = facts.durable.unwrap_or_else(|| {
        // Nothing was ever flushed, or nobody knows: then the log begins with its first file.
        let first = found.first().map_or(facts.log_start, |first| first.base);
        let base = if known.is_some() { first.min(facts.log_start) } else { first };
        DurablePoint { end: base, segment: base, position: 0 }
    });
    let mut opening = Opening {
        files,
        dir,
        interval: options.index_interval_bytes,
        power_loss: matches!(last_stop, LastStop::PowerLoss | LastStop::Fresh),
        killed: *last_stop == LastStop::Killed,
        segments: Vec::new(),
        end: durable.end,
        epochs: facts.epochs.clone(),
        flush: FlushState::new(durable.end),
        recovery: Recovery::default(),
    };
    if has_dir && !matches!(last_stop, LastStop::Clean(_)) {
        // Names may have come and gone without a sync.
        opening.flush.suspect_names(dir);
    }
    opening.run(&found, durable)?;
    let Opening { segments, end, epochs, flush, recovery, .. } = opening;
    let failure = recovery.damage.as_ref().map(|reason| {
        tracing::error!("log {} is quarantined: {reason}", dir.display());
        StorageError::Quarantined { dir: dir.to_path_buf(), reason: reason.as_str().into() }
    });
    if let Some(cut) = &recovery.cut {
        let TornTail { file, position, end, bytes, reason } = cut;
        tracing::warn!(
            "cut {bytes} bytes that had not been flushed at byte {position} of {}: {reason}; the log ends at offset {end}",
            file.display()
        );
    }
    let first = segments.first().map_or(facts.log_start, |first| first.base());
    let mut log = Log {
        dir: dir.to_path_buf(),
        files: Arc::clone(files),
        entry,
        owner: facts.owner,
        options,
        segments: Arc::new(segments),
        start: facts.log_start.max(first),
        end,
        epochs,
        flush,
        allocated: 0,
        fill: FillAhead::default(),
        first_timestamp: None,
        has_dir,
        failure,
        journal_first: None,
        heads: Vec::new(),
    };
    if listing.has_snapshots {
        log.producer_snapshots().remove_above(log.end)?;
    }
    if log.failure.is_none() {
        log.note_what_was_found(known.as_ref());
    }
    if log.start > log.end && log.failure.is_none() {
        // Records were deleted up to an end that was never flushed, and that is gone.
        let start = log.start;
        log.restart_at(start)?;
    }
    Ok((log, recovery))
}

impl Log {
    /// Tells the journal what it does not know: a log that is new to it, another start, and that epochs are gone whose records did not
    /// survive (one that began at the very end may stay). Records of an older epoch may take the place of those; with the journal as
    /// it was, they would look like leftovers, so it is synced before the first append.
    fn note_what_was_found(&mut self, known: Option<&Facts>) {
        self.epochs.truncate_to(self.end.plus(1));
        self.epochs.trim_start(self.start);
        let changed = known.is_none_or(|known| known.log_start != self.start || known.epochs != self.epochs);
        if changed {
            let sequence = self.entry.update(|facts| {
                facts.owner = self.owner;
                facts.log_start = self.start;
                facts.epochs.clone_from(&self.epochs);
            });
            // Whose it is must be known as long as there is a record: a topic of the same name would take it for its own, or have it
            // deleted. A log without an owner has a name that nobody else gets.
            let is_news = known.is_some() || self.start > Offset(0) || !self.owner.is_zero();
            self.journal_first = is_news.then_some(sequence);
        }
    }
}

/// What is in a log's directory.
#[derive(Default)]
struct Listing {
    /// Segment files, in order.
    found: Vec<FileFound>,
    has_dir: bool,
    has_snapshots: bool,
}

/// Lists a log's directory, and removes what was being written.
fn list(files: &FileCache, dir: &Path) -> Result<Listing, StorageError> {
    let entries = match files.disk().list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Listing::default()),
        Err(error) => return Err(StorageError::io("list", dir, error)),
    };
    let mut listing = Listing { has_dir: true, ..Listing::default() };
    for file in entries {
        listing.has_snapshots |= file.name.ends_with(producers::SUFFIX);
        if let Some(base) = parse_file_name(&file.name) {
            listing.found.push(FileFound { base, len: file.len });
        } else if UNFINISHED.iter().any(|suffix| file.name.ends_with(suffix)) {
            let path = dir.join(&file.name);
            files.disk().remove_file(&path).map_err(|error| StorageError::io("remove", &path, error))?;
        }
    }
    Ok(listing)
}

struct Opening<'a> {
    files: &'a Arc<FileCache>,
    dir: &'a Path,
    interval: u32,
    /// Unsynced bytes may be torn or gone.
    power_loss: bool,
    /// Every byte that was written is there.
    killed: bool,
    segments: Vec<Arc<Segment>>,
    /// What has been found sound ends here.
    end: Offset,
    epochs: EpochHistory,
    flush: FlushState,
    recovery: Recovery,
}

/// Why a scan stopped before its file's end.
struct Wrong {
    reason: String,
    /// The last bytes of the file are the beginning of a batch: an append that was under way.
    unfinished: bool,
}

impl Opening<'_> {
    /// Files between the durable point's and its end are left from before a truncation: what the point speaks of lies in its file.
    fn run(&mut self, found: &[FileFound], durable: DurablePoint) -> Result<(), StorageError> {
        let after = found.partition_point(|file| file.base < durable.segment);
        let (below, rest) = found.split_at(after);
        for (at, file) in below.iter().enumerate() {
            let next = below.get(at + 1).map_or(durable.segment, |next| next.base);
            self.push(file.base, Found::unsettled(file.len, next));
        }
        let has_point = rest.first().filter(|first| first.base == durable.segment);
        let have = has_point.map_or(0, |file| file.len);
        if have < durable.position {
            let path = self.dir.join(crate::segment::file_name(durable.segment));
            let DurablePoint { end, position, .. } = durable;
            let what = match has_point {
                Some(_) => format!("{} has {have} bytes, but {position} had been flushed", path.display()),
                None => format!("{} is missing, but {position} bytes of it had been flushed", path.display()),
            };
            self.recovery.damage = Some(format!("{what} (up to offset {end})"));
            self.keep_unseen(rest);
            self.end = self.end.max(self.segments.last().map_or(self.end, |last| last.end()));
            return Ok(());
        }
        let stale = rest.iter().filter(|file| file.base > durable.segment && file.base < durable.end);
        let stale: Vec<_> = stale.copied().collect();
        self.remove(&stale)?;
        let rest: Vec<_> = rest
            .iter()
            .filter(|file| file.base == durable.segment || file.base >= durable.end)
            .copied()
            .collect();
        let mut position = durable.position;
        for (at, file) in rest.iter().enumerate() {
            let later = &rest[at + 1..];
            if file.base != self.end && position == 0 {
                // A gap between two files, or a file named below the end: what a truncation that was not synced leaves.
                let reason = format!("the next file begins at offset {}", file.base);
                return self.cut_files(&rest[at..], reason);
            }
            let stop = later.first().map(|next| next.base);
            let (segment, wrong) = self.scan(*file, position, stop)?;
            if let Some(wrong) = wrong {
                return self.end_at_wrong(&segment, *file, later, wrong);
            }
            position = 0;
        }
        Ok(())
    }

    fn push(&mut self, base: Offset, found: Found) -> Arc<Segment> {
        let segment = Segment::new(self.files, self.dir, base, self.interval, found);
        self.segments.push(Arc::clone(&segment));
        segment
    }

    /// Files of a damaged log, from the damaged one on: kept as they are, to be read as far as they can be.
    fn keep_unseen(&mut self, files: &[FileFound]) {
        for (at, file) in files.iter().enumerate() {
            let next = files.get(at + 1).map_or(self.end.max(file.base), |next| next.base);
            self.push(file.base, Found::unsettled(file.len, next));
        }
    }

    /// Reads and checks the batches of a file from `position` on, up to the base of the next file.
    fn scan(
        &mut self,
        file: FileFound,
        position: u64,
        stop: Option<Offset>,
    ) -> Result<(Arc<Segment>, Option<Wrong>), StorageError> {
        let index = Index::at(position, self.end);
        let found = Found { size: position, end: self.end, sealed: false, settled: true, index };
        let segment = self.push(file.base, found);
        let mut wrong = None;
        if position < file.len {
            let opened = segment.open()?;
            let mut scan = Scan::new(&opened, &segment, file.len, position, !self.killed);
            if stop.is_none() {
                match written_end(&**opened.file(), position, file.len) {
                    Ok(end) => scan.written = end,
                    Err(error) => tracing::warn!("{}", scan.cannot_read(&error)),
                }
            }
            if self.killed && self.recovery.walked_from.is_none() {
                self.recovery.walked_from = Some(self.end);
            }
            // Where the next file's first offset is reached, the rest does not exist, whatever it is.
            while scan.at < scan.written && stop != Some(self.end) {
                match scan.next(self.end, &self.epochs) {
                    Ok(head) if stop.is_some_and(|stop| head.last >= stop) => {
                        let reason = format!(
                            "a batch of offsets {} to {} spans the next file's first",
                            head.base, head.last
                        );
                        wrong = Some(Wrong { reason, unfinished: false });
                        break;
                    }
                    Ok(head) => {
                        segment.accept(&head, scan.is_checking);
                        self.epochs.assign(head.epoch, head.base);
                        self.end = head.next();
                        scan.at += head.size;
                        self.recovery.scanned_bytes += head.size;
                    }
                    Err(found) => {
                        wrong = Some(found);
                        break;
                    }
                }
            }
            self.flush.note_dirty(&segment, &opened);
            if wrong.is_none() && segment.size() < file.len {
                // Filled ahead, or truncated away; see the rule about bytes past the next segment's base.
                let size = segment.size();
                opened
                    .file()
                    .set_len(size)
                    .map_err(|error| StorageError::io("cut", segment.path(), error))?;
            }
        }
        if let Some(stop) = stop {
            // The next file is only reached if it begins where this one ends.
            segment.seal();
            debug_assert!(self.end <= stop);
        }
        Ok((segment, wrong))
    }

    /// A file does not go on as it should.
    fn end_at_wrong(
        &mut self,
        segment: &Arc<Segment>,
        file: FileFound,
        later: &[FileFound],
        wrong: Wrong,
    ) -> Result<(), StorageError> {
        let position = segment.size();
        let torn = self.power_loss || wrong.unfinished && later.is_empty();
        if !torn {
            let path = segment.path().display();
            let reason = wrong.reason;
            self.recovery.damage = Some(format!("{path} is wrong from byte {position} on: {reason}"));
            self.keep_unseen(later);
            return Ok(());
        }
        let bytes = file.len - position + later.iter().map(|file| file.len).sum::<u64>();
        self.remove(later)?;
        let opened = segment.open()?;
        opened.file().set_len(position).map_err(|error| StorageError::io("cut", segment.path(), error))?;
        segment.unseal();
        self.flush.note_dirty(segment, &opened);
        self.recovery.cut = Some(TornTail {
            file: segment.path().to_path_buf(),
            position,
            end: self.end,
            bytes,
            reason: wrong.reason,
        });
        Ok(())
    }

    /// Files that do not continue what is before them.
    fn cut_files(&mut self, files: &[FileFound], reason: String) -> Result<(), StorageError> {
        let file = self.dir.join(crate::segment::file_name(files[0].base));
        let bytes = files.iter().map(|file| file.len).sum();
        self.remove(files)?;
        if let Some(last) = self.segments.last()
            && last.end() == self.end
            && last.is_settled()
        {
            last.unseal();
        }
        self.recovery.cut = Some(TornTail { file, position: 0, end: self.end, bytes, reason });
        Ok(())
    }

    /// Removes files, the last one first.
    fn remove(&mut self, files: &[FileFound]) -> Result<(), StorageError> {
        for file in files.iter().rev() {
            let found = Found::unsettled(file.len, file.base);
            let segment = Segment::new(self.files, self.dir, file.base, self.interval, found);
            unlink(self.files.disk(), &segment)?;
            self.flush.note_names(self.dir.to_path_buf());
        }
        Ok(())
    }
}

/// Where what was written to a file ends, looked for from its end back to `from`: behind it are zeros alone.
fn written_end(file: &dyn File, from: u64, len: u64) -> io::Result<u64> {
    let mut buffer = [0; LOOK_BYTES as usize];
    let mut end = len;
    while end > from {
        let start = end.saturating_sub(LOOK_BYTES).max(from);
        let bytes = &mut buffer[..(end - start) as usize];
        read_exactly(file, bytes, start)?;
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(from)
}

/// Looks at a file's batches one after the other.
struct Scan<'a> {
    opened: &'a Opened,
    segment: &'a Segment,
    walk: Walk<'a>,
    len: u64,
    /// What was written ends here: the file's end, or where nothing but zeros follows.
    written: u64,
    at: u64,
    /// Checksums are looked at.
    is_checking: bool,
    /// Bytes of the file from `window_start` on, where checksums are looked at.
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Scan<'a> {
    fn new(opened: &'a Opened, segment: &'a Segment, len: u64, at: u64, is_checking: bool) -> Self {
        let walk = Walk::new(&**opened.file(), len);
        let (window, window_start) = (Vec::new(), at);
        Self { opened, segment, walk, len, written: len, at, is_checking, window, window_start }
    }

    /// The batch at the scan's position: it is whole, its checksum is right, and it continues the log.
    fn next(&mut self, end: Offset, epochs: &EpochHistory) -> Result<Head, Wrong> {
        let wrong = |reason: String| Wrong { reason, unfinished: false };
        let head = if self.is_checking { self.checked() } else { self.walked() }?;
        self.segment.spans(&head, self.at).map_err(wrong)?;
        if head.base < end {
            return Err(wrong(format!("offset {} after {end}", head.base)));
        }
        if let Some(epoch) = epochs.epoch_at(head.base).filter(|epoch| head.epoch < *epoch) {
            // Left from before a truncation: the log went on in a newer epoch.
            return Err(wrong(format!(
                "a batch of leader epoch {} where epoch {epoch} had begun",
                head.epoch
            )));
        }
        Ok(head)
    }

    fn walked(&mut self) -> Result<Head, Wrong> {
        let head = self.walk.head(self.at).map_err(|error| match error {
            WalkError::Unfinished(reason) => Wrong { reason, unfinished: true },
            WalkError::Corrupt(reason) => {
                Wrong { reason, unfinished: self.written - self.at < HEAD_LEN as u64 }
            }
            WalkError::Io(error) => Wrong { reason: self.cannot_read(&error), unfinished: false },
        })?;
        let last_byte = self.at + head.size - 1;
        if self.written <= last_byte - last_byte % BLOCK_BYTES {
            let is_whole = self.bytes(head.size as usize).map(is_sound);
            if !is_whole.map_err(|reason| Wrong { reason, unfinished: false })? {
                let written = self.written - self.at;
                let reason = format!("{written} bytes of a batch of {} were written", head.size);
                return Err(Wrong { reason, unfinished: true });
            }
        }
        Ok(head)
    }

    fn checked(&mut self) -> Result<Head, Wrong> {
        let wrong = |reason: String| Wrong { reason, unfinished: false };
        let unfinished = |reason: String| Wrong { reason, unfinished: true };
        let left = self.len - self.at;
        if left < HEAD_LEN as u64 {
            return Err(unfinished(format!("the file ends {left} bytes into a batch")));
        }
        let head = Head::parse(self.bytes(HEAD_LEN).map_err(wrong)?).map_err(wrong)?;
        if head.size > left {
            return Err(unfinished(format!("the file ends {left} bytes into a batch of {}", head.size)));
        }
        if !is_sound(self.bytes(head.size as usize).map_err(wrong)?) {
            return Err(wrong("a batch's checksum does not match".to_owned()));
        }
        Ok(head)
    }

    fn cannot_read(&self, error: &io::Error) -> String {
        format!("cannot read {}: {error}", self.segment.path().display())
    }

    /// The next `len` bytes, which the file has.
    fn bytes(&mut self, len: usize) -> Result<&[u8], String> {
        let mut at = (self.at - self.window_start) as usize;
        if at + len > self.window.len() {
            let left = self.len - self.at;
            self.window.resize((SCAN_BYTES.max(len as u64)).min(left) as usize, 0);
            self.window_start = self.at;
            at = 0;
            if let Err(error) = read_exactly(&**self.opened.file(), &mut self.window, self.at) {
                return Err(self.cannot_read(&error));
            }
        }
        Ok(&self.window[at..at + len])
    }
}
