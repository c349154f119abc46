//! Snapshots of producer state: files beside a log's segments that spare the fold over the log after a restart.
//!
//! What is in them is the business of whoever folds (the machine); here they are bytes, true for the log below an offset. A log that
//! is cut loses the snapshots above its new end.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_protocol::types::Offset;

use crate::checkpoint::Checkpoint;
use crate::disk::Disk;
use crate::error::StorageError;

pub(crate) const SUFFIX: &str = ".producers";
const FILE: Checkpoint = Checkpoint { kind: "producers", version: 1 };

/// The snapshots of one log, named by the offset that they stand at. All calls block; none needs the partition's lock.
#[derive(Clone, Debug)]
pub struct ProducerSnapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl ProducerSnapshots {
    pub(crate) fn new(disk: &Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk: Arc::clone(disk), dir: dir.to_path_buf() }
    }

    /// Writes the snapshot of the state after all records below `offset`, and removes all but the newest `keep` of those at or below
    /// it. Durable when it returns. Only where everything below `offset` is flushed: or it would tell of records that a crash takes.
    pub fn write(&self, offset: Offset, state: &[u8], keep: usize) -> Result<(), StorageError> {
        FILE.write(&*self.disk, &self.path(offset), state)?;
        let offsets = self.offsets()?;
        let older = offsets.partition_point(|found| *found <= offset);
        for old in &offsets[..older.saturating_sub(keep)] {
            self.remove(*old)?;
        }
        Ok(())
    }

    /// The newest readable snapshot at or below `offset`; unreadable ones are removed.
    pub fn latest(&self, offset: Offset) -> Result<Option<(Offset, Vec<u8>)>, StorageError> {
        for found in self.offsets()?.into_iter().rev().filter(|found| *found <= offset) {
            match FILE.read(&*self.disk, &self.path(found)) {
                Ok(Some((_, state))) => return Ok(Some((found, state))),
                Ok(None) => {}
                Err(StorageError::DamagedFile { path, reason }) => {
                    tracing::warn!("{} is not used: {reason}", path.display());
                    self.remove(found)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Removes the snapshots above `offset`.
    pub(crate) fn remove_above(&self, offset: Offset) -> Result<(), StorageError> {
        for found in self.offsets()?.into_iter().filter(|found| *found > offset) {
            self.remove(found)?;
        }
        Ok(())
    }

    fn offsets(&self) -> Result<Vec<Offset>, StorageError> {
        let files = match self.disk.list(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| StorageError::io("list", &self.dir, error))?,
        };
        let mut offsets: Vec<_> = files
            .iter()
            .filter_map(|file| file.name.strip_suffix(SUFFIX)?.parse().ok().map(Offset))
            .collect();
        offsets.sort();
        Ok(offsets)
    }

    fn path(&self, offset: Offset) -> PathBuf {
        self.dir.join(format!("{:020}{SUFFIX}", offset.0))
    }

    fn remove(&self, offset: Offset) -> Result<(), StorageError> {
        let path = self.path(offset);
        self.disk.remove_file(&path).map_err(|error| StorageError::io("remove", &path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryDisk;

    #[test]
    fn the_newest_readable_snapshot_at_or_below_an_offset_is_found() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/t-0")).expect("create");
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let snapshots = ProducerSnapshots::new(&shared, Path::new("/t-0"));
        assert!(snapshots.latest(Offset(100)).expect("none").is_none());
        for offset in [10, 20, 30, 40] {
            snapshots.write(Offset(offset), format!("at {offset}").as_bytes(), 3).expect("write");
        }
        let latest = |offset| snapshots.latest(Offset(offset)).expect("read").map(|(found, _)| found.0);
        assert_eq!((latest(19), latest(29), latest(30), latest(99)), (None, Some(20), Some(30), Some(40)));
        disk.flip_bit(&snapshots.path(Offset(40)), 36, 1).expect("flip");
        assert_eq!(latest(99), Some(30), "the damaged one is passed over");
        snapshots.remove_above(Offset(20)).expect("remove");
        assert_eq!(snapshots.latest(Offset(99)).expect("read"), Some((Offset(20), b"at 20".to_vec())));
    }
}
