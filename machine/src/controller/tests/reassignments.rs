//! Partitions move to other replicas.

use super::*;

fn reassign(world: &mut World, replicas: Option<&[i32]>, may_change_factor: bool) -> Result<(), ErrorCode> {
    let change = Reassignment {
        topic: "t".into(),
        index: 0,
        replicas: replicas.map(|ids| ids.iter().copied().map(NodeId).collect()),
    };
    match world.run(&Command::AlterReassignments { changes: vec![change], may_change_factor }) {
        Answer::Reassigned(mut answers) => answers.remove(0).map_err(|failure| failure.code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_partition_moves_once_its_new_replicas_are_in_sync() {
    let mut world = World::of_cluster(5);
    world.topic("t", &[1, 2, 3], &[]);
    let epoch = world.partition("t").leader_epoch;
    assert_eq!(reassign(&mut world, Some(&[4, 5, 3]), false), Ok(()));
    assert_eq!(world.shown("t"), "45312 + 45 - 12 isr 123 leader 1");
    assert_eq!(world.partition("t").target().as_slice(), [NodeId(4), NodeId(5), NodeId(3)]);
    assert_eq!(world.partition("t").leader_epoch, epoch);
    assert_eq!(world.alter_isr("t", &[1, 2, 3, 4]), Ok(()));
    assert_eq!(world.alter_isr("t", &[1, 2, 3, 4, 5]), Err(ErrorCode::NewLeaderElected));
    assert_eq!(world.shown("t"), "453 isr 453 leader 4");
    assert!(world.partition("t").leader_epoch > epoch);
}

#[test]
fn what_needs_no_new_replica_is_done_at_once() {
    let mut world = World::of_cluster(3);
    world.topic("t", &[1, 2, 3], &[]);
    assert_eq!(reassign(&mut world, Some(&[3, 1, 2]), false), Ok(()));
    assert_eq!(world.shown("t"), "312 isr 123 leader 1");
    assert_eq!(reassign(&mut world, Some(&[3, 2]), true), Ok(()));
    assert_eq!(world.shown("t"), "32 isr 23 leader 3");
    let before = world.image.clone();
    assert_eq!(reassign(&mut world, Some(&[3, 2]), true), Ok(()));
    assert_eq!(world.image, before);
}

#[test]
fn a_reassignment_is_taken_back_unless_only_its_new_replicas_hold_the_records() {
    let mut world = World::of_cluster(4);
    world.topic("t", &[1, 2], &[]);
    assert_eq!(reassign(&mut world, None, false), Err(ErrorCode::NoReassignmentInProgress));
    assert_eq!(reassign(&mut world, Some(&[3, 4]), false), Ok(()));
    assert_eq!(world.alter_isr("t", &[1, 2, 3]), Ok(()));
    assert_eq!(reassign(&mut world, None, false), Ok(()));
    assert_eq!(world.shown("t"), "12 isr 12 leader 1");
    // Only the new one is left in sync.
    assert_eq!(reassign(&mut world, Some(&[3, 4]), false), Ok(()));
    assert_eq!(world.alter_isr("t", &[1, 2, 3]), Ok(()));
    world.fence(1);
    world.fence(2);
    world.unfence(2);
    assert_eq!(world.shown("t"), "3412 + 34 - 12 isr 3 leader 3");
    let before = world.image.clone();
    assert_eq!(reassign(&mut world, None, false), Err(ErrorCode::InvalidReplicaAssignment));
    assert_eq!(world.image, before);
    // Nor where nobody leads: what is committed is on the new one.
    world.fence(3);
    assert_eq!(world.shown("t"), "3412 + 34 - 12 elr 3 last 3");
    assert_eq!(reassign(&mut world, None, false), Err(ErrorCode::InvalidReplicaAssignment));
    world.unfence(3);
    world.alter("t", "unclean.leader.election.enable", ConfigOp::Set(Some("true".into()))).expect("allowed");
    assert_eq!(reassign(&mut world, None, false), Ok(()));
    assert_eq!(world.shown("t"), "12 isr 2 leader 2");
}

#[test]
fn a_reassignment_is_judged_as_kafka_judges_it() {
    let mut world = World::of_cluster(4);
    world.topic("t", &[1, 2], &[]);
    let before = world.image.clone();
    let cases: [(&[i32], bool, ErrorCode); 5] = [
        (&[], true, ErrorCode::InvalidReplicaAssignment),
        (&[1, 1], true, ErrorCode::InvalidReplicaAssignment),
        (&[1, 9], true, ErrorCode::InvalidReplicaAssignment),
        (&[1, -1], true, ErrorCode::InvalidReplicaAssignment),
        (&[1, 2, 3], false, ErrorCode::InvalidReplicationFactor),
    ];
    for (replicas, may_change_factor, code) in cases {
        assert_eq!(reassign(&mut world, Some(replicas), may_change_factor), Err(code), "{replicas:?}");
    }
    assert_eq!(world.image, before);
    let unknown = |topic: &str, index| Reassignment { topic: topic.into(), index, replicas: None };
    let changes = vec![unknown("no", 0), unknown("t", 1), unknown("t", 1)];
    let answer = world.run(&Command::AlterReassignments { changes, may_change_factor: true });
    let Answer::Reassigned(answers) = answer else { panic!("{answer:?}") };
    let codes: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|failure| failure.code)).collect();
    assert_eq!(
        codes,
        [
            Err(ErrorCode::UnknownTopicOrPartition),
            Err(ErrorCode::UnknownTopicOrPartition),
            Err(ErrorCode::InvalidRequest)
        ]
    );
    assert_eq!(reassign(&mut world, Some(&[3, 4, 1]), true), Ok(()));
    assert_eq!(world.shown("t"), "3412 + 34 - 2 isr 12 leader 1");
    // Another target while one is under way.
    assert_eq!(reassign(&mut world, Some(&[3, 2, 1]), false), Ok(()));
    assert_eq!(world.shown("t"), "3214 - 4 isr 12 leader 1");
}
