//! Which segment files are open: few of many. A file is opened and mapped when it is needed, and let go when others were needed
//! since; who holds a slice of it holds it open.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::disk::{Disk, File, Map};
use crate::fill::FillBytes;
use crate::segment::Segment;

/// The smallest map. Maps double, so that a growing file is mapped a few times only.
const MAP_MIN: u64 = 1 << 20;
/// Indexes of sealed segments kept in memory, in bytes.
const INDEX_BYTES_MAX: usize = 64 << 20;

/// The open files of one log directory, the least recently used of which are closed (second chance).
#[derive(Debug)]
pub(crate) struct FileCache {
    disk: Arc<dyn Disk>,
    capacity: usize,
    /// See [`Disk::fill_bytes`].
    fill_bytes: FillBytes,
    /// Lock order: this one is held while a segment is asked to let go.
    ring: Mutex<VecDeque<Weak<Segment>>>,
    index_bytes: AtomicUsize,
}

impl FileCache {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Arc<Self> {
        let (capacity, fill_bytes) = (disk.open_files_max(), disk.fill_bytes(dir));
        Arc::new(Self {
            disk,
            capacity,
            fill_bytes,
            ring: Mutex::default(),
            index_bytes: AtomicUsize::new(0),
        })
    }

    pub(crate) fn fill_bytes(&self) -> FillBytes {
        self.fill_bytes
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Notes an opened segment, and lets others go if there are too many. The caller holds no lock of a segment.
    pub(crate) fn admit(&self, segment: &Arc<Segment>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.push_back(Arc::downgrade(segment));
        // Each is asked once, and passed over if it was used since it was asked last.
        for _ in 0..ring.len() {
            let index_bytes = self.index_bytes.load(Ordering::Relaxed);
            if ring.len() <= self.capacity && index_bytes <= INDEX_BYTES_MAX {
                break;
            }
            let Some(oldest) = ring.pop_front() else { break };
            if let Some(other) = oldest.upgrade()
                && (Arc::ptr_eq(&other, segment) || !other.let_go())
            {
                ring.push_back(oldest);
            }
        }
    }

    /// A segment's index takes another amount of memory than before.
    pub(crate) fn index_changed(&self, before: usize, now: usize) {
        self.index_bytes.fetch_add(now, Ordering::Relaxed);
        self.index_bytes.fetch_sub(before, Ordering::Relaxed);
    }
}

/// An open segment file with its map. Whoever shows bytes of it holds it.
#[derive(Debug)]
pub(crate) struct Opened {
    file: Arc<dyn File>,
    map: Mutex<Option<Arc<dyn Map>>>,
    cut: Mutex<Option<Arc<Cut>>>,
}

impl Opened {
    pub(crate) fn new(file: Arc<dyn File>) -> Arc<Self> {
        Arc::new(Self { file, map: Mutex::default(), cut: Mutex::default() })
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// A map that reaches at least to `end`.
    pub(crate) fn map(&self, end: u64) -> io::Result<Arc<dyn Map>> {
        let mut held = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = held.as_ref().filter(|map| map.len() >= end) {
            return Ok(Arc::clone(map));
        }
        let map = self.file.map(end.max(MAP_MIN).next_power_of_two())?;
        *held = Some(Arc::clone(&map));
        Ok(map)
    }

    /// Keeps `cut` from happening before this is gone.
    pub(crate) fn hold_off(&self, cut: &Arc<Cut>) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(cut));
    }
}

/// Cuts a file when the last one who holds this lets go: bytes that were truncated away may still be shown by slices.
#[derive(Debug)]
pub(crate) struct Cut {
    file: Arc<dyn File>,
    len: u64,
    path: PathBuf,
}

impl Cut {
    pub(crate) fn new(file: Arc<dyn File>, len: u64, path: PathBuf) -> Arc<Self> {
        Arc::new(Self { file, len, path })
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let result = self.file.len().and_then(|len| match len > self.len {
            true => self.file.set_len(self.len),
            false => Ok(()),
        });
        if let Err(error) = result {
            // Bytes past the next segment's base do not exist, cut or not; they only take room until the next start.
            tracing::debug!("cannot cut {} to {} bytes: {error}", self.path.display(), self.len);
        }
    }
}
