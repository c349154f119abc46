//! Commands as tables: what is asked, what is answered; and one property: live image = image replayed from its records.
//! `tests/` has those of a cluster of several brokers.

mod brokers;
mod elections;
mod in_sync;
mod partitions;
mod placement;
mod properties;
mod reassignments;

use std::ops::RangeInclusive;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, NodeId, PartitionEpoch, TopicId, Uuid};
use proptest::prelude::*;

use super::command::*;
use super::decide::decide;
use super::image::{ConfigKind, ConfigResource, Image, PartitionState};
use super::record::{Entry, decode_entry, decode_snapshot, encode_entry, encode_snapshot};
use super::wire::{decode_answer, decode_command, encode_answer, encode_command};
use crate::env::Env;

struct Plain;

impl ConfigRules for Plain {
    fn partitions(&self, _: &Image) -> i32 {
        3
    }
    fn replication_factor(&self, _: &Image) -> i16 {
        1
    }
    fn min_insync_replicas(&self, image: &Image, topic: &str) -> usize {
        let of_all = image.config(&ConfigResource::broker(None), "min.insync.replicas");
        let value = image.topic_config(topic, "min.insync.replicas").or(of_all);
        value.and_then(|value| value.parse().ok()).unwrap_or(1)
    }
    fn unclean_election(&self, image: &Image, topic: &str) -> bool {
        image.topic_config(topic, "unclean.leader.election.enable").is_some_and(|value| &**value == "true")
    }
    fn is_flushed(&self, image: &Image, topic: &str) -> bool {
        image.topic_config(topic, "flush.messages").is_none()
    }
    fn feature_levels(&self, name: &str) -> Option<RangeInclusive<i16>> {
        match name {
            "metadata.version" => Some(7..=30),
            "some.version" => Some(0..=2),
            "fixed.version" => Some(1..=1),
            _ => None,
        }
    }
    fn may_delete_topics(&self) -> bool {
        true
    }
    fn check(&self, _: ConfigKind, key: &str, value: &str) -> Result<(), Failure> {
        match (key, value.parse::<i64>()) {
            ("cleanup.policy" | "unclean.leader.election.enable", _) => Ok(()),
            ("retention.ms" | "min.insync.replicas" | "flush.messages", Ok(_)) => Ok(()),
            _ => Err(Failure::new(ErrorCode::InvalidConfig, format!("{key}={value}"))),
        }
    }
    fn check_together(
        &self,
        _: &Image,
        _: ConfigKind,
        set: &std::collections::BTreeMap<&str, &str>,
    ) -> Result<(), Failure> {
        match (set.get("retention.ms"), set.get("cleanup.policy")) {
            (Some(&"13"), Some(_)) => Err(Failure::new(ErrorCode::InvalidConfig, "13 goes with no policy")),
            _ => Ok(()),
        }
    }
    fn list(&self, image: &Image, resource: &ConfigResource, key: &str) -> Option<Vec<String>> {
        (key == "cleanup.policy").then(|| match image.config(resource, key) {
            Some(value) => value.split(',').map(str::to_owned).collect(),
            None => vec!["delete".into()],
        })
    }
}

/// A controller without its log: what is decided is applied at once.
struct World {
    image: Image,
    entries: Vec<Vec<u8>>,
    chance: u64,
}

impl World {
    fn new(brokers: i32) -> Self {
        let mut world = Self { image: Image::default(), entries: Vec::new(), chance: 1 };
        world.run(&Command::FoundCluster {
            cluster_id: Uuid([9; 16]),
            features: vec![("metadata.version".into(), 30)],
        });
        for id in 1..=brokers {
            let registration = registration(id);
            world.run(&Command::RegisterBroker(registration));
        }
        world
    }

    /// Brokers that registered as those of a cluster do: fenced first.
    fn of_cluster(brokers: i32) -> Self {
        let mut world = Self::new(0);
        for id in 1..=brokers {
            world.start(id);
        }
        world
    }

    fn start(&mut self, id: i32) {
        let answer = self.run(&Command::RegisterBroker(Registration { fenced: true, ..registration(id) }));
        assert!(matches!(answer, Answer::Registered(_)), "{answer:?}");
        self.unfence(id);
    }

    fn epoch(&self, id: i32) -> BrokerEpoch {
        self.image.broker(NodeId(id)).map_or(BrokerEpoch(-1), |broker| broker.epoch)
    }

    fn unfence(&mut self, id: i32) {
        assert_eq!(self.run(&Command::UnfenceBroker { id: NodeId(id), epoch: self.epoch(id) }), Answer::Done);
    }

    fn fence(&mut self, id: i32) {
        assert_eq!(self.run(&Command::FenceBroker { id: NodeId(id), epoch: self.epoch(id) }), Answer::Done);
    }

    fn shut_down(&mut self, id: i32) {
        assert_eq!(
            self.run(&Command::ShutDownBroker { id: NodeId(id), epoch: self.epoch(id) }),
            Answer::Done
        );
    }

    /// A topic of one partition with these replicas, and settings.
    fn topic(&mut self, name: &str, replicas: &[i32], configs: &[(&str, &str)]) -> TopicId {
        let configs = configs.iter().map(|(key, value)| ((*key).into(), Some((*value).into()))).collect();
        self.create(NewTopic { configs, ..manual(name, &[(0, replicas)]) }).expect("made").id
    }

    fn partition(&self, topic: &str) -> &PartitionState {
        let topic = self.image.topic_by_name(topic).expect("there");
        topic.partition(0.into()).expect("there")
    }

    /// The partition in the notation of `partitions.rs`.
    fn shown(&self, topic: &str) -> String {
        partitions::show(self.partition(topic))
    }

    /// The leader asks for another in-sync set, with the epochs in force.
    fn alter_isr(&mut self, topic: &str, isr: &[i32]) -> Result<(), ErrorCode> {
        let change = self.isr_change(topic, isr);
        let leader = self.partition(topic).leader.0;
        self.ask_isr(leader, change)
    }

    fn isr_change(&self, topic: &str, isr: &[i32]) -> IsrChange {
        let state = self.partition(topic);
        IsrChange {
            topic: self.image.topic_by_name(topic).expect("there").id,
            index: 0,
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr: isr.iter().map(|id| (NodeId(*id), self.epoch(*id))).collect(),
        }
    }

    fn ask_isr(&mut self, broker: i32, change: IsrChange) -> Result<(), ErrorCode> {
        let epoch = self.epoch(broker);
        let command = Command::AlterPartitions { broker: NodeId(broker), epoch, changes: vec![change] };
        match self.run(&command) {
            Answer::Partitions(mut answers) => answers.remove(0).map(drop).map_err(|failure| failure.code),
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self, command: &Command) -> Answer {
        assert_eq!(decode_command(&encode_command(command)).as_ref(), Ok(command));
        let chance = &mut self.chance;
        let mut random = || {
            *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *chance
        };
        let mut env = Env { now_ms: 0, tick_ms: 0, image: &self.image, random: &mut random };
        let decision = decide(&mut env, &Plain, command);
        if !decision.records.is_empty() {
            let bytes = encode_entry(self.image.version, &decision.records);
            let entry: Entry = decode_entry(&bytes).expect("what was encoded");
            self.image.apply_entry(&entry).expect("what was decided fits");
            self.entries.push(bytes);
        }
        assert_eq!(decode_answer(&encode_answer(&decision.answer)).as_ref(), Ok(&decision.answer));
        decision.answer
    }

    fn create(&mut self, topic: NewTopic) -> Result<TopicAnswer, ErrorCode> {
        match self.run(&Command::CreateTopics { topics: vec![topic], validate_only: false }) {
            Answer::Topics(mut answers) => answers.remove(0).map_err(|failure| failure.code),
            other => panic!("{other:?}"),
        }
    }

    fn alter(&mut self, topic: &str, key: &str, op: ConfigOp) -> Result<(), ErrorCode> {
        let change = ConfigChange {
            resource: Ok(ConfigResource::topic(topic)),
            ops: vec![(key.into(), op)],
            replace: false,
        };
        match self.run(&Command::AlterConfigs { changes: vec![change], validate_only: false }) {
            Answer::Configs(mut answers) => answers.remove(0).map_err(|failure| failure.code),
            other => panic!("{other:?}"),
        }
    }
}

fn registration(id: i32) -> Registration {
    Registration {
        id: NodeId(id),
        directory: Uuid([u8::try_from(id).expect("a small id"); 16]),
        endpoints: Vec::new(),
        rack: None,
        cluster_id: Uuid([9; 16]),
        previous_epoch: BrokerEpoch(-1),
        proof: LogProof::Complete,
        damaged: Vec::new(),
        fenced: false,
    }
}

fn topic(name: &str, partitions: i32, factor: i16) -> NewTopic {
    NewTopic { name: name.into(), partitions, replication_factor: factor, ..NewTopic::default() }
}

fn manual(name: &str, assignments: &[(i32, &[i32])]) -> NewTopic {
    let assignments = assignments
        .iter()
        .map(|(index, replicas)| (*index, replicas.iter().copied().map(NodeId).collect()))
        .collect();
    NewTopic { assignments, ..topic(name, -1, -1) }
}

#[test]
fn topics_are_judged_as_kafka_judges_them() {
    let mut world = World::new(2);
    let long = "x".repeat(250);
    let with_config = |key: &str, value: &str| NewTopic {
        configs: vec![(key.into(), Some(value.into()))],
        ..topic("configured", 1, 1)
    };
    let cases: Vec<(NewTopic, Result<(i32, i16), ErrorCode>)> = vec![
        (topic("a.b", 2, 2), Ok((2, 2))),
        (topic("defaults", -1, -1), Ok((3, 1))),
        (topic("a.b", 1, 1), Err(ErrorCode::TopicAlreadyExists)),
        (topic("a_b", 1, 1), Err(ErrorCode::InvalidTopicException)),
        (topic("", 1, 1), Err(ErrorCode::InvalidTopicException)),
        (topic("..", 1, 1), Err(ErrorCode::InvalidTopicException)),
        (topic("a b", 1, 1), Err(ErrorCode::InvalidTopicException)),
        (topic(&long, 1, 1), Err(ErrorCode::InvalidTopicException)),
        (topic("p0", 0, 1), Err(ErrorCode::InvalidPartitions)),
        (topic("p-2", -2, 1), Err(ErrorCode::InvalidPartitions)),
        (topic("r0", 1, 0), Err(ErrorCode::InvalidReplicationFactor)),
        (topic("r3", 1, 3), Err(ErrorCode::InvalidReplicationFactor)),
        (topic("huge", 10_001, 1), Err(ErrorCode::PolicyViolation)),
        (manual("m", &[(0, &[1, 2]), (1, &[2, 1])]), Ok((2, 2))),
        (manual("gap", &[(0, &[1]), (2, &[2])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (manual("twice", &[(0, &[1, 1])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (manual("unknown", &[(0, &[7])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (manual("empty", &[(0, &[])]), Err(ErrorCode::InvalidReplicaAssignment)),
        (topic("__cluster_metadata", 1, 1), Err(ErrorCode::InvalidRequest)),
        (NewTopic { partitions: 0, ..with_config("no.such", "1") }, Err(ErrorCode::InvalidConfig)),
        (NewTopic { partitions: 1, ..manual("both", &[(0, &[1])]) }, Err(ErrorCode::InvalidRequest)),
        (with_config("retention.ms", "x"), Err(ErrorCode::InvalidConfig)),
        (with_config("retention.ms", "5"), Ok((1, 1))),
    ];
    for (topic, expected) in cases {
        let name = topic.name.clone();
        let got = world.create(topic).map(|made| (made.partitions, made.replication_factor));
        assert_eq!(got, expected, "{name}");
    }
    assert_eq!(world.image.topic_config("configured", "retention.ms").map(|value| &**value), Some("5"));
    assert_eq!(world.create(topic("Configured", 1, 1)).map(|made| made.partitions), Ok(1));
}

#[test]
fn a_topic_twice_in_a_request_is_refused_twice_and_validation_changes_nothing() {
    let mut world = World::new(1);
    let before = world.image.clone();
    let topics = vec![topic("a", 1, 1), topic("b", 1, 1), topic("a", 2, 1)];
    let answer = world.run(&Command::CreateTopics { topics, validate_only: true });
    let Answer::Topics(answers) = answer else { panic!("{answer:?}") };
    let codes: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().err().map(|failure| failure.code)).collect();
    assert_eq!(codes, [Some(ErrorCode::InvalidRequest), None, Some(ErrorCode::InvalidRequest)]);
    assert_eq!(world.image, before);
}

#[test]
fn configurations_are_set_appended_and_taken_back() {
    let mut world = World::new(1);
    world.create(topic("t", 1, 1)).expect("made");
    let value = |world: &World, key: &str| world.image.topic_config("t", key).map(ToString::to_string);
    assert_eq!(world.alter("t", "cleanup.policy", ConfigOp::Append(Some("compact".into()))), Ok(()));
    assert_eq!(value(&world, "cleanup.policy").as_deref(), Some("delete,compact"));
    assert_eq!(world.alter("t", "cleanup.policy", ConfigOp::Subtract(Some("delete".into()))), Ok(()));
    assert_eq!(value(&world, "cleanup.policy").as_deref(), Some("compact"));
    assert_eq!(world.alter("t", "cleanup.policy", ConfigOp::Delete), Ok(()));
    assert_eq!(value(&world, "cleanup.policy"), None);
    assert_eq!(
        world.alter("t", "retention.ms", ConfigOp::Append(Some("1".into()))),
        Err(ErrorCode::InvalidConfig)
    );
    assert_eq!(world.alter("t", "retention.ms", ConfigOp::Set(None)), Err(ErrorCode::InvalidRequest));
    assert_eq!(world.alter("t", "retention.ms", ConfigOp::Unknown(9)), Err(ErrorCode::InvalidRequest));
    assert_eq!(world.alter("t", "cleanup.policy", ConfigOp::Set(Some("compact".into()))), Ok(()));
    assert_eq!(
        world.alter("t", "retention.ms", ConfigOp::Set(Some("13".into()))),
        Err(ErrorCode::InvalidConfig),
        "judged together with what is set already"
    );
    assert_eq!(world.alter("a b", "retention.ms", ConfigOp::Delete), Err(ErrorCode::InvalidTopicException));
    assert_eq!(world.alter("", "retention.ms", ConfigOp::Delete), Err(ErrorCode::InvalidRequest));
    assert_eq!(world.alter("no", "retention.ms", ConfigOp::Delete), Err(ErrorCode::UnknownTopicOrPartition));
}

#[test]
fn a_broker_that_registers_again_raises_the_epochs_of_what_it_led() {
    let mut world = World::new(1);
    let made = world.create(topic("t", 2, 1)).expect("made");
    let epoch = world.image.broker(NodeId(1)).expect("registered").epoch;
    let answer = world.run(&Command::RegisterBroker(registration(1)));
    assert!(matches!(answer, Answer::Registered(new) if new > epoch));
    let topic = world.image.topic(made.id).expect("there");
    assert!(topic.partitions.iter().all(|partition| partition.leader_epoch.0 == 1));
}

fn command() -> impl Strategy<Value = Command> {
    let name = "[ab][._]?[ab]";
    prop_oneof![
        (name, -1i32..4, -1i16..3).prop_map(|(name, partitions, factor)| Command::CreateTopics {
            topics: vec![topic(&name, partitions, factor)],
            validate_only: false
        }),
        name.prop_map(|name| Command::DeleteTopics { topics: vec![TopicRef::Name(name)] }),
        (name, 0i32..6).prop_map(|(topic, count)| Command::CreatePartitions {
            topics: vec![NewPartitions { topic, count, assignments: None }],
            validate_only: false
        }),
        (name, proptest::option::of("[0-9]{1,3}")).prop_map(|(name, value)| Command::AlterConfigs {
            changes: vec![ConfigChange {
                resource: Ok(ConfigResource::topic(&name)),
                ops: vec![(
                    "retention.ms".into(),
                    value.map_or(ConfigOp::Delete, |value| ConfigOp::Set(Some(value)))
                )],
                replace: false,
            }],
            validate_only: false
        }),
        (1i64..1000).prop_map(|count| Command::AllocateProducerIds { count }),
    ]
}

proptest! {
    #[test]
    fn the_live_image_is_the_replayed_one_and_the_one_of_its_snapshot(commands in proptest::collection::vec(command(), 0..40)) {
        let mut world = World::new(2);
        for command in &commands {
            world.run(command);
        }
        let mut replayed = Image::default();
        for entry in &world.entries {
            replayed.apply_entry(&decode_entry(entry).expect("decodes")).expect("applies");
        }
        prop_assert_eq!(&replayed, &world.image);
        prop_assert_eq!(&decode_snapshot(&encode_snapshot(&world.image)).expect("decodes"), &world.image);
    }

    #[test]
    fn a_damaged_command_or_answer_is_an_error_or_another_one_and_never_a_panic(
        command in command(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut world = World::of_cluster(2);
        let answer = world.run(&command);
        for mut bytes in [encode_command(&command), encode_answer(&answer)] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode_command(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
