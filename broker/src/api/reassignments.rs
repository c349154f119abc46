//! AlterPartitionReassignments and ListPartitionReassignments (keys 45 and 46, KIP-455): other replicas for partitions, and what is on
//! its way. v1 of the first says whether the number of replicas may change (KIP-860).

use std::collections::BTreeMap;

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, Failure, Reassignment};
use ottla_machine::controller::image::{PartitionState, Topic};
use ottla_protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use ottla_protocol::messages::list_partition_reassignments_response::{
    ListPartitionReassignmentsResponse, OngoingPartitionReassignment, OngoingTopicReassignment,
};
use ottla_protocol::messages::{AlterPartitionReassignmentsRequest, ListPartitionReassignmentsRequest};
use ottla_protocol::types::NodeId;

use super::decided::decided;
use super::{Reply, RequestContext};

pub fn alter(
    cx: &mut RequestContext<'_>,
    request: AlterPartitionReassignmentsRequest,
) -> Reply<AlterPartitionReassignmentsResponse> {
    let changes = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|partition| Reassignment {
                topic: topic.name.to_string(),
                index: partition.partition_index,
                replicas: partition
                    .replicas
                    .as_ref()
                    .map(|replicas| replicas.iter().copied().map(NodeId).collect()),
            })
        })
        .collect();
    // Before version 1 it always may.
    let may_change_factor = cx.version < 1 || request.allow_replication_factor_change;
    let command = Command::AlterReassignments { changes, may_change_factor };
    decided(cx, request.timeout_ms, command, move |answer| {
        let mut outcomes = match answer {
            Answer::Reassigned(outcomes) => outcomes.into_iter(),
            Answer::Failed(failure) => return refused(&request, &failure),
            other => panic!("AlterPartitionReassignments was answered with {other:?}"),
        };
        let mut next = || outcomes.next().expect("every partition has an outcome").err();
        AlterPartitionReassignmentsResponse {
            allow_replication_factor_change: request.allow_replication_factor_change,
            error_message: None,
            responses: by_partition(&request, &mut next),
            ..AlterPartitionReassignmentsResponse::default()
        }
    })
}

fn refused(
    request: &AlterPartitionReassignmentsRequest,
    failure: &Failure,
) -> AlterPartitionReassignmentsResponse {
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        error_code: failure.code.code(),
        error_message: Some(failure.message.as_str().into()),
        responses: by_partition(request, &mut || Some(failure.clone())),
        ..AlterPartitionReassignmentsResponse::default()
    }
}

fn by_partition(
    request: &AlterPartitionReassignmentsRequest,
    next: &mut dyn FnMut() -> Option<Failure>,
) -> Vec<ReassignableTopicResponse> {
    let topics = request.topics.iter().map(|topic| ReassignableTopicResponse {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| {
                let failure = next();
                ReassignablePartitionResponse {
                    partition_index: partition.partition_index,
                    error_code: failure.as_ref().map_or(0, |failure| failure.code.code()),
                    error_message: failure.map(|failure| failure.message.into()),
                }
            })
            .collect(),
    });
    topics.collect()
}

/// From this node's own image: what it was asked to reassign is in it before the answer leaves.
pub fn list(
    cx: &mut RequestContext<'_>,
    request: ListPartitionReassignmentsRequest,
) -> Reply<ListPartitionReassignmentsResponse> {
    let image = cx.node.image.load();
    let mut topics: BTreeMap<&str, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
    match &request.topics {
        None => {
            let all = image.topic_ids.values().filter_map(|id| image.topic(*id));
            for topic in all {
                let ongoing: Vec<_> =
                    (0..topic.partitions.len()).filter_map(|index| ongoing(topic, index)).collect();
                if !ongoing.is_empty() {
                    topics.insert(&topic.name, ongoing);
                }
            }
        }
        Some(named) => {
            for asked in named {
                let Some(topic) = image.topic_by_name(&asked.name) else { continue };
                let indexes = asked.partition_indexes.iter();
                let indexes = indexes.filter_map(|index| usize::try_from(*index).ok());
                let found: Vec<_> = indexes.filter_map(|index| ongoing(topic, index)).collect();
                if !found.is_empty() {
                    topics.entry(&topic.name).or_default().extend(found);
                }
            }
        }
    }
    Reply::Now(ListPartitionReassignmentsResponse {
        error_message: None,
        topics: topics
            .into_iter()
            .map(|(name, partitions)| OngoingTopicReassignment { name: ByteString::from(name), partitions })
            .collect(),
        ..ListPartitionReassignmentsResponse::default()
    })
}

fn ongoing(topic: &Topic, index: usize) -> Option<OngoingPartitionReassignment> {
    let state: &PartitionState = topic.partitions.get(index)?;
    let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect();
    state.is_reassigning().then(|| OngoingPartitionReassignment {
        partition_index: i32::try_from(index).unwrap_or(i32::MAX),
        replicas: ids(&state.replicas),
        adding_replicas: ids(&state.adding),
        removing_replicas: ids(&state.removing),
    })
}
