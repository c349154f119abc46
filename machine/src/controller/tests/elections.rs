//! Leaders on demand, and back to the preferred ones.

use super::*;

fn elect(
    world: &mut World,
    kind: ElectionKind,
    partitions: Option<&[(&str, i32)]>,
) -> Vec<(String, Option<ErrorCode>)> {
    let partitions =
        partitions.map(|all| all.iter().map(|(topic, index)| ((*topic).into(), *index)).collect());
    match world.run(&Command::ElectLeaders { kind, partitions }) {
        Answer::Elections(answers) => answers
            .into_iter()
            .map(|(topic, index, answer)| {
                (format!("{topic}-{index}"), answer.err().map(|failure| failure.code))
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// `moved` has lost its preferred leader and can get it back, `gone` cannot, `dark` has no leader.
fn world() -> World {
    let mut world = World::of_cluster(3);
    world.topic("moved", &[1, 2, 3], &[]);
    world.topic("gone", &[1, 2], &[]);
    world.topic("dark", &[1, 2], &[]);
    world.topic("fine", &[2, 3], &[]);
    assert_eq!(world.alter_isr("dark", &[1]), Ok(()));
    world.fence(1);
    world.run(&Command::RegisterBroker(Registration {
        fenced: true,
        proof: LogProof::Nothing,
        ..registration(1)
    }));
    world.unfence(1);
    assert_eq!(world.alter_isr("moved", &[1, 2, 3]), Ok(()));
    world
}

#[test]
fn elections_answer_for_each_partition_what_kafka_answers() {
    use ErrorCode::{
        ElectionNotNeeded, EligibleLeadersNotAvailable, InvalidRequest, PreferredLeaderNotAvailable,
        UnknownTopicOrPartition,
    };
    let answer = |partition: &str, code: Option<ErrorCode>| (partition.to_owned(), code);
    let mut world = world();
    let asked = [("moved", 0), ("gone", 0), ("fine", 0), ("no", 0), ("fine", 9), ("fine", -1), ("moved", 0)];
    assert_eq!(
        elect(&mut world, ElectionKind::Preferred, Some(&asked)),
        [
            answer("moved-0", None),
            answer("gone-0", Some(PreferredLeaderNotAvailable)),
            answer("fine-0", Some(ElectionNotNeeded)),
            answer("no-0", Some(UnknownTopicOrPartition)),
            answer("fine-9", Some(UnknownTopicOrPartition)),
            answer("fine--1", Some(UnknownTopicOrPartition)),
            answer("moved-0", Some(InvalidRequest)),
        ]
    );
    assert_eq!(world.shown("moved"), "123 isr 123 leader 1");
    world.fence(1);
    world.fence(2);
    assert_eq!(
        elect(&mut world, ElectionKind::Unclean, Some(&[("dark", 0), ("moved", 0)])),
        [answer("dark-0", Some(EligibleLeadersNotAvailable)), answer("moved-0", Some(ElectionNotNeeded))]
    );
    world.unfence(2);
    assert_eq!(world.shown("dark"), "12");
    assert_eq!(elect(&mut world, ElectionKind::Unclean, Some(&[("dark", 0)])), [answer("dark-0", None)]);
    assert_eq!(world.shown("dark"), "12 isr 2 leader 2");
}

#[test]
fn an_election_of_all_tells_only_of_those_that_needed_one() {
    use ErrorCode::PreferredLeaderNotAvailable;
    let mut world = world();
    assert_eq!(
        elect(&mut world, ElectionKind::Preferred, None),
        [
            ("dark-0".to_owned(), Some(PreferredLeaderNotAvailable)),
            ("gone-0".to_owned(), Some(PreferredLeaderNotAvailable)),
            ("moved-0".to_owned(), None)
        ]
    );
    assert_eq!(elect(&mut world, ElectionKind::Unclean, None), [("dark-0".to_owned(), None)]);
}

#[test]
fn balancing_moves_leaders_to_preferred_replicas_that_are_in_sync() {
    let mut world = world();
    assert_eq!(world.run(&Command::BalanceLeaders), Answer::Done);
    let shown = ["moved", "gone", "dark", "fine"].map(|topic| world.shown(topic));
    assert_eq!(shown, ["123 isr 123 leader 1", "12 isr 2 leader 2", "12", "23 isr 23 leader 2"]);
    let before = world.image.clone();
    world.run(&Command::BalanceLeaders);
    assert_eq!(world.image, before);
}
