//! OffsetCommit, OffsetFetch and OffsetDelete (keys 8, 9, 47). v10 of the first two name topics by id.

use std::collections::HashSet;
use std::sync::Arc;

use bytestring::ByteString;
use ottla_machine::controller::image::Image;
use ottla_machine::group::coordinator::{GroupCoordinator, GroupReply};
use ottla_machine::group::offsets::Committed;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use ottla_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use ottla_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use ottla_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use ottla_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse,
};

use super::gather::Gather;
use super::{Reply, RequestContext};

pub fn commit(cx: &mut RequestContext<'_>, mut request: OffsetCommitRequest) -> Reply<OffsetCommitResponse> {
    let (image, version) = (cx.node.image.load_full(), cx.version);
    let mut unknown = Vec::new();
    if version >= 10 {
        request.topics.retain_mut(|topic| match image.topic(topic.topic_id) {
            Some(known) => {
                topic.name = ByteString::from(&*known.name);
                true
            }
            None => {
                unknown.push(answered(topic, ErrorCode::UnknownTopicId));
                false
            }
        });
    }
    // What is not there says so whatever the group's state is.
    let check = move |topic: &str, index: i32| match image.topic_by_name(topic) {
        Some(known) if known.partition(index.into()).is_some() => Ok(()),
        _ => Err(ErrorCode::UnknownTopicOrPartition),
    };
    let same = |code: ErrorCode| {
        let topics = request.topics.iter().map(|topic| OffsetCommitResponseTopic {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions: topic
                .partitions
                .iter()
                .map(|partition| OffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: check(&topic.name, partition.partition_index).err().unwrap_or(code).code(),
                })
                .collect(),
        });
        OffsetCommitResponse { topics: topics.collect(), ..OffsetCommitResponse::default() }
    };
    let coordinator = match cx.node.coordinators.of(&request.group_id) {
        Ok(coordinator) => coordinator,
        Err(code) => {
            let mut response = same(code);
            response.topics.extend(unknown);
            return Reply::Now(response);
        }
    };
    let refusal = GroupReply::OffsetCommit(same(ErrorCode::None));
    let slot = cx.defer();
    coordinator.step(
        refusal,
        move |reply| match reply {
            GroupReply::OffsetCommit(mut response) => {
                response.topics.extend(unknown);
                slot.complete(&response);
            }
            other => panic!("OffsetCommit was answered with {other:?}"),
        },
        move |machine, token, now| machine.commit(token, &request, version, &check, now),
    );
    Reply::Later
}

/// Every partition of a topic with the same code.
fn answered(topic: &OffsetCommitRequestTopic, code: ErrorCode) -> OffsetCommitResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        error_code: code.code(),
    });
    OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
    }
}

pub fn fetch(cx: &mut RequestContext<'_>, request: OffsetFetchRequest) -> Reply<OffsetFetchResponse> {
    let (version, slot) = (cx.version, cx.defer());
    if version >= 8 {
        let gather = Gather::new(request.groups.len(), move |groups| {
            slot.complete(&OffsetFetchResponse { groups, ..OffsetFetchResponse::default() });
        });
        for (at, group) in request.groups.into_iter().enumerate() {
            let gather = Arc::clone(&gather);
            fetch_group(cx, group, move |found| gather.set(at, found));
        }
        return Reply::Later;
    }
    let group = OffsetFetchRequestGroup {
        group_id: request.group_id.clone(),
        topics: request.topics.map(|topics| {
            let topics = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
                name: topic.name,
                partition_indexes: topic.partition_indexes,
                ..OffsetFetchRequestTopics::default()
            });
            topics.collect()
        }),
        ..OffsetFetchRequestGroup::default()
    };
    let asked = group.topics.clone();
    fetch_group(cx, group, move |found| slot.complete(&old_response(found, asked, version)));
    Reply::Later
}

fn old_response(
    found: OffsetFetchResponseGroup,
    asked: Option<Vec<OffsetFetchRequestTopics>>,
    version: i16,
) -> OffsetFetchResponse {
    // Before version 2 there is no place for an error of the whole group: each partition has it.
    let topics = if found.error_code != 0 && version < 2 {
        let all = asked.into_iter().flatten().map(|topic| OffsetFetchResponseTopic {
            name: topic.name,
            partitions: topic
                .partition_indexes
                .into_iter()
                .map(|index| OffsetFetchResponsePartition {
                    partition_index: index,
                    committed_offset: -1,
                    committed_leader_epoch: -1,
                    metadata: Some(ByteString::default()),
                    error_code: found.error_code,
                })
                .collect(),
        });
        all.collect()
    } else {
        found.topics.into_iter().map(old_topic).collect()
    };
    OffsetFetchResponse { topics, error_code: found.error_code, ..OffsetFetchResponse::default() }
}

fn old_topic(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let partitions = topic.partitions.into_iter().map(|partition| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
    });
    OffsetFetchResponseTopic { name: topic.name, partitions: partitions.collect() }
}

/// One group's offsets, once what they rest on is committed.
fn fetch_group(
    cx: &RequestContext<'_>,
    group: OffsetFetchRequestGroup,
    then: impl FnOnce(OffsetFetchResponseGroup) + Send + 'static,
) {
    let id = group.group_id.clone();
    let failed = |id: ByteString, code: ErrorCode| OffsetFetchResponseGroup {
        group_id: id,
        error_code: code.code(),
        ..OffsetFetchResponseGroup::default()
    };
    let coordinator = match cx.node.coordinators.of(&id) {
        Ok(coordinator) => coordinator,
        Err(code) => return then(failed(id, code)),
    };
    let (image, by_id) = (cx.node.image.load_full(), cx.version >= 10);
    coordinator.read(
        move |machine| match &group.topics {
            None => every_topic(machine, &image, &group.group_id, by_id),
            Some(topics) => {
                let one = |topic| one_topic(machine, &image, &group.group_id, topic, by_id);
                topics.iter().map(one).collect()
            }
        },
        move |seen| match seen {
            Ok(topics) => then(OffsetFetchResponseGroup { group_id: id, topics, error_code: 0 }),
            Err(code) => then(failed(id, code)),
        },
    );
}

fn partition(index: i32, committed: Option<&Committed>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: committed.map_or(-1, |committed| committed.offset),
        committed_leader_epoch: committed.map_or(-1, |committed| committed.leader_epoch),
        metadata: Some(
            committed.map_or(ByteString::default(), |committed| committed.metadata.as_str().into()),
        ),
        error_code: 0,
    }
}

fn one_topic(
    machine: &GroupCoordinator,
    image: &Image,
    group: &str,
    topic: &OffsetFetchRequestTopics,
    by_id: bool,
) -> OffsetFetchResponseTopics {
    let name = match by_id {
        false => Some(topic.name.to_string()),
        true => image.topic(topic.topic_id).map(|topic| topic.name.to_string()),
    };
    let offsets = machine.offsets(group);
    let partitions = topic.partition_indexes.iter().map(|index| match &name {
        Some(name) => partition(*index, offsets.and_then(|offsets| offsets.get(&(name.clone(), *index)))),
        None => OffsetFetchResponsePartitions {
            error_code: ErrorCode::UnknownTopicId.code(),
            ..partition(*index, None)
        },
    });
    OffsetFetchResponseTopics {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
    }
}

fn every_topic(
    machine: &GroupCoordinator,
    image: &Image,
    group: &str,
    by_id: bool,
) -> Vec<OffsetFetchResponseTopics> {
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    for ((topic, index), committed) in machine.offsets(group).into_iter().flatten() {
        let known = image.topic_by_name(topic);
        // By id, a topic that is gone has no name to be asked by.
        if by_id && known.is_none() {
            continue;
        }
        let line = partition(*index, Some(committed));
        match topics.last_mut() {
            Some(last) if *last.name == **topic => last.partitions.push(line),
            _ => topics.push(OffsetFetchResponseTopics {
                name: topic.as_str().into(),
                topic_id: known.map(|topic| topic.id).unwrap_or_default(),
                partitions: vec![line],
            }),
        }
    }
    topics
}

pub fn delete(cx: &mut RequestContext<'_>, request: OffsetDeleteRequest) -> Reply<OffsetDeleteResponse> {
    let coordinator = match &*request.group_id {
        "" => Err(ErrorCode::InvalidGroupId),
        id => cx.node.coordinators.of(id),
    };
    let coordinator = match coordinator {
        Ok(coordinator) => coordinator,
        Err(code) => {
            return Reply::Now(OffsetDeleteResponse {
                error_code: code.code(),
                ..OffsetDeleteResponse::default()
            });
        }
    };
    let image = cx.node.image.load_full();
    let slot = cx.defer();
    let known: HashSet<(String, i32)> = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.name.to_string(), partition.partition_index))
        })
        .filter(|(topic, index)| {
            image.topic_by_name(topic).is_some_and(|topic| topic.partition((*index).into()).is_some())
        })
        .collect();
    coordinator.step(
        GroupReply::OffsetDelete(OffsetDeleteResponse::default()),
        move |reply| match reply {
            GroupReply::OffsetDelete(mut response) => {
                for topic in &mut response.topics {
                    for partition in &mut topic.partitions {
                        if !known.contains(&(topic.name.to_string(), partition.partition_index)) {
                            partition.error_code = ErrorCode::UnknownTopicOrPartition.code();
                        }
                    }
                }
                slot.complete(&response);
            }
            other => panic!("OffsetDelete was answered with {other:?}"),
        },
        move |machine, token, _| machine.delete_offsets(token, &request),
    );
    Reply::Later
}
