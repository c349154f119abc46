//! Files on their way out: taken out of the log under its lock, removed where waiting is allowed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::Disk;
use crate::error::StorageError;
use crate::journal::Journal;
use crate::logdir::DELETED_SUFFIX;
use crate::segment::Segment;

/// Files that no log shows any more, to be removed where waiting is allowed, without the partition's lock.
#[derive(Debug)]
#[must_use = "until `run`, the space is not given back"]
pub struct Removal {
    disk: Arc<dyn Disk>,
    journal: Arc<Journal>,
    /// Took the place of the segments: its name is to be durable before they go.
    successor: Option<Arc<Segment>>,
    segments: Vec<Arc<Segment>>,
    dir: Option<PathBuf>,
}

impl Removal {
    pub(crate) fn of_segments(
        disk: &Arc<dyn Disk>,
        journal: &Arc<Journal>,
        segments: Vec<Arc<Segment>>,
    ) -> Self {
        let (disk, journal) = (Arc::clone(disk), Arc::clone(journal));
        Self { disk, journal, successor: None, segments, dir: None }
    }

    pub(crate) fn of_replaced(
        disk: &Arc<dyn Disk>,
        journal: &Arc<Journal>,
        successor: Arc<Segment>,
        segments: Vec<Arc<Segment>>,
    ) -> Self {
        Self { successor: Some(successor), ..Self::of_segments(disk, journal, segments) }
    }

    pub(crate) fn of_dir(disk: &Arc<dyn Disk>, journal: &Arc<Journal>, dir: Option<PathBuf>) -> Self {
        Self { dir, ..Self::of_segments(disk, journal, Vec::new()) }
    }

    /// Syncs the journal, so that a restart does not miss what is removed, and removes. Blocks.
    pub fn run(self) -> Result<(), StorageError> {
        self.journal.sync()?;
        let sync_names = |successor: &Arc<Segment>| {
            let dir = successor.path().parent().unwrap_or(Path::new(""));
            self.disk.sync_dir(dir).map_err(|error| StorageError::io("sync", dir, error))
        };
        if let Some(successor) = &self.successor {
            sync_names(successor)?;
            successor.save_index();
        }
        for segment in &self.segments {
            unlink(&self.disk, segment)?;
            if let Some(successor) = &self.successor {
                // What the successor shows ends where the first old file begins, so a later one must not go before an earlier one.
                sync_names(successor)?;
            }
        }
        if let Some(dir) = &self.dir {
            self.disk.remove_dir_all(dir).map_err(|error| StorageError::io("remove", dir, error))?;
        }
        Ok(())
    }
}

/// Removes the files of a segment; one that is gone already is no error.
pub(crate) fn unlink(disk: &Arc<dyn Disk>, segment: &Segment) -> Result<(), StorageError> {
    unlink_index(disk, segment)?;
    remove_file(disk, segment.path())
}

pub(crate) fn unlink_index(disk: &Arc<dyn Disk>, segment: &Segment) -> Result<(), StorageError> {
    remove_file(disk, segment.index_path())
}

fn remove_file(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), StorageError> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Removes all files of a log's directory, the last segment first, so that a kill in between leaves the beginning of a log.
pub(crate) fn empty(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), StorageError> {
    let files = disk.list(dir).map_err(|error| StorageError::io("list", dir, error))?;
    for file in files.iter().rev() {
        let path = dir.join(&file.name);
        disk.remove_file(&path).map_err(|error| StorageError::io("remove", &path, error))?;
    }
    Ok(())
}

/// A name for a directory that is being deleted: one that no log has, nor another deletion of this process.
pub(crate) fn deleted_name(dir: &Path) -> PathBuf {
    static DELETIONS: AtomicU64 = AtomicU64::new(0);
    let number = DELETIONS.fetch_add(1, Ordering::Relaxed);
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{number}{DELETED_SUFFIX}"));
    dir.with_file_name(name)
}
