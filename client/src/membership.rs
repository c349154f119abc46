//! A member of a classic consumer group: joins, is given partitions, says that it lives, commits, leaves. It must be called often:
//! no thread of its own does that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::HeartbeatRequest;
use ottla_protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use ottla_protocol::messages::join_group_response::JoinGroupResponse;
use ottla_protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use ottla_protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use ottla_protocol::records::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, consumer_protocol_assignment,
    decode_versioned_or_newest, encode_versioned,
};

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::group::{check_commit, commit_request};
use crate::metadata::TopicPartition;

const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
/// The assignor that every client knows, so that this one may join their groups.
const ASSIGNOR: &str = "range";

/// One member. It has a connection set of its own: a join may be answered only after a minute.
pub struct Member {
    cluster: Cluster,
    group: String,
    topics: Vec<String>,
    coordinator: i32,
    id: String,
    generation: i32,
    heard: Instant,
    joined: bool,
}

/// What became of the membership.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    Unchanged,
    /// Others came or went: these partitions are this member's now.
    Assigned(Vec<TopicPartition>),
}

impl Member {
    /// A member to be; [`Member::join`] makes it one.
    ///
    /// # Errors
    /// The group has no coordinator.
    pub fn new(mut cluster: Cluster, group: &str, topics: &[String]) -> Result<Self> {
        let coordinator = cluster.coordinator(group)?;
        Ok(Self {
            cluster,
            group: group.to_owned(),
            topics: topics.to_vec(),
            coordinator,
            id: String::new(),
            generation: -1,
            heard: Instant::now(),
            joined: false,
        })
    }

    /// Joins or joins again, and waits for the others; gives the partitions that are this member's.
    ///
    /// # Errors
    /// The group refuses this member.
    pub fn join(&mut self) -> Result<Vec<TopicPartition>> {
        let deadline = Instant::now() + REBALANCE_TIMEOUT * 2;
        loop {
            let outcome = self.join_once();
            let Err(error) = outcome else {
                self.joined = true;
                self.heard = Instant::now();
                return outcome;
            };
            match error.code() {
                Some(ErrorCode::MemberIdRequired | ErrorCode::RebalanceInProgress) => {}
                Some(ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration) => self.forget(),
                _ if error.is_retriable() => {
                    self.cluster.forget_all();
                    self.coordinator = self.cluster.coordinator(&self.group)?;
                }
                _ => return Err(error),
            }
            if Instant::now() > deadline {
                return Err(error);
            }
        }
    }

    fn forget(&mut self) {
        self.id.clear();
        self.generation = -1;
        self.joined = false;
    }

    fn what(&self) -> String {
        format!("group {}", self.group)
    }

    fn join_once(&mut self) -> Result<Vec<TopicPartition>> {
        let subscription = ConsumerProtocolSubscription {
            topics: self.topics.iter().map(|topic| topic.as_str().into()).collect(),
            ..Default::default()
        };
        let protocol = JoinGroupRequestProtocol {
            name: ASSIGNOR.into(),
            metadata: encode_versioned(&subscription, 1).into(),
        };
        let millis = |duration: Duration| i32::try_from(duration.as_millis()).expect("short");
        let request = JoinGroupRequest {
            group_id: self.group.as_str().into(),
            session_timeout_ms: millis(SESSION_TIMEOUT),
            rebalance_timeout_ms: millis(REBALANCE_TIMEOUT),
            member_id: self.id.as_str().into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let coordinator = self.coordinator;
        self.cluster.node(coordinator)?.set_patience(REBALANCE_TIMEOUT + SESSION_TIMEOUT)?;
        let answer = self.cluster.ask(coordinator, |node| node.call(1..=9, &request))?;
        if !answer.member_id.is_empty() {
            self.id = answer.member_id.to_string();
        }
        Error::check(self.what(), answer.error_code, None)?;
        self.generation = answer.generation_id;
        let assignments =
            if answer.leader == answer.member_id { self.assignments(&answer)? } else { Vec::new() };
        let request = SyncGroupRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.id.as_str().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: answer.protocol_name.clone(),
            assignments,
            ..Default::default()
        };
        let answer = self.cluster.ask(coordinator, |node| node.call(0..=5, &request))?;
        Error::check(self.what(), answer.error_code, None)?;
        let assigned = decode_versioned_or_newest::<ConsumerProtocolAssignment>(answer.assignment);
        let partitions =
            assigned.into_iter().flat_map(|assigned| assigned.assigned_partitions).flat_map(|topic| {
                let name = topic.topic.to_string();
                topic.partitions.into_iter().map(move |index| TopicPartition::new(name.clone(), index))
            });
        Ok(partitions.collect())
    }

    /// As the leader of the group, gives each member its share.
    fn assignments(&mut self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>> {
        let mut subscribers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for member in &joined.members {
            let subscription =
                decode_versioned_or_newest::<ConsumerProtocolSubscription>(member.metadata.clone());
            for topic in subscription.into_iter().flat_map(|subscription| subscription.topics) {
                subscribers.entry(topic.to_string()).or_default().push(member.member_id.to_string());
            }
        }
        let names: Vec<&str> = subscribers.keys().map(String::as_str).collect();
        let metadata = self.cluster.metadata(Some(&names), false)?;
        let mut shares: BTreeMap<String, BTreeMap<String, Vec<i32>>> = BTreeMap::new();
        for (topic, members) in subscribers {
            let count = metadata.topic(&topic).map_or(0, |topic| topic.partitions.len());
            for (member, partitions) in ranges(members, count) {
                if !partitions.is_empty() {
                    shares.entry(member).or_default().insert(topic.clone(), partitions);
                }
            }
        }
        let members: BTreeSet<String> =
            joined.members.iter().map(|member| member.member_id.to_string()).collect();
        Ok(members
            .into_iter()
            .map(|member| {
                let topics = shares.remove(&member).unwrap_or_default().into_iter();
                let assignment = ConsumerProtocolAssignment {
                    assigned_partitions: topics
                        .map(|(topic, partitions)| consumer_protocol_assignment::TopicPartition {
                            topic: topic.into(),
                            partitions,
                        })
                        .collect(),
                    ..Default::default()
                };
                SyncGroupRequestAssignment {
                    member_id: member.into(),
                    assignment: encode_versioned(&assignment, 1).into(),
                }
            })
            .collect())
    }

    /// Says that this member lives, when it is time to. Where others come or go it joins again.
    ///
    /// # Errors
    /// The group refuses this member.
    pub fn tick(&mut self) -> Result<Progress> {
        if self.joined && self.heard.elapsed() < HEARTBEAT_EVERY {
            return Ok(Progress::Unchanged);
        }
        let request = HeartbeatRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.id.as_str().into(),
            ..Default::default()
        };
        let coordinator = self.coordinator;
        let outcome = self.cluster.ask(coordinator, |node| node.call(0..=4, &request));
        let outcome = outcome.and_then(|answer| Error::check(self.what(), answer.error_code, None));
        match outcome {
            Ok(()) => {
                self.heard = Instant::now();
                Ok(Progress::Unchanged)
            }
            Err(error) => match error.code() {
                Some(
                    ErrorCode::RebalanceInProgress
                    | ErrorCode::IllegalGeneration
                    | ErrorCode::UnknownMemberId,
                ) => self.join().map(Progress::Assigned),
                // Another broker coordinates, or soon will: the membership goes over to it.
                _ if error.is_retriable() => {
                    self.cluster.forget_all();
                    self.coordinator = self.cluster.coordinator(&self.group)?;
                    Ok(Progress::Unchanged)
                }
                _ => Err(error),
            },
        }
    }

    /// What the group has committed of these partitions.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub fn committed(&mut self) -> Result<BTreeMap<TopicPartition, i64>> {
        let committed = self.cluster.committed(&self.group)?;
        Ok(committed.into_iter().map(|(partition, committed)| (partition, committed.offset)).collect())
    }

    /// Notes how far this member has come.
    ///
    /// # Errors
    /// The partitions are another's by now, or the coordinator does not answer.
    pub fn commit(&mut self, offsets: &BTreeMap<TopicPartition, i64>) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let request = commit_request(&self.group, self.generation, &self.id, offsets);
        let group = self.group.clone();
        self.cluster.retry(|cluster| {
            let coordinator = cluster.coordinator(&group)?;
            let answer = cluster.ask(coordinator, |node| node.call(2..=9, &request))?;
            check_commit(&group, &answer)
        })
    }

    /// Leaves, so that the others need not wait for the session to end.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub fn leave(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.joined) {
            return Ok(());
        }
        let identity = MemberIdentity { member_id: self.id.as_str().into(), ..Default::default() };
        let request = LeaveGroupRequest {
            group_id: self.group.as_str().into(),
            member_id: self.id.as_str().into(),
            members: vec![identity],
        };
        let answer = self.cluster.ask(self.coordinator, |node| node.call(0..=5, &request))?;
        Error::check(self.what(), answer.error_code, None)
    }
}

/// Neighbouring partitions to each member, the first ones one more where it does not come out even.
fn ranges(mut members: Vec<String>, partitions: usize) -> Vec<(String, Vec<i32>)> {
    members.sort();
    members.dedup();
    let (each, more) = (partitions / members.len(), partitions % members.len());
    let mut next = 0;
    members
        .into_iter()
        .enumerate()
        .map(|(place, member)| {
            let count = each + usize::from(place < more);
            let share = (next..next + count).map(|index| i32::try_from(index).expect("few")).collect();
            next += count;
            (member, share)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_one_member_and_shares_differ_by_one_at_most() {
        for (members, partitions) in [(1, 0), (1, 3), (2, 3), (3, 3), (4, 3), (3, 10)] {
            let names = (0..members).map(|member| format!("m{member}")).collect();
            let shares = ranges(names, partitions);
            let all: Vec<i32> = shares.iter().flat_map(|(_, share)| share.clone()).collect();
            assert_eq!(all, (0..i32::try_from(partitions).expect("few")).collect::<Vec<_>>());
            let sizes: Vec<usize> = shares.iter().map(|(_, share)| share.len()).collect();
            let (least, most) = (sizes.iter().min().expect("some"), sizes.iter().max().expect("some"));
            assert!(most - least <= 1, "{sizes:?}");
        }
    }
}
