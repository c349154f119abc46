//! What a leader decides: who may append in which epoch, and how far its log is committed.
//!
//! With one replica the high watermark is what that replica has: flushed bytes where acknowledged means on disk, appended bytes
//! otherwise. It never goes back, also when the mode changes.

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset};

use crate::controller::image::PartitionState;

/// One replica as its own node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    me: NodeId,
    state: PartitionState,
    high_watermark: Offset,
}

impl Replica {
    /// `high_watermark`: what is known to be committed; for the only replica, what its disk has.
    #[must_use]
    pub fn new(me: NodeId, state: PartitionState, high_watermark: Offset) -> Self {
        Self { me, state, high_watermark }
    }

    /// The controller decided anew.
    pub fn on_state(&mut self, state: PartitionState) {
        self.state = state;
    }

    #[must_use]
    pub fn state(&self) -> &PartitionState {
        &self.state
    }

    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.state.leader_epoch
    }

    /// Whether this node leads, and in the epoch that the caller names (-1: any).
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH (KIP-320).
    pub fn check_leader(&self, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        if epoch != LeaderEpoch::NONE {
            if epoch < self.state.leader_epoch {
                return Err(ErrorCode::FencedLeaderEpoch);
            }
            if epoch > self.state.leader_epoch {
                return Err(ErrorCode::UnknownLeaderEpoch);
            }
        }
        if self.state.leader != self.me { Err(ErrorCode::NotLeaderOrFollower) } else { Ok(()) }
    }

    /// Whether an append with acks=all may begin. The minimum is never above the number of replicas (KIP-966).
    ///
    /// # Errors
    /// NOT_ENOUGH_REPLICAS.
    pub fn check_in_sync(&self, min_insync_replicas: usize) -> Result<(), ErrorCode> {
        let minimum = min_insync_replicas.min(self.state.replicas.len());
        if self.state.isr.len() < minimum { Err(ErrorCode::NotEnoughReplicas) } else { Ok(()) }
    }

    /// The log now ends at `end` and is on disk up to `flushed`. Returns whether the high watermark moved.
    pub fn on_progress(&mut self, end: Offset, flushed: Offset, flushed_counts: bool) -> bool {
        let reached = if flushed_counts { flushed } else { end };
        let moved = reached > self.high_watermark;
        if moved {
            self.high_watermark = reached;
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::types::PartitionEpoch;

    fn replica(replicas: &[i32], isr: &[i32], leader: i32) -> Replica {
        let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect();
        let state = PartitionState {
            replicas: nodes(replicas),
            adding: nodes(&[]),
            removing: nodes(&[]),
            isr: nodes(isr),
            elr: nodes(&[]),
            last_known_elr: nodes(&[]),
            leader: NodeId(leader),
            leader_epoch: LeaderEpoch(5),
            partition_epoch: PartitionEpoch(0),
        };
        Replica::new(NodeId(1), state, Offset(0))
    }

    #[test]
    fn epochs_fence_before_leadership_is_looked_at() {
        let cases = [
            (1, -1, Ok(())),
            (1, 5, Ok(())),
            (1, 4, Err(ErrorCode::FencedLeaderEpoch)),
            (1, 6, Err(ErrorCode::UnknownLeaderEpoch)),
            (2, -1, Err(ErrorCode::NotLeaderOrFollower)),
            (2, 4, Err(ErrorCode::FencedLeaderEpoch)),
        ];
        for (leader, epoch, expected) in cases {
            assert_eq!(replica(&[1, 2], &[1, 2], leader).check_leader(LeaderEpoch(epoch)), expected);
        }
    }

    #[test]
    fn the_minimum_in_sync_is_never_above_the_number_of_replicas() {
        assert_eq!(replica(&[1], &[1], 1).check_in_sync(2), Ok(()));
        assert_eq!(replica(&[1, 2], &[1], 1).check_in_sync(2), Err(ErrorCode::NotEnoughReplicas));
    }

    #[test]
    fn the_watermark_counts_what_the_mode_says_and_never_goes_back() {
        let mut replica = replica(&[1], &[1], 1);
        assert!(!replica.on_progress(Offset(10), Offset(0), true));
        assert!(replica.on_progress(Offset(10), Offset(7), true));
        assert!(replica.on_progress(Offset(10), Offset(7), false));
        assert!(!replica.on_progress(Offset(12), Offset(8), true));
        assert_eq!(replica.high_watermark(), Offset(10));
    }
}
