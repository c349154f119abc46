//! The follower's side of replication: what to ask the leader for, and what its answers do to the log.

use std::sync::Arc;

use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::batch;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset};
use ottla_storage::{Log, StorageError};

use super::lead::Wish;
use super::{Due, Partition, State};

/// A full disk is told so often.
const SAY_FULL_EVERY_MS: u64 = 10_000;

/// What a leader's answer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Ask on, from the log's end as it is now.
    On,
    /// Ask again in a moment: the leader does not see itself as one yet, or not in this epoch.
    Soon,
    /// Ask again after a while.
    Later,
    /// This node follows that leader no longer, or its log takes nothing, for now or for good.
    Stopped,
}

/// A leader's answer for one partition.
#[derive(Clone, Copy, Debug)]
pub struct LeaderAnswer<'a> {
    pub leader: NodeId,
    /// The epoch in which it led, and the offset from which it read.
    pub epoch: LeaderEpoch,
    pub offset: Offset,
    pub error: ErrorCode,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub diverging: Option<(LeaderEpoch, Offset)>,
    pub records: &'a [u8],
}

impl Partition {
    /// What to ask of the leader, if this node follows one: whom, and what.
    pub fn wish(self: &Arc<Self>) -> Option<(NodeId, Wish)> {
        let mut state = self.lock();
        let leader = state.replica.state().leader;
        if leader == NodeId::NONE || leader == self.host.me {
            return None;
        }
        if self.ensure_open(&mut state).is_err() {
            return None;
        }
        let log = state.log.as_ref().expect("just opened");
        if let Some(StorageError::Quarantined { .. }) = log.failure()
            && !state.replica.state().isr.contains(&self.host.me)
        {
            // The controller knows that nothing here counts: it all comes again from the leader.
            let log = state.log.as_mut().expect("just opened");
            let start = log.start_offset();
            tracing::warn!("{} is damaged: it is fetched anew from node {leader}", self.dir_name);
            if let Err(error) = log.restart_at(start) {
                tracing::error!("{} could not be emptied: {error}", self.dir_name);
                return None;
            }
            state.replica.on_truncated(start);
            state.producers = Default::default();
            state.is_failure_told = false;
        }
        let log = state.log.as_ref().expect("just opened");
        if log.failure().is_some() {
            return None;
        }
        let end = log.end_offset();
        let wish = Wish {
            topic: self.topic,
            index: self.index,
            leader_epoch: state.replica.leader_epoch(),
            offset: end,
            last_epoch: last_epoch(log),
            flushed: log.flushed_end(),
            log_start: log.start_offset(),
        };
        Some((leader, wish))
    }

    /// Whether this node has nothing to ask of any leader, because the log takes nothing: its disk failed, or it is damaged and the
    /// controller does not know yet.
    pub(crate) fn takes_nothing(&self) -> bool {
        let state = self.lock();
        state.log.as_ref().is_none_or(|log| log.failure().is_some())
    }

    /// Does what the leader's answer asks for: appends, cuts, or starts anew.
    pub fn on_leader_answer(self: &Arc<Self>, answer: &LeaderAnswer<'_>) -> Followed {
        let (now_ms, tick_ms) = (self.host.clock.now_ms(), self.host.clock.tick_ms());
        let mut state = self.lock();
        let placed = state.replica.state();
        let is_of_now = placed.leader == answer.leader && placed.leader_epoch == answer.epoch;
        if !is_of_now && !is_on(Bug::TakeAnswersOfOldLeaders) {
            return Followed::Stopped;
        }
        let Some(log) = state.log.as_ref() else { return Followed::Stopped };
        if log.end_offset() != answer.offset {
            // It answers an older question; what it leaves out would be missing for good.
            return Followed::On;
        }
        let outcome = match (answer.error, answer.diverging) {
            (ErrorCode::None, Some(diverging)) => self.cut(&mut state, diverging).map(|()| Due::default()),
            (ErrorCode::None, None) => self.take(&mut state, answer, now_ms, tick_ms),
            (ErrorCode::OffsetOutOfRange, _) => self.start_anew(&mut state, answer).map(|()| Due::default()),
            (
                ErrorCode::UnknownLeaderEpoch
                | ErrorCode::NotLeaderOrFollower
                | ErrorCode::UnknownTopicOrPartition
                | ErrorCode::FencedLeaderEpoch,
                _,
            ) => return Followed::Soon,
            _ => return Followed::Later,
        };
        let due = match outcome {
            Ok(due) => due,
            Err(error @ StorageError::Full { .. }) => {
                if tick_ms >= state.say_full_at_ms {
                    state.say_full_at_ms = tick_ms + SAY_FULL_EVERY_MS;
                    tracing::warn!("{} does not follow for want of space: {error}", self.dir_name);
                }
                return Followed::Stopped;
            }
            Err(error) => {
                tracing::error!("{} follows its leader no longer: {error}", self.dir_name);
                self.tell_failure(&mut state);
                return Followed::Stopped;
            }
        };
        self.settle(state, due);
        Followed::On
    }

    /// Appends the leader's batches as they are.
    fn take(
        &self,
        state: &mut State,
        answer: &LeaderAnswer<'_>,
        now_ms: i64,
        tick_ms: u64,
    ) -> Result<Due, StorageError> {
        if !answer.records.is_empty() {
            let mut headers = Vec::new();
            let mut whole = 0;
            for batch in batch::batches(answer.records) {
                let malformed = |error: batch::BatchError| StorageError::Malformed(error.to_string());
                let batch = batch.map_err(malformed)?;
                batch.verify_crc().map_err(malformed)?;
                whole += batch.header().size_bytes();
                // The first batch may begin before what was asked for; it is here already then.
                if batch.header().next_offset() > answer.offset {
                    headers.push((*batch.header(), whole));
                }
            }
            let from = headers.first().map_or(whole, |(header, end)| end - header.size_bytes());
            if let Some((first, _)) = headers.first() {
                let log = state.log.as_mut().expect("looked at by the caller");
                if first.base_offset < log.end_offset() && log.start_offset() == log.end_offset() {
                    // The leader's log starts within this batch (DeleteRecords), so that an empty one begins before that start, too.
                    log.restart_at(first.base_offset)?;
                }
                let appended = log.append(&answer.records[from..whole], now_ms)?;
                state.rolled |= appended.rolled;
                state.unsaved_bytes += (whole - from) as u64;
                state.unflushed_bytes += (whole - from) as u64;
                for (header, _) in &headers {
                    state.producers.apply(header);
                    state.unflushed_records += i64::from(header.records_count);
                }
                state.unflushed_since_ms.get_or_insert(tick_ms);
            }
        }
        let log = state.log.as_mut().expect("looked at by the caller");
        if answer.log_start > log.start_offset()
            && answer.log_start <= log.end_offset()
            && let Some(removal) = log.trim_start(answer.log_start)
        {
            self.host.flusher.run_job(move || {
                if let Err(error) = removal.run() {
                    tracing::error!("deleted files stay: {error}");
                }
            });
        }
        let end = log.end_offset();
        if state.replica.on_leader_watermark(answer.high_watermark, end) {
            return Ok(state.watermark_moved());
        }
        Ok(Due::default())
    }

    /// Cuts what the leader never had (KIP-101, KIP-279): to where both logs may still be one, which the next fetch finds out.
    fn cut(&self, state: &mut State, (epoch, leader_end): (LeaderEpoch, Offset)) -> Result<(), StorageError> {
        let log = state.log.as_mut().expect("looked at by the caller");
        let own_end = log.end_offset();
        let target = match log.end_offset_for(epoch) {
            Some(_) if is_on(Bug::CutAtLeaderEnd) => leader_end,
            Some((found, end)) if found == epoch => end.min(leader_end),
            // The leader knows an epoch that is not in this log: what came before it may be shared.
            Some((_, end)) => end,
            None => leader_end,
        };
        let target = if is_on(Bug::CutAtWatermark) { state.replica.high_watermark() } else { target };
        let target = target.min(own_end);
        let committed = state.replica.high_watermark();
        if target < committed {
            tracing::error!(
                "{} is cut to offset {target}, below {committed}, which was committed: an unclean election, or a lost disk",
                self.dir_name
            );
        }
        let end = log.truncate_to(target)?;
        tracing::info!("{}: cut from offset {own_end} to {end}, where the leader's log parts", self.dir_name);
        state.replica.on_truncated(end);
        self.reload_producers(state)
    }

    /// The leader's log begins after this one's end, or ends before it: there is nothing to share.
    fn start_anew(&self, state: &mut State, answer: &LeaderAnswer<'_>) -> Result<(), StorageError> {
        let log = state.log.as_mut().expect("looked at by the caller");
        if answer.log_start.0 < 0 || answer.log_start <= log.end_offset() {
            // It ends before our end: its next answer names the epoch in which both part.
            return Ok(());
        }
        tracing::warn!(
            "{} ends at offset {}, before its leader's first offset {}: it starts anew there",
            self.dir_name,
            log.end_offset(),
            answer.log_start
        );
        log.restart_at(answer.log_start)?;
        state.replica.on_truncated(answer.log_start);
        self.reload_producers(state)
    }

    fn reload_producers(&self, state: &mut State) -> Result<(), StorageError> {
        let log = state.log.as_ref().expect("looked at by the caller");
        let damage;
        (state.producers, damage) = self.load_producers(log, None)?;
        if let Some(damage) = damage {
            self.give_up(state, &damage);
        }
        Ok(())
    }
}

/// Of the last record of the log; -1 for none.
fn last_epoch(log: &Log) -> LeaderEpoch {
    let end = log.end_offset();
    if end == log.start_offset() && log.epochs().latest().is_none_or(|latest| latest.start >= end) {
        return LeaderEpoch::NONE;
    }
    log.epochs().epoch_at(Offset(end.0 - 1)).unwrap_or(LeaderEpoch::NONE)
}
