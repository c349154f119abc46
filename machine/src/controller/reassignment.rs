//! Other replicas for a partition (KIP-455): the new ones join, and once all of the target are in sync, the old ones leave.

use std::collections::BTreeSet;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{NodeId, PartitionIndex};

use super::command::{Answer, ConfigRules, Failure, Reassignment};
use super::decide::Decision;
use super::image::{Image, Nodes, PartitionState};
use super::leadership::{Change, Election, Fitness, TopicRules};
use super::placement::check_manual;
use super::record::Record;

pub(super) fn alter(
    image: &Image,
    rules: &dyn ConfigRules,
    changes: &[Reassignment],
    may_change_factor: bool,
) -> Decision {
    let fitness = Fitness::of(image);
    let mut seen = BTreeSet::new();
    let (mut records, mut answers) = (Vec::new(), Vec::new());
    for change in changes {
        let answer = if seen.insert((&change.topic, change.index)) {
            alter_one(image, rules, &fitness, change, may_change_factor)
        } else {
            Err(Failure::new(ErrorCode::InvalidRequest, "The partition stands twice in the request."))
        };
        answers.push(answer.map(|record| records.extend(record)));
    }
    Decision { records, answer: Answer::Reassigned(answers) }
}

fn alter_one(
    image: &Image,
    rules: &dyn ConfigRules,
    fitness: &Fitness,
    wanted: &Reassignment,
    may_change_factor: bool,
) -> Result<Option<Record>, Failure> {
    let unknown =
        |what: String| Failure::new(ErrorCode::UnknownTopicOrPartition, format!("Unable to find {what}."));
    let Reassignment { topic: name, index, replicas } = wanted;
    let topic = image.topic_by_name(name).ok_or_else(|| unknown(format!("a topic named {name}")))?;
    let index = PartitionIndex(*index);
    let state = topic.partition(index).ok_or_else(|| unknown(format!("partition {name}:{index}")))?;
    let rules = TopicRules::of(rules, image, name);
    let after = match replicas {
        None => cancel(state, rules, fitness)?,
        Some(replicas) => {
            check_manual(image, replicas, None)?;
            let (has, wants) = (state.target().len(), replicas.len());
            if !may_change_factor && has != wants {
                let message = format!(
                    "The replication factor is changing from {has} to {wants}, which was not allowed."
                );
                return Err(Failure::new(ErrorCode::InvalidReplicationFactor, message));
            }
            start(state, rules, replicas).decide(fitness)
        }
    };
    Ok(after.map(|state| Record::Partition { topic: topic.id, index, state }))
}

fn start<'a>(state: &'a PartitionState, rules: TopicRules, target: &[NodeId]) -> Change<'a> {
    let without = |all: &[NodeId], others: &[NodeId]| {
        let mut rest: Nodes = all.iter().copied().filter(|id| !others.contains(id)).collect();
        rest.sort_unstable();
        rest
    };
    let mut change = Change::of(state, rules);
    change.removing = without(&state.replicas, target);
    change.adding = without(target, &state.replicas);
    change.replicas = target.iter().chain(&change.removing).copied().collect();
    change
}

/// Back to the replicas of before: those that it adds leave at once. Refused where only they hold what is committed, unless the topic
/// allows unclean elections.
fn cancel(
    state: &PartitionState,
    rules: TopicRules,
    fitness: &Fitness,
) -> Result<Option<PartitionState>, Failure> {
    if !state.is_reassigning() {
        return Err(ErrorCode::NoReassignmentInProgress.into());
    }
    let stays = |id: &&NodeId| !state.adding.contains(*id);
    let mut change = Change::of(state, rules);
    change.replicas = state.replicas.iter().filter(stays).copied().collect();
    change.isr = state.isr.iter().filter(stays).copied().collect();
    (change.adding, change.removing) = (Nodes::new(), Nodes::new());
    let mut holders = state.isr.iter().chain(&state.elr).chain(&state.last_known_elr).peekable();
    let loses = holders.peek().is_some() && !holders.any(|id| stays(&id));
    let may_lose = change.election == Election::Unclean;
    let after = change.decide(fitness);
    let loses_leader = state.has_leader() && after.as_ref().is_some_and(|after| !after.has_leader());
    if (loses && !may_lose) || loses_leader {
        return Err(Failure::new(
            ErrorCode::InvalidReplicaAssignment,
            "Unable to revert the partition's assignment: it would require an unclean leader election.",
        ));
    }
    Ok(after)
}
