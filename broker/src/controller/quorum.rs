//! The metadata log as the controller sees it, its way to other nodes, and theirs to this one's.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::QuorumRequest;
use ottla_protocol::types::Uuid;
use ottla_raft::{MemberChange, MetadataLog, ProposeError, Proposed, Status, Transport};

use super::Controller;
use crate::peers::links::{Line, Links};
use crate::peers::{Address, raft_id};

/// How often the quorum's leader is heard of, and when voters begin to doubt that there is one.
pub const QUORUM_HEARTBEAT: Duration = Duration::from_millis(100);
pub const QUORUM_ELECTION: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(600);
/// An answer to the quorum is not waited for longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long a node may take to catch up as a learner.
const LEARN_LIMIT: Duration = Duration::from_secs(60);

/// Told what became of a proposal.
pub type OnOutcome = Box<dyn FnOnce(Result<Proposed, ProposeError>) + Send>;

/// What the controller needs of the metadata log; each method is [`MetadataLog`]'s of the same name. A simulation has a stand-in.
pub trait Quorum: Send + Sync + fmt::Debug {
    fn status(&self) -> Status;
    fn leads(&self, term: u64) -> bool;
    fn propose(
        &self,
        entry: Vec<u8>,
        timeout: Duration,
        answer: OnOutcome,
        settled: Box<dyn FnOnce() + Send>,
    );
    fn after(&self, delay: Duration, act: Box<dyn FnOnce() + Send>);
    fn watch(&self, told: Box<dyn FnMut(Status) + Send>);
    fn when_stopped(&self, told: Box<dyn FnOnce(String) + Send>);
    fn transfer_leadership(&self, to: u64);
    fn replace_leader(&self, gone: u64, after: Duration);
    fn change_members(&self, change: MemberChange, timeout: Duration, answer: OnOutcome);
    fn last_heard(&self) -> BTreeMap<u64, Duration> {
        BTreeMap::new()
    }
    /// Answers a message of another member; the error is for the log.
    fn answer_peer(self: Arc<Self>, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>>;
    /// Runs a task on the log's own thread.
    fn spawn(&self, task: BoxFuture<'static, ()>);
    fn stop(&self);
}

impl Quorum for MetadataLog {
    fn status(&self) -> Status {
        self.status()
    }

    fn leads(&self, term: u64) -> bool {
        self.leads(term)
    }

    fn propose(
        &self,
        entry: Vec<u8>,
        timeout: Duration,
        answer: OnOutcome,
        settled: Box<dyn FnOnce() + Send>,
    ) {
        self.propose(entry, timeout, answer, settled);
    }

    fn after(&self, delay: Duration, act: Box<dyn FnOnce() + Send>) {
        self.after(delay, act);
    }

    fn watch(&self, told: Box<dyn FnMut(Status) + Send>) {
        self.watch(told);
    }

    fn when_stopped(&self, told: Box<dyn FnOnce(String) + Send>) {
        self.when_stopped(told);
    }

    fn transfer_leadership(&self, to: u64) {
        self.transfer_leadership(to);
    }

    fn replace_leader(&self, gone: u64, after: Duration) {
        self.replace_leader(gone, after);
    }

    fn change_members(&self, change: MemberChange, timeout: Duration, answer: OnOutcome) {
        self.change_members(change, timeout, answer);
    }

    fn last_heard(&self) -> BTreeMap<u64, Duration> {
        self.last_heard()
    }

    fn answer_peer(self: Arc<Self>, request: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        Box::pin(async move { Self::answer_peer(&self, &request).await.map_err(|error| error.to_string()) })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.spawn(task);
    }

    fn stop(&self) {
        self.stop();
    }
}

/// Carries the quorum's messages over the links to other nodes.
#[derive(Debug)]
pub struct QuorumTransport(pub Arc<Links>);

impl Transport for QuorumTransport {
    fn ask(&self, _node: u64, identity: &[u8], request: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        let address = std::str::from_utf8(identity).ok().and_then(Address::parse);
        let Some(address) = address else {
            return Box::pin(std::future::ready(Err(io::Error::other("the member has no address"))));
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        let request = QuorumRequest { payload: request.into() };
        self.0.call(&address, Line::Quorum, &request, ANSWER_LIMIT, move |outcome| {
            let _ = tell.send(outcome);
        });
        Box::pin(async move {
            match told.await {
                Ok(Ok(response)) if response.error_code == 0 => Ok(response.payload.to_vec()),
                Ok(Ok(response)) => Err(io::Error::other(format!("error {}", response.error_code))),
                Ok(Err(error)) => Err(io::Error::other(error.to_string())),
                Err(_) => Err(io::Error::other("this node stops")),
            }
        })
    }
}

impl Controller {
    /// Answers a message of another member of the quorum.
    pub fn answer_quorum(
        &self,
        request: Vec<u8>,
        answer: impl FnOnce(Result<Vec<u8>, ErrorCode>) + Send + 'static,
    ) {
        let Some(log) = self.log.get().cloned().filter(|_| self.others.get().is_some()) else {
            return answer(Err(ErrorCode::BrokerNotAvailable));
        };
        // Where its answer is made: another thread would only be woken twice for each heartbeat.
        let asked = Arc::clone(&log);
        asked.spawn(Box::pin(async move {
            let outcome = log.answer_peer(request).await;
            answer(outcome.map_err(|error| {
                tracing::debug!("a message of the quorum was refused: {error}");
                ErrorCode::InvalidRequest
            }));
        }));
    }

    /// Makes a node a learner of the log: it gets every entry from here on.
    pub fn add_learner(
        &self,
        directory: Uuid,
        address: &Address,
        answer: impl FnOnce(Result<(), ErrorCode>) + Send + 'static,
    ) {
        let Some(log) = self.log.get().filter(|_| self.is_active()) else {
            return answer(Err(ErrorCode::NotController));
        };
        let (id, identity) = (raft_id(directory), address.to_text().into_bytes());
        let status = log.status();
        if status.identities.get(&id) == Some(&identity) {
            return answer(Ok(()));
        }
        let change = if status.identities.contains_key(&id) {
            MemberChange::Identify([(id, identity)].into())
        } else {
            MemberChange::AddLearner { id, identity }
        };
        let answer = move |outcome: Result<Proposed, ProposeError>| {
            answer(outcome.map(|_| ()).map_err(|error| {
                tracing::warn!("a node could not join the quorum: {error}");
                ErrorCode::NotController
            }));
        };
        log.change_members(change, LEARN_LIMIT, Box::new(answer));
    }
}
