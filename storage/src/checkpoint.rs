//! Small files that are replaced as a whole: written beside, synced, renamed, and the directory synced, so that a crash leaves the
//! old file or the new one.
//!
//! Form: one line of text, `ottla <kind> v<version> crc32c=<8 hex digits>`, then the payload. The checksum covers the payload and,
//! after it, the version as two bytes.

use std::io::ErrorKind;
use std::path::Path;

use crate::disk::{Disk, OpenMode};
use crate::error::{StorageError, is_full};

/// One kind of small file.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    /// One word, in the file's first line.
    pub kind: &'static str,
    /// The format that this build writes; older ones are read.
    pub version: u16,
}

impl Checkpoint {
    /// Replaces the file. Durable when it returns. Blocks.
    pub fn write(&self, disk: &dyn Disk, path: &Path, payload: &[u8]) -> Result<(), StorageError> {
        replace(disk, path, &self.encode(payload))
    }

    /// The form of a whole file.
    pub(crate) fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let crc = checksum(self.version, payload);
        let mut bytes = format!("ottla {} v{} crc32c={crc:08x}\n", self.kind, self.version).into_bytes();
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The payload and the version it was written in; `None` if there is no such file.
    pub fn read(&self, disk: &dyn Disk, path: &Path) -> Result<Option<(u16, Vec<u8>)>, StorageError> {
        let bytes = match disk.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("read", path, error)),
        };
        self.decode(path, &bytes).map(Some)
    }

    /// The payload of a whole file, and the version it was written in. `path` is for errors.
    pub(crate) fn decode(&self, path: &Path, bytes: &[u8]) -> Result<(u16, Vec<u8>), StorageError> {
        let damaged =
            |reason: &str| StorageError::DamagedFile { path: path.to_path_buf(), reason: reason.to_owned() };
        let line_end =
            bytes.iter().take(128).position(|byte| *byte == b'\n').ok_or_else(|| damaged("no first line"))?;
        let line =
            std::str::from_utf8(&bytes[..line_end]).map_err(|_| damaged("the first line is not text"))?;
        let mut words = line.split(' ');
        if words.next() != Some("ottla") || words.next() != Some(self.kind) {
            return Err(damaged(&format!("the first line does not begin with \"ottla {}\"", self.kind)));
        }
        let version = words.next().and_then(|word| word.strip_prefix('v')?.parse().ok());
        let version: u16 = version.ok_or_else(|| damaged("no version in the first line"))?;
        if version > self.version {
            let path = path.to_path_buf();
            return Err(StorageError::NewerFormat { path, found: version, supported: self.version });
        }
        let crc = words.next().and_then(|word| u32::from_str_radix(word.strip_prefix("crc32c=")?, 16).ok());
        let payload = &bytes[line_end + 1..];
        if crc != Some(checksum(version, payload)) {
            return Err(damaged("its checksum does not match"));
        }
        Ok((version, payload.to_vec()))
    }
}

fn checksum(version: u16, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(payload), &version.to_be_bytes())
}

/// Replaces a file atomically by `bytes`. Durable when it returns. Blocks.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = Path::new(&beside);
    let write = || {
        let file = disk.open(beside, OpenMode::Replace)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        disk.rename(beside, path)?;
        disk.sync_dir(path.parent().unwrap_or(Path::new("")))
    };
    write().map_err(|error| match is_full(&error) {
        true => StorageError::Full { path: path.to_path_buf() },
        false => StorageError::io("replace", path, error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Crash, MemoryDisk};

    const KIND: Checkpoint = Checkpoint { kind: "test", version: 2 };

    #[test]
    fn a_crash_leaves_the_old_file_or_the_new_one() {
        let path = Path::new("/d/c");
        for stop in 0..8 {
            for seed in 0..20 {
                let disk = MemoryDisk::new();
                disk.create_dir_all(Path::new("/d")).expect("create");
                disk.sync_dir(Path::new("/")).expect("sync");
                KIND.write(&disk, path, b"old").expect("write");
                disk.stop_after(stop);
                let done = KIND.write(&disk, path, &[b'n'; 5000]).is_ok();
                let left = disk.after_crash(Crash::PowerLoss, seed);
                let (version, payload) = KIND.read(&left, path).expect("sound").expect("there");
                assert_eq!(version, 2);
                assert!(payload == [b'n'; 5000] || !done && payload == b"old", "stop {stop} seed {seed}");
            }
        }
    }

    #[test]
    fn a_newer_format_or_damage_is_refused_in_words() {
        let (disk, path) = (MemoryDisk::new(), Path::new("/c"));
        assert!(KIND.read(&disk, path).expect("no file").is_none());
        Checkpoint { kind: "test", version: 3 }.write(&disk, path, b"x").expect("write");
        let error = KIND.read(&disk, path).expect_err("newer");
        assert_eq!(
            error.to_string(),
            "/c has format version 3, and this build knows versions up to 2: it was written by a newer Ottla"
        );
        KIND.write(&disk, path, b"payload").expect("write");
        let len = disk.read(path).expect("read").len() as u64;
        for position in 0..len {
            disk.flip_bit(path, position, 1).expect("flip");
            KIND.read(&disk, path).expect_err("one flipped bit");
            disk.flip_bit(path, position, 1).expect("flip back");
        }
        KIND.read(&disk, path).expect("sound again");
    }
}
