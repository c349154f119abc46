//! Groups as stories: what clients send, what they hear; and one property: what lives is what a replay gives.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::leave_group_request::MemberIdentity;
use ottla_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use ottla_protocol::messages::{HeartbeatRequest, JoinGroupResponse, OffsetCommitRequest, SyncGroupRequest};
use proptest::prelude::*;

use super::coordinator::{Effect, GroupCoordinator, GroupReply, GroupSettings, Now, Token};
use super::join::Join;
use super::record::StoredRecord;
use super::{Group, State};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A coordinator whose appends succeed, unless told otherwise.
struct World {
    machine: GroupCoordinator,
    tick_ms: u64,
    token: u64,
    replies: BTreeMap<u64, GroupReply>,
    log: Vec<StoredRecord>,
    /// How long the log was when the last answer left: so much of it a crash keeps.
    rests_on: usize,
    /// A group's record was refused, so the log has an older generation.
    is_behind: bool,
    outcome: Result<(), ErrorCode>,
    /// Members come back with the id that they are given.
    two_steps: bool,
}

fn settings(initial_rebalance_delay_ms: u64) -> GroupSettings {
    GroupSettings {
        min_session_timeout_ms: 100,
        max_session_timeout_ms: 60_000,
        initial_rebalance_delay_ms,
        max_size: 3,
        offset_metadata_max_bytes: 10,
        offsets_retention_ms: 7 * DAY_MS,
        retention_check_interval_ms: 600_000,
    }
}

impl World {
    fn new(initial_delay_ms: u64) -> Self {
        let mut machine = GroupCoordinator::new(settings(initial_delay_ms));
        machine.on_loaded(Now { wall_ms: 0, tick_ms: 0 });
        Self {
            machine,
            tick_ms: 0,
            token: 0,
            replies: BTreeMap::new(),
            log: Vec::new(),
            rests_on: 0,
            is_behind: false,
            outcome: Ok(()),
            two_steps: false,
        }
    }

    fn now(&self) -> Now {
        Now { wall_ms: self.tick_ms as i64, tick_ms: self.tick_ms }
    }

    fn settle(&mut self) {
        loop {
            let effects = self.machine.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Reply { token, reply } => {
                        assert!(self.replies.insert(token.0, reply).is_none(), "answered twice");
                        self.rests_on = self.log.len();
                    }
                    Effect::Append { id, records } => {
                        if self.outcome.is_err() {
                            self.is_behind = true;
                        } else {
                            self.is_behind &= !records.iter().any(|record| record.key.starts_with(&[0, 2]));
                            self.log.extend(records);
                        }
                        self.machine.on_appended(id, self.outcome, self.now());
                    }
                }
            }
        }
    }

    fn input(&mut self, input: impl FnOnce(&mut GroupCoordinator, Token, Now)) -> u64 {
        self.token += 1;
        let now = self.now();
        input(&mut self.machine, Token(self.token), now);
        self.settle();
        self.token
    }

    fn pass(&mut self, ms: u64) {
        let end = self.tick_ms + ms;
        while let Some(at) = self.machine.next_deadline_ms().filter(|at| *at <= end) {
            self.tick_ms = at.max(self.tick_ms);
            let now = self.now();
            self.machine.on_tick(now);
            self.settle();
        }
        self.tick_ms = end;
    }

    /// Another process loads what the log holds up to a length.
    fn restart(&mut self, length: usize) {
        self.log.truncate(length);
        self.is_behind = false;
        self.machine = self.replayed();
        let now = self.now();
        self.machine.on_loaded(now);
    }

    fn replayed(&self) -> GroupCoordinator {
        let mut replayed = GroupCoordinator::new(settings(0));
        for record in &self.log {
            replayed.apply(&record.key, record.value.as_deref(), self.now()).expect("readable");
        }
        replayed
    }

    fn join(&mut self, member: &str, instance: Option<&str>, metadata: &'static str) -> u64 {
        let join = Join {
            group: "g".into(),
            member_id: member.into(),
            instance_id: instance.map(str::to_owned),
            client_id: "c".into(),
            client_host: "/h".into(),
            session_timeout_ms: 1000,
            rebalance_timeout_ms: 5000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), Bytes::from_static(metadata.as_bytes()))],
            requires_known_id: self.two_steps,
            may_skip_assignment: true,
            fresh: format!("{}", self.token + 1),
        };
        self.input(|machine, token, now| machine.join(token, join, now))
    }

    fn joined(&self, token: u64) -> &JoinGroupResponse {
        match self.replies.get(&token) {
            Some(GroupReply::Join(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn sync(&mut self, member: &str, assignments: &[(&str, &'static str)]) -> u64 {
        let request = SyncGroupRequest {
            group_id: "g".into(),
            generation_id: self.group().generation,
            member_id: member.into(),
            assignments: assignments
                .iter()
                .map(|(member, bytes)| SyncGroupRequestAssignment {
                    member_id: (*member).into(),
                    assignment: Bytes::from_static(bytes.as_bytes()),
                })
                .collect(),
            ..SyncGroupRequest::default()
        };
        self.input(|machine, token, now| machine.sync(token, &request, now))
    }

    fn assigned(&self, token: u64) -> (i16, &[u8]) {
        match self.replies.get(&token) {
            Some(GroupReply::Sync(reply)) => (reply.error_code, &reply.assignment),
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> i16 {
        let request = HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.into(),
            ..HeartbeatRequest::default()
        };
        let token = self.input(|machine, token, now| machine.heartbeat(token, &request, now));
        match self.replies.get(&token) {
            Some(GroupReply::Heartbeat(reply)) => reply.error_code,
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, member: &str, generation: i32, offset: i64) -> i16 {
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: generation,
            member_id: member.into(),
            topics: vec![OffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![OffsetCommitRequestPartition {
                    committed_offset: offset,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..OffsetCommitRequest::default()
        };
        let token = self.input(|machine, token, now| machine.commit(token, &request, 8, &|_, _| Ok(()), now));
        match self.replies.get(&token) {
            Some(GroupReply::OffsetCommit(reply)) => reply.topics[0].partitions[0].error_code,
            other => panic!("{other:?}"),
        }
    }

    fn committed(&self) -> Option<i64> {
        self.machine.offsets("g")?.get(&("t".to_owned(), 0)).map(|committed| committed.offset)
    }

    fn leave(&mut self, member: &str) {
        let leaving = [MemberIdentity { member_id: member.into(), ..MemberIdentity::default() }];
        self.input(|machine, token, now| machine.leave(token, "g", &leaving, false, now));
    }

    fn group(&self) -> &Group {
        self.machine.group("g").expect("the group is there")
    }

    /// Two members, stable: their ids, the leader first.
    fn stable_pair(&mut self) -> (String, String) {
        let first = self.join("", None, "a");
        self.pass(10);
        let leader = self.joined(first).member_id.to_string();
        let second = self.join("", None, "b");
        let again = self.join(&leader, None, "a");
        let follower = self.joined(second).member_id.to_string();
        assert_eq!(self.joined(again).members.len(), 2);
        let waiting = self.sync(&follower, &[]);
        assert!(!self.replies.contains_key(&waiting), "a follower waits for its leader");
        let led = self.sync(&leader, &[(&leader, "for a"), (&follower, "for b")]);
        assert_eq!(self.assigned(led), (0, &b"for a"[..]));
        assert_eq!(self.assigned(waiting), (0, &b"for b"[..]));
        assert_eq!(self.group().state, State::Stable);
        (leader, follower)
    }
}

#[test]
fn members_join_sync_and_beat() {
    let mut world = World::new(0);
    let (leader, follower) = world.stable_pair();
    assert_eq!(world.heartbeat(&leader, 2), 0);
    assert_eq!(world.heartbeat(&follower, 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(world.heartbeat("stranger", 2), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_new_group_waits_for_more_members_but_not_for_ever() {
    let mut world = World::new(3000);
    let first = world.join("", None, "a");
    world.pass(2999);
    let second = world.join("", None, "b");
    world.pass(2);
    assert!(!world.replies.contains_key(&first), "somebody joined meanwhile: it waits on");
    world.pass(3000);
    assert_eq!(world.joined(first).generation_id, 1);
    assert_eq!(world.joined(second).generation_id, 1);
    assert_eq!(world.joined(first).members.len() + world.joined(second).members.len(), 2);
}

#[test]
fn a_member_that_falls_silent_is_out_and_the_others_rebalance() {
    let mut world = World::new(0);
    let (leader, follower) = world.stable_pair();
    for _ in 0..3 {
        world.pass(400);
        world.heartbeat(&leader, 2);
    }
    assert_eq!(world.group().state, State::Preparing);
    assert_eq!(world.heartbeat(&leader, 2), ErrorCode::RebalanceInProgress.code());
    assert_eq!(world.heartbeat(&follower, 2), ErrorCode::UnknownMemberId.code());
    let again = world.join(&leader, None, "a");
    assert_eq!((world.joined(again).generation_id, world.joined(again).members.len()), (3, 1));
}

#[test]
fn a_rebalance_leaves_behind_who_does_not_come() {
    let mut world = World::new(0);
    let (leader, follower) = world.stable_pair();
    let third = world.join("", None, "c");
    for _ in 0..7 {
        world.pass(700);
        world.heartbeat(&leader, 2);
        world.heartbeat(&follower, 2);
    }
    assert!(!world.replies.contains_key(&third));
    world.pass(200);
    assert_eq!(world.joined(third).members.len(), 1, "only the third joined in time");
}

#[test]
fn a_follower_that_asks_after_its_leader_stays() {
    let mut world = World::new(0);
    let (leader, follower) = world.stable_pair();
    let again = [world.join(&leader, None, "a"), world.join(&follower, None, "b")];
    assert!(again.iter().all(|token| world.joined(*token).generation_id == 3));
    world.sync(&leader, &[(&follower, "later")]);
    let late = world.sync(&follower, &[]);
    assert_eq!(world.assigned(late), (0, &b"later"[..]));
    for _ in 0..10 {
        world.pass(700);
        assert_eq!((world.heartbeat(&leader, 3), world.heartbeat(&follower, 3)), (0, 0));
    }
}

#[test]
fn who_was_no_member_disturbs_nobody_by_leaving() {
    let mut world = World::new(0);
    let (leader, follower) = world.stable_pair();
    world.leave("stranger");
    assert_eq!(world.group().state, State::Stable);
    // Given an id, and never seen again.
    world.two_steps = true;
    world.join("", None, "a");
    for _ in 0..3 {
        world.pass(700);
        assert_eq!((world.heartbeat(&leader, 2), world.heartbeat(&follower, 2)), (0, 0));
    }
    let given = world.join("", None, "a");
    let given = world.joined(given).member_id.to_string();
    world.leave(&given);
    assert_eq!(world.group().state, State::Stable);
}

#[test]
fn a_static_member_comes_back_without_a_rebalance_and_its_twin_is_fenced() {
    let mut world = World::new(0);
    let first = world.join("", Some("i"), "a");
    world.pass(1);
    let old = world.joined(first).member_id.to_string();
    world.sync(&old, &[(&old, "mine")]);
    let generation = world.group().generation;
    let back = world.join("", Some("i"), "a");
    let reply = world.joined(back).clone();
    assert_eq!((reply.error_code, reply.generation_id, reply.skip_assignment), (0, generation, true));
    assert_ne!(*reply.member_id, *old);
    let synced = world.sync(&reply.member_id, &[]);
    assert_eq!(world.assigned(synced), (0, &b"mine"[..]));
    let twin = world.join(&old, Some("i"), "a");
    assert_eq!(world.joined(twin).error_code, ErrorCode::FencedInstanceId.code());
}

#[test]
fn commits_are_taken_from_members_and_from_strangers_to_empty_groups_only() {
    let mut world = World::new(0);
    assert_eq!(world.commit("", -1, 5), 0, "a group of offsets only");
    let (leader, _) = world.stable_pair();
    assert_eq!(world.commit(&leader, 2, 6), 0);
    assert_eq!(world.commit(&leader, 1, 7), ErrorCode::IllegalGeneration.code());
    assert_eq!(world.commit("stranger", 2, 7), ErrorCode::UnknownMemberId.code());
    assert_eq!(world.commit("", -1, 7), ErrorCode::UnknownMemberId.code());
    world.outcome = Err(ErrorCode::KafkaStorageError);
    assert_eq!(world.commit(&leader, 2, 8), ErrorCode::NotCoordinator.code());
    assert_eq!(world.committed(), Some(6), "what was not committed to the log is not shown");
}

#[test]
fn an_assignment_that_is_not_stored_is_not_given() {
    let mut world = World::new(0);
    let first = world.join("", None, "a");
    world.pass(1);
    let leader = world.joined(first).member_id.to_string();
    world.outcome = Err(ErrorCode::KafkaStorageError);
    let synced = world.sync(&leader, &[(&leader, "x")]);
    assert_eq!(world.assigned(synced), (ErrorCode::NotCoordinator.code(), &b""[..]));
    assert_eq!(world.group().state, State::Preparing);
}

#[test]
fn offsets_expire_once_their_group_has_been_empty_for_long() {
    let mut world = World::new(0);
    let (leader, follower) = world.stable_pair();
    assert_eq!(world.commit(&leader, 2, 6), 0);
    world.leave(&leader);
    world.leave(&follower);
    assert_eq!(world.group().state, State::Empty);
    world.pass(7 * DAY_MS as u64 - 600_000);
    assert_eq!(world.committed(), Some(6));
    world.pass(1_300_000);
    assert_eq!(world.committed(), None);
    assert!(world.machine.group("g").is_none());
}

#[test]
fn a_group_is_full_at_its_maximum() {
    let mut world = World::new(0);
    world.join("", None, "a");
    world.join("", None, "b");
    world.join("", None, "c");
    let fourth = world.join("", None, "d");
    assert_eq!(world.joined(fourth).error_code, ErrorCode::GroupMaxSizeReached.code());
}

#[test]
fn a_static_member_whose_return_is_not_stored_is_who_it_was() {
    let mut world = World::new(0);
    let first = world.join("", Some("i"), "a");
    world.pass(1);
    let old = world.joined(first).member_id.to_string();
    world.sync(&old, &[(&old, "mine")]);
    let before = world.group().clone();
    world.outcome = Err(ErrorCode::NotEnoughReplicas);
    let back = world.join("", Some("i"), "a");
    assert_eq!(world.joined(back).error_code, ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(*world.group(), before);
    assert_eq!(world.heartbeat(&old, before.generation), 0, "it is no twin");
    world.pass(2000);
    assert!(world.group().members.is_empty(), "and its session ends like any other");
}

#[test]
fn a_commit_that_comes_as_its_group_expires_is_kept() {
    let mut world = World::new(0);
    assert_eq!(world.commit("", -1, 5), 0);
    world.pass(7 * DAY_MS as u64 - 1_000);
    assert_eq!(world.commit("", -1, 6), 0);
    world.pass(600_000);
    assert_eq!(world.committed(), Some(6));
    assert_eq!(durable(&world.replayed()), durable(&world.machine));
}

#[test]
fn what_is_not_there_is_said_before_what_is_wrong_with_the_group() {
    let mut world = World::new(0);
    world.stable_pair();
    let topic = |name: &str| OffsetCommitRequestTopic {
        name: name.into(),
        partitions: vec![OffsetCommitRequestPartition::default()],
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: 1,
        member_id: "stranger".into(),
        topics: vec![topic("gone"), topic("t")],
        ..OffsetCommitRequest::default()
    };
    let check = |name: &str, _| if name == "t" { Ok(()) } else { Err(ErrorCode::UnknownTopicOrPartition) };
    let token = world.input(|machine, token, now| machine.commit(token, &request, 8, &check, now));
    let Some(GroupReply::OffsetCommit(reply)) = world.replies.get(&token) else { panic!("no answer") };
    let codes: Vec<i16> = reply.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
    assert_eq!(codes, [ErrorCode::UnknownTopicOrPartition.code(), ErrorCode::UnknownMemberId.code()]);
}

#[test]
fn offsets_go_with_their_topic_and_their_group_soon_after() {
    let mut world = World::new(0);
    assert_eq!(world.commit("", -1, 5), 0);
    world.machine.on_topics_deleted(&["other".to_owned()].into());
    world.settle();
    assert_eq!(world.committed(), Some(5));
    world.machine.on_topics_deleted(&["t".to_owned()].into());
    world.settle();
    assert_eq!(world.committed(), None);
    world.pass(600_000);
    assert!(world.machine.group("g").is_none());
    assert_eq!(durable(&world.replayed()), durable(&world.machine));
}

#[test]
fn who_waits_when_a_coordinator_ends_is_told() {
    let mut world = World::new(3000);
    let joining = world.join("", None, "a");
    world.machine.fail_waiting(ErrorCode::NotCoordinator);
    world.settle();
    assert_eq!(world.joined(joining).error_code, ErrorCode::NotCoordinator.code());
}

/// What a restart must give back: every group with its members, and every offset. A group between two generations is what it was in the
/// last one; one that nobody finished joining is not there yet.
fn durable(machine: &GroupCoordinator) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (id, group) in machine.list() {
        if matches!(group.state, State::Preparing | State::Completing) {
            continue;
        }
        let members: Vec<_> = group
            .members
            .values()
            .map(|member| {
                (
                    &member.id,
                    &member.instance_id,
                    member.metadata(group.protocol.as_deref()),
                    &member.assignment,
                )
            })
            .collect();
        let offsets = machine.offsets(id);
        if group.generation > 0 || offsets.is_some() {
            let line = format!("{} {:?} {members:?} {offsets:?}", group.generation, group.protocol);
            lines.insert(id.to_owned(), line);
        }
    }
    lines
}

/// Groups that are between two generations.
fn unsettled(machine: &GroupCoordinator) -> Vec<String> {
    let moving =
        machine.list().filter(|(_, group)| matches!(group.state, State::Preparing | State::Completing));
    moving.map(|(id, _)| id.to_owned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever is done, and whichever appends are refused: a replay gives what lives, an answered commit is there after a crash that
    /// keeps what the answer rested on, and every JoinGroup and SyncGroup is answered once.
    #[test]
    fn what_lives_is_what_a_replay_gives(
        steps in proptest::collection::vec((0u8..11, 0usize..3, 0u64..1500, 0u8..8), 1..80),
    ) {
        let mut world = World::new(0);
        let mut members: Vec<String> = Vec::new();
        let mut acknowledged: Option<i64> = None;
        let mut next_offset = 0;
        for (kind, which, ms, luck) in steps {
            let member = members.iter().rev().nth(which).cloned();
            world.outcome = if luck == 0 { Err(ErrorCode::NotEnoughReplicas) } else { Ok(()) };
            match (kind, member) {
                (0, _) => {
                    let token = world.join("", None, "a");
                    if let Some(GroupReply::Join(reply)) = world.replies.get(&token) && reply.error_code == 0 {
                        members.push(reply.member_id.to_string());
                    }
                }
                (1, Some(member)) => { world.join(&member, None, "a"); }
                (2, Some(member)) if world.machine.group("g").is_some() => {
                    world.sync(&member, &[(&member, "x")]);
                }
                (3, member) => {
                    let generation = world.machine.group("g").map_or(0, |group| group.generation);
                    next_offset += 1;
                    let code = match member {
                        Some(member) if which > 0 => world.commit(&member, generation, next_offset),
                        _ => world.commit("", -1, next_offset),
                    };
                    if code == 0 {
                        acknowledged = Some(next_offset);
                    }
                }
                (4, Some(member)) => world.leave(&member),
                (5, _) => world.pass(ms),
                (6, _) => {
                    let instance = ["i", "j", "k"][which];
                    let token = world.join("", Some(instance), "a");
                    if let Some(GroupReply::Join(reply)) = world.replies.get(&token) && reply.error_code == 0 {
                        members.push(reply.member_id.to_string());
                    }
                }
                (7, _) => {
                    let token = world.input(|machine, token, _| machine.delete(token, "g"));
                    if world.replies.get(&token) == Some(&GroupReply::DeleteGroup(ErrorCode::None)) {
                        acknowledged = None;
                    }
                }
                (8, _) => {
                    let length = world.log.len().saturating_sub(which).max(world.rests_on);
                    world.restart(length);
                }
                (9, _) if which == 0 => {
                    world.pass(8 * DAY_MS as u64);
                    // Expiry may take what nobody uses.
                    acknowledged = world.committed();
                    world.rests_on = world.log.len();
                }
                (10, _) if which == 0 => {
                    world.machine.on_topics_deleted(&["t".to_owned()].into());
                    world.settle();
                    acknowledged = world.committed();
                    world.rests_on = world.log.len();
                }
                _ => {}
            }
            prop_assert!(acknowledged.is_none() || world.committed() == acknowledged);
            let mut replayed = durable(&world.replayed());
            for moving in unsettled(&world.machine) {
                replayed.remove(&moving);
            }
            if !world.is_behind {
                prop_assert_eq!(replayed, durable(&world.machine));
            }
            let loaded = world.replayed();
            prop_assert_eq!(loaded.offsets("g"), world.machine.offsets("g"));
        }
    }
}
