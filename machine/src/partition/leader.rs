//! What a replica decides: who may append in which epoch, how far its log is committed, and who is in sync.
//!
//! The high watermark is what every member of the in-sync set has: flushed bytes where acknowledged means on disk, appended bytes
//! otherwise. It never goes back, also when the mode changes, and stands still while the set is below `min.insync.replicas` (KIP-966).
//! Changes of the set are proposed to the controller; until it has answered, the watermark waits for the old members and the new.

use std::collections::BTreeMap;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionEpoch};

use crate::controller::image::{Nodes, PartitionState};
use crate::sabotage::{Bug, is_on};

/// The epoch of a broker's registration if it may lead and be in sync, else nothing: what a leader asks the image.
pub type Active<'a> = &'a dyn Fn(NodeId) -> Option<BrokerEpoch>;

/// One replica as its own node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    me: NodeId,
    state: PartitionState,
    high_watermark: Offset,
    /// While this node leads.
    leading: Option<Leading>,
}

/// What only a leader knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leading {
    /// Where the log ended when this epoch began.
    epoch_start: Offset,
    followers: BTreeMap<NodeId, Follower>,
    /// Asked of the controller and not answered yet.
    proposed: Option<Nodes>,
}

/// A follower as its fetches show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// It has appended, and flushed, up to here; [`Offset::NONE`] before its first fetch.
    pub end: Offset,
    pub flushed: Offset,
    /// Of the incarnation that fetched last (KIP-903).
    pub epoch: BrokerEpoch,
    /// The tick at which it last had everything that the leader had.
    pub caught_up_ms: u64,
    /// Once it has reached this end, it had caught up at that tick.
    mark: Option<(Offset, u64)>,
}

/// What a follower's fetch says of it.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub follower: NodeId,
    pub epoch: BrokerEpoch,
    pub end: Offset,
    pub flushed: Offset,
}

/// A change of the in-sync set, for the controller to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<(NodeId, BrokerEpoch)>,
}

/// How a partition is run: what its topic's configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Acknowledged means on disk (`flush.messages=1`).
    pub flushed_counts: bool,
    pub min_insync_replicas: usize,
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
}

/// The ends of this node's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLog {
    pub start: Offset,
    pub end: Offset,
    pub flushed: Offset,
}

impl OwnLog {
    fn reached(&self, mode: &Mode) -> Offset {
        let counts = mode.flushed_counts && !is_on(Bug::AcknowledgeBeforeFlush);
        if counts { self.flushed } else { self.end }
    }
}

impl Replica {
    /// A replica whose log nobody has looked into yet.
    #[must_use]
    pub fn new(me: NodeId, state: PartitionState) -> Self {
        Self { me, state, high_watermark: Offset::ZERO, leading: None }
    }

    /// The log was opened. What its only replica has is committed; of others the followers must tell first.
    pub fn on_opened(&mut self, own: OwnLog, mode: &Mode, tick_ms: u64) {
        self.high_watermark = own.start;
        if *self.state.replicas == [self.me] || is_on(Bug::CommitOnStart) {
            self.high_watermark = own.reached(mode);
        }
        self.leading = None;
        self.lead_if_named(own, tick_ms);
    }

    /// The controller decided anew. Says whether this node leads from here on in an epoch in which it did not before.
    pub fn on_state(&mut self, state: PartitionState, own: Option<OwnLog>, tick_ms: u64) -> bool {
        if state.partition_epoch < self.state.partition_epoch {
            return false;
        }
        let new_epoch = state.leader_epoch != self.state.leader_epoch || state.leader != self.state.leader;
        self.state = state;
        if new_epoch {
            self.leading = None;
        }
        let Some(own) = own else { return false };
        match &mut self.leading {
            Some(leading) => {
                leading.proposed = None;
                let replicas = &self.state.replicas;
                leading.followers.retain(|id, _| replicas.contains(id));
                let me = self.me;
                for id in replicas.iter().filter(|id| **id != me) {
                    leading.followers.entry(*id).or_insert_with(|| Follower::unknown(0));
                }
                false
            }
            None => self.lead_if_named(own, tick_ms),
        }
    }

    fn lead_if_named(&mut self, own: OwnLog, tick_ms: u64) -> bool {
        if self.state.leader != self.me {
            return false;
        }
        let others = self.state.replicas.iter().filter(|id| **id != self.me);
        // Members of the set get the time of a lag to show that they are there.
        let since = |id: &NodeId| if self.state.isr.contains(id) { tick_ms } else { 0 };
        let followers = others.map(|id| (*id, Follower::unknown(since(id)))).collect();
        if is_on(Bug::CommitOnElection) {
            self.high_watermark = self.high_watermark.max(own.end);
        }
        self.leading = Some(Leading { epoch_start: own.end, followers, proposed: None });
        true
    }

    #[must_use]
    pub fn state(&self) -> &PartitionState {
        &self.state
    }

    #[must_use]
    pub fn leads(&self) -> bool {
        self.state.leader == self.me
    }

    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.state.leader_epoch
    }

    /// Whether everything of the epochs before is known to be committed: until then nobody can say where the log ends (KIP-207).
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.leading.as_ref().is_none_or(|leading| self.high_watermark >= leading.epoch_start)
    }

    /// Whether this node leads, and in the epoch that the caller names (-1: any).
    ///
    /// # Errors
    /// NOT_LEADER_OR_FOLLOWER, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH (KIP-320).
    pub fn check_leader(&self, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        self.check_epoch(epoch)?;
        if self.leads() { Ok(()) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }

    /// Whether this node holds a replica, leading or not, in the epoch that the caller names (-1: any).
    ///
    /// # Errors
    /// As of [`Replica::check_leader`].
    pub fn check_replica(&self, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        self.check_epoch(epoch)?;
        if self.is_held() { Ok(()) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }

    /// Whether this node is one of those that hold the partition.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.state.replicas.contains(&self.me)
    }

    /// The in-sync followers that have everything up to `offset`, as their fetches show, and how far each is (KIP-392). None of a
    /// replica that does not lead.
    pub fn readers_from(&self, offset: Offset) -> impl Iterator<Item = (NodeId, Offset)> {
        self.followers()
            .filter(move |(id, follower)| self.state.isr.contains(id) && follower.end >= offset)
            .map(|(id, follower)| (id, follower.end))
    }

    /// Whether the caller knows the present epoch (-1: it does not say).
    ///
    /// # Errors
    /// FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH.
    pub fn check_epoch(&self, epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        if epoch != LeaderEpoch::NONE && !is_on(Bug::SkipEpochCheck) {
            if epoch < self.state.leader_epoch {
                return Err(ErrorCode::FencedLeaderEpoch);
            }
            if epoch > self.state.leader_epoch {
                return Err(ErrorCode::UnknownLeaderEpoch);
            }
        }
        Ok(())
    }

    /// Whether an append with acks=all may begin. The minimum is never above the number of replicas (KIP-966).
    ///
    /// # Errors
    /// NOT_ENOUGH_REPLICAS.
    pub fn check_in_sync(&self, min_insync_replicas: usize) -> Result<(), ErrorCode> {
        if self.has_enough(min_insync_replicas) { Ok(()) } else { Err(ErrorCode::NotEnoughReplicas) }
    }

    #[must_use]
    pub fn has_enough(&self, min_insync_replicas: usize) -> bool {
        self.state.isr.len() >= min_insync_replicas.min(self.state.replicas.len())
    }

    /// This node's log moved, or time passed. Returns whether the high watermark moved.
    pub fn advance(&mut self, own: OwnLog, mode: &Mode, active: Active<'_>, tick_ms: u64) -> bool {
        let Some(leading) = &self.leading else { return false };
        if !self.has_enough(mode.min_insync_replicas) && !is_on(Bug::IgnoreMinimum) {
            return false;
        }
        let proposed = leading.proposed.as_deref().unwrap_or_default();
        let mut reached = own.reached(mode);
        for (id, follower) in &leading.followers {
            let is_member = self.state.isr.contains(id) || proposed.contains(id);
            // One that is about to join is waited for, or it would run after the watermark for ever; not one that can't join.
            if is_member || follower.is_caught_up(tick_ms, mode) && active(*id) == Some(follower.epoch) {
                reached = reached.min(follower.reached(mode));
            }
        }
        if is_on(Bug::WatermarkOfMost) {
            let mut ends: Vec<Offset> =
                leading.followers.values().map(|follower| follower.reached(mode)).collect();
            ends.push(own.reached(mode));
            ends.sort_unstable();
            reached = ends[ends.len() / 2].min(own.end);
        }
        if is_on(Bug::WatermarkOneTooFar) {
            reached = reached.plus(1).min(own.end);
        }
        let moved = reached > self.high_watermark;
        if moved {
            self.high_watermark = reached;
        }
        moved
    }

    /// A follower heard from its leader how far the log is committed. Returns whether that is news.
    pub fn on_leader_watermark(&mut self, leader: Offset, own_end: Offset) -> bool {
        let reached = leader.min(own_end);
        let moved = self.leading.is_none() && reached > self.high_watermark;
        if moved {
            self.high_watermark = reached;
        }
        moved
    }

    /// The log was cut to `end`: nothing above it is committed here. That it ever was would be a lost record.
    pub fn on_truncated(&mut self, end: Offset) {
        self.high_watermark = self.high_watermark.min(end);
    }

    /// A follower fetches, or says how far it has flushed. May propose to take it into the in-sync set.
    pub fn on_follower(
        &mut self,
        progress: Progress,
        own: OwnLog,
        mode: &Mode,
        active: Active<'_>,
        tick_ms: u64,
    ) -> Option<IsrProposal> {
        let leading = self.leading.as_mut()?;
        let follower = leading.followers.get_mut(&progress.follower)?;
        if progress.epoch < follower.epoch && !is_on(Bug::IgnoreBrokerEpochs) {
            return None;
        }
        follower.epoch = progress.epoch;
        follower.end = progress.end;
        follower.flushed = progress.flushed.min(progress.end);
        let reached = follower.reached(mode);
        if reached >= own.end {
            follower.caught_up_ms = tick_ms;
            follower.mark = None;
        } else {
            if let Some((_, at_ms)) = follower.mark.take_if(|(end, _)| reached >= *end) {
                follower.caught_up_ms = follower.caught_up_ms.max(at_ms);
            }
            follower.mark.get_or_insert((own.end, tick_ms));
        }
        if leading.proposed.is_some() || !self.may_join(progress.follower, mode, active) {
            return None;
        }
        let mut isr = self.state.isr.clone();
        isr.push(progress.follower);
        self.propose(isr, active)
    }

    /// Whether a follower may get into the in-sync set by what it last showed, in the incarnation that is registered (KIP-903).
    fn may_join(&self, id: NodeId, mode: &Mode, active: Active<'_>) -> bool {
        let Some(leading) = &self.leading else { return false };
        let Some(follower) = leading.followers.get(&id) else { return false };
        !self.state.isr.contains(&id)
            && (follower.reached(mode) >= self.high_watermark.max(leading.epoch_start)
                || is_on(Bug::JoinTooEarly))
            && (active(id) == Some(follower.epoch) || active(id).is_some() && is_on(Bug::IgnoreBrokerEpochs))
    }

    /// Time has passed: who has not caught up for too long is to leave the in-sync set. Who showed all that it needs while it was fenced
    /// joins now that it is not: where nothing is written, it has nothing more to show.
    pub fn on_tick(
        &mut self,
        own: OwnLog,
        mode: &Mode,
        active: Active<'_>,
        tick_ms: u64,
    ) -> Option<IsrProposal> {
        let leading = self.leading.as_ref()?;
        if leading.proposed.is_some() {
            return None;
        }
        let lags = |id: &NodeId| {
            leading.followers.get(id).is_some_and(|follower| {
                follower.reached(mode) < own.end
                    && tick_ms.saturating_sub(follower.caught_up_ms) > mode.lag_max_ms
            })
        };
        let stay = self.state.isr.iter().filter(|id| !lags(id));
        let join = leading.followers.keys().filter(|id| !lags(id) && self.may_join(**id, mode, active));
        let isr: Nodes = stay.chain(join).copied().collect();
        if isr == self.state.isr {
            return None;
        }
        self.propose(isr, active)
    }

    /// Replicas that are not in sync.
    fn outside(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.state.replicas.iter().filter(|id| !self.state.isr.contains(id)).copied()
    }

    fn propose(&mut self, isr: Nodes, active: Active<'_>) -> Option<IsrProposal> {
        let leading = self.leading.as_mut()?;
        let epoch_of = |id: &NodeId| (*id, active(*id).unwrap_or(BrokerEpoch(-1)));
        let proposal = IsrProposal {
            leader_epoch: self.state.leader_epoch,
            partition_epoch: self.state.partition_epoch,
            isr: isr.iter().map(epoch_of).collect(),
        };
        leading.proposed = Some(isr);
        Some(proposal)
    }

    /// The controller did not take a proposal, or nobody knows: the next fetch or tick may propose again.
    pub fn on_proposal_failed(&mut self, partition_epoch: PartitionEpoch) {
        if let Some(leading) = &mut self.leading
            && self.state.partition_epoch == partition_epoch
        {
            leading.proposed = None;
        }
    }

    /// Whether time alone may change something here: a member of the in-sync set lacks something, or a replica that is there is no
    /// member. Where everybody has everything there is nothing to look after, however many partitions that are.
    #[must_use]
    pub fn is_unsettled(&self, own: OwnLog, mode: &Mode, active: Active<'_>) -> bool {
        let Some(leading) = &self.leading else { return false };
        let lacks = |(id, follower): (&NodeId, &Follower)| {
            self.state.isr.contains(id) && follower.reached(mode) < own.end
        };
        leading.followers.iter().any(lacks) || self.outside().any(|id| active(id).is_some())
    }

    /// The followers, while this node leads.
    pub fn followers(&self) -> impl Iterator<Item = (NodeId, &Follower)> {
        self.leading.iter().flat_map(|leading| leading.followers.iter().map(|(id, follower)| (*id, follower)))
    }
}

impl Follower {
    fn unknown(caught_up_ms: u64) -> Self {
        Self { end: Offset::NONE, flushed: Offset::NONE, epoch: BrokerEpoch(-1), caught_up_ms, mark: None }
    }

    fn reached(&self, mode: &Mode) -> Offset {
        let counts = mode.flushed_counts && !is_on(Bug::FollowerCountsUnflushed);
        if counts { self.flushed } else { self.end }
    }

    fn is_caught_up(&self, tick_ms: u64, mode: &Mode) -> bool {
        self.end != Offset::NONE && tick_ms.saturating_sub(self.caught_up_ms) <= mode.lag_max_ms
    }
}
