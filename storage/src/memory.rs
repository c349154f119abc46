//! The simulated disk. It knows what was synced, so that a crash can be played by seed: unsynced pages survive, vanish or tear at
//! random, and so do unsynced names. It can fill up, refuse a sync, flip bits, be cold, and stop in the middle of a run.
//!
//! It is as unkind as the interfaces allow, which is unkinder than any one file system: names of a directory that was not synced
//! survive in any combination, and a file's bytes say nothing about its name.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

mod state;

use state::{Dir, Inode, NameChange, Node, State};

use crate::disk::{DirEntry, Disk, DiskLock, File, Keep, Map, OpenMode, Space};
use crate::fill::FillBytes;

const FILL_BYTES: u64 = 1_024;

/// A disk in memory. Clones show the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// How the process in front of the disk dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The kernel keeps running: everything written is there.
    Kill,
    /// Only what was synced is sure to be there.
    PowerLoss,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty, endless, faultless disk.
    #[must_use]
    pub fn new() -> Self {
        let state = State::new();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk that is found after a crash at this moment; this one stays as it is, for whoever still writes to it.
    #[must_use]
    pub fn after_crash(&self, crash: Crash, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let state = self.state().after(crash, &mut rng);
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets go of all bytes: nobody looks at this disk again, though somebody may hold it yet.
    pub fn forget(&self) {
        for inode in self.state().files.values_mut() {
            *inode = Inode::default();
        }
    }

    /// Lets `changes` more changes (writes, syncs, names) pass and refuses every one after them, as if the process had died there.
    /// The first refused write leaves a part of its bytes.
    pub fn stop_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// How many changes were asked for so far.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// How many syncs, of files and directories, have succeeded so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// In bytes; `None` is endless.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Bytes in use, counting what is allocated.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Lets every sync fail; what it should have written is lost for good, though reads still show it.
    pub fn set_failing_syncs(&self, failing: bool) {
        self.state().failing_syncs = failing;
    }

    pub fn set_failing_writes(&self, failing: bool) {
        self.state().failing_writes = failing;
    }

    /// Whether bytes are not resident.
    pub fn set_cold(&self, cold: bool) {
        self.state().cold = cold;
    }

    /// Flips one bit, in memory and on the disk.
    pub fn flip_bit(&self, path: &Path, position: u64, bit: u32) -> io::Result<()> {
        let mut state = self.state();
        let Node::File(id) = state.find(path)? else { return Err(ErrorKind::IsADirectory.into()) };
        let inode = state.file_mut(id);
        inode.flip_bit(usize::try_from(position).map_err(io::Error::other)?, bit)
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let found = match state.find(path) {
            Ok(Node::File(id)) => Some(id),
            Ok(Node::Dir(_)) => return Err(ErrorKind::IsADirectory.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let inode = match (mode, found) {
            (OpenMode::Existing, None) => return Err(ErrorKind::NotFound.into()),
            (OpenMode::New, Some(_)) => return Err(ErrorKind::AlreadyExists.into()),
            (OpenMode::Existing, Some(id)) => id,
            (OpenMode::Replace, Some(id)) => {
                state.change()?;
                state.file_mut(id).set_len(0);
                id
            }
            (OpenMode::New | OpenMode::Replace, None) => {
                let (dir, name) = state.place(path)?;
                state.change()?;
                let id = state.fresh_id();
                state.files.insert(id, Inode::default());
                state.dir_mut(dir).change(NameChange::Link(name, Node::File(id)));
                id
            }
        };
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state();
        let id = state.find_dir(dir)?;
        let entry = |(name, node): (&String, &Node)| match node {
            Node::Dir(_) => DirEntry { name: name.clone(), is_dir: true, len: 0 },
            Node::File(file) => {
                DirEntry { name: name.clone(), is_dir: false, len: state.file(*file).data.len() as u64 }
            }
        };
        Ok(state.dir(id).current.iter().map(entry).collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut path = PathBuf::new();
        for component in dir.components() {
            path.push(component);
            match state.find(&path) {
                Ok(Node::Dir(_)) => {}
                Ok(Node::File(_)) => return Err(ErrorKind::AlreadyExists.into()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    state.change()?;
                    let (parent, name) = state.place(&path)?;
                    let id = state.fresh_id();
                    state.dirs.insert(id, Dir::default());
                    state.dir_mut(parent).change(NameChange::Link(name, Node::Dir(id)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Node::Dir(_) = state.find(path)? {
            return Err(ErrorKind::IsADirectory.into());
        }
        state.change()?;
        let (dir, name) = state.place(path)?;
        state.dir_mut(dir).change(NameChange::Unlink(name));
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.find_dir(dir)?;
        state.change()?;
        state.empty_dir(id);
        let (parent, name) = state.place(dir)?;
        state.dir_mut(parent).change(NameChange::Unlink(name));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(from)?;
        let (dir, old) = state.place(from)?;
        let (target, new) = state.place(to)?;
        assert_eq!(dir, target, "names move within one directory");
        state.change()?;
        state.dir_mut(dir).change(NameChange::Rename(old, new, node));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.find_dir(dir)?;
        state.change()?;
        if state.failing_syncs {
            return Err(io::Error::other("simulated: the device failed a sync"));
        }
        state.syncs += 1;
        state.dir_mut(id).sync();
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.state();
        let (total, used) = (state.capacity.unwrap_or(1 << 40), state.used());
        Ok(Space { total, usable: total.saturating_sub(used) })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        if let Err(error) = self.open(path, OpenMode::Existing) {
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            self.open(path, OpenMode::New)?;
        }
        let mut state = self.state();
        if state.locks.iter().any(|held| held == path) {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.locks.push(path.to_path_buf());
        Ok(Box::new(MemoryLock { disk: self.clone(), path: path.to_path_buf() }))
    }

    /// As small as is of use, so that few appends meet every case.
    fn fill_bytes(&self, _dir: &Path) -> FillBytes {
        FillBytes { memory: Some(FILL_BYTES), syncs: Some(FILL_BYTES) }
    }

    fn boot_id(&self, _dir: &Path) -> Option<String> {
        Some(format!("boot-{}", self.state().boot))
    }
}

#[derive(Debug)]
struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locks.retain(|held| *held != self.path);
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
}

impl File for MemoryFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let was_stopped = state.stopped;
        if let Err(stopped) = state.change() {
            if !was_stopped {
                // The process died while the kernel copied: a part is there, from the front.
                let end = position + bytes.len() * (state.changes % 4) as usize / 4;
                // Over what was there before, as a kernel does, which looks for signals between two pages and not within one. (Sectors
                // are unkinder, and small writes meet more of them.)
                let is_over = position < state.file(self.inode).data.len();
                let end = if is_over { end - end % state::SECTOR } else { end };
                let part = end.saturating_sub(position);
                state.file_mut(self.inode).write(&bytes[..part], position);
            }
            return Err(stopped);
        }
        if state.failing_writes {
            return Err(io::Error::other("simulated: the device failed a write"));
        }
        state.reserve(self.inode, (position + bytes.len()) as u64)?;
        state.file_mut(self.inode).write(bytes, position);
        Ok(())
    }

    fn write_zeros(&self, len: u64, position: u64) -> io::Result<bool> {
        self.write_at(&vec![0; usize::try_from(len).map_err(io::Error::other)?], position)?;
        Ok(false)
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let data = &state.file(self.inode).data;
        let start = usize::try_from(position).map_err(io::Error::other)?.min(data.len());
        let len = into.len().min(data.len() - start);
        into[..len].copy_from_slice(&data[start..start + len]);
        Ok(len)
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.reserve(self.inode, position + len)?;
        let inode = state.file_mut(self.inode);
        inode.allocated = inode.allocated.max(position + len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        if state.failing_syncs {
            let inode = state.file_mut(self.inode);
            let dirty = std::mem::take(&mut inode.dirty);
            inode.lost.extend(dirty);
            return Err(io::Error::other("simulated: the device failed a sync"));
        }
        state.syncs += 1;
        state.file_mut(self.inode).sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.inode).data.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        state.reserve(self.inode, len)?;
        state.file_mut(self.inode).set_len(usize::try_from(len).map_err(io::Error::other)?);
        Ok(())
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Map>> {
        Ok(Arc::new(MemoryMap { disk: self.disk.clone(), inode: self.inode, len }))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Slices are copies; touching bytes past the end of the file, which would be a SIGBUS, panics.
#[derive(Debug)]
struct MemoryMap {
    disk: MemoryDisk,
    inode: u64,
    len: u64,
}

impl MemoryMap {
    fn with<R>(&self, position: u64, len: usize, show: impl FnOnce(&[u8]) -> R) -> R {
        let end = position + len as u64;
        assert!(end <= self.len, "bytes {position}..{end} lie outside of a map of {}", self.len);
        let state = self.disk.state();
        let data = &state.file(self.inode).data;
        assert!(end <= data.len() as u64, "SIGBUS: bytes {position}..{end} of a file of {}", data.len());
        show(&data[position as usize..end as usize])
    }
}

impl Map for MemoryMap {
    fn len(&self) -> u64 {
        self.len
    }

    fn slice(self: Arc<Self>, position: u64, len: usize, along: Keep) -> Bytes {
        let bytes = self.with(position, len, <[u8]>::to_vec);
        Bytes::from_owner(MemorySlice { bytes, _along: along })
    }

    fn copy_to(&self, position: u64, into: &mut [u8]) {
        self.with(position, into.len(), |bytes| into.copy_from_slice(bytes));
    }

    fn is_resident(&self, _position: u64, _len: usize) -> bool {
        !self.disk.state().cold
    }
}

struct MemorySlice {
    bytes: Vec<u8>,
    _along: Keep,
}

impl AsRef<[u8]> for MemorySlice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    fn disk_with(path: &str, bytes: &[u8]) -> (MemoryDisk, Arc<dyn File>) {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d")).expect("create");
        let file = disk.open(Path::new(path), OpenMode::New).expect("create");
        file.write_at(bytes, 0).expect("write");
        (disk, file)
    }

    #[test]
    fn the_simulated_disk_conforms() {
        conformance::run(Arc::new(MemoryDisk::new()), Path::new("/data"));
    }

    #[test]
    fn what_was_synced_survives_every_power_loss_and_the_rest_only_some() {
        let (disk, file) = disk_with("/d/a", &[1; 5000]);
        file.sync_data().expect("sync");
        for dir in ["/d", "/"] {
            disk.sync_dir(Path::new(dir)).expect("sync");
        }
        file.write_at(&[2; 20_000], 5000).expect("write");
        let (mut whole, mut torn, mut none) = (0, 0, 0);
        for seed in 0..200 {
            let left = disk
                .after_crash(Crash::PowerLoss, seed)
                .read(Path::new("/d/a"))
                .expect("a name that was synced");
            assert!(left.len() >= 5000 && left[..5000].iter().all(|byte| *byte == 1), "seed {seed}");
            let kept = left[5000..].iter().filter(|byte| **byte == 2).count();
            match kept {
                0 => none += 1,
                20_000 => whole += 1,
                _ => torn += 1,
            }
        }
        assert!(whole > 10 && torn > 10 && none > 10, "{whole} whole, {torn} torn, {none} lost");
        let kept = disk.after_crash(Crash::Kill, 0).read(Path::new("/d/a")).expect("read");
        assert_eq!(kept.len(), 25_000, "a killed process loses nothing that it wrote");
    }

    #[test]
    fn a_name_that_was_not_synced_may_vanish_with_its_synced_bytes() {
        let (disk, file) = disk_with("/d/a", &[1; 10]);
        disk.sync_dir(Path::new("/")).expect("sync");
        file.sync_data().expect("sync");
        let names =
            |seed| disk.after_crash(Crash::PowerLoss, seed).list(Path::new("/d")).expect("list").len();
        assert!((0..50).any(|seed| names(seed) == 0) && (0..50).any(|seed| names(seed) == 1));
    }

    #[test]
    fn a_failed_sync_loses_its_pages_for_good() {
        let (disk, file) = disk_with("/d/a", &[1; 10]);
        file.sync_data().expect("sync");
        for dir in ["/d", "/"] {
            disk.sync_dir(Path::new(dir)).expect("sync");
        }
        file.write_at(&[2; 10], 0).expect("write");
        disk.set_failing_syncs(true);
        file.sync_data().expect_err("a failing sync");
        disk.set_failing_syncs(false);
        file.sync_data().expect("a later sync says nothing of it");
        assert_eq!(disk.read(Path::new("/d/a")).expect("read"), [2; 10]);
        let left = disk.after_crash(Crash::PowerLoss, 1);
        assert_eq!(left.read(Path::new("/d/a")).expect("read"), [1; 10]);
    }

    #[test]
    fn a_full_disk_says_so_before_anything_is_written() {
        let (disk, file) = disk_with("/d/a", &[1; 10]);
        disk.set_capacity(Some(100));
        assert_eq!(file.allocate(0, 200).expect_err("full").kind(), ErrorKind::StorageFull);
        assert_eq!(file.write_at(&[1; 91], 10).expect_err("full").kind(), ErrorKind::StorageFull);
        assert_eq!(file.len().expect("len"), 10);
        file.allocate(0, 100).expect("room");
        assert_eq!(disk.used(), 100);
        file.set_len(10).expect("give back");
        assert_eq!(disk.used(), 10);
    }

    #[test]
    fn a_stopped_disk_refuses_changes_and_the_same_seed_leaves_the_same() {
        let (disk, file) = disk_with("/d/a", &[1; 10]);
        disk.stop_after(1);
        file.write_at(&[2; 5000], 0).expect("the last one");
        file.write_at(&[3; 8], 0).expect_err("stopped");
        disk.remove_file(Path::new("/d/a")).expect_err("stopped");
        let left = |seed| format!("{:?}", disk.after_crash(Crash::PowerLoss, seed).state());
        assert_eq!(left(7), left(7));
    }
}
