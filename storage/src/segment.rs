//! One data file of a log: record batches end to end, in Kafka's `.log` format, in a file named by the offset it begins at.
//!
//! A segment grows at its tail until it is sealed; what lies below its size never changes. Readers of any thread hold an
//! `Arc<Segment>`; only the log that owns it appends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ottla_protocol::types::Offset;

use crate::disk::{File, OpenMode};
use crate::error::StorageError;
use crate::files::{Cut, FileCache, Opened};
use crate::head::{HEAD_LEN, Head};
use crate::index::Index;
use crate::verified::Verified;

const LOG_SUFFIX: &str = ".log";
const INDEX_SUFFIX: &str = ".ottla-index";
/// A segment's offsets and positions fit 31 bits, as in Kafka.
pub(crate) const SPAN_MAX: i64 = i32::MAX as i64;
/// How much of a file is read at a time when its headers are walked.
const WALK_BYTES: usize = 64 << 10;
/// The same where batches are large, and what counts as that.
const WALK_BYTES_MIN: usize = 512;
const LARGE_BATCH_BYTES: u64 = 8 << 10;

/// A segment file, open or not.
#[derive(Debug)]
pub(crate) struct Segment {
    base: Offset,
    path: PathBuf,
    index_path: PathBuf,
    files: Arc<FileCache>,
    /// `index.interval.bytes`.
    interval: u32,
    /// Bytes of whole batches. Those of a settled segment have all been written.
    size: AtomicU64,
    /// The offset after its last record; of a sealed one, the base of the next segment.
    end: AtomicI64,
    sealed: AtomicBool,
    /// Cut to an earlier end: slices may still show what lies past it.
    truncated: AtomicBool,
    /// Whether `size` is known to end where the next segment begins. A segment found at start is only looked at when it is used.
    settled: AtomicBool,
    /// Removed or replaced: what the path names now is something else.
    gone: AtomicBool,
    /// Since the file cache asked last.
    used: AtomicBool,
    handles: Mutex<Handles>,
    verified: Mutex<Verified>,
    index: Mutex<Index>,
    /// What the file cache counts for the index.
    index_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Handles {
    current: Option<Arc<Opened>>,
    /// Let go here, but perhaps still held by slices.
    former: Vec<Weak<Opened>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segment {
    /// A segment that was found on the disk, or that is about to be created.
    pub(crate) fn new(
        files: &Arc<FileCache>,
        dir: &Path,
        base: Offset,
        interval: u32,
        found: Found,
    ) -> Arc<Self> {
        Arc::new(Self {
            base,
            path: dir.join(file_name(base)),
            index_path: dir.join(format!("{:020}{INDEX_SUFFIX}", base.0)),
            files: Arc::clone(files),
            interval,
            size: AtomicU64::new(found.size),
            end: AtomicI64::new(found.end.0),
            sealed: AtomicBool::new(found.sealed),
            truncated: AtomicBool::new(false),
            settled: AtomicBool::new(found.settled),
            gone: AtomicBool::new(false),
            used: AtomicBool::new(true),
            handles: Mutex::default(),
            verified: Mutex::default(),
            index: Mutex::new(found.index),
            index_bytes: AtomicUsize::new(0),
        })
    }

    /// Creates the file of a new segment.
    pub(crate) fn create(
        files: &Arc<FileCache>,
        dir: &Path,
        base: Offset,
        interval: u32,
    ) -> io::Result<Arc<Self>> {
        let segment = Self::new(files, dir, base, interval, Found::empty(base));
        let file = files.disk().open(&segment.path, OpenMode::New)?;
        lock(&segment.handles).current = Some(Opened::new(file));
        files.admit(&segment);
        Ok(segment)
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn index_path(&self) -> &Path {
        &self.index_path
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated.load(Ordering::Acquire)
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    pub(crate) fn verified(&self) -> MutexGuard<'_, Verified> {
        lock(&self.verified)
    }

    pub(crate) fn corrupt(&self, position: u64, reason: impl Into<String>) -> StorageError {
        StorageError::CorruptBatch { file: self.path.clone(), position, reason: reason.into() }
    }

    /// The open file, if it is open.
    pub(crate) fn opened(&self) -> Option<Arc<Opened>> {
        self.used.store(true, Ordering::Relaxed);
        lock(&self.handles).current.clone()
    }

    /// The open file, opened if need be.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Arc<Opened>, StorageError> {
        if let Some(opened) = self.opened() {
            return Ok(opened);
        }
        let stale = || StorageError::ViewStale { file: self.path.clone() };
        if self.gone.load(Ordering::Acquire) {
            return Err(stale());
        }
        let file = self.files.disk().open(&self.path, OpenMode::Existing);
        let opened = {
            let mut handles = lock(&self.handles);
            // Removed while we opened: the path may name a new file by now.
            if self.gone.load(Ordering::Acquire) {
                return Err(stale());
            }
            if let Some(opened) = &handles.current {
                return Ok(Arc::clone(opened));
            }
            let opened = Opened::new(file.map_err(|error| StorageError::io("open", &self.path, error))?);
            handles.current = Some(Arc::clone(&opened));
            opened
        };
        self.files.admit(self);
        Ok(opened)
    }

    /// Asked by the file cache: lets the file go (and the index, if it can be had again cheaply) unless it was used since last asked.
    pub(crate) fn let_go(&self) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut handles = lock(&self.handles);
        handles.retire();
        drop(handles);
        let mut index = lock(&self.index);
        if self.is_sealed() && index.is_saved() {
            *index = Index::at(self.size(), self.end());
            self.count(&index);
        }
        true
    }

    /// The segment is no longer part of the log, and its path may be reused.
    pub(crate) fn leave(&self) {
        let mut handles = lock(&self.handles);
        self.gone.store(true, Ordering::Release);
        handles.current = None;
    }

    /// It did not leave after all.
    pub(crate) fn come_back(&self) {
        self.gone.store(false, Ordering::Release);
    }

    /// Puts whole batches, which end at `end`, at the tail; `heads` are their headers.
    pub(crate) fn append(&self, file: &dyn File, batches: &[u8], heads: &[Head]) -> io::Result<()> {
        assert!(!self.is_sealed(), "a sealed segment does not grow");
        let size = self.size();
        file.write_at(batches, size)?;
        let mut index = self.index();
        assert_eq!(index.end(), size, "the index of a growing segment reaches to its end");
        for head in heads {
            index.push(head, self.base, self.interval);
        }
        drop(index);
        let end = heads.last().expect("an append has batches").next();
        self.verified().insert(size, size + batches.len() as u64);
        self.end.store(end.0, Ordering::Release);
        self.size.store(size + batches.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Takes in a batch that was found past the end of what was known. `checked`: its checksum was looked at; otherwise the first
    /// reader does.
    pub(crate) fn accept(&self, head: &Head, checked: bool) {
        self.end.store(head.next().0, Ordering::Release);
        self.accept_within(head, checked);
    }

    /// As [`Segment::accept`], where the end is known already.
    pub(crate) fn accept_within(&self, head: &Head, checked: bool) {
        let size = self.size();
        self.index().push(head, self.base, self.interval);
        if checked {
            self.verified().insert(size, size + head.size);
        }
        self.size.store(size + head.size, Ordering::Release);
    }

    /// Counts the index of a segment that was filled.
    pub(crate) fn recount(&self) {
        self.count(&self.index());
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// The files after this one were cut: it grows again.
    pub(crate) fn unseal(&self) {
        self.sealed.store(false, Ordering::Release);
        self.count(&self.index());
    }

    /// No more appends.
    pub(crate) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
        self.count(&self.index());
    }

    /// Tells the file cache how much memory the index of a sealed segment takes.
    fn count(&self, index: &Index) {
        let now = if self.is_sealed() { index.bytes() } else { 0 };
        self.files.index_changed(self.index_bytes.swap(now, Ordering::Relaxed), now);
    }

    /// Seals the segment at an earlier end; bytes past it are cut once no slice shows them.
    pub(crate) fn truncate(self: &Arc<Self>, size: u64, end: Offset) -> Result<(), StorageError> {
        assert!(size <= self.size(), "a segment is cut within its data");
        let opened = self.open()?;
        // Readers take the file first and the size after it: who still has the old file keeps the cut off.
        self.size.store(size, Ordering::Release);
        self.end.store(end.0, Ordering::Release);
        self.truncated.store(true, Ordering::Release);
        self.sealed.store(true, Ordering::Release);
        self.verified().truncate(size);
        let mut index = self.index();
        if size < index.start() {
            *index = Index::at(size, end);
        } else {
            index.truncate(size);
        }
        drop(index);
        let cut = Cut::new(Arc::clone(opened.file()), size, self.path.clone());
        let mut handles = lock(&self.handles);
        handles.retire();
        handles.former.retain(|former| {
            former.upgrade().is_some_and(|former| {
                former.hold_off(&cut);
                true
            })
        });
        Ok(())
    }

    /// Whether the index leads to `offset` and on to the end of the data.
    pub(crate) fn knows_way_to(&self, offset: Offset) -> bool {
        let index = self.index();
        index.covers(offset) && index.end() >= self.size()
    }

    /// Makes the index whole, reading the index file and, where that does not reach, the data's headers. May wait for the disk.
    pub(crate) fn load_index(self: &Arc<Self>, opened: &Opened) -> Result<(), StorageError> {
        if !self.settled.load(Ordering::Acquire) {
            return self.settle(opened);
        }
        let start = self.index().start();
        if start > 0 {
            let (before, walked) = self.build_index(opened, start, self.end())?;
            if walked != WalkEnd::Limit || before.end() != start {
                let reason =
                    format!("the batches do not lead to byte {start}, where recovery began: {walked:?}");
                return Err(self.corrupt(before.end(), reason));
            }
            let mut index = self.index();
            if index.start() == start {
                index.prepend(before);
                self.count(&index);
            }
        }
        // After a truncation the index ends at its last entry.
        let mut index = self.index().clone();
        let (end, size) = (index.end(), self.size());
        if self.is_sealed() && end < size {
            if let WalkEnd::Corrupt(reason) = self.walk(opened, &mut index, size, self.end())? {
                return Err(self.corrupt(index.end(), reason));
            }
            let mut held = self.index();
            if held.end() == end && held.is_whole() && self.size() == size {
                *held = index;
            }
        }
        Ok(())
    }

    /// A first look at a sealed segment found at start: where its data end, which is where the next segment begins, or something
    /// is missing.
    fn settle(self: &Arc<Self>, opened: &Opened) -> Result<(), StorageError> {
        let len = opened.file().len().map_err(|error| StorageError::io("look at", &self.path, error))?;
        let (index, walked) = self.build_index(opened, len, self.end())?;
        if let WalkEnd::Corrupt(reason) = &walked {
            // What lies before it can be read; a read that gets here finds that the file ends too early.
            tracing::error!("{}", self.corrupt(index.end(), reason.as_str()));
        }
        let mut held = self.index();
        if self.settled.load(Ordering::Acquire) {
            return Ok(());
        }
        let size = index.end();
        *held = index;
        self.count(&held);
        self.size.store(size, Ordering::Release);
        self.settled.store(true, Ordering::Release);
        drop(held);
        if walked == WalkEnd::Stop {
            // Truncated away before the last stop. Nobody was shown these bytes since.
            if let Err(error) = opened.file().set_len(size) {
                tracing::debug!("cannot cut {} to {size} bytes: {error}", self.path.display());
            }
        }
        Ok(())
    }

    /// An index of the batches up to byte `limit` and offset `stop`.
    fn build_index(
        &self,
        opened: &Opened,
        limit: u64,
        stop: Offset,
    ) -> Result<(Index, WalkEnd), StorageError> {
        let mut index = match self.files.disk().read(&self.index_path) {
            Ok(bytes) => Index::parse(&bytes, self.base, limit, stop),
            Err(_) => Index::at(0, self.base),
        };
        if !self.fits(opened, &index) {
            index = Index::at(0, self.base);
        }
        let walked = self.walk(opened, &mut index, limit, stop)?;
        Ok((index, walked))
    }

    /// Whether the last entry of an index file names a batch that is there. Each segment file has an index file of its own, so this
    /// only guards against a mix-up.
    fn fits(&self, opened: &Opened, index: &Index) -> bool {
        let Some(last) = index.entries().last() else { return true };
        let mut bytes = [0; HEAD_LEN];
        let read = read_exactly(&**opened.file(), &mut bytes, u64::from(last.position));
        let expected = self.base.0 + i64::from(last.delta);
        read.is_ok() && Head::parse(&bytes).is_ok_and(|head| head.base.0 == expected)
    }

    /// Takes the batches from the index's end on in, up to byte `limit` and offset `stop`.
    fn walk(
        &self,
        opened: &Opened,
        index: &mut Index,
        limit: u64,
        stop: Offset,
    ) -> Result<WalkEnd, StorageError> {
        let mut walk = Walk::new(&**opened.file(), limit);
        while index.end() < limit {
            // What lies past the next segment's base does not exist, whatever it is.
            if index.next_offset() >= stop {
                return Ok(WalkEnd::Stop);
            }
            match walk.head(index.end()) {
                Ok(head) if head.last >= stop => {
                    return Ok(WalkEnd::Corrupt(format!(
                        "offsets {} to {}, past {stop}",
                        head.base, head.last
                    )));
                }
                Ok(head) if head.base < index.next_offset() => {
                    let (base, next) = (head.base, index.next_offset());
                    return Ok(WalkEnd::Corrupt(format!("offset {base} where {next} follows")));
                }
                Ok(head) => match self.spans(&head, index.end()) {
                    Ok(()) => index.push(&head, self.base, self.interval),
                    Err(reason) => return Ok(WalkEnd::Corrupt(reason)),
                },
                Err(WalkError::Unfinished(reason) | WalkError::Corrupt(reason)) => {
                    return Ok(WalkEnd::Corrupt(reason));
                }
                Err(WalkError::Io(error)) => return Err(StorageError::io("read", &self.path, error)),
            }
        }
        Ok(WalkEnd::Limit)
    }

    /// Whether a batch at `position` lies within what a segment can hold. The base offset is not covered by a batch's checksum.
    pub(crate) fn spans(&self, head: &Head, position: u64) -> Result<(), String> {
        if head.last.0 - self.base.0 > SPAN_MAX || position + head.size > SPAN_MAX as u64 {
            let (base, last) = (head.base, head.last);
            return Err(format!("offsets {base} to {last} at byte {position} are out of a segment's bounds"));
        }
        Ok(())
    }

    /// Brings the index file up to date. It is disposable, so a failure is only noted.
    pub(crate) fn save_index(self: &Arc<Self>) {
        let save = || -> Result<(), StorageError> {
            if !self.index().is_whole() {
                self.load_index(&*self.open()?)?;
            }
            let Some(unsaved) = self.index().unsaved(self.base) else { return Ok(()) };
            let write = || {
                let mode = if unsaved.position == 0 { OpenMode::Replace } else { OpenMode::Existing };
                self.files.disk().open(&self.index_path, mode)?.write_at(&unsaved.bytes, unsaved.position)
            };
            write().map_err(|error| StorageError::io("write", &self.index_path, error))?;
            self.index().note_saved(&unsaved);
            Ok(())
        };
        if let Err(error) = save() {
            tracing::debug!("index not saved: {error}");
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.files.index_changed(*self.index_bytes.get_mut(), 0);
    }
}

impl Handles {
    fn retire(&mut self) {
        self.former.retain(|former| former.strong_count() > 0);
        if let Some(opened) = self.current.take() {
            self.former.push(Arc::downgrade(&opened));
        }
    }
}

/// Why a walk over headers ended.
#[derive(Debug, PartialEq, Eq)]
enum WalkEnd {
    /// All bytes were walked.
    Limit,
    /// The offset to stop at was reached.
    Stop,
    /// No batch.
    Corrupt(String),
}

/// What is known of a segment when its value is made.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) size: u64,
    pub(crate) end: Offset,
    pub(crate) sealed: bool,
    pub(crate) settled: bool,
    pub(crate) index: Index,
}

impl Found {
    fn empty(base: Offset) -> Self {
        Self { size: 0, end: base, sealed: false, settled: true, index: Index::at(0, base) }
    }

    /// A sealed segment that nobody has looked at: a file's length, and the base of the next segment.
    pub(crate) fn unsettled(len: u64, end: Offset) -> Self {
        Self { size: len, end, sealed: true, settled: false, index: Index::at(len, end) }
    }
}

/// The name of the segment file that begins at `base`, as Kafka names it.
pub(crate) fn file_name(base: Offset) -> String {
    format!("{:020}{LOG_SUFFIX}", base.0)
}

/// The base offset in a segment file's name.
pub(crate) fn parse_file_name(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(LOG_SUFFIX)?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let base = plain.then(|| digits.parse().ok()).flatten().filter(|base| *base < i64::MAX - SPAN_MAX);
    base.map(Offset)
}

/// Reads all of `into`; an error at the end of the file.
pub(crate) fn read_exactly(file: &dyn File, into: &mut [u8], position: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], position + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// Reads the headers of a file one after the other, in few calls where batches are small.
pub(crate) struct Walk<'a> {
    file: &'a dyn File,
    /// Batches end here at the latest.
    limit: u64,
    start: u64,
    buffer: Vec<u8>,
    /// The batch that was walked last.
    last: u64,
}

#[derive(Debug)]
pub(crate) enum WalkError {
    Io(io::Error),
    /// The file ends within a batch.
    Unfinished(String),
    Corrupt(String),
}

impl WalkError {
    /// As the error of a read of `segment`.
    pub(crate) fn at(self, segment: &Segment, position: u64) -> StorageError {
        match self {
            Self::Io(error) => StorageError::io("read", segment.path(), error),
            Self::Unfinished(reason) | Self::Corrupt(reason) => segment.corrupt(position, reason),
        }
    }
}

impl<'a> Walk<'a> {
    pub(crate) fn new(file: &'a dyn File, limit: u64) -> Self {
        Self { file, limit, start: 0, buffer: Vec::new(), last: 0 }
    }

    /// The header at `position`, whose batch fits below the limit.
    pub(crate) fn head(&mut self, position: u64) -> Result<Head, WalkError> {
        let left = self.limit - position;
        if left < HEAD_LEN as u64 {
            return Err(WalkError::Unfinished(format!("the file ends {left} bytes into a batch")));
        }
        let within =
            position >= self.start && position + HEAD_LEN as u64 <= self.start + self.buffer.len() as u64;
        if !within {
            // Behind a large batch there is likely another: more of its body is of no use.
            let is_small = position.saturating_sub(self.last) < LARGE_BATCH_BYTES || self.buffer.is_empty();
            let len = if is_small { WALK_BYTES } else { WALK_BYTES_MIN };
            self.buffer.resize(len.min(usize::try_from(left).unwrap_or(len)), 0);
            self.start = position;
            read_exactly(self.file, &mut self.buffer, position).map_err(WalkError::Io)?;
        }
        self.last = position;
        let head = Head::parse(self.header(position)).map_err(WalkError::Corrupt)?;
        if head.size > left {
            return Err(WalkError::Unfinished(format!(
                "the file ends {left} bytes into a batch of {}",
                head.size
            )));
        }
        Ok(head)
    }

    /// The bytes of the header that was walked last.
    pub(crate) fn header(&self, position: u64) -> &[u8] {
        let at = (position - self.start) as usize;
        &self.buffer[at..at + HEAD_LEN]
    }
}
