//! DescribeCluster and DescribeTopicPartitions (keys 60 and 75).

use bytestring::ByteString;
use ottla_machine::controller::image::Image;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};
use ottla_protocol::messages::describe_topic_partitions_request::Cursor as CursorAsked;
use ottla_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use ottla_protocol::messages::{DescribeClusterRequest, DescribeTopicPartitionsRequest};
use ottla_protocol::types::NodeId;

use super::metadata::{CLUSTER_OPERATIONS, NO_OPERATIONS, TOPIC_OPERATIONS, offline};
use super::{Reply, RequestContext};

const ENDPOINT_BROKER: i8 = 1;
const ENDPOINT_CONTROLLER: i8 = 2;

/// On a listener for clients, the brokers; on a listener for controllers, the voters (KIP-919).
pub fn describe(
    cx: &mut RequestContext<'_>,
    request: DescribeClusterRequest,
) -> Reply<DescribeClusterResponse> {
    let (here, name) = match cx.is_on_controller_listener() {
        true => (ENDPOINT_CONTROLLER, "controllers"),
        false => (ENDPOINT_BROKER, "brokers"),
    };
    // As clients of before KIP-919 say nothing, they are taken to mean what there is.
    let asked = if cx.version == 0 { here } else { request.endpoint_type };
    if asked != here {
        let (code, message) = match asked {
            ENDPOINT_BROKER | ENDPOINT_CONTROLLER => {
                (ErrorCode::MismatchedEndpointType, format!("The request came to a listener of {name}."))
            }
            other => (ErrorCode::UnsupportedEndpointType, format!("There are no endpoints of type {other}.")),
        };
        return Reply::Now(DescribeClusterResponse {
            error_code: code.code(),
            error_message: Some(message.into()),
            controller_id: -1,
            cluster_authorized_operations: NO_OPERATIONS,
            ..DescribeClusterResponse::default()
        });
    }
    let image = cx.node.image.load_full();
    let (controller_id, brokers) = if here == ENDPOINT_CONTROLLER {
        (cx.node.controller.leader().unwrap_or(NodeId::NONE), voters(cx))
    } else {
        (cx.controller_id(&image), brokers(cx, &image, request.include_fenced_brokers))
    };
    Reply::Now(DescribeClusterResponse {
        endpoint_type: here,
        cluster_id: image.cluster_id.to_string().into(),
        controller_id: controller_id.0,
        brokers,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            NO_OPERATIONS
        },
        ..DescribeClusterResponse::default()
    })
}

fn brokers(cx: &RequestContext<'_>, image: &Image, include_fenced: bool) -> Vec<DescribeClusterBroker> {
    let wanted = image.brokers.values().filter(|broker| !broker.fenced || include_fenced);
    wanted
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
        .collect()
}

fn voters(cx: &RequestContext<'_>) -> Vec<DescribeClusterBroker> {
    let voters = cx.node.controller.members().into_iter().filter(|member| member.is_voter);
    voters
        .filter_map(|voter| {
            let address = voter.address?;
            Some(DescribeClusterBroker {
                broker_id: address.node.0,
                host: address.host.into(),
                port: i32::from(address.port),
                rack: None,
                is_fenced: false,
            })
        })
        .collect()
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
                offline_replicas: offline(&image, &state.replicas),
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
