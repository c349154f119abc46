//! The metadata log: opaque entries, replicated by Raft and applied in order. openraft does the consensus; nothing of it is seen outside.
//!
//! - [`MetadataLog`]: start, propose, status.
//! - `log_store`: openraft's log on `storage::Log`, in Kafka's file format; votes in small files.
//! - `apply`: committed entries to the [`StateMachine`], snapshots of it.
//! - `network`: to other voters. A single voter has none.

mod apply;
#[cfg(test)]
mod crash_tests;
mod log_store;
mod network;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError as OpenRaftError};
use openraft::{BasicNode, Raft, SnapshotPolicy};
use ottla_storage::{Disk, Log, StorageError};

use crate::apply::Applier;
use crate::log_store::LogStore;
use crate::types::{Proposal, TypeConfig};

/// What the log's entries are applied to. Called in order, from one thread.
pub trait StateMachine: Send + 'static {
    /// A committed entry.
    fn apply(&mut self, index: u64, term: u64, entry: &[u8]);
    /// A leader began its term: every entry of the terms before has been applied. Not called for terms of before this process.
    fn on_term(&mut self, index: u64, term: u64);
    /// Everything applied so far, as bytes.
    fn snapshot(&self) -> Vec<u8>;
    /// Replaces the state by a snapshot's, which covers the log up to `index`.
    ///
    /// # Errors
    /// The bytes are not a snapshot that this program reads; the node must not go on.
    fn restore(&mut self, index: u64, snapshot: &[u8]) -> Result<(), String>;
}

/// How the log is started.
pub struct RaftOptions {
    /// The id of this voter: a number that no other (node id, directory id) ever had.
    pub voter: u64,
    /// `host:port` of its controller listener, kept in the membership.
    pub address: String,
    /// Where votes and snapshots are kept; made if it is missing.
    pub dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    /// The log itself, opened.
    pub log: Log,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot start the metadata log's thread: {0}")]
    Thread(std::io::Error),
    #[error("the metadata log does not start: {0}")]
    Raft(String),
}

/// Where a committed proposal lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    pub index: u64,
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was appended: another node leads, or nobody that is known.
    #[error("this node does not lead the metadata log")]
    NotLeader(Option<u64>),
    /// It may or may not be committed later.
    #[error("the metadata log did not commit the proposal in time: its outcome is unknown")]
    OutcomeUnknown,
    #[error("the metadata log has stopped: {0}")]
    Stopped(String),
}

/// How the quorum stands, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub leader: Option<u64>,
    pub term: u64,
    pub last_index: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub voters: Vec<u64>,
}

/// A running log. Dropping it stops its thread.
pub struct MetadataLog {
    raft: Raft<TypeConfig, Applier>,
    handle: tokio::runtime::Handle,
    /// `None` once it was stopped.
    running: Mutex<Option<(tokio::sync::oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl std::fmt::Debug for MetadataLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataLog").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl MetadataLog {
    /// Opens the log, restores the newest snapshot, and on a fresh directory founds the cluster with this node as its single voter. A
    /// lone voter calls its election at once. Returns when the thread runs; entries may still be on their way to the state machine.
    ///
    /// # Errors
    /// Files that cannot be read, or are of a newer format.
    pub fn start(options: RaftOptions, machine: Box<dyn StateMachine>) -> Result<Self, RaftError> {
        let RaftOptions { voter, address, dir, disk, log, snapshot_every } = options;
        let store = LogStore::open(Arc::clone(&disk), &dir, log)?;
        let applier = Applier::open(disk, &dir, machine, store.last_index())?;
        let config = config(snapshot_every)?;
        let (ready_to, ready) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = ready_to.send(Err(RaftError::Thread(error)));
                        return;
                    }
                };
                runtime.block_on(async move {
                    let started = run(voter, address, config, store, applier).await;
                    let raft = started.as_ref().ok().cloned();
                    let handle = tokio::runtime::Handle::current();
                    let _ = ready_to.send(started.map(|raft| (raft, handle)));
                    if let Some(raft) = raft {
                        let _ = stopped.await;
                        if let Err(error) = raft.shutdown().await {
                            tracing::debug!("the metadata log's task ended with {error}");
                        }
                    }
                });
            })
            .map_err(RaftError::Thread)?;
        let ended = |_| RaftError::Raft("its thread ended".into());
        let (raft, handle) = ready.recv().map_err(ended)??;
        Ok(Self { raft, handle, running: Mutex::new(Some((stop, thread))) })
    }

    /// Appends an entry; `answer` is called once, on the log's thread, after the entry was applied here, or when that is not known
    /// within `timeout`.
    pub fn propose(
        &self,
        entry: Vec<u8>,
        timeout: Duration,
        answer: impl FnOnce(Result<Proposed, ProposeError>) + Send + 'static,
    ) {
        let raft = self.raft.clone();
        self.handle.spawn(async move {
            let outcome = match tokio::time::timeout(timeout, raft.client_write(Proposal(entry))).await {
                Err(_) => Err(ProposeError::OutcomeUnknown),
                Ok(Ok(written)) => Ok(Proposed { index: written.log_id.index }),
                Ok(Err(OpenRaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                    Err(ProposeError::NotLeader(to.leader_id))
                }
                Ok(Err(OpenRaftError::APIError(_))) => Err(ProposeError::OutcomeUnknown),
                Ok(Err(OpenRaftError::Fatal(error))) => Err(ProposeError::Stopped(error.to_string())),
            };
            answer(outcome);
        });
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Status {
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            voters: metrics.membership_config.membership().voter_ids().collect(),
        }
    }

    /// Has a snapshot built soon, whatever the policy says.
    pub fn trigger_snapshot(&self) {
        let raft = self.raft.clone();
        self.handle.spawn(async move {
            if let Err(error) = raft.trigger().snapshot().await {
                tracing::warn!("no snapshot of the metadata: {error}");
            }
        });
    }

    /// Ends the thread. What was proposed and not answered is answered with an error.
    pub fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((stop, thread)) = running else { return };
        drop(stop);
        if thread.join().is_err() {
            tracing::error!("the metadata log's thread panicked");
        }
    }
}

impl Drop for MetadataLog {
    fn drop(&mut self) {
        self.stop();
    }
}

fn config(snapshot_every: u64) -> Result<Arc<openraft::Config>, RaftError> {
    let config = openraft::Config {
        cluster_name: "ottla".into(),
        // A lone voter has nobody to hear from, and calls its elections itself: its clock need not tick a hundred times a second.
        // With peers these become 50, 150 and 300.
        heartbeat_interval: 1_000,
        election_timeout_min: 3_000,
        election_timeout_max: 6_000,
        enable_pre_vote: Some(true),
        // A restarted leader must win a new term: entries of its old one that were not flushed may be gone (KAFKA-10527).
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: snapshot_every.min(1000),
        ..openraft::Config::default()
    };
    Ok(Arc::new(config.validate().map_err(|error| RaftError::Raft(error.to_string()))?))
}

async fn run(
    voter: u64,
    address: String,
    config: Arc<openraft::Config>,
    store: LogStore,
    applier: Applier,
) -> Result<Raft<TypeConfig, Applier>, RaftError> {
    let text = |error: &dyn std::fmt::Display| RaftError::Raft(error.to_string());
    let fresh = store.is_fresh();
    let raft = Raft::new(voter, config, network::NoPeers, store, applier).await.map_err(|e| text(&e))?;
    if fresh {
        let members = BTreeMap::from([(voter, BasicNode::new(address))]);
        raft.initialize(members).await.map_err(|e| text(&e))?;
    } else {
        let mut metrics = raft.metrics();
        // The first report says who the voters are; before it there are none.
        metrics.changed().await.map_err(|e| text(&e))?;
        let lone = metrics.borrow_watched().membership_config.membership().voter_ids().eq([voter]);
        // Nobody else could answer: waiting for the election time-out would only make the start slower.
        if lone {
            raft.trigger().elect(false).await.map_err(|e| text(&e))?;
        }
    }
    Ok(raft)
}
