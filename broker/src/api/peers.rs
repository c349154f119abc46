//! What nodes ask of each other (keys from 20000 on): introductions, the quorum's messages, commands, heartbeats. Replication has a
//! file of its own. Nothing of it is advertised, and all but the introduction closes a connection that is no peer's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_machine::controller::wire::{decode_command, encode_answer};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::{
    BrokerBeatRequest, BrokerBeatResponse, ControllerCommandRequest, ControllerCommandResponse,
    FoundClusterRequest, FoundClusterResponse, JoinQuorumRequest, JoinQuorumResponse, PeerHelloRequest,
    PeerHelloResponse, QuorumRequest, QuorumResponse,
};
use ottla_protocol::types::{BrokerEpoch, NodeId, Uuid};

use super::replica_fetch::ReplicaSession;
use super::{Reply, RequestContext};
use crate::peers::Address;

/// The other end of a connection that introduced itself.
#[derive(Debug)]
pub struct Peer {
    pub node: NodeId,
    pub directory: Uuid,
    pub epoch: BrokerEpoch,
    /// The cluster that it belongs to; zero for a fresh one.
    pub cluster: Uuid,
    /// Its heartbeats, or its quorum's messages, came this way: the end of the connection may be the end of the node.
    pub(crate) is_sign_of_life: bool,
    pub(crate) session: ReplicaSession,
}

pub fn hello(cx: &mut RequestContext<'_>, request: PeerHelloRequest) -> Reply<PeerHelloResponse> {
    let me = &cx.node.identity;
    let answer = PeerHelloResponse {
        cluster_id: me.cluster(),
        node_id: me.node.0,
        directory_id: me.directory,
        ..PeerHelloResponse::default()
    };
    let refused = |code: ErrorCode, message: String| {
        tracing::warn!("node {} was refused as a peer: {message}", request.node_id);
        Reply::Now(PeerHelloResponse {
            error_code: code.code(),
            error_message: Some(message.into()),
            ..answer.clone()
        })
    };
    let (ours, theirs) = (me.cluster(), request.cluster_id);
    if !ours.is_zero() && !theirs.is_zero() && ours != theirs {
        return refused(
            ErrorCode::InconsistentClusterId,
            format!("it belongs to cluster {theirs}, and this node {} to cluster {ours}", me.node),
        );
    }
    if request.node_id == me.node.0 && request.directory_id != me.directory {
        return refused(
            ErrorCode::DuplicateBrokerRegistration,
            format!("node.id {} is this node's own: two nodes have the same", me.node),
        );
    }
    cx.connection.node = Some(Box::new(Peer {
        node: NodeId(request.node_id),
        directory: request.directory_id,
        epoch: BrokerEpoch(request.broker_epoch),
        cluster: theirs,
        is_sign_of_life: false,
        session: ReplicaSession::default(),
    }));
    Reply::Now(answer)
}

/// The peer at the other end, if it belongs to the cluster.
pub(super) fn member<'a>(cx: &'a RequestContext<'_>) -> Option<&'a Peer> {
    let ours = cx.node.identity.cluster();
    cx.connection.node.as_deref().filter(|peer| !ours.is_zero() && peer.cluster == ours)
}

pub fn quorum(cx: &mut RequestContext<'_>, request: QuorumRequest) -> Reply<QuorumResponse> {
    if member(cx).is_none() {
        return Reply::Close("the quorum's messages are for members of this cluster");
    }
    if let Some(peer) = cx.connection.node.as_deref_mut() {
        peer.is_sign_of_life = true;
    }
    let slot = cx.defer();
    cx.node.controller.answer_quorum(request.payload.to_vec(), move |answer| {
        let (error_code, payload) = match answer {
            Ok(payload) => (0, Bytes::from(payload)),
            Err(code) => (code.code(), Bytes::new()),
        };
        slot.complete(&QuorumResponse { error_code, payload });
    });
    Reply::Later
}

pub fn found(cx: &mut RequestContext<'_>, request: FoundClusterRequest) -> Reply<FoundClusterResponse> {
    let voters: Vec<_> = request
        .voters
        .iter()
        .filter_map(|voter| Some((Address::parse(&voter.address)?, voter.directory_id)))
        .collect();
    let slot = cx.defer();
    let founding = Arc::clone(&cx.node.founding);
    // It writes to the disk before it answers.
    cx.node.flusher.run_job(move || {
        let (error_code, error_message) = match founding.accept(request.cluster_id, &voters) {
            Ok(()) => (0, None),
            Err(message) => (ErrorCode::InconsistentClusterId.code(), Some(message.into())),
        };
        slot.complete(&FoundClusterResponse { error_code, error_message });
    });
    Reply::Later
}

pub fn join(cx: &mut RequestContext<'_>, request: JoinQuorumRequest) -> Reply<JoinQuorumResponse> {
    let failed = |code: ErrorCode, message: &str| JoinQuorumResponse {
        error_code: code.code(),
        error_message: Some(message.to_owned().into()),
    };
    let Some(peer) = cx.connection.node.as_deref() else {
        return Reply::Close("joining the quorum is for peers");
    };
    let Some(address) = Address::parse(&request.address).filter(|address| address.node == peer.node) else {
        return Reply::Now(failed(ErrorCode::InvalidRequest, "the address is not id@host:port"));
    };
    let directory = peer.directory;
    let image = cx.node.image.load();
    if let Some(twin) = image.broker(address.node).filter(|twin| !twin.fenced && twin.directory != directory)
    {
        let message = format!(
            "node.id {} belongs to a living node with another directory, {}: give this node an id of its own",
            address.node, twin.directory
        );
        return Reply::Now(failed(ErrorCode::DuplicateBrokerRegistration, &message));
    }
    let slot = cx.defer();
    cx.node.controller.add_learner(directory, &address, move |outcome| {
        slot.complete(&match outcome {
            Ok(()) => JoinQuorumResponse::default(),
            Err(code) => failed(code, "this node does not lead the metadata log"),
        });
    });
    Reply::Later
}

pub fn command(
    cx: &mut RequestContext<'_>,
    request: ControllerCommandRequest,
) -> Reply<ControllerCommandResponse> {
    if member(cx).is_none() {
        return Reply::Close("commands are for members of this cluster");
    }
    let failed = |code: ErrorCode| ControllerCommandResponse {
        error_code: code.code(),
        image_version: -1,
        answer: Bytes::new(),
    };
    let command = match decode_command(&request.command) {
        Ok(command) => command,
        Err(error) => {
            tracing::warn!("a command of another node can't be read: {error}");
            return Reply::Now(failed(ErrorCode::UnsupportedVersion));
        }
    };
    let limit = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let slot = cx.defer();
    cx.node.controller.submit_here(command, limit, move |outcome| {
        slot.complete(&match outcome {
            Ok((answer, version)) => ControllerCommandResponse {
                error_code: 0,
                image_version: i64::try_from(version).unwrap_or(i64::MAX),
                answer: encode_answer(&answer).into(),
            },
            Err(_) => failed(ErrorCode::NotController),
        });
    });
    Reply::Later
}

pub fn beat(cx: &mut RequestContext<'_>, request: BrokerBeatRequest) -> Reply<BrokerBeatResponse> {
    let Some(peer) = member(cx) else {
        return Reply::Close("heartbeats are for members of this cluster");
    };
    if peer.node.0 != request.node_id {
        return Reply::Close("a heartbeat in another node's name");
    }
    let (id, epoch) = (NodeId(request.node_id), BrokerEpoch(request.broker_epoch));
    cx.node.identity.contact.heard(cx.tick_ms);
    let heard = cx.node.controller.on_beat(id, epoch, request.is_ready);
    if let Some(peer) = cx.connection.node.as_deref_mut() {
        peer.epoch = epoch;
        peer.is_sign_of_life |= heard.is_ok();
    }
    Reply::Now(match heard {
        Ok(is_fenced) => BrokerBeatResponse { error_code: 0, is_fenced },
        Err(code) => BrokerBeatResponse { error_code: code.code(), is_fenced: true },
    })
}

/// How long another node may take to decide.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(30);
