//! Leaders and followers as tables, and one property over random fetches.

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionEpoch};
use proptest::prelude::*;

use super::leader::{IsrProposal, Mode, OwnLog, Progress, Replica};
use crate::controller::image::PartitionState;

const DISK: Mode = Mode { flushed_counts: true, min_insync_replicas: 1, lag_max_ms: 1000 };
const MEMORY: Mode = Mode { flushed_counts: false, ..DISK };

fn state(replicas: &[i32], isr: &[i32], leader: i32) -> PartitionState {
    let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect();
    PartitionState {
        replicas: nodes(replicas),
        isr: nodes(isr),
        leader: NodeId(leader),
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(7),
        elr: nodes(&[]),
        last_known_elr: nodes(&[]),
        adding: nodes(&[]),
        removing: nodes(&[]),
    }
}

fn own(end: i64, flushed: i64) -> OwnLog {
    OwnLog { start: Offset(0), end: Offset(end), flushed: Offset(flushed) }
}

/// Node 1's replica, its log opened at `end`.
fn replica(replicas: &[i32], isr: &[i32], leader: i32, end: i64, mode: &Mode) -> Replica {
    let mut replica = Replica::new(NodeId(1), state(replicas, isr, leader));
    replica.on_opened(own(end, end), mode, 0);
    replica
}

fn fetched(follower: i32, end: i64, flushed: i64) -> Progress {
    Progress {
        follower: NodeId(follower),
        epoch: BrokerEpoch(i64::from(follower) * 10),
        end: Offset(end),
        flushed: Offset(flushed),
    }
}

fn everybody(id: NodeId) -> Option<BrokerEpoch> {
    Some(BrokerEpoch(i64::from(id.0) * 10))
}

fn members(proposal: Option<IsrProposal>) -> Option<Vec<i32>> {
    Some(proposal?.isr.into_iter().map(|(id, _)| id.0).collect())
}

#[test]
fn epochs_fence_before_leadership_is_looked_at() {
    let cases = [
        (1, -1, Ok(())),
        (1, 5, Ok(())),
        (1, 4, Err(ErrorCode::FencedLeaderEpoch)),
        (1, 6, Err(ErrorCode::UnknownLeaderEpoch)),
        (2, -1, Err(ErrorCode::NotLeaderOrFollower)),
        (2, 4, Err(ErrorCode::FencedLeaderEpoch)),
    ];
    for (leader, epoch, expected) in cases {
        let replica = replica(&[1, 2], &[1, 2], leader, 0, &DISK);
        assert_eq!(replica.check_leader(LeaderEpoch(epoch)), expected);
    }
}

#[test]
fn the_minimum_in_sync_is_never_above_the_number_of_replicas() {
    assert_eq!(replica(&[1], &[1], 1, 0, &DISK).check_in_sync(2), Ok(()));
    assert_eq!(replica(&[1, 2], &[1], 1, 0, &DISK).check_in_sync(2), Err(ErrorCode::NotEnoughReplicas));
}

#[test]
fn a_lone_replica_commits_what_its_mode_says_and_never_goes_back() {
    let mut replica = replica(&[1], &[1], 1, 0, &DISK);
    assert!(!replica.advance(own(10, 0), &DISK, &everybody, 0));
    assert!(replica.advance(own(10, 7), &DISK, &everybody, 0));
    assert!(replica.advance(own(10, 7), &MEMORY, &everybody, 0));
    assert!(!replica.advance(own(12, 8), &DISK, &everybody, 0));
    assert_eq!(replica.high_watermark(), Offset(10));
}

#[test]
fn what_the_slowest_member_has_is_committed() {
    for (mode, expected) in [(DISK, 4), (MEMORY, 6)] {
        let mut replica = replica(&[1, 2, 3], &[1, 2, 3], 1, 0, &mode);
        let log = own(10, 9);
        assert!(!replica.advance(log, &mode, &everybody, 0), "nobody has fetched yet");
        replica.on_follower(fetched(2, 8, 4), log, &mode, &everybody, 0);
        assert!(!replica.advance(log, &mode, &everybody, 0), "node 3 has not");
        replica.on_follower(fetched(3, 6, 5), log, &mode, &everybody, 0);
        assert!(replica.advance(log, &mode, &everybody, 0));
        assert_eq!(replica.high_watermark(), Offset(expected));
    }
}

#[test]
fn the_watermark_stands_still_below_the_minimum_in_sync() {
    let mode = Mode { min_insync_replicas: 2, ..DISK };
    let mut replica = replica(&[1, 2], &[1], 1, 0, &mode);
    assert!(!replica.advance(own(10, 10), &mode, &everybody, 5000));
    assert_eq!(replica.high_watermark(), Offset(0));
}

#[test]
fn a_follower_joins_once_it_has_what_is_committed_and_all_of_the_epochs_before() {
    let cases = [
        ("has everything", 10, 10, 20, Some(vec![1, 2])),
        ("not flushed yet", 10, 7, 20, None),
        ("lags behind", 7, 7, 20, None),
        ("an earlier incarnation", 10, 10, 19, None),
    ];
    for (name, end, flushed, registered, expected) in cases {
        let mut replica = replica(&[1, 2], &[1], 1, 9, &DISK);
        let log = own(10, 10);
        replica.advance(log, &DISK, &everybody, 5000);
        assert_eq!(replica.high_watermark(), Offset(10));
        let active = |id: NodeId| Some(BrokerEpoch(if id == NodeId(2) { registered } else { 10 }));
        let proposal = replica.on_follower(fetched(2, end, flushed), log, &DISK, &active, 5000);
        assert_eq!(members(proposal), expected, "{name}");
    }
}

/// A new leader does not know yet how much of the epochs before was acknowledged: its own watermark may be far behind. Found by the
/// simulator (seed 7015): a follower joined with what it had in memory, led, lost power, and what two others had acknowledged was cut.
#[test]
fn a_follower_joins_a_new_leader_with_all_of_the_epochs_before_on_its_disk() {
    for (flushed, expected) in [(5, None), (9, Some(vec![1, 3, 2]))] {
        let mut replica = replica(&[1, 2, 3], &[1, 3], 1, 9, &DISK);
        let proposal = replica.on_follower(fetched(2, 9, flushed), own(9, 9), &DISK, &everybody, 0);
        assert_eq!(replica.high_watermark(), Offset(0), "node 3 has not fetched");
        assert_eq!(members(proposal), expected, "flushed up to {flushed}");
    }
}

#[test]
fn while_a_proposal_is_open_the_watermark_waits_for_the_old_members_and_the_new() {
    let mut replica = replica(&[1, 2], &[1], 1, 0, &DISK);
    replica.advance(own(10, 10), &DISK, &everybody, 5000);
    let proposal = replica.on_follower(fetched(2, 10, 10), own(10, 10), &DISK, &everybody, 5000);
    assert!(proposal.is_some());
    assert_eq!(replica.on_follower(fetched(2, 10, 10), own(10, 10), &DISK, &everybody, 5000), None, "once");
    assert!(
        !replica.advance(own(20, 20), &DISK, &everybody, 60_000),
        "the newcomer counts, or its joining loses records"
    );
    replica.on_proposal_failed(PartitionEpoch(7));
    assert!(replica.advance(own(20, 20), &DISK, &everybody, 60_000));
}

#[test]
fn nobody_waits_for_a_follower_that_is_fenced_or_another_incarnation_by_now() {
    for registered in [None, Some(BrokerEpoch(21)), Some(BrokerEpoch(20))] {
        let mut replica = replica(&[1, 2], &[1], 1, 0, &MEMORY);
        let active = |id: NodeId| if id == NodeId(2) { registered } else { Some(BrokerEpoch(10)) };
        // It had everything a moment ago, and did not get into the set.
        replica.on_follower(fetched(2, 5, 5), own(5, 5), &MEMORY, &|_| None, 5000);
        let is_waited_for = registered == Some(BrokerEpoch(20));
        assert!(replica.advance(own(10, 10), &MEMORY, &active, 5001));
        let expected = if is_waited_for { Offset(5) } else { Offset(10) };
        assert_eq!(replica.high_watermark(), expected, "{registered:?}");
    }
}

#[test]
fn a_replica_that_is_back_and_has_everything_joins_without_a_fetch() {
    let mut replica = replica(&[1, 2], &[1, 2], 1, 0, &DISK);
    let log = own(10, 10);
    let only_me = |id| (id == NodeId(1)).then_some(BrokerEpoch(10));
    assert!(replica.is_unsettled(log, &DISK, &everybody), "nobody knows what node 2 has");
    replica.on_follower(fetched(2, 10, 10), log, &DISK, &everybody, 100);
    assert!(!replica.is_unsettled(log, &DISK, &everybody), "it has everything");
    let lost = PartitionState { partition_epoch: PartitionEpoch(8), ..state(&[1, 2], &[1], 1) };
    replica.on_state(lost, Some(log), 200);
    assert!(!replica.is_unsettled(log, &DISK, &only_me), "there is nobody who could join");
    assert_eq!(replica.on_tick(log, &DISK, &only_me, 300), None);
    assert!(replica.is_unsettled(log, &DISK, &everybody));
    assert_eq!(members(replica.on_tick(log, &DISK, &everybody, 300)), Some(vec![1, 2]));
}

#[test]
fn who_falls_behind_for_too_long_is_to_leave() {
    let mut replica = replica(&[1, 2, 3], &[1, 2, 3], 1, 0, &DISK);
    for tick_ms in [0, 600, 1200] {
        let log = own(10 + tick_ms, 10 + tick_ms);
        let tick_ms = tick_ms as u64;
        replica.on_follower(fetched(2, log.end.0, log.end.0), log, &DISK, &everybody, tick_ms);
        replica.on_follower(fetched(3, 5, 5), log, &DISK, &everybody, tick_ms);
        assert_eq!(
            members(replica.on_tick(log, &DISK, &everybody, tick_ms)),
            (tick_ms > 1000).then(|| vec![1, 2])
        );
    }
    replica.advance(own(1300, 1300), &DISK, &everybody, 1300);
    assert_eq!(replica.high_watermark(), Offset(5), "until the controller agrees, it counts");
}

#[test]
fn a_follower_that_keeps_up_with_a_busy_leader_stays_though_it_never_has_everything() {
    let mut replica = replica(&[1, 2], &[1, 2], 1, 0, &DISK);
    let mut end = 0;
    for tick_ms in (0..10_000).step_by(100) {
        // It always has what there was 300 ms ago.
        replica.on_follower(
            fetched(2, end, (end - 30).max(0)),
            own(end + 10, end + 10),
            &DISK,
            &everybody,
            tick_ms,
        );
        assert_eq!(replica.on_tick(own(end + 10, end + 10), &DISK, &everybody, tick_ms), None, "{tick_ms}");
        end += 10;
    }
}

#[test]
fn an_idle_follower_that_has_everything_stays() {
    let mut replica = replica(&[1, 2], &[1, 2], 1, 10, &DISK);
    replica.on_follower(fetched(2, 10, 10), own(10, 10), &DISK, &everybody, 0);
    assert_eq!(replica.on_tick(own(10, 10), &DISK, &everybody, 1_000_000), None);
}

#[test]
fn who_showed_everything_while_it_was_fenced_joins_by_itself_once_it_is_not() {
    let mut replica = replica(&[1, 2, 3], &[1], 1, 10, &DISK);
    replica.advance(own(10, 10), &DISK, &everybody, 5000);
    let fenced = |id: NodeId| Some(BrokerEpoch(i64::from(id.0) * 10)).filter(|_| id == NodeId(1));
    for (follower, end) in [(2, 10), (3, 9)] {
        let progress = fetched(follower, end, end);
        assert_eq!(replica.on_follower(progress, own(10, 10), &DISK, &fenced, 5000), None);
    }
    assert_eq!(replica.on_tick(own(10, 10), &DISK, &fenced, 5100), None);
    let proposal = replica.on_tick(own(10, 10), &DISK, &everybody, 5200);
    assert_eq!(members(proposal), Some(vec![1, 2]), "3 lacks something that is committed");
    assert_eq!(replica.on_tick(own(10, 10), &DISK, &everybody, 5300), None, "once");
}

#[test]
fn readers_are_in_sync_and_have_what_is_asked_for() {
    let mut replica = replica(&[1, 2, 3, 4], &[1, 2, 3], 1, 0, &MEMORY);
    for (follower, end) in [(2, 5), (3, 8), (4, 8)] {
        replica.on_follower(fetched(follower, end, 0), own(10, 0), &MEMORY, &|_| None, 0);
    }
    let from =
        |offset: i64| -> Vec<i32> { replica.readers_from(Offset(offset)).map(|(id, _)| id.0).collect() };
    assert_eq!((from(0), from(5), from(6), from(9)), (vec![2, 3], vec![2, 3], vec![3], vec![]));
}

#[test]
fn a_new_leader_is_settled_once_the_epochs_before_are_committed() {
    let mut replica = replica(&[1, 2], &[1, 2], 2, 10, &MEMORY);
    assert!(replica.on_leader_watermark(Offset(6), Offset(10)));
    let mut led = state(&[1, 2], &[1, 2], 1);
    (led.leader_epoch, led.partition_epoch) = (LeaderEpoch(6), PartitionEpoch(8));
    assert!(replica.on_state(led, Some(own(10, 10)), 0));
    assert_eq!((replica.high_watermark(), replica.is_settled()), (Offset(6), false));
    replica.on_follower(fetched(2, 10, 10), own(11, 11), &MEMORY, &everybody, 0);
    assert!(replica.advance(own(11, 11), &MEMORY, &everybody, 0));
    assert_eq!((replica.high_watermark(), replica.is_settled()), (Offset(10), true));
}

#[test]
fn an_older_state_of_the_partition_changes_nothing() {
    let mut replica = replica(&[1, 2], &[1, 2], 1, 0, &DISK);
    let mut older = state(&[1, 2], &[1], 2);
    older.partition_epoch = PartitionEpoch(6);
    assert!(!replica.on_state(older, Some(own(0, 0)), 0));
    assert!(replica.leads());
}

proptest! {
    /// Whatever order fetches come in: the watermark never goes back and is never above what a member of the set has.
    #[test]
    fn nothing_is_committed_that_a_member_lacks(
        steps in proptest::collection::vec((0u8..4, 2i32..4, 0i64..20, 0i64..20, 0u64..400), 1..100),
        flushed_counts in any::<bool>(),
    ) {
        let mode = Mode { flushed_counts, ..DISK };
        let mut replica = replica(&[1, 2, 3], &[1, 2, 3], 1, 0, &mode);
        let (mut log, mut tick_ms) = (own(0, 0), 0);
        let mut held = std::collections::BTreeMap::from([(2, (-1, -1)), (3, (-1, -1))]);
        for (kind, who, end, flushed, ms) in steps {
            tick_ms += ms;
            let before = replica.high_watermark();
            match kind {
                0 => log.end = Offset(log.end.0 + end),
                1 => log.flushed = Offset((log.flushed.0 + flushed).min(log.end.0)),
                2 => {
                    let end = end.min(log.end.0).max(held[&who].0);
                    let flushed = flushed.min(end).max(held[&who].1);
                    held.insert(who, (end, flushed));
                    replica.on_follower(fetched(who, end, flushed), log, &mode, &everybody, tick_ms);
                }
                _ => { replica.on_tick(log, &mode, &everybody, tick_ms); }
            }
            replica.advance(log, &mode, &everybody, tick_ms);
            let watermark = replica.high_watermark();
            prop_assert!(watermark >= before);
            if watermark > before {
                for (end, flushed) in held.values() {
                    let has = if flushed_counts { *flushed } else { *end };
                    prop_assert!(watermark.0 <= has);
                }
                let has = if flushed_counts { log.flushed } else { log.end };
                prop_assert!(watermark <= has);
            }
        }
    }
}
