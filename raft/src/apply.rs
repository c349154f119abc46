//! Committed entries on their way to the state machine, and the state machine's snapshots in a file that is replaced as a whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use ottla_storage::checkpoint::Checkpoint;
use ottla_storage::{Disk, StorageError};
use serde::{Deserialize, Serialize};

use crate::StateMachine;
use crate::log_store::Patience;
use crate::types::{Done, LogId, Membership, SnapshotMeta, TypeConfig};

const SNAPSHOT: Checkpoint = Checkpoint { kind: "metadata-snapshot", version: 1 };

/// The state machine with openraft's own bookkeeping; clones share it.
#[derive(Clone)]
pub(crate) struct Applier {
    state: Arc<Mutex<State>>,
    pub(crate) patience: Patience,
}

struct State {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    machine: Box<dyn StateMachine>,
    position: Position,
    /// The last entry that was there when this process began. Terms up to it are over: their leader is not among us.
    began_after: Option<u64>,
}

/// Up to where the state machine has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Position {
    applied: Option<LogId>,
    membership: Membership,
}

impl Applier {
    /// Restores the newest snapshot, if there is one.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mut machine: Box<dyn StateMachine>,
        began_after: Option<u64>,
    ) -> Result<Self, StorageError> {
        let path = dir.join("snapshot");
        let mut position = Position::default();
        if let Some((_, bytes)) = SNAPSHOT.read(&*disk, &path)? {
            let damaged = |reason: String| StorageError::DamagedFile { path: path.clone(), reason };
            let (found, content) = split(&bytes).map_err(damaged)?;
            machine.restore(found.applied.map_or(0, |id| id.index), content).map_err(damaged)?;
            position = found;
        }
        let state = Arc::new(Mutex::new(State { disk, path, machine, position, began_after }));
        Ok(Self { state, patience: Patience::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot's bytes: one line of JSON that says what it covers, then the state machine's own.
fn join(position: &Position, content: &[u8]) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(position).expect("a position is plain data");
    bytes.push(b'\n');
    bytes.extend_from_slice(content);
    bytes
}

fn split(bytes: &[u8]) -> Result<(Position, &[u8]), String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let position = serde_json::from_slice(&bytes[..end]).map_err(|error| error.to_string())?;
    Ok((position, &bytes[end + 1..]))
}

/// What a snapshot's bytes say of themselves.
pub(crate) fn meta_of(snapshot: &[u8]) -> Result<SnapshotMeta, String> {
    let (position, _) = split(snapshot)?;
    Ok(SnapshotMeta { last_log_id: position.applied, last_membership: position.membership })
}

impl State {
    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.position.applied, last_membership: self.position.membership.clone() }
    }

    fn build(&self) -> Result<SnapshotOf<TypeConfig, Vec<u8>>, StorageError> {
        let bytes = join(&self.position, &self.machine.snapshot());
        SNAPSHOT.write(&*self.disk, &self.path, &bytes)?;
        Ok(Snapshot { meta: self.meta(), snapshot: bytes })
    }

    fn install(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let damaged = |reason| StorageError::DamagedFile { path: self.path.clone(), reason };
        let (position, content) = split(bytes).map_err(damaged)?;
        // First the state machine: a snapshot that it cannot read must not replace one that it can.
        self.machine.restore(position.applied.map_or(0, |id| id.index), content).map_err(damaged)?;
        SNAPSHOT.write(&*self.disk, &self.path, bytes)?;
        self.position = position;
        Ok(())
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Applier {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Vec<u8>>, io::Error> {
        self.patience.once_there_is_room("a snapshot of the metadata", || self.state().build()).await
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        let state = self.state();
        Ok((state.position.applied, state.position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut state = self.state();
            let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
            match &entry.payload {
                EntryPayload::Blank if state.began_after.is_none_or(|last| index > last) => {
                    state.machine.on_term(index, term);
                }
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => state.machine.apply(index, term, &proposal.0),
                EntryPayload::Membership(membership) => {
                    state.position.membership = Membership::new(Some(entry.log_id), membership.clone());
                }
            }
            state.position.applied = Some(entry.log_id);
            drop(state);
            if let Some(responder) = responder {
                responder.send(Done);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        let install = || self.state().install(&snapshot);
        self.patience.once_there_is_room("a snapshot of the metadata", install).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Vec<u8>>>, io::Error> {
        let state = self.state();
        let Some((_, bytes)) = SNAPSHOT.read(&*state.disk, &state.path).map_err(io::Error::other)? else {
            return Ok(None);
        };
        let meta = meta_of(&bytes).map_err(io::Error::other)?;
        Ok(Some(Snapshot { meta, snapshot: bytes }))
    }
}
