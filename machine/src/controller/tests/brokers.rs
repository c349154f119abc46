//! Brokers come and go.

use super::*;

fn fenced(id: i32) -> Registration {
    Registration { fenced: true, ..registration(id) }
}

fn refused(answer: Answer) -> ErrorCode {
    match answer {
        Answer::Failed(failure) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_registration_is_judged_by_cluster_directory_and_epoch() {
    let mut world = World::of_cluster(2);
    let other = Uuid([77; 16]);
    let served = world.epoch(1);
    let cases = [
        (Registration { cluster_id: other, ..fenced(3) }, ErrorCode::InconsistentClusterId),
        (Registration { directory: Uuid([1; 16]), ..fenced(3) }, ErrorCode::InvalidRegistration),
        (Registration { directory: other, ..fenced(1) }, ErrorCode::DuplicateBrokerRegistration),
        (
            Registration { previous_epoch: BrokerEpoch(served.0 - 1), ..fenced(1) },
            ErrorCode::DuplicateBrokerRegistration,
        ),
    ];
    for (registration, code) in cases {
        let before = world.image.clone();
        assert_eq!(
            refused(world.run(&Command::RegisterBroker(registration.clone()))),
            code,
            "{registration:?}"
        );
        assert_eq!(world.image, before);
    }
    for registration in [
        Registration { cluster_id: Uuid::ZERO, ..fenced(3) },
        Registration { previous_epoch: served, ..fenced(1) },
    ] {
        let answer = world.run(&Command::RegisterBroker(registration));
        assert!(matches!(answer, Answer::Registered(epoch) if epoch > served), "{answer:?}");
    }
    // Fenced now: another directory may take the id.
    let answer = world.run(&Command::RegisterBroker(Registration { directory: other, ..fenced(1) }));
    assert!(matches!(answer, Answer::Registered(_)), "{answer:?}");
}

#[test]
fn a_command_of_an_older_incarnation_is_stale() {
    let mut world = World::of_cluster(2);
    let (id, epoch) = (NodeId(1), world.epoch(1));
    world.start(1);
    let before = world.image.clone();
    for command in [
        Command::UnfenceBroker { id, epoch },
        Command::FenceBroker { id, epoch },
        Command::ShutDownBroker { id, epoch },
        Command::AlterPartitions { broker: id, epoch, changes: Vec::new() },
        Command::FenceBroker { id: NodeId(9), epoch },
    ] {
        assert_eq!(refused(world.run(&command)), ErrorCode::StaleBrokerEpoch, "{command:?}");
    }
    assert_eq!(world.image, before);
}

#[test]
fn a_new_incarnation_keeps_what_its_logs_vouch_for() {
    // Proof, damaged, another directory, flushed topic -> the partition that it led alone, after it registered and was unfenced.
    let kept = "12 isr 1 leader 1";
    let gone = "12";
    let cases = [
        (LogProof::Complete, false, false, false, "12 elr 1 last 1", kept),
        (LogProof::Flushed, false, false, true, "12 elr 1 last 1", kept),
        (LogProof::Flushed, false, false, false, "12 last 1", kept),
        (LogProof::Complete, true, false, true, "12 last 1", kept),
        (LogProof::Nothing, false, false, true, gone, gone),
        (LogProof::Complete, false, true, true, gone, gone),
    ];
    for (proof, is_damaged, is_other, is_flushed, registered, unfenced) in cases {
        let case =
            format!("{proof:?}, damaged {is_damaged}, other directory {is_other}, flushed {is_flushed}");
        let mut world = World::of_cluster(2);
        let configs: &[(&str, &str)] = if is_flushed { &[] } else { &[("flush.messages", "1000")] };
        let topic = world.topic("t", &[1, 2], configs);
        assert_eq!(world.alter_isr("t", &[1]), Ok(()));
        if is_other {
            world.fence(1);
        }
        let epoch = world.partition("t").leader_epoch;
        let registration = Registration {
            proof,
            damaged: if is_damaged { vec![(topic, 0)] } else { Vec::new() },
            directory: if is_other { Uuid([50; 16]) } else { fenced(1).directory },
            ..fenced(1)
        };
        let answer = world.run(&Command::RegisterBroker(registration));
        assert!(matches!(answer, Answer::Registered(_)), "{answer:?}");
        assert_eq!(world.shown("t"), registered, "{case}");
        assert!(is_other || world.partition("t").leader_epoch > epoch, "{case}");
        world.unfence(1);
        assert_eq!(world.shown("t"), unfenced, "{case}");
    }
}

#[test]
fn a_registration_whose_answer_was_lost_costs_no_place() {
    let mut world = World::of_cluster(2);
    world.topic("t", &[1, 2], &[]);
    assert_eq!(world.alter_isr("t", &[1]), Ok(()));
    let previous_epoch = world.epoch(1);
    // The first one's epoch never reached the directory, and nobody served in it.
    for _ in 0..2 {
        world.run(&Command::RegisterBroker(Registration { previous_epoch, ..fenced(1) }));
    }
    world.unfence(1);
    assert_eq!(world.shown("t"), "12 isr 1 leader 1");
    // An older copy of the disk is no such thing.
    world.fence(1);
    world.run(&Command::RegisterBroker(Registration { previous_epoch, ..fenced(1) }));
    assert_eq!(world.shown("t"), "12");
}

#[test]
fn fencing_moves_leaders_and_unfencing_elects_where_nobody_leads() {
    let mut world = World::of_cluster(3);
    world.topic("t", &[1, 2, 3], &[("min.insync.replicas", "2")]);
    let steps: [(i32, bool, &str); 7] = [
        (1, true, "123 isr 23 leader 2"),
        (2, true, "123 isr 3 elr 2 leader 3"),
        (3, true, "123 elr 23 last 3"),
        (1, false, "123 elr 23 last 3"),
        (2, false, "123 isr 2 elr 3 leader 2"),
        (3, false, "123 isr 2 elr 3 leader 2"),
        (3, true, "123 isr 2 elr 3 leader 2"),
    ];
    for (id, fences, expected) in steps {
        if fences {
            world.fence(id);
        } else {
            world.unfence(id);
        }
        assert_eq!(world.shown("t"), expected, "broker {id}");
    }
}

#[test]
fn a_shutdown_moves_what_others_can_take_and_is_repeatable() {
    let mut world = World::of_cluster(3);
    world.topic("shared", &[1, 2], &[]);
    world.topic("alone", &[1], &[]);
    world.topic("followed", &[2, 1], &[]);
    world.topic("behind", &[1, 2], &[]);
    assert_eq!(world.alter_isr("behind", &[1]), Ok(()));
    world.shut_down(1);
    let shown = |world: &World| ["shared", "alone", "followed", "behind"].map(|topic| world.shown(topic));
    let moved = ["12 isr 2 leader 2", "1 isr 1 leader 1", "21 isr 2 leader 2", "12 isr 1 leader 1"];
    assert_eq!(shown(&world), moved);
    assert!(!world.image.broker(NodeId(1)).expect("registered").is_active());
    let before = world.image.clone();
    world.shut_down(1);
    assert_eq!(world.image, before);
    // The other one catches up: the leader names it, and may go at once.
    assert_eq!(world.alter_isr("behind", &[1, 2]), Err(ErrorCode::NewLeaderElected));
    assert_eq!(world.shown("behind"), "12 isr 2 leader 2");
    // It joins nothing any more.
    assert_eq!(world.alter_isr("shared", &[1, 2]), Err(ErrorCode::IneligibleReplica));
    world.fence(1);
    assert_eq!(world.shown("alone"), "1 elr 1 last 1");
    world.start(1);
    assert_eq!(world.shown("alone"), "1 isr 1 leader 1");
}

#[test]
fn an_unregistered_broker_is_in_no_set_any_more() {
    let mut world = World::of_cluster(2);
    world.topic("t", &[1, 2], &[("min.insync.replicas", "2")]);
    world.topic("alone", &[1], &[]);
    assert_eq!(world.run(&Command::UnregisterBroker { id: NodeId(1) }), Answer::Done);
    assert_eq!(world.shown("t"), "12 isr 2 leader 2");
    assert_eq!(world.shown("alone"), "1 last 1");
    assert!(world.image.broker(NodeId(1)).is_none());
    let again = world.run(&Command::UnregisterBroker { id: NodeId(1) });
    assert_eq!(refused(again), ErrorCode::BrokerIdNotRegistered);
}

#[test]
fn a_lower_minimum_ends_eligibility_and_a_higher_one_gives_none() {
    let mut world = World::of_cluster(3);
    world.topic("t", &[1, 2, 3], &[("min.insync.replicas", "2")]);
    assert_eq!(world.alter_isr("t", &[1]), Ok(()));
    assert_eq!(world.shown("t"), "123 isr 1 elr 23 leader 1");
    let set = |value: &str| ConfigOp::Set(Some(value.into()));
    assert_eq!(world.alter("t", "min.insync.replicas", set("3")), Ok(()));
    assert_eq!(world.shown("t"), "123 isr 1 elr 23 leader 1");
    assert_eq!(world.alter("t", "min.insync.replicas", set("1")), Ok(()));
    assert_eq!(world.shown("t"), "123 isr 1 leader 1");
    assert_eq!(world.alter("t", "min.insync.replicas", set("3")), Ok(()));
    assert_eq!(world.shown("t"), "123 isr 1 leader 1");
    world.fence(1);
    assert_eq!(world.shown("t"), "123 elr 1 last 1");
    assert_eq!(world.alter("t", "unclean.leader.election.enable", set("true")), Ok(()));
    assert_eq!(world.shown("t"), "123 isr 2 leader 2");
}

#[test]
fn the_minimum_is_one_for_all_brokers() {
    let mut world = World::of_cluster(2);
    world.topic("t", &[1, 2], &[]);
    let of_all = ConfigResource::broker(None);
    let value = |world: &World| world.image.config(&of_all, "min.insync.replicas").map(ToString::to_string);
    assert_eq!(value(&world).as_deref(), Some("1"), "the founder's");
    let alter = |world: &mut World, id: Option<i32>, ops: &[ConfigOp], replace| {
        let ops = ops.iter().map(|op| ("min.insync.replicas".to_owned(), op.clone())).collect();
        let resource = Ok(ConfigResource::broker(id.map(NodeId)));
        let change = ConfigChange { resource, ops, replace };
        match world.run(&Command::AlterConfigs { changes: vec![change], validate_only: false }) {
            Answer::Configs(mut answers) => answers.remove(0).map_err(|failure| failure.code),
            other => panic!("{other:?}"),
        }
    };
    let two = ConfigOp::Set(Some("2".into()));
    assert_eq!(alter(&mut world, Some(1), std::slice::from_ref(&two), false), Err(ErrorCode::InvalidConfig));
    assert_eq!(alter(&mut world, None, &[ConfigOp::Delete], false), Err(ErrorCode::InvalidConfig));
    assert_eq!(alter(&mut world, None, &[two], false), Ok(()));
    assert_eq!(alter(&mut world, None, &[], true), Ok(()));
    assert_eq!(value(&world).as_deref(), Some("2"));
    assert_eq!(world.alter_isr("t", &[1]), Ok(()));
    assert_eq!(world.shown("t"), "12 isr 1 elr 2 leader 1");
    let one = ConfigOp::Set(Some("1".into()));
    assert_eq!(alter(&mut world, None, &[one], false), Ok(()));
    assert_eq!(world.shown("t"), "12 isr 1 leader 1");
}

#[test]
fn new_partitions_begin_in_sync_on_active_brokers_only() {
    let mut world = World::of_cluster(3);
    world.fence(1);
    world.topic("t", &[1, 2, 3], &[]);
    assert_eq!(world.shown("t"), "123 isr 23 leader 2");
    assert_eq!(world.create(manual("dead", &[(0, &[1])])), Err(ErrorCode::InvalidReplicaAssignment));
    let more = NewPartitions { topic: "t".into(), count: 2, assignments: Some(vec![vec![NodeId(1); 1]]) };
    let answer = world.run(&Command::CreatePartitions { topics: vec![more], validate_only: false });
    let Answer::Topics(answers) = answer else { panic!("{answer:?}") };
    assert_eq!(answers[0].as_ref().map_err(|failure| failure.code), Err(ErrorCode::InvalidReplicaAssignment));
}

#[test]
fn features_move_within_their_levels_all_or_none() {
    let mut world = World::new(1);
    let one = |name: &str, level: i16, kind: i8| (name.to_owned(), level, kind);
    let (metadata, some) = ("metadata.version", "some.version");
    let invalid = Err(ErrorCode::InvalidUpdateVersion);
    let cases: [(Vec<(String, i16, i8)>, Result<i16, ErrorCode>); 14] = [
        (vec![one(some, 2, 1)], Ok(2)),
        (vec![one(some, 1, 1)], invalid),
        (vec![one(some, 1, 2), one("no.such", 1, 1)], invalid),
        (vec![one(some, 1, 2)], Ok(1)),
        (vec![one(some, 2, 2)], invalid),
        (vec![one(some, 3, 1)], invalid),
        (vec![one(some, 0, 3)], invalid),
        (vec![one(some, 1, 4)], invalid),
        (vec![one(some, 1, 1), one(some, 1, 1)], Err(ErrorCode::InvalidRequest)),
        (vec![one(some, 0, 2)], Ok(0)),
        // What cannot be switched off, and what would lose metadata.
        (vec![one("fixed.version", 1, 1), one(some, 1, 1)], Ok(1)),
        (vec![one("fixed.version", 0, 2)], invalid),
        (vec![one(metadata, 29, 2)], invalid),
        (vec![one(metadata, 30, 1)], Ok(1)),
    ];
    for (changes, expected) in cases {
        let before = world.image.clone();
        let answer = world.run(&Command::UpdateFeatures { changes: changes.clone(), validate_only: false });
        match expected {
            Ok(level) => {
                assert_eq!((answer, world.image.feature(some)), (Answer::Done, level), "{changes:?}")
            }
            Err(code) => {
                assert_eq!(refused(answer), code, "{changes:?}");
                assert_eq!(world.image, before);
            }
        }
    }
    let before = world.image.clone();
    for (level, validate_only) in [(2, true), (0, false)] {
        world.run(&Command::UpdateFeatures { changes: vec![one(some, level, 1)], validate_only });
        assert_eq!(world.image, before);
    }
}
