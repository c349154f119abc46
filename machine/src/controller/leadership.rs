//! Who leads a partition next, and which replicas are in sync or eligible: one function, whatever the reason for the change.
//!
//! The order of the candidates: an active in-sync replica; where none is in sync any more, an active eligible one (KIP-966); where none
//! is left of either, the last known leader once it is back, and, only where the topic allows it or somebody demands it, any active
//! replica. The last two are unclean: acknowledged records may be lost.
//!
//! A broker that shuts down in order keeps a partition that nobody else can take, until it is fenced.

use std::collections::BTreeSet;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{NodeId, PartitionIndex};

use super::command::{Answer, ConfigRules, ElectionKind, Failure};
use super::decide::Decision;
use super::image::{Broker, Image, Nodes, PartitionState, Topic};
use super::record::Record;
use super::topics::index_of;
use crate::sabotage::{Bug, is_on};

/// Which brokers may lead and be in sync, as it will be once the decision is made.
pub(super) struct Fitness {
    /// In order of their ids.
    active: Vec<NodeId>,
    /// Unfenced and shutting down.
    leaving: Vec<NodeId>,
}

impl Fitness {
    pub(super) fn of(image: &Image) -> Self {
        let ids =
            |fit: fn(&&Broker) -> bool| image.brokers.values().filter(fit).map(|broker| broker.id).collect();
        Self {
            active: ids(|broker| broker.is_active()),
            leaving: ids(|broker| !broker.fenced && broker.shutting_down),
        }
    }

    /// The same with one broker in another state.
    pub(super) fn with(mut self, id: NodeId, fenced: bool, shutting_down: bool) -> Self {
        self.active.retain(|other| *other != id);
        self.leaving.retain(|other| *other != id);
        if !fenced {
            let set = if shutting_down { &mut self.leaving } else { &mut self.active };
            set.insert(set.partition_point(|other| *other < id), id);
        }
        self
    }

    pub(super) fn is_active(&self, id: NodeId) -> bool {
        self.active.binary_search(&id).is_ok()
    }

    fn is_leaving(&self, id: NodeId) -> bool {
        self.leaving.binary_search(&id).is_ok()
    }
}

/// What a topic's configuration says about elections.
#[derive(Clone, Copy)]
pub(super) struct TopicRules {
    min_insync: usize,
    pub(super) unclean: bool,
}

impl TopicRules {
    pub(super) fn of(rules: &dyn ConfigRules, image: &Image, topic: &str) -> Self {
        Self {
            min_insync: rules.min_insync_replicas(image, topic),
            unclean: rules.unclean_election(image, topic),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Election {
    /// The leader stays while it can.
    Online,
    /// The first replica leads if it can.
    Preferred,
    /// Any active replica leads where no other can.
    Unclean,
}

/// A broker whose copy of a partition counts for nothing any more.
#[derive(Clone, Copy)]
pub(super) struct Lost {
    pub(super) id: NodeId,
    /// Not even the last resort of an election: others hold more.
    pub(super) is_empty: bool,
}

/// What is wanted of a partition. As made, nothing but what the brokers' fitness demands.
pub(super) struct Change<'a> {
    before: &'a PartitionState,
    pub(super) replicas: Nodes,
    pub(super) adding: Nodes,
    pub(super) removing: Nodes,
    pub(super) isr: Nodes,
    pub(super) election: Election,
    pub(super) lost: Option<Lost>,
    /// A new leader epoch even if the leader stays: its log may be shorter than before.
    pub(super) raise_leader_epoch: bool,
    min_insync: usize,
}

impl<'a> Change<'a> {
    pub(super) fn of(before: &'a PartitionState, rules: TopicRules) -> Self {
        Self {
            before,
            replicas: before.replicas.clone(),
            adding: before.adding.clone(),
            removing: before.removing.clone(),
            isr: before.isr.clone(),
            election: if rules.unclean { Election::Unclean } else { Election::Online },
            lost: None,
            raise_leader_epoch: false,
            min_insync: rules.min_insync,
        }
    }

    /// The partition's next state; `None`: it stays as it is.
    pub(super) fn decide(mut self, fitness: &Fitness) -> Option<PartitionState> {
        if let Some(lost) = self.lost {
            self.isr.retain(|id| *id != lost.id);
        }
        let leaving: Nodes = self.isr.iter().copied().filter(|id| fitness.is_leaving(*id)).collect();
        self.isr.retain(|id| fitness.is_active(*id));
        self.complete_reassignment();
        let before = self.before;
        let mut is_unclean = false;
        let leader = match self.elect(fitness) {
            Some(leader) => {
                if self.isr.is_empty() {
                    self.isr.push(leader);
                }
                leader
            }
            None if leaving.contains(&before.leader) && self.replicas.contains(&before.leader) => {
                self.isr = leaving;
                before.leader
            }
            None => match self.elect_unclean(fitness) {
                Some(leader) => {
                    self.isr = Nodes::from_slice(&[leader]);
                    is_unclean = true;
                    leader
                }
                None => NodeId::NONE,
            },
        };
        // An election from outside the in-sync set may have brought the target's last one in.
        self.complete_reassignment();
        let mut after = PartitionState {
            elr: if is_unclean { Nodes::new() } else { self.eligible() },
            last_known_elr: if leader == NodeId::NONE { self.last_known() } else { Nodes::new() },
            replicas: self.replicas,
            adding: self.adding,
            removing: self.removing,
            isr: self.isr,
            leader,
            leader_epoch: before.leader_epoch,
            partition_epoch: before.partition_epoch,
        };
        // A replica that is none any more must not go on as one: a new epoch says so to the leader's fetchers (as in Kafka).
        let replica_left = before.replicas.iter().any(|id| !after.replicas.contains(id));
        let is_new = leader != before.leader && !is_on(Bug::KeepEpochOnElection);
        if is_new || replica_left || self.raise_leader_epoch {
            after.leader_epoch.0 += 1;
        }
        if after == *before {
            return None;
        }
        after.partition_epoch.0 += 1;
        Some(after)
    }

    /// A reassignment ends once every replica of its target is in sync.
    fn complete_reassignment(&mut self) {
        if self.adding.is_empty() && self.removing.is_empty() {
            return;
        }
        let stays = |id: &&NodeId| !self.removing.contains(*id);
        let replicas: Nodes = self.replicas.iter().filter(stays).copied().collect();
        let isr: Nodes = self.isr.iter().filter(stays).copied().collect();
        if !isr.is_empty() && replicas.iter().all(|id| isr.contains(id)) {
            (self.replicas, self.isr) = (replicas, isr);
            (self.adding, self.removing) = (Nodes::new(), Nodes::new());
        }
    }

    /// The first who may lead without loss.
    fn elect(&self, fitness: &Fitness) -> Option<NodeId> {
        let eligible = if self.isr.is_empty() { self.eligible() } else { Nodes::new() };
        let is_active = |id: &NodeId| fitness.is_active(*id) || is_on(Bug::ElectInactive);
        let may_lead = |id: &NodeId| is_active(id) && (self.isr.contains(id) || eligible.contains(id));
        let preferred = self.replicas.first().filter(|_| self.election == Election::Preferred);
        preferred
            .into_iter()
            .chain([&self.before.leader])
            .chain(&self.replicas)
            .copied()
            .find(|id| self.replicas.contains(id) && may_lead(id))
    }

    /// The last resort.
    fn elect_unclean(&self, fitness: &Fitness) -> Option<NodeId> {
        let is_active = |id: &NodeId| fitness.is_active(*id);
        let last_known = self.last_known();
        if let (&[id], true) = (last_known.as_slice(), self.eligible().is_empty())
            && is_active(&id)
        {
            return Some(id);
        }
        let any = self.election == Election::Unclean || is_on(Bug::ElectAnybody);
        self.replicas.iter().copied().find(|id| any && is_active(id))
    }

    /// Who left the in-sync set and still holds every committed record, because the watermark stands while that set is below its
    /// minimum.
    fn eligible(&self) -> Nodes {
        if self.isr.len() >= self.min_insync {
            return Nodes::new();
        }
        let held = |id: &NodeId| self.before.elr.contains(id) || self.before.isr.contains(id);
        let lost = |id: &NodeId| self.lost.is_some_and(|lost| lost.id == *id);
        self.replicas.iter().copied().filter(|id| held(id) && !lost(id) && !self.isr.contains(id)).collect()
    }

    /// Who led last, of a partition that nobody leads.
    fn last_known(&self) -> Nodes {
        let before = self.before;
        let known =
            if before.has_leader() { std::slice::from_ref(&before.leader) } else { &before.last_known_elr };
        let lost = |id: &NodeId| {
            self.replicas.len() > 1 && self.lost.is_some_and(|lost| lost.id == *id && lost.is_empty)
        };
        known.iter().copied().filter(|id| self.replicas.contains(id) && !lost(id)).collect()
    }
}

/// Whether this change made a leader of a replica that was neither in sync nor eligible: acknowledged records may be lost.
#[must_use]
pub fn is_unclean_election(before: &PartitionState, after: &PartitionState) -> bool {
    let leader = &after.leader;
    // The last replica of a reassignment's target gets in sync, and may lead, in the step that lets the old leader go.
    let is_handed_over = before.removing.contains(&before.leader) && !after.is_reassigning();
    after.has_leader()
        && after.leader_epoch > before.leader_epoch
        && !before.isr.contains(leader)
        && !before.elr.contains(leader)
        && !is_handed_over
}

/// The records of every partition that `concerns` the decision and gets another state. What is not concerned costs a look.
pub(super) fn change_partitions(
    image: &Image,
    rules: &dyn ConfigRules,
    fitness: &Fitness,
    concerns: impl Fn(&PartitionState) -> bool,
    prepare: impl Fn(&Topic, PartitionIndex, &mut Change<'_>),
) -> Vec<Record> {
    let mut records = Vec::new();
    for topic in image.topics.values() {
        let mut of_topic = None;
        for (index, state) in topic.partitions.iter().enumerate() {
            if !concerns(state) {
                continue;
            }
            let of_topic = *of_topic.get_or_insert_with(|| TopicRules::of(rules, image, &topic.name));
            let index = index_of(index);
            let mut change = Change::of(state, of_topic);
            prepare(topic, index, &mut change);
            if let Some(state) = change.decide(fitness) {
                records.push(Record::Partition { topic: topic.id, index, state });
            }
        }
    }
    records
}

/// Elects on demand (KIP-460).
pub(super) fn elect(
    image: &Image,
    rules: &dyn ConfigRules,
    kind: ElectionKind,
    partitions: Option<&[(String, i32)]>,
) -> Decision {
    let fitness = Fitness::of(image);
    let (mut records, mut answers) = (Vec::new(), Vec::new());
    let mut elect_one = |topic: &Topic, index: i32| {
        let index = PartitionIndex(index);
        let state = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let of_topic = TopicRules::of(rules, image, &topic.name);
        let state = elected(state, of_topic, kind, &fitness)?;
        records.push(Record::Partition { topic: topic.id, index, state });
        Ok(())
    };
    match partitions {
        Some(partitions) => {
            let mut seen = BTreeSet::new();
            for (name, index) in partitions {
                let answer = if seen.insert((name, index)) {
                    let topic = image.topic_by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition);
                    topic.and_then(|topic| elect_one(topic, *index)).map_err(Failure::from)
                } else {
                    Err(Failure::new(ErrorCode::InvalidRequest, "The partition stands twice in the request."))
                };
                answers.push((name.clone(), *index, answer));
            }
        }
        None => {
            for topic in image.topic_ids.values().filter_map(|id| image.topic(*id)) {
                for index in 0..topic.partitions.len() {
                    let index = index_of(index).0;
                    let answer = elect_one(topic, index);
                    if answer != Err(ErrorCode::ElectionNotNeeded) {
                        answers.push((topic.name.to_string(), index, answer.map_err(Failure::from)));
                    }
                }
            }
        }
    }
    Decision { records, answer: Answer::Elections(answers) }
}

fn elected(
    state: &PartitionState,
    rules: TopicRules,
    kind: ElectionKind,
    fitness: &Fitness,
) -> Result<PartitionState, ErrorCode> {
    let (election, is_needed, failure) = match kind {
        ElectionKind::Preferred => (
            Election::Preferred,
            state.replicas.first() != Some(&state.leader),
            ErrorCode::PreferredLeaderNotAvailable,
        ),
        ElectionKind::Unclean => {
            (Election::Unclean, !state.has_leader(), ErrorCode::EligibleLeadersNotAvailable)
        }
    };
    if !is_needed {
        return Err(ErrorCode::ElectionNotNeeded);
    }
    let after = Change { election, ..Change::of(state, rules) }.decide(fitness).ok_or(failure)?;
    let is_elected = match kind {
        ElectionKind::Preferred => after.replicas.first() == Some(&after.leader),
        ElectionKind::Unclean => after.has_leader(),
    };
    if is_elected { Ok(after) } else { Err(failure) }
}

/// Gives leadership back to the preferred replicas that can take it.
pub(super) fn balance(image: &Image, rules: &dyn ConfigRules) -> Decision {
    let fitness = Fitness::of(image);
    let can_be_balanced = |state: &PartitionState| {
        state.replicas.first().is_some_and(|preferred| {
            *preferred != state.leader && state.isr.contains(preferred) && fitness.is_active(*preferred)
        })
    };
    let mut records = change_partitions(image, rules, &fitness, can_be_balanced, |_, _, change| {
        change.election = Election::Preferred;
    });
    records.truncate(BALANCED_MAX);
    Decision { records, answer: Answer::Done }
}

/// Leaders that one command moves at most, as in Kafka: the rest is for the next round.
const BALANCED_MAX: usize = 1_000;
