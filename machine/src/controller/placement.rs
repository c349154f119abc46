//! Which brokers hold a new partition.
//!
//! The racks take turns, from a random one on: the partition's first replica comes from the rack whose turn it is, the next from the
//! rack after it, and round again. Within a rack its brokers take turns, one further in each round of the racks and one further for
//! each step from the rack that leads, so that not always the same brokers meet; once all have had theirs, their order is drawn anew.
//! So every rack gets its share of leaders and of replicas, and within a rack every broker. Brokers that are fenced come after all
//! others of their rack and lead nothing; those that shut down get nothing.

use std::collections::BTreeMap;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::NodeId;

use super::command::Failure;
use super::image::{Image, Nodes};
use crate::env::Env;

#[derive(Default)]
struct Rack {
    active: Vec<NodeId>,
    fenced: Vec<NodeId>,
    /// Rounds of the racks since its order was drawn.
    turn: usize,
    /// What this partition has taken already.
    taken: usize,
}

impl Rack {
    fn shuffle(&mut self, env: &mut Env<'_>) {
        self.turn = 0;
        shuffle(env, &mut self.active);
        shuffle(env, &mut self.fenced);
    }

    fn next_round(&mut self, env: &mut Env<'_>) {
        self.turn += 1;
        if self.turn >= self.active.len() {
            self.shuffle(env);
        }
    }

    /// The next broker for this partition, the active ones first; the rack stands so many steps after the one that leads.
    fn take(&mut self, steps: usize) -> Option<NodeId> {
        let at = self.taken;
        let (list, at) = match at.checked_sub(self.active.len()) {
            None => (&self.active, at),
            Some(at) if at < self.fenced.len() => (&self.fenced, at),
            Some(_) => return None,
        };
        self.taken += 1;
        Some(list[(self.turn + steps + at) % list.len()])
    }
}

fn shuffle(env: &mut Env<'_>, brokers: &mut [NodeId]) {
    for last in (1..brokers.len()).rev() {
        let other = env.below(last as u64 + 1) as usize;
        brokers.swap(last, other);
    }
}

/// Places `count` partitions.
pub(super) fn place(env: &mut Env<'_>, count: usize, factor: i16) -> Result<Vec<Nodes>, Failure> {
    let mut by_name: BTreeMap<Option<&str>, Rack> = BTreeMap::new();
    for broker in env.image.brokers.values().filter(|broker| !broker.shutting_down) {
        let rack = by_name.entry(broker.rack.as_deref()).or_default();
        if broker.fenced { &mut rack.fenced } else { &mut rack.active }.push(broker.id);
    }
    let mut racks: Vec<Rack> = by_name.into_values().collect();
    let usable: usize = racks.iter().map(|rack| rack.active.len() + rack.fenced.len()).sum();
    let factor_len = usize::try_from(factor).unwrap_or(0);
    let refused = |why: String| {
        let message = format!("Unable to replicate the partition {factor} time(s): {why}");
        Err(Failure::new(ErrorCode::InvalidReplicationFactor, message))
    };
    if factor_len == 0 || factor_len > usable {
        return refused(format!(
            "The target replication factor of {factor} cannot be reached because only {usable} broker(s) are registered."
        ));
    }
    let leading: Vec<usize> = (0..racks.len()).filter(|at| !racks[*at].active.is_empty()).collect();
    if leading.is_empty() {
        return refused("All brokers are currently fenced.".into());
    }
    let start = env.below(leading.len() as u64) as usize;
    for rack in &mut racks {
        rack.shuffle(env);
    }
    let mut placed = Vec::with_capacity(count);
    for partition in 0..count {
        if partition > 0 && partition % leading.len() == 0 {
            racks.iter_mut().for_each(|rack| rack.next_round(env));
        }
        placed.push(place_one(&mut racks, leading[(start + partition) % leading.len()], factor_len));
    }
    Ok(placed)
}

fn place_one(racks: &mut [Rack], leads: usize, factor: usize) -> Nodes {
    let count = racks.len();
    racks.iter_mut().for_each(|rack| rack.taken = 0);
    let mut replicas = Nodes::new();
    for step in 0.. {
        replicas.extend(racks[(leads + step) % count].take(step % count));
        if replicas.len() == factor {
            break;
        }
    }
    replicas
}

/// Judges one partition's replicas as somebody wrote them down.
pub(super) fn check_manual(image: &Image, replicas: &[NodeId], factor: Option<usize>) -> Result<(), Failure> {
    let refused = |message: String| Err(Failure::new(ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return refused("The manual partition assignment includes an empty replica list.".into());
    }
    let mut sorted = replicas.to_vec();
    sorted.sort_unstable();
    for (at, id) in sorted.iter().enumerate() {
        if image.broker(*id).is_none() {
            return refused(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if at > 0 && sorted[at - 1] == *id {
            return refused(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    match factor {
        Some(factor) if factor != replicas.len() => refused(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with \
             previous partitions, which have {factor} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}
