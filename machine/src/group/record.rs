//! Groups and offsets as Kafka stores them in `__consumer_offsets`: its own key and value schemas.

use bytes::Bytes;
use bytestring::ByteString;
use ottla_protocol::records::group_metadata_value::MemberMetadata;
use ottla_protocol::records::{
    GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue, encode_key, encode_versioned,
};
use ottla_protocol::types::Uuid;

use super::offsets::Committed;
use super::{Group, Member};

/// A record of `__consumer_offsets`; without a value it takes its key back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

const GROUP_VERSION: i16 = 3;
const OFFSET_VERSION: i16 = 3;
/// From this version on the value has no expiry and, later, a topic id.
const OFFSET_VERSION_WITH_EXPIRY: i16 = 1;
const OFFSET_VERSION_WITH_TOPIC_ID: i16 = 4;

pub(super) fn group(id: &str, group: &Group) -> StoredRecord {
    let members = group.order.iter().filter_map(|id| group.members.get(id));
    let value = GroupMetadataValue {
        protocol_type: group.protocol_type.as_deref().unwrap_or_default().into(),
        generation: group.generation,
        protocol: group.protocol.as_deref().map(Into::into),
        leader: group.leader.as_deref().map(Into::into),
        current_state_timestamp: group.since_ms,
        members: members
            .map(|member| MemberMetadata {
                member_id: member.id.as_str().into(),
                group_instance_id: member.instance_id.as_deref().map(Into::into),
                client_id: member.client_id.as_str().into(),
                client_host: member.client_host.as_str().into(),
                rebalance_timeout: member.rebalance_timeout_ms,
                session_timeout: member.session_timeout_ms,
                subscription: member.metadata(group.protocol.as_deref()),
                assignment: member.assignment.clone(),
            })
            .collect(),
    };
    StoredRecord { key: group_key(id), value: Some(encode_versioned(&value, GROUP_VERSION)) }
}

pub(super) fn group_removed(id: &str) -> StoredRecord {
    StoredRecord { key: group_key(id), value: None }
}

fn group_key(id: &str) -> Vec<u8> {
    encode_key(&GroupMetadataKey { group: ByteString::from(id) })
}

pub(super) fn offset(group: &str, topic: &str, partition: i32, committed: &Committed) -> StoredRecord {
    let value = OffsetCommitValue {
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.as_str().into(),
        commit_timestamp: committed.commit_ms,
        expire_timestamp: committed.expire_ms.unwrap_or(-1),
        topic_id: committed.topic_id,
    };
    let version = match (committed.expire_ms, committed.topic_id) {
        (Some(_), _) => OFFSET_VERSION_WITH_EXPIRY,
        (None, Uuid::ZERO) => OFFSET_VERSION,
        (None, _) => OFFSET_VERSION_WITH_TOPIC_ID,
    };
    StoredRecord { key: offset_key(group, topic, partition), value: Some(encode_versioned(&value, version)) }
}

pub(super) fn offset_removed(group: &str, topic: &str, partition: i32) -> StoredRecord {
    StoredRecord { key: offset_key(group, topic, partition), value: None }
}

fn offset_key(group: &str, topic: &str, partition: i32) -> Vec<u8> {
    encode_key(&OffsetCommitKey { group: group.into(), topic: topic.into(), partition })
}

/// A group as a record has it: stable if it has members, and all of them alive for one more session.
pub(super) fn restore(value: &GroupMetadataValue, tick_ms: u64) -> Group {
    let mut group = Group::new(value.current_state_timestamp.max(0));
    group.generation = value.generation;
    group.protocol_type = Some(value.protocol_type.to_string()).filter(|kind| !kind.is_empty());
    group.protocol = value.protocol.as_deref().map(str::to_owned);
    for stored in &value.members {
        let protocol = group.protocol.clone().unwrap_or_default();
        group.add(Member {
            id: stored.member_id.to_string(),
            instance_id: stored.group_instance_id.as_deref().map(str::to_owned),
            client_id: stored.client_id.to_string(),
            client_host: stored.client_host.to_string(),
            rebalance_timeout_ms: if stored.rebalance_timeout < 0 {
                stored.session_timeout
            } else {
                stored.rebalance_timeout
            },
            session_timeout_ms: stored.session_timeout,
            protocols: vec![(protocol, Bytes::copy_from_slice(&stored.subscription))],
            assignment: Bytes::copy_from_slice(&stored.assignment),
            joining: None,
            syncing: None,
            is_new: false,
            expires_ms: tick_ms + u64::try_from(stored.session_timeout).unwrap_or(0),
        });
    }
    group.leader = value.leader.as_deref().map(str::to_owned);
    group.state = if group.members.is_empty() { super::State::Empty } else { super::State::Stable };
    group
}
