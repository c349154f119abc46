//! All groups of one partition of `__consumer_offsets`: inputs, effects, timers, and what a record does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::{
    HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitResponse, OffsetDeleteResponse,
    SyncGroupResponse,
};
use ottla_protocol::records::{
    GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue, decode_key,
    decode_versioned_or_newest, key_type,
};

use super::offsets::{Committed, Offsets};
use super::record::{self, StoredRecord};
use super::{Group, State};

/// Names one waiting request; given by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names one append; given by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendId(pub u64);

/// What the caller does, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Reply {
        token: Token,
        reply: GroupReply,
    },
    /// Appends these to the partition, and calls [`GroupCoordinator::on_appended`] with the outcome before any other input: what is decided
    /// next rests on it. Replies that follow leave once the append is committed.
    Append {
        id: AppendId,
        records: Vec<StoredRecord>,
    },
}

/// An answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupReply {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    Leave(LeaveGroupResponse),
    OffsetCommit(OffsetCommitResponse),
    OffsetDelete(OffsetDeleteResponse),
    DeleteGroup(ErrorCode),
}

/// The broker's settings that groups go by, in milliseconds where they are times.
#[derive(Clone, Copy, Debug)]
pub struct GroupSettings {
    pub min_session_timeout_ms: i32,
    pub max_session_timeout_ms: i32,
    pub initial_rebalance_delay_ms: u64,
    pub max_size: usize,
    pub offset_metadata_max_bytes: usize,
    pub offsets_retention_ms: i64,
    pub retention_check_interval_ms: u64,
}

/// What happens once an append is in the log, or refused.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Nothing,
    /// The leader's assignment: it counts if the group is still in this generation.
    Assign {
        group: String,
        generation: i32,
        assignments: BTreeMap<String, Bytes>,
    },
    /// A static member took its predecessor's place without a rebalance; without its record everything is as before.
    Replaced {
        group: String,
        before: Box<Group>,
        fenced: Vec<(Token, GroupReply)>,
        reply: JoinGroupResponse,
        token: Token,
    },
    Reply {
        token: Token,
        reply: GroupReply,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) records: Vec<StoredRecord>,
    pub(super) then: Then,
}

/// What a timer is about; looked at again when it fires, for a deadline may have moved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Session { group: String, member: String },
    PendingMember { group: String, member: String },
    Join { group: String },
    Sync { group: String },
    Expiry,
}

/// The moment of an input.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: i64,
    /// Monotonic clock, milliseconds.
    pub tick_ms: u64,
}

#[derive(Debug)]
pub struct GroupCoordinator {
    pub(super) settings: GroupSettings,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) offsets: BTreeMap<String, Offsets>,
    pub(super) pending: BTreeMap<AppendId, Pending>,
    next_append: u64,
    pub(super) effects: Vec<Effect>,
    timers: BinaryHeap<Reverse<(u64, Timer)>>,
}

impl GroupCoordinator {
    #[must_use]
    pub fn new(settings: GroupSettings) -> Self {
        Self {
            settings,
            groups: BTreeMap::new(),
            offsets: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_append: 0,
            effects: Vec::new(),
            timers: BinaryHeap::new(),
        }
    }

    /// Applies a record of the log: when it is loaded, and when this coordinator appended it. Keys of other kinds of groups are passed
    /// over; what cannot be read is told.
    ///
    /// # Errors
    /// The bytes are not what their key says.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>, now: Now) -> Result<(), String> {
        let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let text = |error: ottla_protocol::wire::DecodeError| error.to_string();
        match key_type(key) {
            Some(0 | 1) => {
                // Type 0 is the key of Kafka's first format; its fields are the same.
                let mut key = key.to_vec();
                key[1] = 1;
                let key: OffsetCommitKey = decode_key(bytes(&key)).map_err(text)?;
                let place = (key.topic.to_string(), key.partition);
                match value {
                    Some(value) => {
                        let value: OffsetCommitValue =
                            decode_versioned_or_newest(bytes(value)).map_err(text)?;
                        let group = key.group.to_string();
                        self.groups.entry(group.clone()).or_insert_with(|| Group::new(now.wall_ms));
                        self.offsets.entry(group).or_default().insert(place, Committed::of(&value));
                    }
                    None => {
                        if let Some(offsets) = self.offsets.get_mut(&*key.group) {
                            offsets.remove(&place);
                            if offsets.is_empty() {
                                self.offsets.remove(&*key.group);
                            }
                        }
                    }
                }
            }
            Some(2) => {
                let key: GroupMetadataKey = decode_key(bytes(key)).map_err(text)?;
                match value {
                    Some(value) => {
                        let value: GroupMetadataValue =
                            decode_versioned_or_newest(bytes(value)).map_err(text)?;
                        self.groups.insert(key.group.to_string(), record::restore(&value, now.tick_ms));
                    }
                    None => {
                        self.groups.remove(&*key.group);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Every record was applied: sessions run from now on, and groups that have only offsets exist too.
    pub fn on_loaded(&mut self, now: Now) {
        for id in self.offsets.keys() {
            self.groups.entry(id.clone()).or_insert_with(|| Group::new(now.wall_ms));
        }
        let mut timers = Vec::new();
        for (id, group) in &mut self.groups {
            for member in group.members.values_mut() {
                member.expires_ms = now.tick_ms + u64::try_from(member.session_timeout_ms).unwrap_or(0);
                timers.push((
                    member.expires_ms,
                    Timer::Session { group: id.clone(), member: member.id.clone() },
                ));
            }
        }
        timers.push((now.tick_ms + self.settings.retention_check_interval_ms, Timer::Expiry));
        self.timers.extend(timers.into_iter().map(Reverse));
    }

    /// What is to be done after an input.
    #[must_use]
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The tick of the next timer.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Time has passed. Stops where something is to be appended first; the caller calls again while a deadline is due.
    pub fn on_tick(&mut self, now: Now) {
        self.begin();
        while self.pending.is_empty() && self.next_deadline_ms().is_some_and(|at| at <= now.tick_ms) {
            let Some(Reverse((_, timer))) = self.timers.pop() else { break };
            match timer {
                Timer::Session { group, member } => self.on_session_timer(&group, &member, now),
                Timer::PendingMember { group, member } => self.on_pending_timer(&group, &member, now),
                Timer::Join { group } => self.on_join_timer(&group, now),
                Timer::Sync { group } => self.on_sync_timer(&group, now),
                Timer::Expiry => {
                    self.expire_offsets(now);
                    self.set_timer(now.tick_ms + self.settings.retention_check_interval_ms, Timer::Expiry);
                }
            }
        }
    }

    /// An input begins: nothing may come between an append and its outcome, or decisions would rest on what may not be.
    pub(super) fn begin(&self) {
        assert!(self.pending.is_empty(), "an input came before the outcome of an append");
    }

    /// An append is in the log, or refused. Outcomes come in the order of the appends.
    pub fn on_appended(&mut self, id: AppendId, outcome: Result<(), ErrorCode>, now: Now) {
        let Some(Pending { records, then }) = self.pending.remove(&id) else { return };
        let outcome = outcome.map_err(coordinator_error);
        if outcome.is_ok() {
            for record in &records {
                // The group's record is what the live group is already; offsets are what their record says.
                let is_group = key_type(&record.key) == Some(2) && record.value.is_some();
                if !is_group && let Err(error) = self.apply(&record.key, record.value.as_deref(), now) {
                    unreachable!("a record that this coordinator wrote cannot be read: {error}");
                }
            }
        }
        match then {
            Then::Nothing => {}
            Then::Assign { group, generation, assignments } => {
                self.on_assigned(&group, generation, assignments, outcome, now);
            }
            Then::Replaced { group, before, fenced, reply, token } => {
                self.on_replaced(group, *before, fenced, reply, token, outcome);
            }
            Then::Reply { token, reply } => {
                let reply = match outcome {
                    Ok(()) => reply,
                    Err(code) => reply.failed(code),
                };
                self.reply(token, reply);
            }
        }
    }

    /// This coordinator ends: every JoinGroup and SyncGroup that waits hears why.
    pub fn fail_waiting(&mut self, code: ErrorCode) {
        let mut replies = Vec::new();
        for member in self.groups.values_mut().flat_map(|group| group.members.values_mut()) {
            let join = member
                .joining
                .take()
                .map(|token| (token, GroupReply::Join(super::join::failure(&member.id, code))));
            let sync =
                member.syncing.take().map(|token| (token, GroupReply::Sync(Default::default()).failed(code)));
            replies.extend(join.into_iter().chain(sync));
        }
        for (token, reply) in replies {
            self.reply(token, reply);
        }
    }

    pub(super) fn reply(&mut self, token: Token, reply: GroupReply) {
        self.effects.push(Effect::Reply { token, reply });
    }

    pub(super) fn append(&mut self, records: Vec<StoredRecord>, then: Then) {
        let id = AppendId(self.next_append);
        self.next_append += 1;
        self.pending.insert(id, Pending { records: records.clone(), then });
        self.effects.push(Effect::Append { id, records });
    }

    pub(super) fn set_timer(&mut self, at_ms: u64, timer: Timer) {
        self.timers.push(Reverse((at_ms, timer)));
    }

    /// Groups by id, with their states, for ListGroups.
    pub fn list(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(id, group)| (id.as_str(), group))
    }

    #[must_use]
    pub fn group(&self, id: &str) -> Option<&Group> {
        self.groups.get(id)
    }

    /// What DescribeGroups shows of a group: protocol, and each member with metadata and assignment.
    #[must_use]
    pub fn members_shown(group: &Group) -> Vec<(&super::Member, Bytes, Bytes)> {
        let stable = group.state == State::Stable;
        let members = group.order.iter().filter_map(|id| group.members.get(id));
        members
            .map(|member| {
                if stable {
                    (member, member.metadata(group.protocol.as_deref()), member.assignment.clone())
                } else {
                    (member, Bytes::new(), Bytes::new())
                }
            })
            .collect()
    }
}

/// How a failed append is told to a group's client: as something to try again.
#[must_use]
pub fn coordinator_error(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}

impl GroupReply {
    /// The same kind of answer with an error instead.
    #[must_use]
    pub fn failed(self, code: ErrorCode) -> Self {
        let error_code = code.code();
        match self {
            Self::Join(reply) => Self::Join(super::join::failure(&reply.member_id, code)),
            Self::Sync(_) => Self::Sync(SyncGroupResponse { error_code, ..Default::default() }),
            Self::Heartbeat(_) => Self::Heartbeat(HeartbeatResponse { error_code, ..Default::default() }),
            Self::Leave(_) => Self::Leave(LeaveGroupResponse { error_code, ..Default::default() }),
            Self::OffsetCommit(mut reply) => {
                for partition in reply.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    if partition.error_code == 0 {
                        partition.error_code = error_code;
                    }
                }
                Self::OffsetCommit(reply)
            }
            Self::OffsetDelete(_) => {
                Self::OffsetDelete(OffsetDeleteResponse { error_code, ..Default::default() })
            }
            Self::DeleteGroup(_) => Self::DeleteGroup(code),
        }
    }
}
