//! The only door to the operating system: directories and files as this crate uses them.
//!
//! What the traits promise is what Linux promises and no more. In particular nothing is on the disk before `sync_data` (a file's
//! bytes and length) or `sync_dir` (its name) has returned, and after a failed sync nobody knows what is.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::fill::FillBytes;

/// How [`Disk::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Reads and writes an existing file.
    Existing,
    /// Creates the file; an error if there is one.
    New,
    /// Creates the file, or empties the one there is. Only for files that nobody maps.
    Replace,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    /// In bytes; 0 for a directory.
    pub len: u64,
}

/// Bytes of the file system that a directory lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What an unprivileged process may still use.
    pub usable: u64,
}

/// A disk. Paths are absolute, or relative to the process's directory; the simulated disk only knows what was created on it.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// In the order of names. `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Creates a directory and its parents; no error if it exists.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Removes a name; bytes that are open or mapped live on until they are let go.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Atomic; replaces a file called `to`. Both names lie in the same directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// After this, names created, removed and renamed in `dir` so far survive a power loss.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Takes the exclusive lock of a file, creating it, for as long as the answer lives; `WouldBlock` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
    /// Names this run of the operating system with this directory's device: if it is the same as before, every byte ever written
    /// is still there. `None` where that cannot be known.
    fn boot_id(&self, dir: &Path) -> Option<String>;

    /// How many files may be held open for logs.
    fn open_files_max(&self) -> usize {
        8192
    }

    /// In which pieces files in `dir` are best filled ahead of the data (see `fill`): where the page cache makes room by as large pieces
    /// as are written, and where bytes are written in place.
    fn fill_bytes(&self, _dir: &Path) -> FillBytes {
        FillBytes::default()
    }

    /// A whole small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Existing)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// Held by whoever holds the lock.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// An open file. Its bytes are only ever appended by whoever opened it, so there is no cursor.
pub trait File: Send + Sync + fmt::Debug + 'static {
    /// Writes all of `bytes`, growing the file where they end past its length.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Writes zeros, in one call where that is possible. Says whether it took longer than copying into memory at hand takes.
    fn write_zeros(&self, len: u64, position: u64) -> io::Result<bool>;
    /// Reads what is there, up to the length of `into`; 0 at the end of the file.
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize>;
    /// Reserves blocks for `len` bytes from `position` on without changing the file's length, so that writing them cannot find the
    /// disk full. Does nothing where the file system cannot do that.
    fn allocate(&self, position: u64, len: u64) -> io::Result<()>;
    /// After this, the bytes written so far, and the length that they need, survive a power loss.
    fn sync_data(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or, with its present length, gives back what was allocated past it. Never below bytes that a slice of a map
    /// still shows: that would be a SIGBUS.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// A read-only view of the first `len` bytes, which may lie past the end of the file for now: such bytes may be touched once
    /// they have been written.
    fn map(&self, len: u64) -> io::Result<Arc<dyn Map>>;
    /// For `sendfile`; `None` where there is no such thing.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Something that is to live as long as a slice.
pub type Keep = Arc<dyn Any + Send + Sync>;

/// A read-only view of a file. Whoever asks for bytes promises that they have been written, and that they never change or go away
/// while something made here lives.
pub trait Map: Send + Sync + fmt::Debug + 'static {
    /// In bytes, as asked for.
    fn len(&self) -> u64;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A slice that keeps the map alive, and `along` with it. Panics outside of the map.
    fn slice(self: Arc<Self>, position: u64, len: usize, along: Keep) -> Bytes;
    /// Copies bytes out, for a look at a header. Panics outside of the map.
    fn copy_to(&self, position: u64, into: &mut [u8]);
    /// Whether touching these bytes will not wait for the device. An estimate: it may be out of date at once.
    fn is_resident(&self, position: u64, len: usize) -> bool;
}
