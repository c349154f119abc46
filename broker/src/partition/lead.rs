//! The leader's side of replication: what followers read, and what their fetches say of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ottla_machine::partition::leader::{IsrProposal, Progress};
use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, TopicId};
use ottla_storage::Read;

use super::produce::storage_code;
use super::{Partition, active};
use crate::api::Wakeup;

/// What a follower wants of one partition, and what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub topic: TopicId,
    pub index: i32,
    /// The epoch in which it follows.
    pub leader_epoch: LeaderEpoch,
    /// Its log's end: where it wants to read on.
    pub offset: Offset,
    /// Of the last batch before that, -1 for none (KIP-595).
    pub last_epoch: LeaderEpoch,
    /// Its log is on disk up to here.
    pub flushed: Offset,
    pub log_start: Offset,
}

/// What a follower is told of one partition.
#[derive(Debug)]
pub struct ReplicaAnswer {
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// Its log is another one from here on: the epoch, and where that ends in the leader's log.
    pub diverging: Option<(LeaderEpoch, Offset)>,
    pub read: Read,
}

/// A connection from a follower, which hears of what happens in the partitions that it reads. It lives as long as the connection, so
/// that nothing is missed between two fetches.
#[derive(Debug, Default)]
pub struct FollowerSignal {
    state: Mutex<SignalState>,
}

#[derive(Debug, Default)]
struct SignalState {
    /// Places with news.
    noted: Vec<u32>,
    /// The fetch that waits.
    parked: Option<Wakeup>,
}

/// One partition's place in such a connection.
#[derive(Debug)]
pub struct Place {
    signal: Arc<FollowerSignal>,
    index: u32,
    noted: AtomicBool,
    closed: AtomicBool,
}

impl FollowerSignal {
    #[must_use]
    pub fn place(self: &Arc<Self>, index: u32) -> Arc<Place> {
        Arc::new(Place {
            signal: Arc::clone(self),
            index,
            noted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// The places with news since this was last asked. Each must be looked at, after [`Place::clear`].
    #[must_use]
    pub fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).noted)
    }

    /// Has the fetch that waits answered, for something that belongs to no place.
    pub fn wake(&self) {
        let parked = self.state.lock().unwrap_or_else(PoisonError::into_inner).parked.take();
        if let Some(wakeup) = parked {
            wakeup.wake();
        }
    }

    /// A fetch waits for news. Those that came before this call wake it at once.
    pub fn park(&self, wakeup: Wakeup) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.noted.is_empty() {
            state.parked = Some(wakeup);
        } else {
            drop(state);
            wakeup.wake();
        }
    }
}

impl Place {
    /// There are news that can wait for the next answer.
    pub fn note(&self) {
        if !self.noted.swap(true, Ordering::AcqRel) {
            self.signal.state.lock().unwrap_or_else(PoisonError::into_inner).noted.push(self.index);
        }
    }

    /// There are records: a fetch that waits is answered.
    pub fn wake(&self) {
        let parked = {
            let mut state = self.signal.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.noted.swap(true, Ordering::AcqRel) {
                state.noted.push(self.index);
            }
            state.parked.take()
        };
        if let Some(wakeup) = parked {
            wakeup.wake();
        }
    }

    /// Before the partition is looked at, so that what happens from here on is news again.
    pub fn clear(&self) {
        self.noted.store(false, Ordering::Release);
    }

    /// The connection is gone, or wants the partition no longer.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

impl Partition {
    /// A follower says what it has. The high watermark may move by that, and the follower may get into the in-sync set.
    ///
    /// # Errors
    /// This node does not lead, or not in the follower's epoch; the follower is none of this partition's.
    pub fn on_follower(
        self: &Arc<Self>,
        follower: NodeId,
        epoch: BrokerEpoch,
        wish: &Wish,
    ) -> Result<(), ErrorCode> {
        let tick_ms = self.host.clock.tick_ms();
        let mut state = self.lock();
        state.replica.check_leader(wish.leader_epoch)?;
        self.ensure_open(&mut state)?;
        if !state.replica.state().replicas.contains(&follower) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let (own, mode) = (state.own().expect("just opened"), state.mode(&self.host));
        // A log that is another one proves nothing.
        if wish.offset > own.end || state.diverges(wish).is_some() {
            return Ok(());
        }
        let progress = Progress { follower, epoch, end: wish.offset, flushed: wish.flushed };
        let image = self.host.image.load();
        let proposal = state.replica.on_follower(progress, own, &mode, &active(&image), tick_ms);
        let due = state.advance(&self.host);
        drop(state);
        due.complete();
        self.propose(proposal);
        Ok(())
    }

    /// Reads for a follower, beyond the high watermark.
    ///
    /// # Errors
    /// As of [`Partition::on_follower`]; OFFSET_OUT_OF_RANGE, with the log's start.
    pub fn read_for_follower(
        self: &Arc<Self>,
        wish: &Wish,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<ReplicaAnswer, (ErrorCode, Offset)> {
        let mut state = self.lock();
        let refused = |code: ErrorCode| (code, Offset::NONE);
        state.replica.check_leader(wish.leader_epoch).map_err(refused)?;
        self.ensure_open(&mut state).map_err(refused)?;
        let own = state.own().expect("just opened");
        let diverging = state.diverges(wish);
        let log = state.log.as_ref().expect("just opened");
        let read = match diverging {
            Some(_) => Read::Hot(Vec::new()),
            None if wish.offset < own.start || wish.offset > own.end => {
                return Err((ErrorCode::OffsetOutOfRange, own.start));
            }
            None if wish.offset == own.end => Read::Hot(Vec::new()),
            None => log.read(wish.offset, own.end, max_bytes, at_least_one).map_err(|error| {
                self.give_up(&mut state, &error);
                (storage_code(&error), own.start)
            })?,
        };
        let high_watermark = state.replica.high_watermark();
        Ok(ReplicaAnswer { high_watermark, log_start: own.start, diverging, read })
    }

    /// Has a follower's connection hear of this partition.
    pub fn add_follower(&self, place: &Arc<Place>) {
        let mut state = self.lock();
        state.followers.retain(|known| !known.closed.load(Ordering::Acquire) && !Arc::ptr_eq(known, place));
        state.followers.push(Arc::clone(place));
    }

    /// Hands a proposal to who asks the controller.
    pub(super) fn propose(self: &Arc<Self>, proposal: Option<IsrProposal>) {
        if let Some(proposal) = proposal {
            self.host.in_sync.propose(Arc::clone(self), proposal);
        }
    }

    /// The controller did not take a proposal.
    pub(crate) fn on_proposal_failed(self: &Arc<Self>, proposal: &IsrProposal) {
        let mut state = self.lock();
        state.replica.on_proposal_failed(proposal.partition_epoch);
        let due = state.advance(&self.host);
        drop(state);
        due.complete();
    }
}

impl super::State {
    /// Whether the follower's log is another one below the offset that it asks for: the last epoch that both may know, and its end
    /// here (KIP-595).
    fn diverges(&self, wish: &Wish) -> Option<(LeaderEpoch, Offset)> {
        let log = self.log.as_ref()?;
        if wish.last_epoch == LeaderEpoch::NONE || is_on(Bug::IgnoreDivergence) {
            return None;
        }
        match log.end_offset_for(wish.last_epoch) {
            Some((epoch, end))
                if epoch == wish.last_epoch && (end >= wish.offset || is_on(Bug::IgnoreLongerTail)) =>
            {
                None
            }
            Some(found) => Some(found),
            // An epoch that this leader never heard of: what it has itself is all that can be shared.
            None => Some((log.epochs().latest()?.epoch, log.end_offset())),
        }
    }
}
