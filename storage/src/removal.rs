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
    segments: Vec<Arc<Segment>>,
    dir: Option<PathBuf>,
}

impl Removal {
    pub(crate) fn of_segments(
        disk: &Arc<dyn Disk>,
        journal: &Arc<Journal>,
        segments: Vec<Arc<Segment>>,
    ) -> Self {
        Self { disk: Arc::clone(disk), journal: Arc::clone(journal), segments, dir: None }
    }

    pub(crate) fn of_dir(disk: &Arc<dyn Disk>, journal: &Arc<Journal>, dir: Option<PathBuf>) -> Self {
        Self { disk: Arc::clone(disk), journal: Arc::clone(journal), segments: Vec::new(), dir }
    }

    /// Syncs the journal, so that a restart does not miss what is removed, and removes. Blocks.
    pub fn run(self) -> Result<(), StorageError> {
        self.journal.sync()?;
        for segment in &self.segments {
            unlink(&self.disk, segment)?;
        }
        if let Some(dir) = &self.dir {
            self.disk.remove_dir_all(dir).map_err(|error| StorageError::io("remove", dir, error))?;
        }
        Ok(())
    }
}

/// Removes the files of a segment; one that is gone already is no error.
pub(crate) fn unlink(disk: &Arc<dyn Disk>, segment: &Segment) -> Result<(), StorageError> {
    for path in [segment.index_path(), segment.path()] {
        match disk.remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StorageError::io("remove", path, error));
            }
            _ => {}
        }
    }
    Ok(())
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
