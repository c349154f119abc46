//! What production code asks of the world while it runs: noted in a node's outbox, done by the event loop afterwards. Nothing calls
//! back into production code from within production code.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ottla::controller::{OnOutcome, Quorum};
use ottla::peers::Address;
use ottla::peers::links::{Carrier, Line, LinkError, OnAnswer};
use ottla::replicators::{Replicator, Sending};
use ottla_protocol::types::NodeId;
use ottla_raft::{MemberChange, ProposeError, Status};

type Act = Box<dyn FnOnce() + Send>;
type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

pub enum Effect {
    Call {
        to: Address,
        line: Line,
        frame: Vec<u8>,
        limit: Duration,
        on_answer: OnAnswer,
    },
    After {
        delay: Duration,
        act: Act,
    },
    Propose {
        entry: Vec<u8>,
        limit: Duration,
        answer: OnOutcome,
        settled: Act,
    },
    /// The state of the quorum is to be told to who just began to watch it.
    Watched,
    ReplaceLeader {
        after: Duration,
    },
    TransferLeadership {
        to: u64,
    },
    NewLeader(Arc<Replicator>),
    FollowSend {
        conn: u64,
        frame: Vec<u8>,
    },
    FollowClose {
        leader: NodeId,
        conn: u64,
    },
}

/// A node's outbox. Cloning shares it.
#[derive(Clone, Default)]
pub struct Outbox(Arc<Mutex<Vec<Effect>>>);

impl Outbox {
    pub fn push(&self, effect: Effect) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(effect);
    }

    #[must_use]
    pub fn take(&self) -> Vec<Effect> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who can be reached, as an attempt to connect would find out.
#[derive(Debug, Default)]
pub struct Reach {
    /// By node: whether its process runs, and whether its machine does.
    pub listens: Vec<bool>,
    pub machine: Vec<bool>,
    /// By both parties: nothing gets from the first to the second.
    pub cut: Vec<Vec<bool>>,
}

pub type SharedReach = Arc<Mutex<Reach>>;

/// Links without sockets.
pub struct SimCarrier {
    pub node: usize,
    pub outbox: Outbox,
    pub reach: SharedReach,
}

impl Carrier for SimCarrier {
    fn send(&self, to: &Address, line: Line, frame: Vec<u8>, limit: Duration, on_answer: OnAnswer) {
        self.outbox.push(Effect::Call { to: to.clone(), line, frame, limit, on_answer });
    }

    fn after(&self, delay: Duration, act: Act) {
        self.outbox.push(Effect::After { delay, act });
    }

    fn spawn(&self, _task: BoxFuture<()>) {
        unreachable!("the stand-in for the quorum sends no messages");
    }

    fn refuses(&self, host: &str, _port: u16) -> bool {
        let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(to) = node_at(host) else { return false };
        let open = !reach.cut[self.node][to] && !reach.cut[to][self.node];
        open && reach.machine[to] && !reach.listens[to]
    }

    fn spawn_blocking(&self, act: Act) {
        self.outbox.push(Effect::After { delay: Duration::from_micros(300), act });
    }

    fn stop(&self) {}
}

/// The host name of a node.
#[must_use]
pub fn host_of(node: usize) -> String {
    format!("10.0.0.{}", node + 1)
}

/// The reverse.
#[must_use]
pub fn node_at(host: &str) -> Option<usize> {
    host.rsplit('.').next()?.parse::<usize>().ok()?.checked_sub(1)
}

/// The quorum as one node sees it, and who is told of changes.
#[derive(Default)]
pub struct QuorumView {
    pub status: Status,
    pub watchers: Vec<Box<dyn FnMut(Status) + Send>>,
}

/// Stands in for the metadata log on one node.
pub struct SimQuorum {
    pub me: u64,
    pub outbox: Outbox,
    pub view: Arc<Mutex<QuorumView>>,
}

impl fmt::Debug for SimQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimQuorum({})", self.me)
    }
}

impl SimQuorum {
    fn view(&self) -> std::sync::MutexGuard<'_, QuorumView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quorum for SimQuorum {
    fn status(&self) -> Status {
        self.view().status.clone()
    }

    fn leads(&self, term: u64) -> bool {
        let view = self.view();
        view.status.leader == Some(self.me) && view.status.term == term
    }

    fn propose(&self, entry: Vec<u8>, limit: Duration, answer: OnOutcome, settled: Act) {
        self.outbox.push(Effect::Propose { entry, limit, answer, settled });
    }

    fn after(&self, delay: Duration, act: Act) {
        self.outbox.push(Effect::After { delay, act });
    }

    fn watch(&self, told: Box<dyn FnMut(Status) + Send>) {
        self.view().watchers.push(told);
        self.outbox.push(Effect::Watched);
    }

    fn when_stopped(&self, _told: Box<dyn FnOnce(String) + Send>) {}

    fn transfer_leadership(&self, to: u64) {
        self.outbox.push(Effect::TransferLeadership { to });
    }

    fn replace_leader(&self, _gone: u64, after: Duration) {
        self.outbox.push(Effect::ReplaceLeader { after });
    }

    fn change_members(&self, _change: MemberChange, _timeout: Duration, answer: OnOutcome) {
        answer(Err(ProposeError::MembersStay("the members of a simulation are fixed".into())));
    }

    fn answer_peer(self: Arc<Self>, _request: Vec<u8>) -> BoxFuture<Result<Vec<u8>, String>> {
        Box::pin(std::future::ready(Err("the stand-in for the quorum sends no messages".into())))
    }

    /// Whatever it would do, a simulation does by its effects.
    fn spawn(&self, _task: BoxFuture<()>) {}

    fn stop(&self) {}
}

/// The sending half of a connection to a leader that is followed.
pub struct SimSender {
    pub leader: NodeId,
    pub conn: u64,
    pub outbox: Outbox,
}

impl Sending for SimSender {
    fn try_send(&self, frame: &[u8]) -> bool {
        self.outbox.push(Effect::FollowSend { conn: self.conn, frame: frame.to_vec() });
        true
    }

    fn close(&self) {
        self.outbox.push(Effect::FollowClose { leader: self.leader, conn: self.conn });
    }
}

/// A whole frame from the front of what was read, without its length.
#[must_use]
pub fn take_frame(buffer: &mut Vec<u8>) -> Option<Bytes> {
    let length = buffer.first_chunk::<4>()?;
    let bytes = usize::try_from(i32::from_be_bytes(*length)).expect("a node sends frames");
    if buffer.len() < 4 + bytes {
        return None;
    }
    let rest = buffer.split_off(4 + bytes);
    let whole = std::mem::replace(buffer, rest);
    Some(Bytes::from(whole).slice(4..))
}

/// What who waits for an answer hears when there is none.
#[must_use]
pub fn lost() -> LinkError {
    LinkError::Lost("a simulated node".into())
}

#[must_use]
pub fn unreachable_node() -> LinkError {
    LinkError::Unreachable("a simulated node".into(), std::io::ErrorKind::ConnectionRefused.into())
}
