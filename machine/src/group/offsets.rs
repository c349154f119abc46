//! Committed offsets: taken, given, deleted, expired.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::offset_commit_response::{
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use ottla_protocol::messages::offset_delete_response::{
    OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use ottla_protocol::messages::{OffsetCommitRequest, OffsetDeleteRequest};
use ottla_protocol::records::{ConsumerProtocolSubscription, OffsetCommitValue, decode_versioned_or_newest};
use ottla_protocol::types::Uuid;

use super::coordinator::{GroupCoordinator, GroupReply, Now, Then, Token};
use super::join::check_member;
use super::{Group, State, record};
use crate::sabotage::{Bug, is_on};

/// By topic and partition.
pub type Offsets = BTreeMap<(String, i32), Committed>;

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_ms: i64,
    /// Set by old clients that name a retention of their own.
    pub expire_ms: Option<i64>,
    pub topic_id: Uuid,
}

impl Committed {
    pub(super) fn of(value: &OffsetCommitValue) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.to_string(),
            commit_ms: value.commit_timestamp,
            expire_ms: Some(value.expire_timestamp).filter(|at| *at >= 0),
            topic_id: value.topic_id,
        }
    }
}

/// A topic that is unknown to the broker was named: its partitions answer with this.
pub type TopicCheck<'a> = &'a dyn Fn(&str, i32) -> Result<(), ErrorCode>;

impl GroupCoordinator {
    /// OffsetCommit. Topics have names here; the caller resolves ids. `check` judges one partition.
    pub fn commit(
        &mut self,
        token: Token,
        request: &OffsetCommitRequest,
        version: i16,
        check: TopicCheck<'_>,
        now: Now,
    ) {
        self.begin();
        let allowed = self.check_commit(request, version, now);
        let mut records = Vec::new();
        let topics = request
            .topics
            .iter()
            .map(|topic| OffsetCommitResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: topic
                    .partitions
                    .iter()
                    .map(|partition| {
                        let index = partition.partition_index;
                        let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
                        // What is not there comes before what may not be, as in Kafka.
                        let judged = check(&topic.name, index).and(allowed).and_then(|()| {
                            // Kafka counts Java's characters, whatever the setting's name says.
                            let fits =
                                metadata.encode_utf16().count() <= self.settings.offset_metadata_max_bytes;
                            if fits { Ok(()) } else { Err(ErrorCode::OffsetMetadataTooLarge) }
                        });
                        if judged.is_ok() {
                            let committed = Committed {
                                offset: partition.committed_offset,
                                leader_epoch: partition.committed_leader_epoch,
                                metadata: metadata.to_owned(),
                                commit_ms: now.wall_ms,
                                expire_ms: (request.retention_time_ms >= 0)
                                    .then(|| now.wall_ms.saturating_add(request.retention_time_ms)),
                                topic_id: topic.topic_id,
                            };
                            records.push(record::offset(&request.group_id, &topic.name, index, &committed));
                        }
                        let code = judged.err().unwrap_or(ErrorCode::None);
                        OffsetCommitResponsePartition { partition_index: index, error_code: code.code() }
                    })
                    .collect(),
            })
            .collect();
        let reply =
            GroupReply::OffsetCommit(OffsetCommitResponse { topics, ..OffsetCommitResponse::default() });
        if records.is_empty() {
            self.reply(token, reply);
        } else if is_on(Bug::AcknowledgeCommitEarly) {
            self.reply(token, reply);
            self.append(records, Then::Nothing);
        } else {
            self.append(records, Then::Reply { token, reply });
        }
    }

    fn check_commit(
        &mut self,
        request: &OffsetCommitRequest,
        version: i16,
        now: Now,
    ) -> Result<(), ErrorCode> {
        let (id, generation) = (&*request.group_id, request.generation_id_or_member_epoch);
        let (member, instance) = (&*request.member_id, request.group_instance_id.as_deref());
        let Some(group) = self.groups.get(id) else {
            if generation >= 0 {
                return Err(if version >= 9 {
                    ErrorCode::GroupIdNotFound
                } else {
                    ErrorCode::IllegalGeneration
                });
            }
            // Its first offset makes it a group, once that is in the log.
            return Ok(());
        };
        if generation < 0 && group.state == State::Empty {
            return Ok(());
        }
        if generation >= 0 || !member.is_empty() || instance.is_some() {
            check_member(group, member, instance)?;
            if generation != group.generation && !is_on(Bug::CommitInAnyGeneration) {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else {
            // A stranger's commit would move a living group's offsets.
            return Err(ErrorCode::UnknownMemberId);
        }
        if group.state == State::Completing {
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.touch(id, member, now);
        Ok(())
    }

    /// The offsets of a group; none for one that is not known.
    #[must_use]
    pub fn offsets(&self, group: &str) -> Option<&Offsets> {
        self.offsets.get(group)
    }

    /// OffsetDelete (KIP-496).
    pub fn delete_offsets(&mut self, token: Token, request: &OffsetDeleteRequest) {
        self.begin();
        let id = &*request.group_id;
        let failed = |code: ErrorCode| {
            GroupReply::OffsetDelete(OffsetDeleteResponse { error_code: code.code(), ..Default::default() })
        };
        let Some(group) = self.groups.get(id) else {
            self.reply(token, failed(ErrorCode::GroupIdNotFound));
            return;
        };
        let is_consumer = group.protocol_type.as_deref() == Some("consumer");
        if group.state != State::Empty && !is_consumer {
            self.reply(token, failed(ErrorCode::NonEmptyGroup));
            return;
        }
        let mut records = Vec::new();
        let topics = request
            .topics
            .iter()
            .map(|topic| {
                let subscribed = is_subscribed(group, &topic.name);
                let partitions = topic.partitions.iter().map(|partition| {
                    let place = (topic.name.to_string(), partition.partition_index);
                    let code = if subscribed { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
                    if !subscribed && self.offsets.get(id).is_some_and(|offsets| offsets.contains_key(&place))
                    {
                        records.push(record::offset_removed(id, &topic.name, partition.partition_index));
                    }
                    OffsetDeleteResponsePartition {
                        partition_index: partition.partition_index,
                        error_code: code.code(),
                    }
                });
                OffsetDeleteResponseTopic { name: topic.name.clone(), partitions: partitions.collect() }
            })
            .collect();
        let reply =
            GroupReply::OffsetDelete(OffsetDeleteResponse { topics, ..OffsetDeleteResponse::default() });
        if records.is_empty() {
            self.reply(token, reply);
        } else {
            self.append(records, Then::Reply { token, reply });
        }
    }

    /// Takes back offsets that nobody used for too long, and groups that have nothing left (KIP-211).
    pub(super) fn expire_offsets(&mut self, now: Now) {
        let retention = self.settings.offsets_retention_ms;
        let mut records = Removals::default();
        for (id, group) in &self.groups {
            let offsets = self.offsets.get(id);
            let mut kept = 0;
            for ((topic, partition), committed) in offsets.into_iter().flatten() {
                let since = match (group.state, &group.protocol_type) {
                    // From when the group became empty, not from the commit: it may have read for months.
                    (State::Empty, Some(_)) => Some(group.since_ms.max(committed.commit_ms)),
                    (State::Empty, None) => Some(committed.commit_ms),
                    (State::Stable, Some(kind)) if kind == "consumer" && !is_subscribed(group, topic) => {
                        Some(committed.commit_ms)
                    }
                    _ => None,
                };
                let over = since.is_some_and(|since| match committed.expire_ms {
                    Some(at) => now.wall_ms >= at,
                    None => now.wall_ms.saturating_sub(since) >= retention,
                });
                if over {
                    records.push(record::offset_removed(id, topic, *partition));
                } else {
                    kept += 1;
                }
            }
            if group.state == State::Empty && group.pending.is_empty() && kept == 0 {
                records.push(record::group_removed(id));
            }
        }
        self.remove(records);
    }

    /// These topics are gone: so are the offsets in them. A group that has nothing left goes at the next look for expired ones.
    pub fn on_topics_deleted(&mut self, deleted: &BTreeSet<String>) {
        self.begin();
        let mut records = Removals::default();
        for (id, offsets) in &self.offsets {
            for (topic, partition) in offsets.keys().filter(|(topic, _)| deleted.contains(topic)) {
                records.push(record::offset_removed(id, topic, *partition));
            }
        }
        self.remove(records);
    }

    fn remove(&mut self, records: Removals) {
        for batch in records.0 {
            self.append(batch, Then::Nothing);
        }
    }
}

/// Records that take something back, in batches of a size that readers of the log can hold.
#[derive(Default)]
struct Removals(Vec<Vec<record::StoredRecord>>);

impl Removals {
    const BATCH: usize = 1000;

    fn push(&mut self, record: record::StoredRecord) {
        match self.0.last_mut() {
            Some(batch) if batch.len() < Self::BATCH => batch.push(record),
            _ => self.0.push(vec![record]),
        }
    }
}

/// Whether a member of a consumer group names the topic in its subscription. Unreadable metadata names every topic.
fn is_subscribed(group: &Group, topic: &str) -> bool {
    group.members.values().any(|member| {
        member.protocols.first().is_some_and(|(_, metadata)| {
            match decode_versioned_or_newest::<ConsumerProtocolSubscription>(Bytes::clone(metadata)) {
                Ok(subscription) => subscription.topics.iter().any(|name| &**name == topic),
                Err(_) => true,
            }
        })
    })
}
