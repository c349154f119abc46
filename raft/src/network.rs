//! The way to other nodes: openraft's calls as bytes over a [`Transport`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::{self, CONTENT_BYTES, Kind, Message, Piece, PieceAnswer};
use crate::types::{Member, TypeConfig, Vote};

/// Brings requests to other nodes, where [`MetadataLog::answer_peer`](crate::MetadataLog::answer_peer) makes the answers.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request of at most [`MESSAGE_BYTES_MAX`](crate::MESSAGE_BYTES_MAX) to a node and waits for the answer. `identity` is what
    /// the membership says of the node. Requests to one node arrive once at most, and may overtake each other.
    ///
    /// The answer is awaited on the log's thread, which drives no sockets and must not be blocked, and is let go after a while.
    fn ask(&self, node: u64, identity: &[u8], request: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>>;
}

/// No other node can be reached: the transport of a log with one voter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoPeers;

impl Transport for NoPeers {
    fn ask(
        &self,
        _node: u64,
        _identity: &[u8],
        _request: Vec<u8>,
    ) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        Box::pin(std::future::ready(Err(io::Error::other("this cluster has one voter"))))
    }
}

/// How long an answer may take that waits for the other node's disk.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// The same for the last piece of a snapshot, which is installed before the answer.
const INSTALLED_WITHIN: Duration = Duration::from_secs(60);
/// How often a snapshot may be begun again before openraft hears of it.
const RESTARTS_MAX: usize = 3;

/// Makes the links.
#[derive(Clone)]
pub(crate) struct Links(pub Arc<dyn Transport>);

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, member: &Member) -> Link {
        Link { transport: Arc::clone(&self.0), node: target, identity: member.identity.clone() }
    }
}

/// To one node.
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    node: u64,
    identity: Vec<u8>,
}

/// No answer, or none that can be believed.
struct NoAnswer(AnyError);

impl NoAnswer {
    fn new(reason: impl ToString) -> Self {
        Self(AnyError::error(reason))
    }
}

impl From<NoAnswer> for RPCError<TypeConfig> {
    fn from(NoAnswer(reason): NoAnswer) -> Self {
        Self::Unreachable(Unreachable::new(&reason))
    }
}

impl From<NoAnswer> for StreamingError<TypeConfig> {
    fn from(NoAnswer(reason): NoAnswer) -> Self {
        Self::Unreachable(Unreachable::new(&reason))
    }
}

impl Link {
    async fn ask<T: DeserializeOwned>(
        &self,
        kind: Kind,
        request: Vec<u8>,
        within: Duration,
    ) -> Result<T, NoAnswer> {
        let answer = self.transport.ask(self.node, &self.identity, request);
        let answer =
            tokio::time::timeout(within, answer).await.map_err(NoAnswer::new)?.map_err(NoAnswer::new)?;
        let answer = Message::read(&answer).map_err(NoAnswer::new)?;
        if (answer.kind, answer.node) != (kind, self.node) {
            return Err(NoAnswer::new("an answer to something else"));
        }
        answer.head().map_err(NoAnswer::new)
    }

    async fn ask_in_brief<T: DeserializeOwned>(
        &self,
        kind: Kind,
        head: &impl Serialize,
    ) -> Result<T, RPCError<TypeConfig>> {
        Ok(self.ask(kind, message::write(kind, self.node, head, &[]), ANSWERED_WITHIN).await?)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Vec<u8>>,
    ) -> Result<Vote, StreamingError<TypeConfig>> {
        let bytes = &snapshot.snapshot;
        let Some(last) = snapshot.meta.last_log_id else {
            return Err(NoAnswer::new("a snapshot of nothing").into());
        };
        let (mut from, mut begun) = (0, 1);
        let mut piece =
            Piece { vote, last, bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes), offset: 0 };
        loop {
            let content = &bytes[from..bytes.len().min(from + CONTENT_BYTES)];
            piece.offset = from as u64;
            let upto = from + content.len();
            let within = if upto == bytes.len() { INSTALLED_WITHIN } else { ANSWERED_WITHIN };
            let request = message::write(Kind::Snapshot, self.node, &piece, content);
            match self.ask(Kind::Snapshot, request, within).await? {
                PieceAnswer::Whole(vote) => return Ok(vote),
                PieceAnswer::Next(next) if next == upto as u64 && upto < bytes.len() => from = upto,
                // The other node began again, or heard another leader in between.
                PieceAnswer::Next(_) if begun < RESTARTS_MAX => (from, begun) = (0, begun + 1),
                PieceAnswer::Next(_) => {
                    let reason = AnyError::error("the snapshot is not taken");
                    return Err(StreamingError::Network(NetworkError::new(&reason)));
                }
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (request, last) = message::write_append(self.node, &rpc);
        let all = last == rpc.entries.last().map_or(rpc.prev_log_id, |entry| Some(entry.log_id));
        match self.ask(Kind::Append, request, ANSWERED_WITHIN).await? {
            AppendEntriesResponse::Success if !all => Ok(AppendEntriesResponse::PartialSuccess(last)),
            // openraft asks neither of nodes that answer rightly.
            AppendEntriesResponse::Conflict if rpc.prev_log_id.is_none() => {
                Err(NoAnswer::new("a conflict with nothing").into())
            }
            AppendEntriesResponse::PartialSuccess(_) => Err(NoAnswer::new("it took a part").into()),
            answer => Ok(answer),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_in_brief(Kind::Vote, &rpc).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_in_brief(Kind::PreVote, &rpc).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Vec<u8>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent.map(SnapshotResponse::new),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_in_brief(Kind::TransferLeader, &request).await
    }
}
