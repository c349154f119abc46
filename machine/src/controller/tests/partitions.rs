//! One partition, one change: before, who is fit, what is wanted, after.
//!
//! The notation: the replicas, then what there is of `+` adding, `-` removing, `isr`, `elr`, `last` (known leader) and `leader`, each
//! broker one digit: `123 isr 12 elr 3 leader 1`.

use ottla_protocol::types::{LeaderEpoch, NodeId, PartitionEpoch};

use super::super::image::{Image, Nodes, PartitionState};
use super::super::leadership::{Change, Election, Fitness, Lost, TopicRules, is_unclean_election};
use super::{Plain, World};

fn nodes(text: &str) -> Nodes {
    text.chars().map(|digit| NodeId(digit.to_digit(10).expect("a digit") as i32)).collect()
}

pub(super) fn parse(text: &str) -> PartitionState {
    let mut words = text.split(' ');
    let mut state = PartitionState {
        replicas: nodes(words.next().expect("replicas")),
        adding: Nodes::new(),
        removing: Nodes::new(),
        isr: Nodes::new(),
        elr: Nodes::new(),
        last_known_elr: Nodes::new(),
        leader: NodeId::NONE,
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(7),
    };
    while let Some(word) = words.next() {
        let ids = nodes(words.next().expect("brokers"));
        match word {
            "+" => state.adding = ids,
            "-" => state.removing = ids,
            "isr" => state.isr = ids,
            "elr" => state.elr = ids,
            "last" => state.last_known_elr = ids,
            "leader" => state.leader = ids[0],
            other => panic!("{other}"),
        }
    }
    state
}

pub(super) fn show(state: &PartitionState) -> String {
    let text = |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<String>();
    let mut shown = text(&state.replicas);
    let leader: &[NodeId] = if state.has_leader() { &[state.leader] } else { &[] };
    let parts: [(&str, &[NodeId]); 6] = [
        ("+", &state.adding),
        ("-", &state.removing),
        ("isr", &state.isr),
        ("elr", &state.elr),
        ("last", &state.last_known_elr),
        ("leader", leader),
    ];
    for (name, ids) in parts {
        if !ids.is_empty() {
            shown += &format!(" {name} {}", text(ids));
        }
    }
    shown
}

/// Active brokers; after a slash those that shut down.
fn fitness(text: &str) -> Fitness {
    let (active, leaving) = text.split_once('/').unwrap_or((text, ""));
    let all =
        nodes(active).into_iter().fold(Fitness::of(&Image::default()), |all, id| all.with(id, false, false));
    nodes(leaving).into_iter().fold(all, |all, id| all.with(id, false, true))
}

fn rules(min_insync: &str, unclean: bool) -> TopicRules {
    let mut world = World::new(1);
    let unclean = if unclean { "true" } else { "false" };
    world.topic(
        "t",
        &[1],
        &[("min.insync.replicas", min_insync), ("unclean.leader.election.enable", unclean)],
    );
    TopicRules::of(&Plain, &world.image, "t")
}

fn decided(
    before: &str,
    fit: &str,
    min_insync: &str,
    unclean: bool,
    want: impl Fn(&mut Change<'_>),
) -> (String, Option<PartitionState>) {
    let before = parse(before);
    let mut change = Change::of(&before, rules(min_insync, unclean));
    want(&mut change);
    let after = change.decide(&fitness(fit));
    let shown = after.as_ref().map_or_else(|| "=".to_owned(), show);
    if let Some(after) = &after {
        assert_eq!(after.partition_epoch, PartitionEpoch(8), "{shown}");
        assert_eq!(parse(&shown).isr, after.isr);
    }
    (shown, after)
}

#[test]
fn a_partition_follows_the_fitness_of_its_brokers() {
    // Before, fit, min.insync.replicas, unclean, after, whether the leader epoch rises.
    let cases = [
        ("123 isr 123 leader 1", "123", "2", false, "=", false),
        ("123 isr 123 leader 1", "23", "2", false, "123 isr 23 leader 2", true),
        ("123 isr 123 leader 1", "12", "2", false, "123 isr 12 leader 1", false),
        // Below its minimum: who left stays eligible, and the leader leads on.
        ("123 isr 13 leader 1", "12", "2", false, "123 isr 1 elr 3 leader 1", false),
        ("123 isr 13 leader 1", "23", "2", false, "123 isr 3 elr 1 leader 3", true),
        ("123 isr 1 elr 3 leader 1", "2", "2", false, "123 elr 13 last 1", true),
        ("123 elr 13 last 1", "23", "2", false, "123 isr 3 elr 1 leader 3", true),
        ("123 elr 13 last 1", "123", "2", false, "123 isr 1 elr 3 leader 1", true),
        ("123 elr 13 last 1", "2", "2", false, "=", false),
        // An eligible leader that is enough alone: the watermark goes on, and the others are eligible no more.
        ("123 elr 13 last 1", "3", "1", false, "123 isr 3 leader 3", true),
        // A minimum that cannot be reached.
        ("12 isr 12 leader 1", "12", "9", false, "=", false),
        ("1 isr 1 leader 1", "", "9", false, "1 elr 1 last 1", true),
        // The sole member of an in-sync set comes back.
        ("123 isr 1 leader 1", "23", "1", false, "123 elr 1 last 1", true),
        ("123 elr 1 last 1", "23", "1", false, "=", false),
        ("123 elr 1 last 1", "123", "1", false, "123 isr 1 leader 1", true),
        // Unclean, where it is allowed: any active replica, and eligibility counts no more.
        ("123 isr 1 elr 3 leader 1", "2", "2", true, "123 isr 2 leader 2", true),
        ("123 isr 13 leader 1", "23", "2", true, "123 isr 3 elr 1 leader 3", true),
        // The last known leader, where nobody is eligible.
        ("123 last 1", "23", "1", false, "=", false),
        ("123 last 1", "123", "1", false, "123 isr 1 leader 1", true),
        ("123 last 3", "123", "1", true, "123 isr 3 leader 3", true),
        ("123 elr 2 last 1", "13", "1", false, "=", false),
        // In shutdown: others take what they can, the rest stays.
        ("123 isr 123 leader 1", "23/1", "2", false, "123 isr 23 leader 2", true),
        ("123 isr 12 leader 1", "1/2", "2", false, "123 isr 1 elr 2 leader 1", false),
        ("123 isr 1 leader 1", "23/1", "1", true, "=", false),
        ("123 isr 1 elr 2 leader 1", "23/1", "2", false, "123 isr 2 elr 1 leader 2", true),
        ("123 isr 12 leader 1", "3/12", "2", false, "=", false),
        ("123 isr 12 leader 1", "3/1", "2", false, "123 isr 1 elr 2 leader 1", false),
    ];
    for (before, fit, min_insync, unclean, expected, raises) in cases {
        let (shown, after) = decided(before, fit, min_insync, unclean, |_| {});
        assert_eq!(shown, expected, "{before}, fit {fit}, at least {min_insync}");
        let epoch = after.map_or(LeaderEpoch(5), |after| after.leader_epoch);
        assert_eq!(epoch.0 - 5, i32::from(raises), "{before} -> {shown}");
    }
}

#[test]
fn lost_copies_are_eligible_for_nothing_but_the_last_resort() {
    let cases = [
        // Before, fit, which broker's copy is lost, whether it is empty, after.
        ("123 isr 123 leader 1", "23", 1, false, "123 isr 23 leader 2"),
        ("123 isr 12 leader 1", "2", 1, false, "123 isr 2 leader 2"),
        ("123 isr 1 elr 3 leader 1", "", 1, false, "123 elr 3 last 1"),
        ("123 isr 1 leader 1", "23", 1, false, "123 last 1"),
        ("123 isr 1 leader 1", "23", 1, true, "123"),
        ("123 elr 13 last 1", "2", 3, false, "123 elr 1 last 1"),
        ("123 last 1", "2", 1, true, "123"),
        // The only replica there is: better empty than never again.
        ("1 isr 1 leader 1", "1", 1, true, "1 isr 1 leader 1"),
        // Registered unfenced: active, and out all the same.
        ("12 isr 12 leader 1", "12", 1, false, "12 isr 2 leader 2"),
    ];
    for (before, fit, id, is_empty, expected) in cases {
        let (shown, after) = decided(before, fit, "2", false, |change| {
            change.lost = Some(Lost { id: NodeId(id), is_empty });
            change.raise_leader_epoch = true;
        });
        assert_eq!(shown, expected, "{before}, lost {id}");
        assert_eq!(after.expect("epochs rise").leader_epoch, LeaderEpoch(6));
    }
}

#[test]
fn a_reassignment_ends_when_its_target_is_in_sync() {
    let cases = [
        // Before, the in-sync set that is wanted, fit, after, whether the leader epoch rises: also where only a replica leaves.
        ("4123 + 4 - 1 isr 123 leader 1", "1234", "1234", "423 isr 423 leader 4", true),
        ("4123 + 4 - 1 isr 123 leader 2", "1234", "1234", "423 isr 423 leader 2", true),
        ("4123 + 4 - 1 isr 123 leader 1", "12", "1234", "4123 + 4 - 1 isr 12 leader 1", false),
        ("123 - 3 isr 12 leader 1", "12", "123", "12 isr 12 leader 1", true),
        ("1234 + 4 isr 123 leader 1", "1234", "1234", "1234 isr 1234 leader 1", false),
        // An election from outside the in-sync set brings the target's last one in.
        ("12 - 2 elr 1 last 1", "", "1", "1 isr 1 leader 1", true),
    ];
    for (before, isr, fit, expected, raises) in cases {
        let replicas = parse(before).replicas;
        let wanted = nodes(isr);
        let (shown, after) = decided(before, fit, "1", false, |change| {
            change.isr = replicas.iter().copied().filter(|id| wanted.contains(id)).collect();
        });
        assert_eq!(shown, expected, "{before}, in sync {isr}");
        let epoch = after.expect("it changes").leader_epoch;
        assert_eq!(epoch.0 - 5, i32::from(raises), "{before} -> {shown}");
    }
}

#[test]
fn a_preferred_election_moves_the_leader_and_any_other_leaves_it() {
    let before = "123 isr 123 leader 2";
    for (election, expected) in
        [(Election::Online, "="), (Election::Unclean, "="), (Election::Preferred, "123 isr 123 leader 1")]
    {
        assert_eq!(decided(before, "123", "1", false, |change| change.election = election).0, expected);
    }
    let not_in_sync = decided("123 isr 23 leader 2", "123", "1", false, |change| {
        change.election = Election::Preferred;
    });
    assert_eq!(not_in_sync.0, "=");
}

#[test]
fn an_unclean_election_is_told_from_a_clean_one() {
    let at = |text: &str, epoch: i32| PartitionState { leader_epoch: LeaderEpoch(epoch), ..parse(text) };
    let before = at("123 elr 1 last 1", 5);
    assert!(is_unclean_election(&before, &at("123 isr 2 leader 2", 6)));
    assert!(!is_unclean_election(&before, &at("123 isr 1 leader 1", 6)));
    assert!(!is_unclean_election(&at("123 isr 1 leader 1", 5), &at("123 elr 1 last 1", 6)));
    // The last one of a reassignment's target came in sync and leads in one step.
    let moving = at("312 + 3 - 2 isr 12 leader 2", 5);
    assert!(!is_unclean_election(&moving, &at("31 isr 13 leader 3", 6)));
    let shrinking = at("231 - 1 isr 31 leader 1", 5);
    assert!(!is_unclean_election(&shrinking, &at("23 isr 23 leader 2", 6)));
    assert!(is_unclean_election(&shrinking, &at("231 - 1 isr 2 leader 2", 6)));
    assert!(is_unclean_election(&at("12 isr 2 leader 2", 5), &at("12 isr 1 leader 1", 6)));
}
