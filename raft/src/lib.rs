//! The metadata log: opaque entries, replicated by Raft and applied in order. openraft does the consensus; nothing of it is seen outside.
//!
//! - [`MetadataLog`]: start, propose, status; `members`: who takes part.
//! - `log_store`: openraft's log on `storage::Log`, in Kafka's file format; votes in small files. `entry`: an entry as bytes.
//! - `apply`: committed entries to the [`StateMachine`], snapshots of it.
//! - `runtime`: where openraft runs, and what it leaves to chance.
//! - `ticking`: openraft's clock, which stands still while there is nothing to time.
//! - `network`: to other nodes, over a [`Transport`] that the caller has; `server`: the answers; `message`: their bytes.

mod apply;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod dice;
mod entry;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod full_disk_tests;
mod log_store;
mod members;
mod message;
mod network;
#[cfg(test)]
mod restart_tests;
mod runtime;
mod server;
mod start;
#[cfg(test)]
mod tests;
mod ticking;
mod types;
mod watch;

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError as OpenRaftError};
use openraft::raft::ClientWriteResponse;
use ottla_storage::StorageError;

pub use crate::members::{MemberChange, Status};
pub use crate::message::{MESSAGE_BYTES_MAX, MessageError};
pub use crate::network::Transport;
pub use crate::runtime::seed_thread;
pub use crate::server::PeerError;
pub use crate::start::{Peers, RaftError, RaftOptions};

use crate::apply::Applier;
use crate::entry::PROPOSAL_BYTES_MAX;
use crate::log_store::LogStore;
use crate::server::Incoming;
use crate::start::Opened;
use crate::ticking::Heard;
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
    /// Nothing was appended: the disk has no room. A later proposal may find some.
    #[error("{0}")]
    Full(String),
    /// Nothing was appended, nor will such an entry ever be.
    #[error("an entry of {0} bytes is larger than the metadata log takes")]
    TooLarge(usize),
    /// Nothing was appended: the members cannot be changed like that, or not now.
    #[error("the metadata log's members stay as they are: {0}")]
    MembersStay(String),
    /// It may or may not be committed later.
    #[error("the metadata log did not commit the proposal in time: its outcome is unknown")]
    OutcomeUnknown,
    /// Nor is anything known of the proposals that had no answer by then.
    #[error("the metadata log has stopped: {0}")]
    Stopped(String),
}

/// A running log. Dropping it stops it.
pub struct MetadataLog {
    voter: u64,
    raft: Raft<TypeConfig, Applier>,
    store: LogStore,
    heard: Heard,
    handle: tokio::runtime::Handle,
    incoming: Incoming,
    /// `None` once it was stopped.
    running: Mutex<Option<Running>>,
}

enum Running {
    Thread(tokio::sync::oneshot::Sender<()>, JoinHandle<()>),
    /// Among other tasks of a runtime that is not ours.
    Here,
}

impl std::fmt::Debug for MetadataLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataLog").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl MetadataLog {
    /// Opens the log, restores the newest snapshot, and on a fresh directory founds the cluster, unless that is for others to do. A lone
    /// voter calls its election at once. Returns when the log's thread runs; entries may still be on their way to the state machine.
    ///
    /// # Errors
    /// Files that cannot be read, or are of a newer format.
    pub fn start(options: RaftOptions, machine: Box<dyn StateMachine>) -> Result<Self, RaftError> {
        let opened = Opened::open(options, machine)?;
        let (voter, store, heard) = (opened.voter, opened.store.clone(), opened.heard.clone());
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
                    let started = opened.run().await;
                    let raft = started.as_ref().ok().cloned();
                    let handle = tokio::runtime::Handle::current();
                    let _ = ready_to.send(started.map(|raft| (raft, handle)));
                    if let Some(raft) = raft {
                        let _ = stopped.await;
                        shut_down(raft).await;
                    }
                });
            })
            .map_err(RaftError::Thread)?;
        let ended = |_| RaftError::Raft("its thread ended".into());
        let (raft, handle) = ready.recv().map_err(ended)??;
        let running = Mutex::new(Some(Running::Thread(stop, thread)));
        Ok(Self { voter, raft, store, heard, handle, incoming: Incoming::default(), running })
    }

    /// As [`Self::start`], but on the runtime of the caller: so that a whole cluster runs on one thread, under one clock.
    ///
    /// # Errors
    /// As those of [`Self::start`].
    pub async fn start_here(options: RaftOptions, machine: Box<dyn StateMachine>) -> Result<Self, RaftError> {
        let opened = Opened::open(options, machine)?;
        let (voter, store, heard) = (opened.voter, opened.store.clone(), opened.heard.clone());
        let raft = opened.run().await?;
        let handle = tokio::runtime::Handle::current();
        Ok(Self {
            voter,
            raft,
            store,
            heard,
            handle,
            incoming: Incoming::default(),
            running: Mutex::new(Some(Running::Here)),
        })
    }

    /// Appends an entry; `answer` is called once, on the log's thread, after the entry was applied here, or when that is not known
    /// within `timeout`. `settled` is called once after it, as soon as no news of the entry can come any more: at once, or for an
    /// unknown outcome whenever the entry was applied after all, or given up.
    pub fn propose(
        &self,
        entry: Vec<u8>,
        timeout: Duration,
        answer: impl FnOnce(Result<Proposed, ProposeError>) + Send + 'static,
        settled: impl FnOnce() + Send + 'static,
    ) {
        let (raft, store) = (self.raft.clone(), self.store.clone());
        self.handle.spawn(async move {
            match store.reserve(entry.len()) {
                _ if entry.len() > PROPOSAL_BYTES_MAX => answer(Err(ProposeError::TooLarge(entry.len()))),
                // openraft takes a full disk for the end of the log, so it is noticed before openraft hears of the entry.
                Err(error @ StorageError::Full { .. }) => answer(Err(ProposeError::Full(error.to_string()))),
                // Any other failure openraft finds for itself.
                _ => {
                    let mut write = std::pin::pin!(raft.client_write(Proposal(entry)));
                    match tokio::time::timeout(timeout, &mut write).await {
                        Ok(outcome) => answer(outcome_of(outcome)),
                        Err(_) => {
                            answer(Err(ProposeError::OutcomeUnknown));
                            let late = outcome_of(write.await);
                            tracing::warn!(
                                "a proposal that had no outcome within {timeout:?} has one now: {late:?}"
                            );
                        }
                    }
                }
            }
            settled();
        });
    }

    /// Whether this node leads in that term, as far as it knows.
    #[must_use]
    pub fn leads(&self, term: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.current_leader == Some(self.voter) && metrics.current_term == term
    }

    /// Calls `act` on the log's thread after a while, unless the log has stopped by then.
    pub fn after(&self, delay: Duration, act: impl FnOnce() + Send + 'static) {
        self.handle.spawn(async move {
            tokio::time::sleep(delay).await;
            act();
        });
    }

    /// Runs a task on the log's thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
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

    /// Ends the log's thread; on the caller's runtime, its tasks, soon. What was proposed and not answered is answered with an error.
    pub fn stop(&self) {
        self.store.patience.end();
        match self.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => {}
            Some(Running::Here) => {
                self.handle.spawn(shut_down(self.raft.clone()));
            }
            Some(Running::Thread(stop, thread)) => {
                drop(stop);
                if thread.join().is_err() {
                    tracing::error!("the metadata log's thread panicked");
                }
            }
        }
    }
}

impl Drop for MetadataLog {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn shut_down(raft: Raft<TypeConfig, Applier>) {
    if let Err(error) = raft.shutdown().await {
        tracing::debug!("the metadata log's task ended with {error}");
    }
}

type WriteError = OpenRaftError<TypeConfig, ClientWriteError<TypeConfig>>;

async fn outcome_within(
    timeout: Duration,
    write: impl Future<Output = Result<ClientWriteResponse<TypeConfig>, WriteError>>,
) -> Result<Proposed, ProposeError> {
    tokio::time::timeout(timeout, write).await.map_or(Err(ProposeError::OutcomeUnknown), outcome_of)
}

fn outcome_of(
    outcome: Result<ClientWriteResponse<TypeConfig>, WriteError>,
) -> Result<Proposed, ProposeError> {
    outcome.map(|written| Proposed { index: written.log_id.index }).map_err(|error| match error {
        OpenRaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            ProposeError::NotLeader(to.leader_id)
        }
        OpenRaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ProposeError::MembersStay(error.to_string())
        }
        // Another leader's log took its place here; still, one that has it may lead next.
        OpenRaftError::APIError(_) => ProposeError::OutcomeUnknown,
        OpenRaftError::Fatal(error) => ProposeError::Stopped(error.to_string()),
    })
}
