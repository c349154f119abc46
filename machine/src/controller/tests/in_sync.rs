//! In-sync sets as leaders ask for them.

use super::*;

#[test]
fn an_in_sync_set_is_judged_by_every_epoch_and_every_member() {
    let mut world = World::of_cluster(4);
    world.topic("t", &[1, 2, 3], &[]);
    world.fence(3);
    // Epochs of 2 and more, so that there are older ones.
    assert_eq!(world.alter_isr("t", &[1]), Ok(()));
    world.fence(1);
    world.unfence(1);
    let good = world.isr_change("t", &[1, 2]);
    let with = |edit: fn(&mut IsrChange)| {
        let mut change = good.clone();
        edit(&mut change);
        change
    };
    let cases = [
        (1, with(|change| change.topic = Uuid([5; 16])), ErrorCode::UnknownTopicId),
        (1, with(|change| change.index = 1), ErrorCode::UnknownTopicOrPartition),
        (1, with(|change| change.index = -1), ErrorCode::UnknownTopicOrPartition),
        (1, with(|change| change.leader_epoch.0 += 1), ErrorCode::NotController),
        (1, with(|change| change.partition_epoch.0 += 1), ErrorCode::NotController),
        (1, with(|change| change.leader_epoch.0 -= 1), ErrorCode::FencedLeaderEpoch),
        (1, with(|change| change.partition_epoch.0 -= 1), ErrorCode::InvalidUpdateVersion),
        (2, with(|_| {}), ErrorCode::InvalidRequest),
        (1, with(|change| change.isr.clear()), ErrorCode::InvalidRequest),
        (1, with(|change| change.isr[0] = change.isr[1]), ErrorCode::InvalidRequest),
        (1, with(|change| change.isr = change.isr.split_off(1)), ErrorCode::InvalidRequest),
        (1, with(|change| change.isr.push((NodeId(4), BrokerEpoch(-1)))), ErrorCode::InvalidRequest),
        (1, with(|change| change.isr.push((NodeId(3), BrokerEpoch(-1)))), ErrorCode::IneligibleReplica),
        (1, with(|change| change.isr[1].1.0 -= 1), ErrorCode::IneligibleReplica),
    ];
    let before = world.image.clone();
    for (broker, change, code) in cases {
        assert_eq!(world.ask_isr(broker, change.clone()), Err(code), "{change:?} of {broker}");
        assert_eq!(world.image, before);
    }
    assert_eq!(world.ask_isr(1, with(|change| change.isr[1].1 = BrokerEpoch(-1))), Ok(()));
    assert_eq!(world.shown("t"), "123 isr 12 leader 1");
    let leader_epoch = world.partition("t").leader_epoch;
    assert_eq!(leader_epoch, good.leader_epoch, "an in-sync set is no new leadership");
}

#[test]
fn the_same_set_in_another_order_changes_nothing_and_a_partition_counts_once() {
    let mut world = World::of_cluster(3);
    world.topic("t", &[1, 2, 3], &[]);
    let before = world.image.clone();
    assert_eq!(world.alter_isr("t", &[3, 1, 2]), Ok(()));
    assert_eq!(world.image, before);
    let (change, epoch) = (world.isr_change("t", &[1]), world.epoch(1));
    let changes = vec![change.clone(), change];
    let answer = world.run(&Command::AlterPartitions { broker: NodeId(1), epoch, changes });
    let Answer::Partitions(answers) = answer else { panic!("{answer:?}") };
    assert_eq!(answers[0].as_ref(), Ok(world.partition("t")));
    assert_eq!(answers[1].as_ref().map_err(|failure| failure.code), Err(ErrorCode::InvalidRequest));
}

#[test]
fn a_replica_that_restarted_since_it_was_seen_does_not_join() {
    let mut world = World::of_cluster(2);
    world.topic("t", &[1, 2], &[]);
    world.fence(2);
    let seen = {
        world.unfence(2);
        world.isr_change("t", &[1, 2])
    };
    world.start(2);
    assert_eq!(world.ask_isr(1, seen), Err(ErrorCode::IneligibleReplica));
    assert_eq!(world.alter_isr("t", &[1, 2]), Ok(()));
}

#[test]
fn who_leaves_a_set_below_its_minimum_stays_eligible_until_the_set_is_whole() {
    let mut world = World::of_cluster(3);
    world.topic("t", &[1, 2, 3], &[("min.insync.replicas", "2")]);
    for (isr, expected) in [
        (&[1, 2][..], "123 isr 12 leader 1"),
        (&[1], "123 isr 1 elr 2 leader 1"),
        (&[1, 3], "123 isr 13 leader 1"),
        (&[1], "123 isr 1 elr 3 leader 1"),
        (&[1, 2, 3], "123 isr 123 leader 1"),
    ] {
        assert_eq!(world.alter_isr("t", isr), Ok(()));
        assert_eq!(world.shown("t"), expected);
    }
}
