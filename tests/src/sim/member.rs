//! Members of classic groups, as the consumers of real clients are: they find their coordinator, join, share the partitions out, resume
//! where their group has committed, read, and commit by hand. Each partition that a member has is read by a fetcher of its own, a client
//! that does nothing else.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use ottla_protocol::messages::leave_group_request::MemberIdentity;
use ottla_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use ottla_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use ottla_protocol::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::client::{Asked, BACKOFF_US, Role};
use super::effects::node_at;
use super::world::{TOPIC, World};

pub(super) const FIND_VERSION: i16 = 3;
pub(super) const JOIN_VERSION: i16 = 7;
pub(super) const SYNC_VERSION: i16 = 5;
pub(super) const BEAT_VERSION: i16 = 4;
pub(super) const LEAVE_VERSION: i16 = 4;
pub(super) const COMMIT_VERSION: i16 = 8;
pub(super) const OFFSETS_VERSION: i16 = 7;

/// One member.
pub struct Member {
    pub group: usize,
    /// Its place among the clients, by which the checks know it.
    pub index: usize,
    /// What the coordinator calls it; empty: nothing yet.
    id: String,
    generation: i32,
    standing: Standing,
    /// Counts how often it began to join: answers to earlier attempts are of no interest.
    attempt: u64,
    /// What it has, and how far it has read and committed each.
    held: BTreeMap<i32, Held>,
    /// The fetcher of each partition, by its place among the clients.
    fetchers: BTreeMap<i32, usize>,
    beats: bool,
    next_beat_us: u64,
    commits: bool,
    next_commit_us: u64,
    /// It is not there before.
    away_until_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Out,
    Joining,
    Syncing,
    /// It asks where its group is.
    Resuming,
    In,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    position: i64,
    /// Of the leader from which it read last (KIP-320).
    epoch: i32,
    committed: i64,
}

impl Member {
    #[must_use]
    pub fn new(group: usize, index: usize, fetchers: BTreeMap<i32, usize>) -> Self {
        Self {
            group,
            index,
            id: String::new(),
            generation: -1,
            standing: Standing::Out,
            attempt: 0,
            held: BTreeMap::new(),
            fetchers,
            beats: false,
            next_beat_us: 0,
            commits: false,
            next_commit_us: 0,
            away_until_us: 0,
        }
    }

    #[must_use]
    pub fn is_away(&self, now_us: u64) -> bool {
        self.away_until_us > now_us
    }

    /// Its connection is gone, with what was asked over it. The coordinator may know it still.
    pub(super) fn on_ended(&mut self) {
        (self.beats, self.commits) = (false, false);
        if self.standing != Standing::In {
            self.standing = Standing::Out;
        }
    }

    /// For a person.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "member {} of {} {:?} in generation {}, has {:?}",
            self.id,
            name_of(self.group),
            self.standing,
            self.generation,
            self.held
        )
    }
}

/// A group's id.
#[must_use]
pub fn name_of(group: usize) -> String {
    format!("group-{group}")
}

impl World {
    fn member(&mut self, c: usize) -> &mut Member {
        match &mut self.clients[c].role {
            Role::Member(member) => member,
            _ => unreachable!("only members get answers to a member's questions"),
        }
    }

    pub(super) fn find_coordinator(&mut self, c: usize, guide: u64) {
        let key = name_of(self.member(c).group).into();
        let request = FindCoordinatorRequest { key, key_type: 0, ..FindCoordinatorRequest::default() };
        self.ask(c, guide, FIND_VERSION, &request, Asked::Coordinator);
    }

    pub(super) fn on_coordinator(&mut self, c: usize, answer: &FindCoordinatorResponse) {
        match node_at(&answer.host).filter(|_| answer.error_code == 0) {
            Some(node) => self.go_to(c, node),
            None => self.try_other_guide(c),
        }
    }

    /// What a member does that has a connection to its coordinator.
    pub(super) fn work_member(&mut self, c: usize, conn: u64) {
        let (now, every) = (self.now_us, self.plan.groups.commit_us);
        let member = self.member(c);
        match member.standing {
            Standing::Out => self.join(c, conn),
            Standing::In => {
                if now >= member.next_commit_us && !member.commits {
                    member.next_commit_us = now + every;
                    self.commit(c, conn);
                }
                let member = self.member(c);
                if now >= member.next_beat_us && !member.beats {
                    member.beats = true;
                    let attempt = member.attempt;
                    let request = HeartbeatRequest {
                        group_id: name_of(member.group).into(),
                        generation_id: member.generation,
                        member_id: member.id.as_str().into(),
                        ..HeartbeatRequest::default()
                    };
                    self.ask(c, conn, BEAT_VERSION, &request, Asked::Beat(attempt));
                }
            }
            Standing::Joining | Standing::Syncing | Standing::Resuming => {}
        }
    }

    pub(super) fn is_attempt(&mut self, c: usize, attempt: u64) -> bool {
        self.member(c).attempt == attempt
    }

    fn join(&mut self, c: usize, conn: u64) {
        self.give_back(c);
        let groups = self.plan.groups;
        let member = self.member(c);
        member.standing = Standing::Joining;
        member.attempt += 1;
        let attempt = member.attempt;
        let protocol = JoinGroupRequestProtocol { name: "any".into(), metadata: Bytes::new() };
        let request = JoinGroupRequest {
            group_id: name_of(member.group).into(),
            session_timeout_ms: groups.session_ms,
            rebalance_timeout_ms: groups.rebalance_ms,
            member_id: member.id.as_str().into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..JoinGroupRequest::default()
        };
        self.ask(c, conn, JOIN_VERSION, &request, Asked::Join(attempt));
    }

    pub(super) fn on_joined(&mut self, c: usize, conn: u64, answer: &JoinGroupResponse) {
        let code = code_of(answer.error_code);
        self.trace.note(self.now_us, || {
            format!("client {c} joins: {code}, generation {}, led by {}", answer.generation_id, answer.leader)
        });
        let member = self.member(c);
        member.standing = Standing::Out;
        if code == ErrorCode::MemberIdRequired {
            member.id = answer.member_id.to_string();
            return self.join(c, conn);
        }
        if code != ErrorCode::None {
            return self.on_group_error(c, code);
        }
        (member.id, member.generation) = (answer.member_id.to_string(), answer.generation_id);
        member.standing = Standing::Syncing;
        let (group, index, attempt) = (member.group, member.index, member.attempt);
        let mut assignments = Vec::new();
        if answer.leader == answer.member_id {
            let mut shares: Vec<(&str, Vec<u8>)> =
                answer.members.iter().map(|member| (&*member.member_id, Vec::new())).collect();
            shares.shuffle(&mut self.rng);
            for partition in 0..self.plan.partitions {
                let at = usize::try_from(partition).expect("counts from 0") % shares.len();
                shares[at].1.extend_from_slice(&partition.to_be_bytes());
            }
            assignments.extend(shares.into_iter().map(|(id, share)| SyncGroupRequestAssignment {
                member_id: id.into(),
                assignment: share.into(),
            }));
        }
        let request = SyncGroupRequest {
            group_id: name_of(group).into(),
            generation_id: answer.generation_id,
            member_id: answer.member_id.clone(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("any".into()),
            assignments,
            ..SyncGroupRequest::default()
        };
        self.checks.commits.on_generation(group, answer.generation_id, self.now_us);
        self.trace.mix(&[self.now_us, index as u64, u64::from(answer.generation_id.unsigned_abs())]);
        self.ask(c, conn, SYNC_VERSION, &request, Asked::Sync(attempt));
    }

    pub(super) fn on_synced(&mut self, c: usize, conn: u64, answer: &SyncGroupResponse) {
        let code = code_of(answer.error_code);
        let member = self.member(c);
        member.standing = Standing::Out;
        if code != ErrorCode::None {
            return self.on_group_error(c, code);
        }
        let what = self.clients[c].describe();
        self.trace.note(self.now_us, || format!("client {c} is assigned {:?}: {what}", answer.assignment));
        let member = self.member(c);
        let partitions: Vec<i32> = answer
            .assignment
            .chunks_exact(4)
            .map(|part| i32::from_be_bytes([part[0], part[1], part[2], part[3]]))
            .collect();
        let (group, generation, attempt, id) =
            (member.group, member.generation, member.attempt, member.id.clone());
        member.standing = Standing::Resuming;
        if let Err(violation) = self.checks.generations.assigned(group, generation, &id, &partitions) {
            return self.violation(violation.check, violation.what);
        }
        self.stats.assignments += 1;
        let topic = OffsetFetchRequestTopic { name: TOPIC.into(), partition_indexes: partitions };
        let request = OffsetFetchRequest {
            group_id: name_of(group).into(),
            topics: Some(vec![topic]),
            require_stable: true,
            ..OffsetFetchRequest::default()
        };
        self.ask(c, conn, OFFSETS_VERSION, &request, Asked::Offsets(attempt, self.now_us));
    }

    /// The group is there: the member's fetchers go on from there.
    pub(super) fn on_offsets(&mut self, c: usize, asked_us: u64, answer: &OffsetFetchResponse) {
        let code = code_of(answer.error_code);
        let member = self.member(c);
        member.standing = Standing::Out;
        if code != ErrorCode::None {
            return self.on_group_error(c, code);
        }
        let (group, generation) = (member.group, member.generation);
        member.standing = Standing::In;
        let found: Vec<(i32, i64, i32)> = answer
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|part| (part.partition_index, part.committed_offset, part.committed_leader_epoch))
            .collect();
        let (now, session_us) = (self.now_us, self.plan.groups.session_us());
        let every = self.plan.groups.commit_us;
        let wait = self.rng.random_range(0..every);
        let member = self.member(c);
        (member.next_beat_us, member.next_commit_us) = (now + session_us / 3, now + wait);
        for (partition, committed, epoch) in found {
            let seen = self.checks.commits.fetched(group, generation, partition, committed, asked_us);
            if let Err(violation) = seen {
                return self.violation(violation.check, violation.what);
            }
            let position = committed.max(0);
            let member = self.member(c);
            member.held.insert(partition, Held { position, epoch, committed: position });
            let fetcher = member.fetchers[&partition];
            let client = &mut self.clients[fetcher];
            if epoch > client.leader_epoch {
                // Whom it knows as the leader may be one of before, who has less.
                (client.leader_epoch, client.asks_metadata) = (epoch, true);
            }
            if let Role::Consumer(consumer) = &mut client.role {
                consumer.begin(c, position);
            }
        }
    }

    /// A fetcher has read up to `next` what begins at `from`, for the member that it works for.
    pub(super) fn on_processed(&mut self, c: usize, partition: i32, from: i64, next: i64) {
        let fetcher = self.member(c).fetchers[&partition];
        let epoch = self.clients[fetcher].leader_epoch;
        let member = self.member(c);
        let group = member.group;
        if let Some(held) = member.held.get_mut(&partition) {
            (held.position, held.epoch) = (next, epoch);
            if let Err(violation) = self.checks.resumed.processed(group, partition, from, next) {
                self.violation(violation.check, violation.what);
            }
        }
    }

    /// What lay before `start` was past its retention before the member had read it.
    pub(super) fn on_passed_over(&mut self, c: usize, partition: i32, start: i64) {
        let member = self.member(c);
        let group = member.group;
        if let Some(held) = member.held.get_mut(&partition) {
            held.position = start;
            self.checks.resumed.passed_over(group, partition, start);
        }
    }

    /// Commits what was read since.
    fn commit(&mut self, c: usize, conn: u64) {
        let now = self.now_us;
        let member = self.member(c);
        let (group, generation) = (member.group, member.generation);
        let news: Vec<(i32, i64)> = member
            .held
            .iter()
            .filter(|(_, held)| held.position > held.committed)
            .map(|(partition, held)| (*partition, held.position))
            .collect();
        if news.is_empty() {
            return;
        }
        member.commits = true;
        let epochs: BTreeMap<i32, i32> =
            member.held.iter().map(|(partition, held)| (*partition, held.epoch)).collect();
        let partitions = news.iter().map(|(partition, offset)| OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            committed_leader_epoch: epochs[partition],
            committed_metadata: None,
        });
        let topic = OffsetCommitRequestTopic {
            name: TOPIC.into(),
            partitions: partitions.collect(),
            ..OffsetCommitRequestTopic::default()
        };
        let request = OffsetCommitRequest {
            group_id: name_of(group).into(),
            generation_id_or_member_epoch: generation,
            member_id: member.id.as_str().into(),
            topics: vec![topic],
            ..OffsetCommitRequest::default()
        };
        self.trace.note(now, || format!("client {c} commits {news:?} in generation {generation}"));
        let began = self.checks.commits.begin(group, generation, &news, now);
        self.ask(c, conn, COMMIT_VERSION, &request, Asked::Commit(began, generation, news));
    }

    pub(super) fn on_committed(
        &mut self,
        c: usize,
        (began, generation, news): (u64, i32, Vec<(i32, i64)>),
        answer: &OffsetCommitResponse,
    ) {
        let now = self.now_us;
        let codes = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let mut worst = ErrorCode::None;
        for part in codes {
            let code = code_of(part.error_code);
            let member = self.member(c);
            let (group, is_same) = (member.group, member.generation == generation);
            let offset = news.iter().find(|(partition, _)| *partition == part.partition_index);
            if let (ErrorCode::None, Some((partition, offset))) = (code, offset) {
                if let Some(held) = member.held.get_mut(partition).filter(|_| is_same) {
                    held.committed = held.committed.max(*offset);
                }
                self.checks.commits.acknowledged(group, began, *partition, now);
                self.stats.commits += 1;
            } else {
                worst = code;
            }
        }
        let member = self.member(c);
        member.commits = false;
        if worst != ErrorCode::None && member.generation == generation {
            self.on_group_error(c, worst);
        }
    }

    pub(super) fn on_beat(&mut self, c: usize, conn: u64, answer: &HeartbeatResponse) {
        let (now, every) = (self.now_us, self.plan.groups.session_us() / 3);
        let member = self.member(c);
        (member.beats, member.next_beat_us) = (false, now + every);
        match code_of(answer.error_code) {
            ErrorCode::None => {}
            // The others wait for it: it says how far it is, and joins anew.
            ErrorCode::RebalanceInProgress if member.standing == Standing::In => {
                self.commit(c, conn);
                self.member(c).standing = Standing::Out;
                self.join(c, conn);
            }
            code => self.on_group_error(c, code),
        }
    }

    fn on_group_error(&mut self, c: usize, code: ErrorCode) {
        let what = self.clients[c].describe();
        self.trace.note(self.now_us, || format!("client {c} is told {code}: {what}"));
        self.trace.mix(&[self.now_us, c as u64, u64::from(code.code().unsigned_abs())]);
        self.clients[c].last_error = format!("{} us: {code}", self.now_us);
        self.clients[c].not_before_us = self.now_us + BACKOFF_US;
        match code {
            ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration | ErrorCode::FencedInstanceId => {
                self.give_back(c);
                let member = self.member(c);
                if code != ErrorCode::IllegalGeneration {
                    member.id.clear();
                }
                member.standing = Standing::Out;
            }
            ErrorCode::RebalanceInProgress => {
                self.give_back(c);
                self.member(c).standing = Standing::Out;
            }
            ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress => self.refresh(c),
            // An image that is behind knows the topic a moment later.
            ErrorCode::UnknownTopicOrPartition => {}
            code => self.violation("groups", format!("{} got {code}", self.clients[c].describe())),
        }
    }

    /// Stops reading: what it had may be somebody else's.
    fn give_back(&mut self, c: usize) {
        let member = self.member(c);
        member.attempt += 1;
        member.beats = false;
        let held: Vec<i32> = std::mem::take(&mut member.held).into_keys().collect();
        let fetchers: Vec<usize> = held.iter().map(|partition| member.fetchers[partition]).collect();
        for fetcher in fetchers {
            if let Role::Consumer(consumer) = &mut self.clients[fetcher].role {
                consumer.rest();
            }
        }
    }

    /// A member goes: it says so, or is gone without a word. It comes back after a while, as somebody else.
    pub(super) fn part(&mut self, c: usize, says_so: bool, back_us: u64) {
        let conn = self.clients[c].conn.filter(|_| self.clients[c].is_open);
        let member = self.member(c);
        if let Some(conn) = conn.filter(|_| says_so && !member.id.is_empty()) {
            let identity =
                MemberIdentity { member_id: member.id.as_str().into(), ..MemberIdentity::default() };
            let request = LeaveGroupRequest {
                group_id: name_of(member.group).into(),
                members: vec![identity],
                ..LeaveGroupRequest::default()
            };
            self.ask(c, conn, LEAVE_VERSION, &request, Asked::Leave);
        }
        self.give_back(c);
        let member = self.member(c);
        (member.standing, member.away_until_us) = (Standing::Out, back_us);
        member.id.clear();
        let client = &self.clients[c];
        for conn in [client.conn, client.guide].into_iter().flatten() {
            self.on_client_ended(c, conn, true);
            self.close(conn, 0);
        }
    }

    /// Faults are over: members that are away come back.
    pub(super) fn everybody_is_back(&mut self) {
        for client in &mut self.clients {
            if let Role::Member(member) = &mut client.role {
                member.away_until_us = 0;
            }
        }
    }

    /// Whether every group has committed all that there is.
    pub(super) fn groups_are_done(&self) -> Result<(), String> {
        for group in 0..self.plan.groups.count {
            for partition in 0..self.plan.partitions {
                let (end, at) =
                    (self.checks.logs.committed(partition), self.checks.commits.last(group, partition));
                if at < end {
                    return Err(format!(
                        "{} has committed {at} of partition {partition}, which ends at {end}",
                        name_of(group)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn code_of(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError)
}
