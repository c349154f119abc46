//! DescribeQuorum, AddRaftVoter and RemoveRaftVoter (keys 55, 80, 81): who takes part in the metadata log (KIP-595, KIP-853).
//!
//! Only the node that leads the log can answer. Any other one asks it, with the request as it came.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_machine::controller::command::Failure;
use ottla_protocol::api::ApiKey;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::add_raft_voter_response::AddRaftVoterResponse;
use ottla_protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node as QuorumNode, PartitionData, ReplicaState, TopicData,
};
use ottla_protocol::messages::remove_raft_voter_response::RemoveRaftVoterResponse;
use ottla_protocol::messages::{
    AddRaftVoterRequest, DescribeQuorumRequest, LeaderAskedRequest, LeaderAskedResponse,
    RemoveRaftVoterRequest,
};
use ottla_protocol::types::{NodeId, Uuid};
use ottla_protocol::wire::{DecodeError, Message, Reader, Request, Writer};

use super::{Output, Reply, RequestContext};
use crate::controller::{Member, Unanswered};
use crate::node::Node;
use crate::peers::raft_id;

const METADATA_TOPIC: &str = "__cluster_metadata";
/// How long the node that leads is looked for, and waited for.
const LEADER_LIMIT: Duration = Duration::from_secs(30);
/// The same for one attempt, where only something is read.
const READ_LIMIT: Duration = Duration::from_secs(1);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the members may take to agree on a change.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

type OnAnswer = Box<dyn FnOnce(Result<Bytes, ErrorCode>) + Send>;

pub fn describe(
    cx: &mut RequestContext<'_>,
    request: DescribeQuorumRequest,
) -> Reply<DescribeQuorumResponse> {
    at_leader(cx, &request, |code| DescribeQuorumResponse {
        error_code: code.code(),
        error_message: Some(code.meaning().into()),
        ..DescribeQuorumResponse::default()
    })
}

pub fn add_voter(cx: &mut RequestContext<'_>, request: AddRaftVoterRequest) -> Reply<AddRaftVoterResponse> {
    at_leader(cx, &request, |code| added(Err(code.into())))
}

pub fn remove_voter(
    cx: &mut RequestContext<'_>,
    request: RemoveRaftVoterRequest,
) -> Reply<RemoveRaftVoterResponse> {
    at_leader(cx, &request, |code| removed(Err(code.into())))
}

/// Another node passes on what it was asked.
pub fn asked(cx: &mut RequestContext<'_>, request: LeaderAskedRequest) -> Reply<LeaderAskedResponse> {
    if super::peers::member(cx).is_none() {
        return Reply::Close("requests are passed on by members of this cluster");
    }
    let failed = |code: ErrorCode| LeaderAskedResponse { error_code: code.code(), body: Bytes::new() };
    if !cx.node.controller.is_active() {
        return Reply::Now(failed(ErrorCode::NotController));
    }
    let slot = cx.defer();
    let answer: OnAnswer = Box::new(move |outcome| {
        slot.complete(&match outcome {
            Ok(body) => LeaderAskedResponse { error_code: 0, body },
            Err(code) => failed(code),
        });
    });
    answer_here(cx.node, request.api_key, request.api_version, request.body, answer);
    Reply::Later
}

fn at_leader<Q: Request>(
    cx: &mut RequestContext<'_>,
    request: &Q,
    failed: impl FnOnce(ErrorCode) -> Q::Response + Send + 'static,
) -> Reply<Q::Response>
where
    Q::Response: 'static,
{
    let slot = cx.defer();
    let body = encoded(request, cx.version);
    let answer: OnAnswer = Box::new(move |outcome| match outcome {
        Ok(body) => slot.complete_with(Output::from(body)),
        Err(code) => slot.complete(&failed(code)),
    });
    let limit_ms = u64::try_from(LEADER_LIMIT.as_millis()).unwrap_or(0);
    let request = LeaderAskedRequest { api_key: Q::KEY, api_version: cx.version, body };
    attempt(Arc::clone(cx.node), request, cx.tick_ms + limit_ms, answer);
    Reply::Later
}

/// Answers here if this node leads, else asks the one that does; again after a moment, while nobody does.
fn attempt(node: Arc<Node>, request: LeaderAskedRequest, deadline_ms: u64, answer: OnAnswer) {
    let controller = Arc::clone(&node.controller);
    if controller.is_active() {
        return answer_here(&node, request.api_key, request.api_version, request.body, answer);
    }
    // Asking twice is as good as once: a leader that hangs is not waited for.
    let is_repeatable = request.api_key == ApiKey::DescribeQuorum.code();
    let limit = if is_repeatable { READ_LIMIT } else { LEADER_LIMIT };
    let again = request.clone();
    let on_asked = move |outcome| match outcome {
        Ok(body) => answer(Ok(body)),
        Err(Unanswered::Said(code)) => answer(Err(code)),
        Err(Unanswered::Lost) if !is_repeatable => answer(Err(ErrorCode::RequestTimedOut)),
        Err(_) if node.clock.tick_ms() >= deadline_ms => answer(Err(ErrorCode::RequestTimedOut)),
        Err(_) => {
            let controller = Arc::clone(&node.controller);
            controller.after(PAUSE, move || attempt(node, again, deadline_ms, answer));
        }
    };
    controller.ask_leader(&request, limit, Box::new(on_asked));
}

fn answer_here(node: &Arc<Node>, api_key: i16, version: i16, body: Bytes, answer: OnAnswer) {
    match ApiKey::from_code(api_key) {
        Some(ApiKey::DescribeQuorum) => match decoded::<DescribeQuorumRequest>(body, version) {
            Ok(request) => answer(Ok(encoded(&described(node, &request), version))),
            Err(code) => answer(Err(code)),
        },
        Some(ApiKey::AddRaftVoter) => match decoded::<AddRaftVoterRequest>(body, version) {
            Ok(request) => add(node, &request, move |outcome| {
                answer(Ok(encoded(&added(outcome), version)));
            }),
            Err(code) => answer(Err(code)),
        },
        Some(ApiKey::RemoveRaftVoter) => match decoded::<RemoveRaftVoterRequest>(body, version) {
            Ok(request) => remove(node, &request, move |outcome| {
                answer(Ok(encoded(&removed(outcome), version)));
            }),
            Err(code) => answer(Err(code)),
        },
        _ => answer(Err(ErrorCode::UnsupportedVersion)),
    }
}

fn encoded<M: Message>(message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new();
    message.encode(&mut writer, version);
    writer.into_bytes().into()
}

/// A request that another node has read already: one that can't be read here is a newer node's.
fn decoded<Q: Request>(body: Bytes, version: i16) -> Result<Q, ErrorCode> {
    Q::decode(&mut Reader::new(body), version).map_err(|error: DecodeError| {
        tracing::warn!("a {} passed on by another node can't be read: {error}", Q::NAME);
        ErrorCode::UnsupportedVersion
    })
}

fn add(
    node: &Node,
    request: &AddRaftVoterRequest,
    answer: impl FnOnce(Result<(), Failure>) + Send + 'static,
) {
    if let Err(failure) = check_cluster(node, request.cluster_id.as_deref()) {
        return answer(Err(failure));
    }
    if request.listeners.is_empty() {
        let message = "A voter needs the address of its controller listener.";
        return answer(Err(Failure::new(ErrorCode::InvalidRequest, message)));
    }
    let limit = u64::try_from(request.timeout_ms).map_or(CHANGE_LIMIT, Duration::from_millis);
    let (id, directory) = (NodeId(request.voter_id), request.voter_directory_id);
    node.controller.add_voter(id, directory, limit.min(CHANGE_LIMIT), answer);
}

fn remove(
    node: &Node,
    request: &RemoveRaftVoterRequest,
    answer: impl FnOnce(Result<(), Failure>) + Send + 'static,
) {
    if let Err(failure) = check_cluster(node, request.cluster_id.as_deref()) {
        return answer(Err(failure));
    }
    let (id, directory) = (NodeId(request.voter_id), request.voter_directory_id);
    node.controller.remove_voter(id, directory, CHANGE_LIMIT, answer);
}

fn check_cluster(node: &Node, named: Option<&str>) -> Result<(), Failure> {
    let ours = node.controller.cluster_id().to_string();
    match named {
        Some(theirs) if theirs != ours => Err(Failure::new(
            ErrorCode::InconsistentClusterId,
            format!("The request is for cluster {theirs}, and this is cluster {ours}."),
        )),
        _ => Ok(()),
    }
}

fn added(outcome: Result<(), Failure>) -> AddRaftVoterResponse {
    let failure = outcome.err();
    AddRaftVoterResponse {
        error_code: failure.as_ref().map_or(0, |failure| failure.code.code()),
        error_message: failure.map(|failure| failure.message.into()),
        ..AddRaftVoterResponse::default()
    }
}

fn removed(outcome: Result<(), Failure>) -> RemoveRaftVoterResponse {
    let failure = outcome.err();
    RemoveRaftVoterResponse {
        error_code: failure.as_ref().map_or(0, |failure| failure.code.code()),
        error_message: failure.map(|failure| failure.message.into()),
        ..RemoveRaftVoterResponse::default()
    }
}

/// How the quorum stands, as its leader sees it.
fn described(node: &Node, request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    let members = node.controller.members();
    let state = node.controller.status().map(|status| {
        let (voters, observers): (Vec<_>, Vec<_>) = members.iter().partition(|member| member.is_voter);
        let last = end_of(status.last_index);
        let replicas = |members: Vec<&Member>| members.iter().map(|one| replica(node, one, last)).collect();
        let leader = status.leader.and_then(|id| members.iter().find(|member| member.id == id));
        PartitionData {
            leader_id: leader.map_or(-1, |leader| id_of(node, leader).0),
            leader_epoch: i32::try_from(status.term).unwrap_or(i32::MAX),
            high_watermark: end_of(status.committed),
            current_voters: replicas(voters),
            observers: replicas(observers),
            ..PartitionData::default()
        }
    });
    let mut is_described = false;
    let topics = request
        .topics
        .iter()
        .map(|topic| TopicData {
            topic_name: topic.topic_name.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|asked| match &state {
                    Some(state) if &*topic.topic_name == METADATA_TOPIC && asked.partition_index == 0 => {
                        is_described = true;
                        state.clone()
                    }
                    _ => PartitionData {
                        partition_index: asked.partition_index,
                        error_code: ErrorCode::UnknownTopicOrPartition.code(),
                        error_message: Some(ErrorCode::UnknownTopicOrPartition.meaning().into()),
                        ..PartitionData::default()
                    },
                })
                .collect(),
        })
        .collect();
    let voters = members.iter().filter(|member| is_described && member.is_voter);
    let nodes = voters.map(|voter| addressed(node, voter)).collect();
    DescribeQuorumResponse { topics, nodes, ..DescribeQuorumResponse::default() }
}

fn end_of(index: Option<u64>) -> i64 {
    index.map_or(0, |index| i64::try_from(index).unwrap_or(i64::MAX) + 1)
}

/// A member without an address is the only one, which nobody has to find.
fn id_of(node: &Node, member: &Member) -> NodeId {
    member.address.as_ref().map_or(node.id, |address| address.node)
}

fn replica(node: &Node, member: &Member, last: i64) -> ReplicaState {
    let heard_ago_ms = member.heard_ago.and_then(|ago| i64::try_from(ago.as_millis()).ok());
    let heard_ms = heard_ago_ms.map_or(-1, |ago_ms| node.clock.now_ms() - ago_ms);
    let end = end_of(member.end);
    ReplicaState {
        replica_id: id_of(node, member).0,
        replica_directory_id: directory_of(node, member.id),
        log_end_offset: end,
        last_fetch_timestamp: heard_ms,
        // Of one that is behind, nobody noted when it was not.
        last_caught_up_timestamp: if end >= last { heard_ms } else { -1 },
    }
}

/// In full as far as the image knows it.
fn directory_of(node: &Node, member: u64) -> Uuid {
    let own = node.log_dir.directory_id();
    let image = node.image.load();
    let of_brokers = image.brokers.values().map(|broker| broker.directory);
    std::iter::once(own).chain(of_brokers).find(|known| raft_id(*known) == member).unwrap_or_else(|| {
        // Of a lost disk, nobody knows more than what the quorum calls it: enough to name it where it is removed.
        let mut known = Uuid::ZERO;
        known.0[..8].copy_from_slice(&member.to_be_bytes());
        known
    })
}

fn addressed(node: &Node, voter: &Member) -> QuorumNode {
    let listener = match &voter.address {
        Some(address) => Some(Listener {
            name: node.config.quorum_listener().into(),
            host: address.host.as_str().into(),
            port: address.port,
        }),
        None => node
            .image
            .load()
            .broker(node.id)
            .and_then(|broker| broker.endpoints.first())
            .map(|at| Listener { name: (&*at.listener).into(), host: (&*at.host).into(), port: at.port }),
    };
    QuorumNode { node_id: id_of(node, voter).0, listeners: listener.into_iter().collect() }
}
