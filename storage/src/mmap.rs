//! The real disk: files appended with `pwrite` and read through read-only maps. The one file of the project with `unsafe`, and the
//! one with calls that only Linux has, each beside a portable fallback (which nobody has tried elsewhere yet).
//!
//! Why the maps are sound: a slice is made only of bytes that were written before, appended bytes are never written again
//! (truncation starts a new file instead), and a file is cut only where no slice shows it. So the memory behind a `&[u8]` never
//! changes and never goes away. What this cannot keep is another program's hands off the files.

#![allow(unsafe_code)]

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::slice;
use std::sync::{Arc, OnceLock};
#[cfg(target_os = "linux")]
use std::time::Instant;

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::FlockOperation;

use crate::disk::{DirEntry, Disk, DiskLock, File, Keep, Map, OpenMode, Space};
use crate::fill::FillBytes;

/// The disk of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        match mode {
            OpenMode::Existing => {}
            OpenMode::New => {
                options.create_new(true);
            }
            OpenMode::Replace => {
                options.create(true).truncate(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // No file of ours has a name that is not UTF-8; such a stranger is none of our business.
            if let Ok(name) = entry.file_name().into_string() {
                let is_dir = metadata.is_dir();
                entries.push(DirEntry { name, is_dir, len: if is_dir { 0 } else { metadata.len() } });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Space { total: stat.f_blocks * stat.f_frsize, usable: stat.f_bavail * stat.f_frsize })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn open_files_max(&self) -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        (limit.unwrap_or(u64::MAX) / 2).clamp(64, OPEN_FILES_MAX) as usize
    }

    #[cfg(target_os = "linux")]
    fn fill_bytes(&self, dir: &Path) -> FillBytes {
        let since = match rustix::fs::statfs(dir).map(|stat| stat.f_type) {
            Ok(EXT4_MAGIC) => EXT4_LARGE_FOLIOS,
            Ok(XFS_MAGIC) => XFS_LARGE_FOLIOS,
            _ => return FillBytes::default(),
        };
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let has_large_folios = kernel_version(&release).is_some_and(|version| version >= since);
        FillBytes { memory: has_large_folios.then_some(FILL_BYTES_MEMORY), syncs: Some(FILL_BYTES_SYNCS) }
    }

    fn boot_id(&self, dir: &Path) -> Option<String> {
        // The device is named too: a copy of the directory on another one did not get what the kernel still had in memory.
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let device = rustix::fs::stat(dir).ok()?.st_dev;
        Some(format!("{}/{device}", boot.trim()))
    }
}

/// More gains little, and memory in larger pieces may be none that is at hand.
#[cfg(target_os = "linux")]
const FILL_BYTES_MEMORY: u64 = 64 << 10;

/// So seldom that the sync which writes the zeros, too, is none of a hundred where records come one by one.
#[cfg(target_os = "linux")]
const FILL_BYTES_SYNCS: u64 = 256 << 10;

/// Copying takes 0.1 to 0.3 ns a byte, with what it takes to find the memory; where a virtual machine has to get it from its host first, 2 ns.
#[cfg(target_os = "linux")]
const DEAR_NS_PER_BYTE: u64 = 1;

/// The kernels (major, minor) since which writes to a file system make folios as large as themselves.
#[cfg(target_os = "linux")]
const EXT4_LARGE_FOLIOS: (u32, u32) = (6, 16);
#[cfg(target_os = "linux")]
const XFS_LARGE_FOLIOS: (u32, u32) = (6, 6);
#[cfg(target_os = "linux")]
const EXT4_MAGIC: rustix::fs::FsWord = 0xef53;
#[cfg(target_os = "linux")]
const XFS_MAGIC: rustix::fs::FsWord = 0x5846_5342;

/// Major and minor of a kernel's release, such as `6.18.44-arch1`.
#[cfg(target_os = "linux")]
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// What files are filled with, again and again.
static ZEROS: [u8; 8 << 10] = [0; 8 << 10];

/// Of the limits of descriptors and of maps (65,530 on Linux), the smaller one decides, and sockets and slices need theirs.
const OPEN_FILES_MAX: u64 = 16_384;

/// Let go when the file is closed.
#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl DiskLock for RealLock {}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    #[cfg(target_os = "linux")]
    fn write_zeros(&self, len: u64, position: u64) -> io::Result<bool> {
        let begun = Instant::now();
        let mut written = 0;
        while written < len {
            let mut left = usize::try_from(len - written).unwrap_or(usize::MAX);
            let mut buffers = [IoSlice::new(&[]); 16];
            for buffer in &mut buffers {
                let bytes = left.min(ZEROS.len());
                *buffer = IoSlice::new(&ZEROS[..bytes]);
                left -= bytes;
            }
            match rustix::io::pwritev(&self.0, &buffers, position + written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(begun.elapsed().as_nanos() > u128::from(len * DEAR_NS_PER_BYTE))
    }

    #[cfg(not(target_os = "linux"))]
    fn write_zeros(&self, len: u64, position: u64) -> io::Result<bool> {
        let mut written = 0;
        while written < len {
            let bytes = (len - written).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..bytes as usize], position + written)?;
            written += bytes;
        }
        Ok(true)
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(into, position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, position, len) {
                Err(rustix::io::Errno::INTR) => {}
                // The file system has no such call; the write itself will find out.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(()),
                other => return Ok(other?),
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, _position: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Map>> {
        let bytes = usize::try_from(len).map_err(io::Error::other)?;
        let raw = MmapOptions::new().len(bytes).map_raw_read_only(&self.0)?;
        Ok(Arc::new(RealMap { raw }))
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

#[derive(Debug)]
struct RealMap {
    raw: MmapRaw,
}

impl RealMap {
    /// The address of a range. Panics outside of the map.
    fn range(&self, position: u64, len: usize) -> *const u8 {
        let end = position.checked_add(len as u64).expect("a range of a file does not overflow");
        assert!(
            end <= self.raw.len() as u64,
            "bytes {position}..{end} lie outside of a map of {}",
            self.raw.len()
        );
        // SAFETY: `position` is within the mapping, as just asserted, and so fits a usize.
        unsafe { self.raw.as_ptr().add(position as usize) }
    }
}

impl Map for RealMap {
    fn len(&self) -> u64 {
        self.raw.len() as u64
    }

    fn slice(self: Arc<Self>, position: u64, len: usize, along: Keep) -> Bytes {
        let start = self.range(position, len);
        Bytes::from_owner(MapSlice { start, len, _map: self, _along: along })
    }

    fn copy_to(&self, position: u64, into: &mut [u8]) {
        let start = self.range(position, into.len());
        // SAFETY: the range is mapped (asserted), was written before (the caller's promise), and `into` is ours alone.
        unsafe { std::ptr::copy_nonoverlapping(start, into.as_mut_ptr(), into.len()) }
    }

    #[cfg(target_os = "linux")]
    fn is_resident(&self, position: u64, len: usize) -> bool {
        if len == 0 {
            return true;
        }
        let page = page_bytes();
        let skew = (position % page as u64) as usize;
        let mut start = self.range(position - skew as u64, len + skew);
        let mut left = len + skew;
        let mut pages = [0_u8; 256];
        while left > 0 {
            let bytes = left.min(pages.len() * page);
            // SAFETY: the range lies in our mapping and starts at a page; `pages` has a byte for each page of it.
            let answer = unsafe { libc::mincore(start.cast_mut().cast(), bytes, pages.as_mut_ptr()) };
            if answer != 0 {
                return false;
            }
            if pages[..bytes.div_ceil(page)].iter().any(|state| state & 1 == 0) {
                return false;
            }
            // SAFETY: at most the end of the range.
            start = unsafe { start.add(bytes) };
            left -= bytes;
        }
        true
    }

    /// Without a way to ask, every read is taken for a cold one: slower, never stalling.
    #[cfg(not(target_os = "linux"))]
    fn is_resident(&self, _position: u64, _len: usize) -> bool {
        false
    }
}

#[cfg(target_os = "linux")]
fn page_bytes() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: a plain question.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).expect("the page size is positive")
    })
}

/// The owner behind a `Bytes`: only the slice's own range is ever shown as `&[u8]`, for bytes past the end of the file may still
/// be written.
struct MapSlice {
    start: *const u8,
    len: usize,
    _map: Arc<RealMap>,
    _along: Keep,
}

// SAFETY: read-only memory that lives as long as `_map`, which is itself `Send` and `Sync`.
unsafe impl Send for MapSlice {}
// SAFETY: as above.
unsafe impl Sync for MapSlice {}

impl AsRef<[u8]> for MapSlice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped as long as `_map` lives; the maker of the slice promised that these bytes were written and never change.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn the_real_disk_conforms() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        conformance::run(Arc::new(RealDisk), dir.path());
    }

    #[test]
    fn bytes_appended_after_mapping_show_in_the_map() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::New).expect("new file");
        let map = file.map(1 << 30).expect("a map far past the end");
        file.write_at(&[7; 10_000], 0).expect("write");
        assert_eq!(Arc::clone(&map).slice(9_000, 1_000, Arc::new(())), vec![7; 1_000]);
        file.write_at(&[8; 10_000], 10_000).expect("write");
        assert_eq!(Arc::clone(&map).slice(9_999, 2, Arc::new(())).as_ref(), [7, 8]);
        assert!(map.is_resident(0, 20_000));
        let slice = map.slice(0, 10, Arc::new(()));
        drop(file);
        assert_eq!(slice.as_ref(), [7; 10]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_kernel_is_known_by_its_release() {
        let cases =
            [("6.18.44-fc-v657\n", Some((6, 18))), ("5.4.0", Some((5, 4))), ("7.0-rc1", Some((7, 0)))];
        for (release, expected) in cases.into_iter().chain([("", None), ("six", None), ("6", None)]) {
            assert_eq!(kernel_version(release), expected, "{release}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn bytes_that_the_kernel_dropped_are_not_resident() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a temporary directory");
        let path = dir.path().join("f");
        let file = RealDisk.open(&path, OpenMode::New).expect("new file");
        file.write_at(&vec![1; 1 << 20], 0).expect("write");
        file.sync_data().expect("sync");
        let map = file.map(1 << 20).expect("map");
        assert!(map.is_resident(0, 1 << 20));
        let plain = fs::File::open(&path).expect("open");
        rustix::fs::fadvise(&plain, 0, None, rustix::fs::Advice::DontNeed).expect("advise");
        assert!(!map.is_resident(0, 1 << 20));
        let mut page = [0; 4096];
        map.copy_to(8192, &mut page);
        assert!(map.is_resident(8192, 4096));
    }
}
