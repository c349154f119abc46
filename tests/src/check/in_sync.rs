//! What every image says of leaders and in-sync sets: a leader is in the set and may lead, nobody is in the set or eligible that is no
//! replica or fenced beside others, epochs only grow, and an epoch has one leader.

use std::collections::{BTreeMap, BTreeSet};

use ottla_machine::controller::image::{Image, PartitionState};
use ottla_protocol::types::{NodeId, TopicId};

use super::Violation;

#[derive(Debug, Default)]
pub struct InSyncRules {
    version: u64,
    last: BTreeMap<(TopicId, usize), PartitionState>,
    pub leader_changes: u64,
    /// Every way in which the whole image stood, without its epochs.
    pub states: BTreeSet<u32>,
    /// What changed since somebody last took it, for a person.
    pub news: Vec<String>,
    /// Who leads anew since somebody last took it.
    pub new_leaders: Vec<NodeId>,
}

impl InSyncRules {
    /// Some node has this image.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn see(&mut self, image: &Image) -> Result<(), Violation> {
        if image.version <= self.version {
            return Ok(());
        }
        self.version = image.version;
        for (id, topic) in &image.topics {
            for (index, state) in topic.partitions.iter().enumerate() {
                let before = self.last.get(&(*id, index));
                // A partition that stays as it is may break a rule by what becomes of a broker.
                if let Some(what) = fault(image, before, state) {
                    let what = format!(
                        "version {}: {}-{index}: {what}: {state:?} after {before:?}",
                        image.version, topic.name
                    );
                    return Err(Violation::new("in-sync sets keep the rules", what));
                }
                if before.is_some_and(|before| before == &**state) {
                    continue;
                }
                let PartitionState { leader, leader_epoch, partition_epoch, replicas, isr, elr, .. } =
                    &**state;
                let ids =
                    |nodes: &[NodeId]| nodes.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(",");
                self.news.push(format!(
                    "{}-{index}: leader {leader} epochs {leader_epoch}/{partition_epoch} replicas {} isr {} elr {}",
                    topic.name,
                    ids(replicas),
                    ids(isr),
                    ids(elr)
                ));
                if before.is_none_or(|before| before.leader_epoch != state.leader_epoch) {
                    self.new_leaders.push(*leader);
                }
                self.leader_changes += u64::from(before.is_some_and(|before| before.leader != state.leader));
                self.last.insert((*id, index), PartitionState::clone(state));
            }
        }
        self.states.insert(fingerprint(image));
        Ok(())
    }
}

fn fingerprint(image: &Image) -> u32 {
    let brokers =
        image.brokers.values().map(|broker| u8::from(broker.fenced) | u8::from(broker.shutting_down) << 1);
    let mut bytes: Vec<u8> = brokers.collect();
    let mut note = |nodes: &[NodeId]| {
        bytes.extend(nodes.iter().map(|id| u8::try_from(id.0).unwrap_or(u8::MAX)));
        bytes.push(0);
    };
    for state in image.topics.values().flat_map(|topic| topic.partitions.iter()) {
        for nodes in
            [&state.replicas[..], &state.isr, &state.elr, &state.adding, &state.removing, &[state.leader]]
        {
            note(nodes);
        }
    }
    crc32c::crc32c(&bytes)
}

fn fault(image: &Image, before: Option<&PartitionState>, state: &PartitionState) -> Option<&'static str> {
    let is_active = |id: &NodeId| image.broker(*id).is_some_and(|broker| broker.is_active());
    if state.leader != NodeId::NONE && !state.isr.contains(&state.leader) {
        return Some("the leader is not in sync");
    }
    if state.leader != NodeId::NONE && image.broker(state.leader).is_none_or(|broker| broker.fenced) {
        return Some("the leader is fenced");
    }
    if state.isr.iter().chain(&state.elr).any(|id| !state.replicas.contains(id)) {
        return Some("somebody is in sync, or eligible, who is no replica");
    }
    if state.isr.iter().any(|id| state.elr.contains(id)) {
        return Some("somebody is in sync and eligible");
    }
    if state.isr.len() > 1 && state.isr.iter().any(|id| image.broker(*id).is_none_or(|broker| broker.fenced))
    {
        return Some("somebody is in sync beside others, and fenced");
    }
    let before = before?;
    if state.leader_epoch < before.leader_epoch || state.partition_epoch < before.partition_epoch {
        return Some("an epoch has gone back");
    }
    if state.leader != before.leader && state.leader_epoch == before.leader_epoch {
        return Some("the leader has changed, and its epoch has not");
    }
    // An entry may hold several decisions: what lay between the two states cannot be seen.
    if state.partition_epoch.0 > before.partition_epoch.0 + 1 {
        return None;
    }
    let joined = |id: &&NodeId| !before.isr.contains(id) && **id != state.leader;
    if state.isr.iter().filter(joined).any(|id| !is_active(id)) {
        return Some("somebody has joined who may not");
    }
    let held = |id: &NodeId| {
        before.isr.contains(id) || before.elr.contains(id) || before.last_known_elr.contains(id)
    };
    // Two ways lead in and to the front in one step: a reassignment's last replica, and whoever comes to a leader that shuts down.
    let is_handed_over = before.adding.contains(&state.leader)
        || before.removing.contains(&before.leader)
        || image.broker(before.leader).is_some_and(|broker| broker.shutting_down);
    if state.leader != NodeId::NONE
        && state.leader != before.leader
        && !held(&state.leader)
        && !is_handed_over
    {
        return Some("a leader was elected who was neither in sync nor eligible");
    }
    None
}
