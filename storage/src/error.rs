//! What can go wrong with a log, in the words that an operator needs: what happened, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_protocol::types::Offset;

/// The errors of this crate. `Full` and `CorruptBatch` concern one call; `Offline` is for good.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// No room for the bytes of this append. Nothing was written; a later append succeeds once there is space again.
    #[error("no space left for {}: free space on this disk, or delete topics or lower their retention", path.display())]
    Full { path: PathBuf },
    /// A stored batch is not what was written. Reads of other batches go on.
    #[error("corrupt record batch in {} at byte {position}: {reason}", file.display())]
    CorruptBatch { file: PathBuf, position: u64, reason: String },
    /// The log takes no more appends, because a write or a sync failed and the kernel may have dropped the bytes: never retried.
    #[error("log {} is offline: {reason}; restart the broker once the disk is sound", dir.display())]
    Offline { dir: PathBuf, reason: Arc<str> },
    /// Bytes that had been flushed are missing or changed. The log is readable where it is sound and takes no appends; nothing of
    /// it is cut.
    #[error("log {} is quarantined: {reason}; restore the file, or let a replica refetch the log from its leader", dir.display())]
    Quarantined { dir: PathBuf, reason: Arc<str> },
    #[error("offset {requested} is outside of the log's {start}..{end}")]
    OutOfRange { requested: Offset, start: Offset, end: Offset },
    /// The log has moved on under a view of it (compaction, truncation, retention): take a new view and go on.
    #[error("{} is no longer part of the log", file.display())]
    ViewStale { file: PathBuf },
    /// Batches handed to `append` do not continue the log.
    #[error("batch at offset {found} does not continue the log, which ends at {expected}")]
    OutOfOrder { expected: Offset, found: Offset },
    /// Bytes handed to `append` are not whole record batches.
    #[error("not a sequence of whole record batches: {0}")]
    Malformed(String),
    #[error("{} has format version {found}, and this build knows versions up to {supported}: it was written by a newer Ottla", path.display())]
    NewerFormat { path: PathBuf, found: u16, supported: u16 },
    /// A file of our own that is neither whole nor explainable by a crash.
    #[error("{} is damaged: {reason}", path.display())]
    DamagedFile { path: PathBuf, reason: String },
    #[error("data directory {} is in use by another process: stop it, or choose another directory", dir.display())]
    Locked { dir: PathBuf },
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source: Arc::new(source) }
    }
}

/// Whether an error says that the disk (or a quota) is full, which heals, unlike other errors of a write.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
