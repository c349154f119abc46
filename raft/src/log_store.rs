//! openraft's log on `storage::Log`: one entry is one batch of one record at the offset of its index, so that Kafka's log tools read the
//! file. The vote and the purged position lie in small files beside it, which are overwritten in place: a full disk keeps no voter from
//! voting, nor a leader from hearing that another one leads.
//! Entries since the last purge are also held in memory: snapshots keep them few.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt as _;
use openraft::type_config::alias::{LogIdOf, VoteOf};
use openraft::{LogState, OptionalSend, RaftLogReader};
use ottla_protocol::types::Offset;
use ottla_storage::checkpoint::Checkpoint;
use ottla_storage::twin::Twin;
use ottla_storage::{Disk, Log, Read, StorageError};
use serde::de::DeserializeOwned;

use crate::entry::{self, offset_of};
use crate::types::{Entry, LogId, TypeConfig, Vote};

const VOTE: Checkpoint = Checkpoint { kind: "raft-vote", version: 2 };
const PURGED: Checkpoint = Checkpoint { kind: "raft-purged", version: 2 };
/// Bytes of the log that are read at once when it is opened.
const LOAD_BYTES: usize = 1 << 20;
/// What is kept free behind each proposal: its own frame, and the blank and membership entries that openraft appends unasked.
const SLACK_BYTES: usize = 16 << 10;
/// How often a write that found the disk full is tried again.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// The log, shared by openraft's core and its readers.
#[derive(Clone)]
pub(crate) struct LogStore {
    state: Arc<Mutex<State>>,
    pub(crate) patience: Patience,
}

struct State {
    log: Log,
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    vote_file: Twin,
    purged: Option<LogId>,
    purged_file: Twin,
    /// It was said that there is no space.
    is_full: bool,
}

impl LogStore {
    /// Reads votes and entries. Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, log: Log) -> Result<Self, StorageError> {
        let io = |action, path: &Path, error| StorageError::Io {
            action,
            path: path.to_path_buf(),
            source: Arc::new(error),
        };
        disk.create_dir_all(dir).map_err(|error| io("create", dir, error))?;
        // No vote is safe in a directory whose own name may vanish.
        let above = dir.parent().unwrap_or(Path::new(""));
        disk.sync_dir(above).map_err(|error| io("sync", above, error))?;
        let (vote_file, vote) = open_json(VOTE, &disk, &dir.join("vote"))?;
        let (purged_file, purged) = open_json(PURGED, &disk, &dir.join("purged"))?;
        let mut state =
            State { log, entries: BTreeMap::new(), vote, vote_file, purged, purged_file, is_full: false };
        state.load()?;
        if let Some(upto) = state.purged {
            // It may have been cut short after its note; openraft takes no log that ends before what it says was purged.
            state.drop_purged(upto)?;
        }
        Ok(Self { state: Arc::new(Mutex::new(state)), patience: Patience::default() })
    }

    /// Nothing was ever written.
    pub(crate) fn is_fresh(&self) -> bool {
        let state = self.state();
        state.vote.is_none() && state.purged.is_none() && state.entries.is_empty()
    }

    /// The last entry that is stored, or was purged behind a snapshot.
    pub(crate) fn last_index(&self) -> Option<u64> {
        let state = self.state();
        state.entries.keys().next_back().copied().or(state.purged.map(|id| id.index))
    }

    /// Makes sure that an entry of so many bytes finds room, and the entries of an election after it, too. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Full`] while it does not; anything else is for good.
    pub(crate) fn reserve(&self, entry_bytes: usize) -> Result<(), StorageError> {
        self.state().log.reserve((entry_bytes + SLACK_BYTES) as u64, entry::now_ms())
    }

    /// Whether another leader's entries of so many bytes find room, and with none, what a leader begins its term with. Says it in the
    /// node's log when that changes. Blocks.
    pub(crate) fn has_room_for(&self, entry_bytes: usize) -> bool {
        let outcome = self.reserve(entry_bytes);
        let mut state = self.state();
        // Any other failure openraft finds for itself.
        let is_full = matches!(outcome, Err(StorageError::Full { .. }));
        match outcome {
            Err(error) if is_full && !state.is_full => {
                tracing::error!(
                    "the metadata log takes nothing in, and this node calls no election: {error}"
                );
            }
            _ if !is_full && state.is_full => tracing::info!("the metadata log has space again"),
            _ => {}
        }
        state.is_full = is_full;
        !is_full
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock aborts the process in production; in a test the state is whole between statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waiting for space, until there is some or the log is to stop. openraft takes every error of its storage for the end, and a full disk
/// is none: the log goes on once space returns. What waits meanwhile times out, with its outcome unknown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(Arc<AtomicBool>);

impl Patience {
    /// Nothing is waited for any more.
    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Tries until the disk has room.
    pub(crate) async fn once_there_is_room<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> Result<T, StorageError>,
    ) -> Result<T, io::Error> {
        let mut told = false;
        loop {
            match attempt() {
                Err(error @ StorageError::Full { .. }) if !self.0.load(Ordering::Relaxed) => {
                    if !told {
                        tracing::error!("{what} waits for space: {error}");
                        told = true;
                    }
                    TypeConfig::sleep(FULL_RETRY).await;
                }
                outcome => {
                    if told && outcome.is_ok() {
                        tracing::info!("{what} has found space");
                    }
                    return outcome.map_err(io::Error::other);
                }
            }
        }
    }
}

fn open_json<T: DeserializeOwned>(
    kind: Checkpoint,
    disk: &Arc<dyn Disk>,
    path: &Path,
) -> Result<(Twin, Option<T>), StorageError> {
    let (file, bytes) = Twin::open(Arc::clone(disk), path, kind)?;
    let value = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    let value = value
        .map_err(|error| StorageError::DamagedFile { path: path.to_path_buf(), reason: error.to_string() })?;
    Ok((file, value))
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("log ids and votes are plain data")
}

impl State {
    fn load(&mut self) -> Result<(), StorageError> {
        let mut at = self.log.start_offset();
        let end = self.log.end_offset();
        while at < end {
            let slices = match self.log.read(at, end, LOAD_BYTES, true)? {
                Read::Hot(slices) => slices,
                Read::Cold(cold) => cold.load()?,
            };
            let before = at;
            for slice in &slices {
                for entry in entry::decode_all(slice.bytes()) {
                    let entry = entry.map_err(|reason| self.damaged(reason))?;
                    at = offset_of(entry.index())?.plus(1);
                    self.entries.insert(entry.index(), entry);
                }
            }
            if at == before {
                return Err(
                    self.damaged(format!("nothing can be read at offset {at}, before its end at {end}"))
                );
            }
        }
        Ok(())
    }

    fn damaged(&self, reason: String) -> StorageError {
        StorageError::DamagedFile { path: self.log.dir().to_path_buf(), reason }
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let (mut bytes, now_ms) = (Vec::new(), entry::now_ms());
        for entry in entries {
            bytes.extend_from_slice(&entry::encode(entry, now_ms)?);
        }
        if !bytes.is_empty() {
            self.log.append(&bytes, now_ms)?;
            self.flush()?;
        }
        for entry in entries {
            self.entries.insert(entry.index(), entry.clone());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        while let Some(ticket) = self.log.begin_flush() {
            let result = ticket.sync();
            self.log.finish_flush(ticket, result)?;
        }
        Ok(())
    }

    fn truncate_after(&mut self, last: Option<u64>) -> Result<(), StorageError> {
        let end = last.map_or(Ok(Offset::ZERO), |index| offset_of(index).map(|offset| offset.plus(1)))?;
        self.log.truncate_to(end)?;
        self.flush()?;
        self.entries.split_off(&last.map_or(0, |index| index + 1));
        Ok(())
    }

    fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        // First the note of what was purged, then the purge: a log that begins later than the note says would have a hole.
        self.purged_file.write(&json(&upto))?;
        self.purged = Some(upto);
        self.drop_purged(upto)
    }

    fn drop_purged(&mut self, upto: LogId) -> Result<(), StorageError> {
        if let Some(removal) = self.log.trim_start(offset_of(upto.index)?.plus(1)) {
            removal.run()?;
        }
        self.entries = self.entries.split_off(&(upto.index + 1));
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = range.start_bound().cloned();
        let end = range.end_bound().cloned();
        // `BTreeMap::range` panics on an empty range; openraft may ask for one.
        let from = match start {
            Bound::Included(index) => index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let upto = match end {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => index,
            Bound::Unbounded => u64::MAX,
        };
        if from >= upto {
            return Ok(Vec::new());
        }
        Ok(self.state().entries.range(from..upto).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        Ok(self.state().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.state();
        let last = state.entries.values().next_back().map(|entry| entry.log_id());
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: last.or(state.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        let save = || {
            let mut state = self.state();
            state.vote_file.write(&json(vote))?;
            state.vote = Some(*vote);
            Ok(())
        };
        self.patience.once_there_is_room("a vote", save).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Written and synced before it returns: this thread has nothing else to do, and order is kept without further thought.
        let entries: Vec<Entry> = entries.into_iter().collect();
        let append = || self.state().append(&entries);
        match self.patience.once_there_is_room("the metadata log", append).await {
            Ok(()) => {
                callback.io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.io_completed(Err(io::Error::other(error.to_string())));
                Err(error)
            }
        }
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> Result<(), io::Error> {
        let last = last.map(|id| id.index);
        let truncate = || self.state().truncate_after(last);
        self.patience.once_there_is_room("a truncation of the metadata log", truncate).await
    }

    async fn purge(&mut self, upto: LogIdOf<TypeConfig>) -> Result<(), io::Error> {
        let purge = || self.state().purge(upto);
        self.patience.once_there_is_room("a purge of the metadata log", purge).await
    }
}
