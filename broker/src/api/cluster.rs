//! DescribeCluster, DescribeTopicPartitions and DescribeQuorum (keys 60, 75, 55).

use bytestring::ByteString;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};
use ottla_protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, PartitionData, ReplicaState, TopicData,
};
use ottla_protocol::messages::describe_topic_partitions_request::Cursor as CursorAsked;
use ottla_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use ottla_protocol::messages::{
    DescribeClusterRequest, DescribeQuorumRequest, DescribeTopicPartitionsRequest,
};
use ottla_protocol::types::NodeId;
use ottla_raft::Status;

use super::metadata::{CLUSTER_OPERATIONS, NO_OPERATIONS, TOPIC_OPERATIONS};
use super::{Reply, RequestContext};
use crate::peers::Address;

/// Brokers; 2 would be controllers, whom clients of this version do not reach.
const ENDPOINT_BROKER: i8 = 1;
/// Partitions in one answer of DescribeTopicPartitions (`max.request.partition.size.limit`).
const METADATA_TOPIC: &str = "__cluster_metadata";

pub fn describe(
    cx: &mut RequestContext<'_>,
    request: DescribeClusterRequest,
) -> Reply<DescribeClusterResponse> {
    if request.endpoint_type != ENDPOINT_BROKER {
        let code = if request.endpoint_type == 2 {
            ErrorCode::MismatchedEndpointType
        } else {
            ErrorCode::UnsupportedEndpointType
        };
        return Reply::Now(DescribeClusterResponse {
            error_code: code.code(),
            error_message: Some(code.meaning().into()),
            controller_id: -1,
            cluster_authorized_operations: NO_OPERATIONS,
            ..DescribeClusterResponse::default()
        });
    }
    let image = cx.node.image.load_full();
    let brokers = image
        .brokers
        .values()
        .filter(|broker| broker.is_active() || request.include_fenced_brokers)
        .filter_map(|broker| {
            let (host, port) = cx.address_of(broker)?;
            Some(DescribeClusterBroker {
                broker_id: broker.id.0,
                host,
                port,
                rack: broker.rack.as_deref().map(ByteString::from),
                is_fenced: broker.fenced,
            })
        })
        .collect();
    Reply::Now(DescribeClusterResponse {
        endpoint_type: ENDPOINT_BROKER,
        cluster_id: image.cluster_id.to_string().into(),
        controller_id: cx.node.id.0,
        brokers,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            NO_OPERATIONS
        },
        ..DescribeClusterResponse::default()
    })
}

/// KIP-966: pages through partitions, in the order of topic names; without names, of all topics.
pub fn describe_topic_partitions(
    cx: &mut RequestContext<'_>,
    request: DescribeTopicPartitionsRequest,
) -> Reply<DescribeTopicPartitionsResponse> {
    let image = cx.node.image.load();
    let mut names: Vec<String> = if request.topics.is_empty() {
        image.topic_ids.keys().map(ToString::to_string).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.to_string()).collect()
    };
    names.sort();
    names.dedup();
    // A cursor stands at a partition, of a topic that is asked for.
    let lost = |cursor: &CursorAsked| {
        cursor.partition_index < 0
            || !request.topics.is_empty()
                && request.topics.iter().all(|topic| topic.name != cursor.topic_name)
    };
    if request.cursor.as_ref().is_some_and(lost) {
        let refused = |name: &ByteString| DescribeTopicPartitionsResponseTopic {
            error_code: ErrorCode::InvalidRequest.code(),
            name: Some(name.clone()),
            topic_authorized_operations: NO_OPERATIONS,
            ..DescribeTopicPartitionsResponseTopic::default()
        };
        let topics = request.topics.iter().map(|topic| refused(&topic.name)).collect();
        return Reply::Now(DescribeTopicPartitionsResponse { topics, ..Default::default() });
    }
    let (from_topic, from_index) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.to_string(), usize::try_from(cursor.partition_index).unwrap_or(0)),
        None => (String::new(), 0),
    };
    let most = usize::try_from(cx.node.config.number("max.request.partition.size.limit")).unwrap_or(2000);
    let mut room = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, most.max(1));
    let (mut topics, mut next_cursor) = (Vec::new(), None);
    let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect::<Vec<_>>();
    for name in names.into_iter().filter(|name| *name >= from_topic) {
        let first = if name == from_topic { from_index } else { 0 };
        if room == 0 {
            next_cursor = Some(Cursor { topic_name: name.into(), partition_index: 0 });
            break;
        }
        let Some(topic) = image.topic_by_name(&name) else {
            let code = match ottla_machine::controller::topics::check_name(&name) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                Err(failure) => failure.code,
            };
            topics.push(DescribeTopicPartitionsResponseTopic {
                error_code: code.code(),
                name: Some(name.into()),
                topic_authorized_operations: TOPIC_OPERATIONS,
                ..DescribeTopicPartitionsResponseTopic::default()
            });
            continue;
        };
        let partitions: Vec<_> = topic
            .partitions
            .iter()
            .enumerate()
            .skip(first)
            .take(room)
            .map(|(index, state)| DescribeTopicPartitionsResponsePartition {
                error_code: if state.has_leader() { 0 } else { ErrorCode::LeaderNotAvailable.code() },
                partition_index: i32::try_from(index).unwrap_or(i32::MAX),
                leader_id: state.leader.0,
                leader_epoch: state.leader_epoch.0,
                replica_nodes: ids(&state.replicas),
                isr_nodes: ids(&state.isr),
                eligible_leader_replicas: Some(ids(&state.elr)),
                last_known_elr: Some(ids(&state.last_known_elr)),
                offline_replicas: Vec::new(),
            })
            .collect();
        room -= partitions.len();
        let end = first + partitions.len();
        topics.push(DescribeTopicPartitionsResponseTopic {
            error_code: 0,
            name: Some(ByteString::from(&*topic.name)),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
        });
        if end < topic.partitions.len() {
            next_cursor = Some(Cursor {
                topic_name: ByteString::from(&*topic.name),
                partition_index: i32::try_from(end).unwrap_or(i32::MAX),
            });
            break;
        }
    }
    Reply::Now(DescribeTopicPartitionsResponse {
        topics,
        next_cursor,
        ..DescribeTopicPartitionsResponse::default()
    })
}

/// The node that is a member of the quorum; none for the only one, which needs no address.
fn node_of(status: &Status, member: u64) -> Option<i32> {
    let address = std::str::from_utf8(status.identities.get(&member)?).ok()?;
    Some(Address::parse(address)?.node.0)
}

pub fn describe_quorum(
    cx: &mut RequestContext<'_>,
    request: DescribeQuorumRequest,
) -> Reply<DescribeQuorumResponse> {
    let status = cx.node.controller.status();
    let topics = request
        .topics
        .iter()
        .map(|topic| TopicData {
            topic_name: topic.topic_name.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|partition| {
                    let index = partition.partition_index;
                    let (Some(status), true) = (&status, &*topic.topic_name == METADATA_TOPIC && index == 0)
                    else {
                        return PartitionData {
                            partition_index: index,
                            error_code: ErrorCode::UnknownTopicOrPartition.code(),
                            error_message: (cx.version >= 2)
                                .then(|| ErrorCode::UnknownTopicOrPartition.meaning().into()),
                            ..PartitionData::default()
                        };
                    };
                    let end = |index: Option<u64>| {
                        index.map_or(0, |index| i64::try_from(index).unwrap_or(i64::MAX) + 1)
                    };
                    PartitionData {
                        partition_index: index,
                        leader_id: status
                            .leader
                            .map_or(-1, |leader| node_of(status, leader).unwrap_or(cx.node.id.0)),
                        leader_epoch: i32::try_from(status.term).unwrap_or(i32::MAX),
                        high_watermark: end(status.committed),
                        current_voters: vec![ReplicaState {
                            replica_id: cx.node.id.0,
                            replica_directory_id: cx.node.log_dir.directory_id(),
                            log_end_offset: end(status.last_index),
                            last_fetch_timestamp: cx.now_ms,
                            last_caught_up_timestamp: cx.now_ms,
                        }],
                        ..PartitionData::default()
                    }
                })
                .collect(),
        })
        .collect();
    Reply::Now(DescribeQuorumResponse { topics, ..DescribeQuorumResponse::default() })
}
