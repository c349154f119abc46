//! Consumer groups from outside: which there are, who is in them, how far they have come.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};
use ottla_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest,
    consumer_group_describe_response, describe_groups_response,
};
use ottla_protocol::records::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, decode_versioned_or_newest,
};
use ottla_protocol::wire::Request as _;

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::metadata::TopicPartition;

/// A group as a list names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupListing {
    pub id: String,
    /// `Stable`, `Empty`, ...; empty where an old broker does not say.
    pub state: String,
    /// `classic`, `consumer`, `share`, `streams`; what an old broker lists is classic.
    pub kind: String,
    /// `consumer` for groups that read topics; others (Kafka Connect) keep no offsets that mean anything here.
    pub protocol_type: String,
    pub coordinator: i32,
}

/// A group and its members.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub id: String,
    pub state: String,
    /// The assignor that the members agreed upon.
    pub assignor: String,
    pub kind: &'static str,
    pub coordinator: i32,
    pub members: Vec<GroupMember>,
}

#[derive(Clone, Debug, Default)]
pub struct GroupMember {
    pub id: String,
    /// `group.instance.id`, for static members.
    pub instance: Option<String>,
    pub client_id: String,
    pub host: String,
    pub topics: Vec<String>,
    pub partitions: Vec<TopicPartition>,
}

/// How far a group has come in one partition: the next offset that it would read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
}

impl Cluster {
    /// All groups, by name. A broker that does not answer hides its groups: then that is the error.
    ///
    /// # Errors
    /// A broker does not answer.
    pub fn groups(&mut self) -> Result<Vec<GroupListing>> {
        let mut found = Vec::new();
        let brokers: Vec<i32> =
            self.metadata(Some(&[]), false)?.brokers.iter().map(|broker| broker.id).collect();
        for id in brokers {
            let listed = self.retry(|cluster| {
                let answer = cluster.ask(id, |node| node.call(0..=5, &ListGroupsRequest::default()))?;
                Error::check(format!("the groups of broker {id}"), answer.error_code, None)?;
                Ok(answer.groups)
            })?;
            found.extend(listed.into_iter().map(|group| GroupListing {
                id: group.group_id.to_string(),
                state: group.group_state.to_string(),
                kind: match group.group_type.to_lowercase() {
                    kind if kind.is_empty() => "classic".to_owned(),
                    kind => kind,
                },
                protocol_type: group.protocol_type.to_string(),
                coordinator: id,
            }));
        }
        found.sort();
        Ok(found)
    }

    /// A group and its members; `None` if there is none of that name.
    ///
    /// # Errors
    /// Its coordinator does not answer.
    pub fn group(&mut self, id: &str) -> Result<Option<Group>> {
        self.retry(|cluster| {
            let coordinator = cluster.coordinator(id)?;
            let request = DescribeGroupsRequest { groups: vec![id.into()], ..Default::default() };
            let answer = cluster.ask(coordinator, |node| node.call(0..=6, &request))?;
            let Some(group) = answer.groups.into_iter().next() else { return Ok(None) };
            let gone = group.error_code == ErrorCode::GroupIdNotFound.code();
            if gone || group.group_state == "Dead" {
                return cluster.group_of_new_protocol(id, coordinator);
            }
            Error::check(format!("group {id}"), group.error_code, group.error_message.as_deref())?;
            Ok(Some(classic(group, coordinator)))
        })
    }

    /// A group of KIP-848, which the older request does not know.
    fn group_of_new_protocol(&mut self, id: &str, coordinator: i32) -> Result<Option<Group>> {
        if self.node(coordinator)?.served(ConsumerGroupDescribeRequest::KEY).is_none() {
            return Ok(None);
        }
        let request = ConsumerGroupDescribeRequest { group_ids: vec![id.into()], ..Default::default() };
        let answer = self.ask(coordinator, |node| node.call(0..=1, &request))?;
        let Some(group) = answer.groups.into_iter().next() else { return Ok(None) };
        if group.error_code == ErrorCode::GroupIdNotFound.code() {
            return Ok(None);
        }
        Error::check(format!("group {id}"), group.error_code, group.error_message.as_deref())?;
        Ok(Some(Group {
            id: id.to_owned(),
            state: group.group_state.to_string(),
            assignor: group.assignor_name.to_string(),
            kind: "consumer",
            coordinator,
            members: group.members.into_iter().map(member_of_new_protocol).collect(),
        }))
    }

    /// What a group has committed, by partition.
    ///
    /// # Errors
    /// Its coordinator does not answer.
    pub fn committed(&mut self, group: &str) -> Result<BTreeMap<TopicPartition, Committed>> {
        self.retry(|cluster| {
            let coordinator = cluster.coordinator(group)?;
            let request = OffsetFetchRequest {
                group_id: group.into(),
                topics: None,
                groups: vec![OffsetFetchRequestGroup {
                    group_id: group.into(),
                    topics: None,
                    ..Default::default()
                }],
                require_stable: false,
            };
            let answer = cluster.ask(coordinator, |node| node.call(8..=9, &request))?;
            let Some(found) = answer.groups.into_iter().next() else { return Ok(BTreeMap::new()) };
            if found.error_code == ErrorCode::GroupIdNotFound.code() {
                return Ok(BTreeMap::new());
            }
            Error::check(format!("group {group}"), found.error_code, None)?;
            let mut committed = BTreeMap::new();
            for topic in found.topics {
                for partition in topic.partitions {
                    let name = TopicPartition::new(&*topic.name, partition.partition_index);
                    Error::check(format!("group {group}: {name}"), partition.error_code, None)?;
                    if partition.committed_offset >= 0 {
                        let metadata = partition.metadata.unwrap_or_default().to_string();
                        let (offset, leader_epoch) =
                            (partition.committed_offset, partition.committed_leader_epoch);
                        committed.insert(name, Committed { offset, leader_epoch, metadata });
                    }
                }
            }
            Ok(committed)
        })
    }

    /// Sets offsets of a group without members, as an administrator does.
    ///
    /// # Errors
    /// The group has members, or nobody answers.
    pub fn set_committed(&mut self, group: &str, offsets: &BTreeMap<TopicPartition, i64>) -> Result<()> {
        let request = commit_request(group, -1, "", offsets);
        self.retry(|cluster| {
            let coordinator = cluster.coordinator(group)?;
            let answer = cluster.ask(coordinator, |node| node.call(2..=9, &request))?;
            check_commit(group, &answer)
        })
    }

    /// Forgets groups without members, with their offsets; each has an outcome of its own.
    ///
    /// # Errors
    /// A coordinator does not answer.
    pub fn delete_groups(&mut self, groups: &[String]) -> Result<Vec<(String, Result<()>)>> {
        let mut outcomes = Vec::new();
        for group in groups {
            let outcome = self.retry(|cluster| {
                let coordinator = cluster.coordinator(group)?;
                let request = DeleteGroupsRequest { groups_names: vec![group.as_str().into()] };
                let answer = cluster.ask(coordinator, |node| node.call(0..=2, &request))?;
                answer
                    .results
                    .iter()
                    .try_for_each(|result| Error::check(format!("group {group}"), result.error_code, None))
            });
            match outcome {
                Err(error) if error.is_absence() => return Err(error),
                outcome => outcomes.push((group.clone(), outcome)),
            }
        }
        Ok(outcomes)
    }
}

/// A commit of a member, or with generation -1 of nobody.
pub(crate) fn commit_request(
    group: &str,
    generation: i32,
    member: &str,
    offsets: &BTreeMap<TopicPartition, i64>,
) -> OffsetCommitRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for (partition, offset) in offsets {
        topics.entry(&partition.topic).or_default().push(OffsetCommitRequestPartition {
            partition_index: partition.partition,
            committed_offset: *offset,
            committed_leader_epoch: -1,
            committed_metadata: Some("".into()),
        });
    }
    OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        retention_time_ms: -1,
        topics: topics
            .into_iter()
            .map(|(name, partitions)| OffsetCommitRequestTopic {
                name: name.into(),
                partitions,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

pub(crate) fn check_commit(
    group: &str,
    answer: &ottla_protocol::messages::OffsetCommitResponse,
) -> Result<()> {
    for topic in &answer.topics {
        for partition in &topic.partitions {
            let name = TopicPartition::new(&*topic.name, partition.partition_index);
            Error::check(format!("group {group}: {name}"), partition.error_code, None)?;
        }
    }
    Ok(())
}

fn classic(group: describe_groups_response::DescribedGroup, coordinator: i32) -> Group {
    let reads_topics = group.protocol_type == "consumer";
    let member = |member: describe_groups_response::DescribedGroupMember| {
        let (metadata, assignment) = if reads_topics {
            (member.member_metadata, member.member_assignment)
        } else {
            (Bytes::new(), Bytes::new())
        };
        // Members in the midst of a rebalance have neither; what can't be read is as good as absent here.
        let subscription = decode_versioned_or_newest::<ConsumerProtocolSubscription>(metadata).ok();
        let assigned = decode_versioned_or_newest::<ConsumerProtocolAssignment>(assignment).ok();
        let partitions =
            assigned.into_iter().flat_map(|assigned| assigned.assigned_partitions).flat_map(|topic| {
                let name = topic.topic.to_string();
                topic.partitions.into_iter().map(move |index| TopicPartition::new(name.clone(), index))
            });
        let mut partitions: Vec<TopicPartition> = partitions.collect();
        partitions.sort();
        GroupMember {
            id: member.member_id.to_string(),
            instance: member.group_instance_id.map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.trim_start_matches('/').to_owned(),
            topics: subscription
                .into_iter()
                .flat_map(|subscription| subscription.topics)
                .map(|topic| topic.to_string())
                .collect(),
            partitions,
        }
    };
    Group {
        id: group.group_id.to_string(),
        state: group.group_state.to_string(),
        assignor: group.protocol_data.to_string(),
        kind: "classic",
        coordinator,
        members: group.members.into_iter().map(member).collect(),
    }
}

fn member_of_new_protocol(member: consumer_group_describe_response::Member) -> GroupMember {
    let partitions = member.assignment.topic_partitions.into_iter().flat_map(|topic| {
        let name = topic.topic_name.to_string();
        topic.partitions.into_iter().map(move |index| TopicPartition::new(name.clone(), index))
    });
    let mut partitions: Vec<TopicPartition> = partitions.collect();
    partitions.sort();
    GroupMember {
        id: member.member_id.to_string(),
        instance: member.instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.trim_start_matches('/').to_owned(),
        topics: member.subscribed_topic_names.iter().map(ToString::to_string).collect(),
        partitions,
    }
}
