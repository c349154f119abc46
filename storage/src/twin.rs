//! A small value that is replaced in place, in space that it has had since it was first written: a full disk cannot refuse it.
//!
//! Two copies of one page each, written and synced one after the other, always in the same order. A crash leaves one of them whole: the
//! first that is whole counts, for the second is never newer. Damage to either is made good by the other, which has the same value
//! whenever a write has returned.
//!
//! Form of a copy: that of a [`Checkpoint`], filled up with blanks. File systems that never write in place may still want space; that is
//! [`StorageError::Full`], and the value stays as it was.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, replace};
use crate::disk::{Disk, File, OpenMode};
use crate::error::{StorageError, is_full};

/// Of one copy: what a device writes as one, or a multiple of it.
const COPY: usize = 4096;

/// The file. See the module.
#[derive(Debug)]
pub struct Twin {
    kind: Checkpoint,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// `None` until the first write.
    file: Option<Arc<dyn File>>,
}

impl Twin {
    /// Opens the file, and says what is in it; `None` if there is no such file. A file that holds one value without a copy, as a
    /// [`Checkpoint`] writes it, is read too, and becomes one with two. Blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        kind: Checkpoint,
    ) -> Result<(Self, Option<Vec<u8>>), StorageError> {
        let mut twin = Self { kind, disk, path: path.to_path_buf(), file: None };
        let bytes = match twin.disk.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((twin, None)),
            Err(error) => return Err(StorageError::io("read", path, error)),
        };
        if bytes.len() != 2 * COPY {
            let (_, value) = kind.decode(path, &bytes)?;
            twin.write(&value)?;
            return Ok((twin, Some(value)));
        }
        let (first, second) = bytes.split_at(COPY);
        let whole = |copy: &[u8]| kind.decode(path, copy).map(|(_, padded)| padded.trim_ascii_end().to_vec());
        let value = whole(first).or_else(|error| match (error, whole(second)) {
            (_, Ok(value)) => Ok(value),
            (error, Err(_)) => Err(error),
        })?;
        let file = twin.disk.open(path, OpenMode::Existing);
        twin.file = Some(file.map_err(|error| StorageError::io("open", path, error))?);
        if first != second {
            // What is acted upon from here on must not hang on one copy.
            twin.write(&value)?;
        }
        Ok((twin, Some(value)))
    }

    /// Replaces the value, which must not end in blanks. Durable when it returns. Blocks.
    ///
    /// # Panics
    /// If the value is larger than a page leaves it.
    pub fn write(&mut self, value: &[u8]) -> Result<(), StorageError> {
        let room = COPY - self.kind.encode(&[]).len();
        assert!(value.len() <= room, "{} bytes do not fit into {room}", value.len());
        let mut padded = value.to_vec();
        padded.resize(room, b' ');
        let copy = self.kind.encode(&padded);
        let Some(file) = &self.file else {
            replace(&*self.disk, &self.path, &copy.repeat(2))?;
            let file = self.disk.open(&self.path, OpenMode::Existing);
            self.file = Some(file.map_err(|error| StorageError::io("open", &self.path, error))?);
            return Ok(());
        };
        let write = |position| {
            file.write_at(&copy, position)?;
            file.sync_data()
        };
        write(0).and_then(|()| write(COPY as u64)).map_err(|error| match is_full(&error) {
            true => StorageError::Full { path: self.path.clone() },
            false => StorageError::io("write", &self.path, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Crash, MemoryDisk};

    const KIND: Checkpoint = Checkpoint { kind: "test", version: 2 };

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d")).expect("create");
        disk.sync_dir(Path::new("/")).expect("sync");
        disk
    }

    fn open(disk: &MemoryDisk) -> Result<(Twin, Option<Vec<u8>>), StorageError> {
        Twin::open(Arc::new(disk.clone()), Path::new("/d/t"), KIND)
    }

    fn value(disk: &MemoryDisk) -> Option<Vec<u8>> {
        open(disk).expect("sound").1
    }

    #[test]
    fn a_full_disk_takes_the_next_value() {
        let disk = disk();
        let (mut twin, found) = open(&disk).expect("opens");
        assert_eq!(found, None);
        twin.write(b"one").expect("written");
        disk.set_capacity(Some(disk.used()));
        twin.write(&[b'2'; 1000]).expect("in place");
        assert_eq!(value(&disk), Some(vec![b'2'; 1000]));
        assert_eq!(value(&disk.after_crash(Crash::PowerLoss, 1)), Some(vec![b'2'; 1000]));
        // The first one of all needs space, and is told so.
        let (mut other, _) = Twin::open(Arc::new(disk.clone()), Path::new("/d/other"), KIND).expect("opens");
        assert!(matches!(other.write(b"x"), Err(StorageError::Full { .. })));
        disk.set_capacity(None);
        other.write(b"x").expect("there is space again");
    }

    #[test]
    fn a_crash_leaves_the_old_value_or_the_new_one_and_what_was_seen_stays() {
        for stop in 0..12 {
            for seed in 0..30 {
                let disk = disk();
                let (mut twin, _) = open(&disk).expect("opens");
                let mut written = None;
                disk.stop_after(stop);
                for next in [b"a", b"b", b"c"] {
                    if twin.write(next).is_err() {
                        break;
                    }
                    written = Some(next.to_vec());
                }
                let left = disk.after_crash(Crash::PowerLoss, seed);
                let found = value(&left);
                let next = match written.as_deref() {
                    None => b"a".to_vec(),
                    Some([last]) => vec![last + 1],
                    Some(_) => unreachable!("values of one byte"),
                };
                assert!(found == written || found == Some(next), "stop {stop} seed {seed}: {found:?}");
                // Once it was read, no power loss takes it back, not even in the middle of the next write.
                for stop in 0..4 {
                    let again = left.after_crash(Crash::PowerLoss, seed);
                    let (mut twin, seen) = open(&again).expect("sound");
                    again.stop_after(stop);
                    let _ = twin.write(b"z");
                    let last = value(&again.after_crash(Crash::PowerLoss, seed + stop));
                    assert!(last == seen || last.as_deref() == Some(b"z"), "{last:?} after {seen:?}");
                }
            }
        }
    }

    #[test]
    fn damage_to_one_copy_is_made_good_and_to_both_is_refused() {
        let disk = disk();
        open(&disk).expect("opens").0.write(b"value").expect("written");
        let path = Path::new("/d/t");
        for position in [0, 20, 60, 4095, 4096, 5000] {
            disk.flip_bit(path, position, 3).expect("flip");
            assert_eq!(value(&disk).as_deref(), Some(&b"value"[..]), "{position}");
            let bytes = disk.read(path).expect("read");
            assert!(bytes[..COPY] == bytes[COPY..], "{position}: both are whole again");
        }
        disk.flip_bit(path, 1, 3).expect("flip");
        disk.flip_bit(path, 4097, 3).expect("flip");
        assert!(matches!(open(&disk), Err(StorageError::DamagedFile { .. })));
    }

    #[test]
    fn a_value_without_a_copy_is_read_and_gets_one() {
        let disk = disk();
        let path = Path::new("/d/t");
        Checkpoint { version: 1, ..KIND }.write(&disk, path, b"old").expect("written");
        assert_eq!(value(&disk).as_deref(), Some(&b"old"[..]));
        assert_eq!(disk.read(path).expect("read").len(), 2 * COPY);
        assert_eq!(value(&disk).as_deref(), Some(&b"old"[..]));
    }
}
