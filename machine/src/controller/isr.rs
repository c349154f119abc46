//! In-sync sets as their leaders want them (KIP-497): judged by four epochs and the fitness of each member.

use std::collections::BTreeSet;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, NodeId, PartitionIndex};

use super::brokers::incarnation;
use super::command::{Answer, ConfigRules, Failure, IsrChange};
use super::decide::Decision;
use super::image::{Image, PartitionState};
use super::leadership::{Change, Fitness, TopicRules};
use super::record::Record;
use crate::sabotage::{Bug, is_on};

pub(super) fn alter(
    image: &Image,
    rules: &dyn ConfigRules,
    broker: NodeId,
    epoch: BrokerEpoch,
    changes: &[IsrChange],
) -> Decision {
    if let Err(failure) = incarnation(image, broker, epoch) {
        return Decision::answer(Answer::Failed(failure));
    }
    let fitness = Fitness::of(image);
    let mut seen = BTreeSet::new();
    let (mut records, mut answers) = (Vec::new(), Vec::new());
    for change in changes {
        let answer = if seen.insert((change.topic, change.index)) {
            alter_one(image, rules, &fitness, broker, change, &mut records)
        } else {
            Err(Failure::new(ErrorCode::InvalidRequest, "The partition stands twice in the request."))
        };
        answers.push(answer);
    }
    Decision { records, answer: Answer::Partitions(answers) }
}

fn alter_one(
    image: &Image,
    rules: &dyn ConfigRules,
    fitness: &Fitness,
    broker: NodeId,
    wanted: &IsrChange,
    records: &mut Vec<Record>,
) -> Result<PartitionState, Failure> {
    let topic = image.topic(wanted.topic).ok_or(ErrorCode::UnknownTopicId)?;
    let index = PartitionIndex(wanted.index);
    let state = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    check_epochs(state, broker, wanted)?;
    check_members(image, state, wanted)?;
    // In the order of the replicas: the same members are the same set.
    let is_wanted = |id: &NodeId| wanted.isr.iter().any(|(member, _)| member == id);
    if state.isr.len() == wanted.isr.len() && state.isr.iter().all(is_wanted) {
        return Ok(state.clone());
    }
    let mut change = Change::of(state, TopicRules::of(rules, image, &topic.name));
    change.isr = state.replicas.iter().copied().filter(is_wanted).collect();
    let Some(after) = change.decide(fitness) else { return Ok(state.clone()) };
    records.push(Record::Partition { topic: topic.id, index, state: after.clone() });
    if after.leader == broker {
        return Ok(after);
    }
    // The change completed a reassignment away from this leader, or let one that shuts down go.
    Err(ErrorCode::NewLeaderElected.into())
}

fn check_epochs(state: &PartitionState, broker: NodeId, wanted: &IsrChange) -> Result<(), Failure> {
    let refused = |code, message: String| Err(Failure::new(code, message));
    if wanted.leader_epoch > state.leader_epoch || wanted.partition_epoch > state.partition_epoch {
        return refused(
            ErrorCode::NotController,
            "The leader knows a newer state than this controller.".into(),
        );
    }
    if wanted.leader_epoch < state.leader_epoch {
        let message = format!("The leader epoch is {}, not {}.", state.leader_epoch, wanted.leader_epoch);
        return refused(ErrorCode::FencedLeaderEpoch, message);
    }
    if state.leader != broker {
        return refused(ErrorCode::InvalidRequest, format!("The leader is {}, not {broker}.", state.leader));
    }
    if wanted.partition_epoch < state.partition_epoch {
        let message =
            format!("The partition epoch is {}, not {}.", state.partition_epoch, wanted.partition_epoch);
        return refused(ErrorCode::InvalidUpdateVersion, message);
    }
    Ok(())
}

fn check_members(image: &Image, state: &PartitionState, wanted: &IsrChange) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for (id, _) in &wanted.isr {
        if !state.replicas.contains(id) || !seen.insert(*id) {
            let message =
                format!("Broker {id} is no replica of the partition, or stands twice in its in-sync set.");
            return Err(Failure::new(ErrorCode::InvalidRequest, message));
        }
    }
    if !seen.contains(&state.leader) {
        return Err(Failure::new(ErrorCode::InvalidRequest, "The in-sync set lacks the leader."));
    }
    for (id, epoch) in &wanted.isr {
        if let Err(why) = check_member(image, state, *id, *epoch) {
            let message = format!("Broker {id} cannot be in sync: {why}.");
            return Err(Failure::new(ErrorCode::IneligibleReplica, message));
        }
    }
    Ok(())
}

/// Whether a broker may be in sync (KIP-841, KIP-903).
fn check_member(
    image: &Image,
    state: &PartitionState,
    id: NodeId,
    epoch: BrokerEpoch,
) -> Result<(), &'static str> {
    match image.broker(id) {
        None => Err("it is not registered"),
        Some(broker) if broker.fenced => Err("it is fenced"),
        // A leader that shuts down is in its own set while nobody could take its place; whom it names now can.
        Some(broker) if broker.shutting_down && id != state.leader => Err("it shuts down"),
        Some(broker)
            if epoch != BrokerEpoch(-1) && broker.epoch != epoch && !is_on(Bug::IgnoreBrokerEpochs) =>
        {
            Err("it was seen caught up in another epoch of its process")
        }
        Some(_) => Ok(()),
    }
}
