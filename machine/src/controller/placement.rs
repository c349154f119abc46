//! Which brokers hold a new partition: leaders go round the brokers, replicas follow round, from a random start.

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::NodeId;

use super::command::Failure;
use super::image::Nodes;
use crate::env::Env;

/// Places `count` partitions.
pub(super) fn place(env: &mut Env<'_>, count: usize, factor: i16) -> Result<Vec<Nodes>, Failure> {
    let brokers: Vec<NodeId> = env.image.active_brokers().map(|broker| broker.id).collect();
    let factor_len = usize::try_from(factor).unwrap_or(0);
    if factor_len == 0 || factor_len > brokers.len() {
        return Err(Failure::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be \
                 reached because only {} broker(s) are registered.",
                brokers.len()
            ),
        ));
    }
    let start = env.below(brokers.len() as u64) as usize;
    let replica = |partition: usize, at: usize| brokers[(start + partition + at) % brokers.len()];
    Ok((0..count).map(|partition| (0..factor_len).map(|at| replica(partition, at)).collect()).collect())
}

/// Judges one partition's replicas as somebody wrote them down.
pub(super) fn check_manual(env: &Env<'_>, replicas: &[NodeId], factor: Option<usize>) -> Result<(), Failure> {
    let refused = |message: String| Err(Failure::new(ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return refused("The manual partition assignment includes an empty replica list.".into());
    }
    let mut sorted = replicas.to_vec();
    sorted.sort_unstable();
    for (at, id) in sorted.iter().enumerate() {
        if env.image.broker(*id).is_none() {
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
