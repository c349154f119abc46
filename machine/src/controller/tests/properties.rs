//! Any order of events in a cluster of a few brokers: what holds after every decision.

use super::super::leadership::{Change, Fitness, TopicRules};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Register {
        id: i32,
        proof: LogProof,
        damaged: bool,
        fenced: bool,
        other_directory: bool,
    },
    Unfence(i32),
    Fence(i32),
    ShutDown(i32),
    Unregister(i32),
    /// A leader asks for the replicas whose bits are set (and itself).
    Isr {
        topic: usize,
        members: u8,
        stale: bool,
    },
    Reassign {
        topic: usize,
        replicas: Option<Vec<i32>>,
    },
    Elect(ElectionKind, Option<usize>),
    Balance,
    Create {
        topic: usize,
        factor: i16,
    },
    Grow(usize),
    Delete(usize),
    Minimum(usize, Option<u8>),
    Unclean(usize, bool),
}

const TOPICS: [&str; 3] = ["a", "b", "c"];

fn step() -> impl Strategy<Value = Step> {
    let id = 1..=5i32;
    let topic = 0..TOPICS.len();
    let proof = prop_oneof![4 => Just(LogProof::Complete), 2 => Just(LogProof::Flushed), 1 => Just(LogProof::Nothing)];
    let kind = prop_oneof![Just(ElectionKind::Preferred), Just(ElectionKind::Unclean)];
    let rarely = proptest::bool::weighted(0.15);
    prop_oneof![
        4 => (id.clone(), proof, rarely, proptest::bool::weighted(0.8), rarely).prop_map(
            |(id, proof, damaged, fenced, other_directory)| Step::Register { id, proof, damaged, fenced, other_directory }
        ),
        6 => id.clone().prop_map(Step::Unfence),
        5 => id.clone().prop_map(Step::Fence),
        2 => id.clone().prop_map(Step::ShutDown),
        1 => id.clone().prop_map(Step::Unregister),
        8 => (topic.clone(), any::<u8>(), rarely).prop_map(|(topic, members, stale)| Step::Isr { topic, members, stale }),
        2 => (topic.clone(), proptest::option::weighted(0.8, proptest::sample::subsequence(vec![1, 2, 3, 4, 5], 1..=4)))
            .prop_map(|(topic, replicas)| Step::Reassign { topic, replicas }),
        1 => (kind, proptest::option::of(topic.clone())).prop_map(|(kind, topic)| Step::Elect(kind, topic)),
        1 => Just(Step::Balance),
        3 => (topic.clone(), 1i16..=3).prop_map(|(topic, factor)| Step::Create { topic, factor }),
        1 => topic.clone().prop_map(Step::Grow),
        1 => topic.clone().prop_map(Step::Delete),
        2 => (topic.clone(), proptest::option::of(1u8..=3)).prop_map(|(topic, value)| Step::Minimum(topic, value)),
        1 => (topic, any::<bool>()).prop_map(|(topic, value)| Step::Unclean(topic, value)),
    ]
}

fn command(world: &World, step: &Step) -> Option<Command> {
    let epoch = |id: i32| world.epoch(id);
    let name = |topic: usize| TOPICS[topic].to_owned();
    let set = |topic: usize, key: &str, value: Option<String>| Command::AlterConfigs {
        changes: vec![ConfigChange {
            resource: Ok(ConfigResource::topic(TOPICS[topic])),
            ops: vec![(key.into(), value.map_or(ConfigOp::Delete, |value| ConfigOp::Set(Some(value))))],
            replace: false,
        }],
        validate_only: false,
    };
    Some(match step.clone() {
        Step::Register { id, proof, damaged, fenced, other_directory } => {
            let topics = world.image.topics.keys().map(|topic| (*topic, 0));
            let mut wanted = Registration { proof, fenced, ..registration(id) };
            wanted.damaged = if damaged { topics.collect() } else { Vec::new() };
            wanted.directory = if other_directory { Uuid([40 + id as u8; 16]) } else { wanted.directory };
            Command::RegisterBroker(wanted)
        }
        Step::Unfence(id) => Command::UnfenceBroker { id: NodeId(id), epoch: epoch(id) },
        Step::Fence(id) => Command::FenceBroker { id: NodeId(id), epoch: epoch(id) },
        Step::ShutDown(id) => Command::ShutDownBroker { id: NodeId(id), epoch: epoch(id) },
        Step::Unregister(id) => Command::UnregisterBroker { id: NodeId(id) },
        Step::Isr { topic, members, stale } => {
            let topic = world.image.topic_by_name(TOPICS[topic])?;
            let changes = topic.partitions.iter().zip(0..).filter(|(state, _)| state.has_leader());
            let broker = changes.clone().next()?.0.leader;
            let changes =
                changes.filter(|(state, _)| state.leader == broker).map(|(state, index)| IsrChange {
                    topic: topic.id,
                    index,
                    leader_epoch: state.leader_epoch,
                    partition_epoch: PartitionEpoch(state.partition_epoch.0 - i32::from(stale)),
                    isr: (state.replicas.iter())
                        .filter(|id| **id == state.leader || members & 1 << id.0 != 0)
                        .map(|id| (*id, epoch(id.0)))
                        .collect(),
                });
            Command::AlterPartitions { broker, epoch: epoch(broker.0), changes: changes.collect() }
        }
        Step::Reassign { topic, replicas } => Command::AlterReassignments {
            changes: vec![Reassignment {
                topic: name(topic),
                index: 0,
                replicas: replicas.map(|ids| ids.into_iter().map(NodeId).collect()),
            }],
            may_change_factor: true,
        },
        Step::Elect(kind, topic) => {
            Command::ElectLeaders { kind, partitions: topic.map(|topic| vec![(name(topic), 0)]) }
        }
        Step::Balance => Command::BalanceLeaders,
        Step::Create { topic: at, factor } => {
            Command::CreateTopics { topics: vec![topic(TOPICS[at], 2, factor)], validate_only: false }
        }
        Step::Grow(topic) => Command::CreatePartitions {
            topics: vec![NewPartitions { topic: name(topic), count: 3, assignments: None }],
            validate_only: false,
        },
        Step::Delete(topic) => Command::DeleteTopics { topics: vec![TopicRef::Name(name(topic))] },
        Step::Minimum(topic, value) => {
            set(topic, "min.insync.replicas", value.map(|value| value.to_string()))
        }
        Step::Unclean(topic, value) => set(topic, "unclean.leader.election.enable", Some(value.to_string())),
    })
}

/// What is true of every partition of every image.
fn check_partition(image: &Image, name: &str, state: &PartitionState) {
    let shown = partitions::show(state);
    let broker = |id: &NodeId| image.broker(*id);
    let is_active = |id: &NodeId| broker(id).is_some_and(super::super::image::Broker::is_active);
    let is_unfenced = |id: &NodeId| broker(id).is_some_and(|broker| !broker.fenced);
    let unique: std::collections::BTreeSet<_> = state.replicas.iter().collect();
    assert_eq!(unique.len(), state.replicas.len(), "{name}: a replica twice: {shown}");
    for set in [&state.isr, &state.elr, &state.last_known_elr, &state.adding, &state.removing] {
        assert!(set.iter().all(|id| state.replicas.contains(id)), "{name}: no replica: {shown}");
    }
    assert!(state.adding.iter().all(|id| !state.removing.contains(id)), "{name}: {shown}");
    assert!(!state.target().is_empty(), "{name}: nothing stays: {shown}");
    assert!(state.elr.iter().all(|id| !state.isr.contains(id)), "{name}: in sync and eligible: {shown}");
    assert_eq!(state.has_leader(), !state.isr.is_empty(), "{name}: {shown}");
    if state.has_leader() {
        assert!(state.isr.contains(&state.leader), "{name}: leads out of sync: {shown}");
        assert!(state.last_known_elr.is_empty(), "{name}: {shown}");
        let nobody_else = || state.isr.iter().chain(&state.elr).all(|id| !is_active(id));
        assert!(is_active(&state.leader) || is_unfenced(&state.leader) && nobody_else(), "{name}: {shown}");
    } else {
        assert!(state.elr.iter().all(|id| !is_active(id)), "{name}: somebody could lead: {shown}");
    }
    assert!(state.isr.iter().all(is_unfenced), "{name}: fenced and in sync: {shown}");
    let rules = TopicRules::of(&Plain, image, name);
    let minimum = Plain.min_insync_replicas(image, name).min(state.replicas.len());
    assert!(
        state.elr.is_empty() || state.isr.len() < minimum,
        "{name}: eligible beside a whole set: {shown}"
    );
    // Nothing is left to decide.
    let again = Change::of(state, rules).decide(&Fitness::of(image));
    assert_eq!(again, None, "{name}: unsettled: {shown}");
}

/// What is true of a partition's way from one image to the next.
fn check_change(before: &PartitionState, after: &PartitionState) {
    let shown = || format!("{} -> {}", partitions::show(before), partitions::show(after));
    assert_eq!(after.partition_epoch.0 - before.partition_epoch.0, i32::from(before != after), "{}", shown());
    let leadership = after.leader_epoch.0 - before.leader_epoch.0;
    assert!((0..=1).contains(&leadership), "{}", shown());
    assert!(before.leader == after.leader || leadership == 1, "{}", shown());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_leaders_lead_and_epochs_rise(brokers in 3..=5i32, steps in proptest::collection::vec(step(), 0..60)) {
        let mut world = World::of_cluster(brokers);
        world.create(topic("a", 2, 3)).expect("made");
        for step in &steps {
            let Some(command) = command(&world, step) else { continue };
            let before = world.image.clone();
            world.run(&command);
            for topic in world.image.topics.values() {
                for (index, state) in topic.partitions.iter().enumerate() {
                    check_partition(&world.image, &topic.name, state);
                    if let Some(before) = before.topic(topic.id).and_then(|topic| topic.partitions.get(index)) {
                        check_change(before, state);
                    }
                }
            }
            for broker in world.image.brokers.values() {
                prop_assert!(broker.last_served <= broker.epoch);
                let was = before.broker(broker.id).map_or(BrokerEpoch(0), |broker| broker.epoch);
                prop_assert!(broker.epoch >= was);
            }
        }
        let mut replayed = Image::default();
        for entry in &world.entries {
            replayed.apply_entry(&decode_entry(entry).expect("decodes")).expect("applies");
        }
        prop_assert_eq!(&replayed, &world.image);
        prop_assert_eq!(&decode_snapshot(&encode_snapshot(&world.image)).expect("decodes"), &world.image);
    }
}
