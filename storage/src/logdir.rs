//! One log directory: its lock, its identity, how the last process stopped, its journal and its logs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::types::Uuid;

use crate::disk::Disk;
use crate::error::StorageError;
use crate::journal::Journal;
use crate::log::{Log, LogOptions, Recovery};

/// How the process that had this directory before us stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// Nobody had it.
    Fresh,
    /// Everything was synced and said so. The note is what the process left with its mark.
    Clean(Bytes),
    /// It was killed, but the kernel kept running: every byte that it wrote is there.
    Killed,
    /// The machine stopped, or nobody knows: only what was flushed is there.
    PowerLoss,
}

/// A log directory that this process holds the lock of. Dropping it without [`LogDir::close`] is a crash.
#[derive(Debug)]
pub struct LogDir {}

impl LogDir {
    /// Takes the lock, creates what is missing (with a directory id from `random`), reads and removes the mark of a clean shutdown,
    /// loads the journal, and removes what interrupted deletions left. Blocks.
    pub fn open(_disk: Arc<dyn Disk>, _path: &Path, _random: [u8; 16]) -> Result<LogDir, StorageError> {
        unimplemented!()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        unimplemented!()
    }

    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        unimplemented!()
    }

    #[must_use]
    pub fn directory_id(&self) -> Uuid {
        unimplemented!()
    }

    #[must_use]
    pub fn last_stop(&self) -> &LastStop {
        unimplemented!()
    }

    /// Names and values that belong to the directory (cluster id, node id): on the disk when this returns. Blocks.
    pub fn set_properties(&self, _properties: &BTreeMap<String, String>) -> Result<(), StorageError> {
        unimplemented!()
    }

    pub fn properties(&self) -> BTreeMap<String, String> {
        unimplemented!()
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        unimplemented!()
    }

    /// The names of all logs: those with a directory, and those that only the journal knows.
    pub fn log_names(&self) -> Result<Vec<String>, StorageError> {
        unimplemented!()
    }

    /// Opens the log in the directory `name`, or an empty one; no file and no directory is made before its first append. `owner`
    /// is noted in the journal; see [`Log::owner`]. Errors: only of the operating system and of newer formats; damage is told in
    /// the [`Recovery`], and the log then takes no appends.
    pub fn open_log(
        &self,
        _name: &str,
        _owner: Uuid,
        _options: LogOptions,
    ) -> Result<(Log, Recovery), StorageError> {
        unimplemented!()
    }

    /// Leaves the mark of a clean shutdown: to be called after every log was flushed and closed ([`Log::close`]). Blocks.
    pub fn close(self, _note: &[u8]) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// The directory of a log.
    #[must_use]
    pub fn log_path(&self, _name: &str) -> PathBuf {
        unimplemented!()
    }
}
