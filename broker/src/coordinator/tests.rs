//! Coordinators over a partition that is flushed by hand.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use ottla_machine::group::coordinator::GroupReply;
use ottla_machine::group::join::Join;
use ottla_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::messages::{JoinGroupResponse, OffsetCommitRequest, OffsetCommitResponse};

use super::*;
use crate::partition::tests::{led, led_in};

#[test]
fn groups_hash_to_the_partitions_that_kafka_gives_them() {
    // "polygenelubricants" hashes to the smallest number there is, whose absolute value is none.
    for (group, expected) in [("", 0), ("a", 97 % 50), ("my-group", 12), ("polygenelubricants", 0)] {
        assert_eq!(partition_of(group, 50), expected, "{group}");
    }
}

fn coordinator(partition: &Arc<Partition>, clock: &Clock) -> Arc<Coordinator> {
    let coordinator = Arc::new(Coordinator {
        partition: Arc::clone(partition),
        epoch: LeaderEpoch(0),
        clock: clock.clone(),
        commit_timeout_ms: 5_000,
        state: Mutex::new(State {
            phase: Phase::Loading,
            machine: GroupCoordinator::new(settings(&Config::default())),
            waiting: HashMap::new(),
            next_token: 0,
            rests_on: Offset::ZERO,
        }),
        broken: AtomicBool::new(false),
        ticker: Arc::new(Ticker { state: Mutex::default(), wake: Condvar::new() }),
    });
    coordinator.load();
    coordinator
}

/// Commits, and returns where the answer's code will come.
fn commit(coordinator: &Arc<Coordinator>, offset: i64) -> Receiver<i16> {
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        retention_time_ms: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition { committed_offset: offset, ..Default::default() }],
            ..Default::default()
        }],
        ..OffsetCommitRequest::default()
    };
    let (to, from) = channel();
    coordinator.step(
        GroupReply::OffsetCommit(OffsetCommitResponse::default()),
        move |reply| {
            let GroupReply::OffsetCommit(reply) = reply else { panic!("{reply:?}") };
            to.send(reply.topics.first().map_or(-2, |topic| topic.partitions[0].error_code)).expect("heard");
        },
        |machine, token, now| machine.commit(token, &request, 8, &|_, _| Ok(()), now),
    );
    from
}

fn fetch(coordinator: &Arc<Coordinator>) -> Receiver<Result<Option<i64>, ErrorCode>> {
    let (to, from) = channel();
    coordinator.read(
        |machine| machine.offsets("g").and_then(|all| all.values().next()).map(|committed| committed.offset),
        move |seen| to.send(seen).expect("heard"),
    );
    from
}

#[test]
fn a_commit_is_answered_and_shown_once_it_is_on_the_disk() {
    let (partition, clock) = (led("__consumer_offsets"), Clock::manual(0));
    let coordinator = coordinator(&partition, &clock);
    let committed = commit(&coordinator, 5);
    let shown = fetch(&coordinator);
    assert_eq!(committed.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(shown.try_recv(), Err(TryRecvError::Empty), "it might be lost yet");
    partition.flush();
    assert_eq!(committed.try_recv(), Ok(0));
    assert_eq!(shown.try_recv(), Ok(Ok(Some(5))));
    assert_eq!(fetch(&coordinator).try_recv(), Ok(Ok(Some(5))));
}

#[test]
fn a_commit_that_takes_too_long_is_told_so_and_may_come_yet() {
    let (partition, clock) = (led("__consumer_offsets"), Clock::manual(0));
    let coordinator = coordinator(&partition, &clock);
    let committed = commit(&coordinator, 5);
    partition.look_after(5_000);
    assert_eq!(committed.try_recv(), Ok(ErrorCode::CoordinatorNotAvailable.code()));
    partition.flush();
    assert_eq!(fetch(&coordinator).try_recv(), Ok(Ok(Some(5))));
}

#[test]
fn while_too_few_replicas_are_in_sync_commits_wait_and_the_coordinator_stays() {
    let (partition, clock) = (led("__consumer_offsets"), Clock::manual(0));
    let coordinator = coordinator(&partition, &clock);
    let committed = commit(&coordinator, 5);
    let mut config = Config::default();
    config.set("min.insync.replicas", "2");
    let topic = |config| {
        crate::config::TopicConfig::resolve(config, &Image::default(), NodeId(1), "__consumer_offsets")
    };
    partition.update(&led_in(0), &Arc::new(topic(&config)));
    partition.look_after(5_000);
    assert_eq!(committed.try_recv(), Ok(ErrorCode::CoordinatorNotAvailable.code()));
    assert_eq!(coordinator.check(), Ok(()));
    partition.update(&led_in(0), &Arc::new(topic(&Config::default())));
    partition.flush();
    assert_eq!(fetch(&coordinator).try_recv(), Ok(Ok(Some(5))));
}

#[test]
fn a_coordinator_whose_log_is_gone_answers_nothing_more() {
    let (partition, clock) = (led("__consumer_offsets"), Clock::manual(0));
    let coordinator = coordinator(&partition, &clock);
    let committed = commit(&coordinator, 5);
    drop(partition.delete());
    assert_ne!(committed.try_recv(), Ok(0));
    assert_eq!(coordinator.check(), Err(ErrorCode::NotCoordinator));
}

#[test]
fn one_that_leads_no_longer_sends_who_waits_to_the_next_and_takes_nothing_in() {
    let (partition, clock) = (led("__consumer_offsets"), Clock::manual(0));
    let coordinator = coordinator(&partition, &clock);
    let (to, joined) = channel();
    let join = Join {
        group: "g".into(),
        member_id: String::new(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "/h".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Default::default())],
        requires_known_id: false,
        may_skip_assignment: false,
        fresh: "1".into(),
    };
    coordinator.step(
        GroupReply::Join(JoinGroupResponse::default()),
        move |reply| {
            let GroupReply::Join(reply) = reply else { panic!("{reply:?}") };
            to.send(reply.error_code).expect("heard");
        },
        |machine, token, now| machine.join(token, join, now),
    );
    assert_eq!(joined.try_recv(), Err(TryRecvError::Empty));
    coordinator.unload();
    assert_eq!(joined.try_recv(), Ok(ErrorCode::NotCoordinator.code()));
    assert_eq!(fetch(&coordinator).try_recv(), Ok(Err(ErrorCode::NotCoordinator)));
}

#[test]
fn an_append_in_an_epoch_that_is_over_is_refused() {
    let (partition, clock) = (led("__consumer_offsets"), Clock::manual(0));
    let coordinator = coordinator(&partition, &clock);
    let config = Arc::new(crate::config::TopicConfig::resolve(
        &Config::default(),
        &Image::default(),
        NodeId(1),
        "__consumer_offsets",
    ));
    partition.update(&led_in(1), &config);
    let committed = commit(&coordinator, 5);
    assert_ne!(committed.try_recv(), Ok(0));
    partition.flush();
    assert_eq!(partition.size_bytes(), 0, "nothing was appended");
}

#[test]
fn what_was_committed_is_there_after_a_load() {
    let (partition, clock) = (led("__consumer_offsets"), Clock::manual(0));
    let first = coordinator(&partition, &clock);
    let answers = [commit(&first, 5), commit(&first, 6)];
    partition.flush();
    assert!(answers.iter().all(|answer| answer.try_recv() == Ok(0)));
    let second = coordinator(&partition, &clock);
    assert_eq!(fetch(&second).try_recv(), Ok(Ok(Some(6))));
}
