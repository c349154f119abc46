//! The metadata log: opaque entries, replicated by Raft and applied in order. openraft does the consensus; nothing of it is seen outside.
//!
//! - [`MetadataLog`]: start, propose, status; `members`: who takes part.
//! - `log_store`: openraft's log on `storage::Log`, in Kafka's file format; votes in small files. `entry`: an entry as bytes.
//! - `apply`: committed entries to the [`StateMachine`], snapshots of it.
//! - `network`: to other nodes, over a [`Transport`] that the caller has; `server`: the answers; `message`: their bytes.

mod apply;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod crash_tests;
mod entry;
#[cfg(test)]
mod fault_tests;
mod log_store;
mod members;
mod message;
mod network;
mod server;
mod start;
#[cfg(test)]
mod tests;
mod types;

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::Raft;
use openraft::errors::{ClientWriteError, RaftError as OpenRaftError};
use openraft::raft::ClientWriteResponse;

pub use crate::members::{MemberChange, Status};
pub use crate::message::{MESSAGE_BYTES_MAX, MessageError};
pub use crate::network::Transport;
pub use crate::server::PeerError;
pub use crate::start::{Peers, RaftError, RaftOptions};

use crate::apply::Applier;
use crate::entry::PROPOSAL_BYTES_MAX;
use crate::server::Incoming;
use crate::start::Opened;
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
        let voter = opened.voter;
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
        Ok(Self { voter, raft, handle, incoming: Incoming::default(), running })
    }

    /// As [`Self::start`], but on the runtime of the caller: so that a whole cluster runs on one thread, under one clock.
    ///
    /// # Errors
    /// As those of [`Self::start`].
    pub async fn start_here(options: RaftOptions, machine: Box<dyn StateMachine>) -> Result<Self, RaftError> {
        let opened = Opened::open(options, machine)?;
        let voter = opened.voter;
        let raft = opened.run().await?;
        let handle = tokio::runtime::Handle::current();
        Ok(Self {
            voter,
            raft,
            handle,
            incoming: Incoming::default(),
            running: Mutex::new(Some(Running::Here)),
        })
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
            let outcome = match entry.len() {
                len if len > PROPOSAL_BYTES_MAX => Err(ProposeError::TooLarge(len)),
                _ => outcome_within(timeout, raft.client_write(Proposal(entry))).await,
            };
            answer(outcome);
        });
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
    match tokio::time::timeout(timeout, write).await {
        Err(_) => Err(ProposeError::OutcomeUnknown),
        Ok(Ok(written)) => Ok(Proposed { index: written.log_id.index }),
        Ok(Err(OpenRaftError::APIError(error))) => Err(match error {
            ClientWriteError::ForwardToLeader(to) => ProposeError::NotLeader(to.leader_id),
            ClientWriteError::ChangeMembershipError(error) => ProposeError::MembersStay(error.to_string()),
            // Another leader's log took its place here; still, one that has it may lead next.
            _ => ProposeError::OutcomeUnknown,
        }),
        Ok(Err(OpenRaftError::Fatal(error))) => Err(ProposeError::Stopped(error.to_string())),
    }
}
