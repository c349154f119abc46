//! Reading: what a consumer may see, and where offsets lie.

use std::sync::Arc;

use ottla_machine::partition::producers::Producers;
use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset};
use ottla_storage::{Log, LogView, Read, Removal, Slice, StorageError};

use super::Partition;
use super::produce::storage_code;
use crate::api::Wakeup;

/// The ends of a partition as its clients see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub leader_epoch: LeaderEpoch,
}

/// From whom something may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    Leader,
    /// Followers know a committed end too, a moment later than the leader (KIP-392).
    AnyReplica,
}

/// What a fetch of one partition found.
#[derive(Debug)]
pub struct ReadAnswer {
    pub bounds: Bounds,
    pub read: Read,
}

impl Partition {
    /// Reads committed batches from `offset` on. If they have fewer bytes than `wakeup` names, it is noted for when there are more.
    ///
    /// # Errors
    /// The code for this partition, and the bounds where they are known.
    pub fn read(
        self: &Arc<Self>,
        offset: Offset,
        epoch: LeaderEpoch,
        max_bytes: usize,
        at_least_one: bool,
        wakeup: Option<(Wakeup, usize)>,
        from: ReadFrom,
    ) -> Result<ReadAnswer, (ErrorCode, Option<Bounds>)> {
        let mut state = self.lock();
        state.check(epoch, from).map_err(|code| (code, None))?;
        self.ensure_open(&mut state).map_err(|code| (code, None))?;
        let log = state.log.as_ref().expect("just opened");
        let bounds = state.bounds(log);
        if offset < bounds.log_start || offset > log.end_offset() {
            return Err((ErrorCode::OffsetOutOfRange, Some(bounds)));
        }
        let upto = if is_on(Bug::FetchPastWatermark) { log.end_offset() } else { bounds.high_watermark };
        let read = if offset >= upto {
            Ok(Read::Hot(Vec::new()))
        } else {
            log.read(offset, upto, max_bytes, at_least_one)
        };
        let read = read.map_err(|error| {
            if !matches!(error, StorageError::OutOfRange { .. }) {
                tracing::error!("fetch of {} at offset {offset}: {error}", self.dir_name);
            }
            self.give_up(&mut state, &error);
            (storage_code(&error), Some(bounds))
        })?;
        if let Some((wakeup, enough)) = wakeup
            && !matches!(&read, Read::Hot(slices) if slices.iter().map(Slice::len).sum::<usize>() >= enough)
        {
            state.note_fetcher(wakeup);
        }
        Ok(ReadAnswer { bounds, read })
    }

    /// Start, committed end and epoch.
    ///
    /// # Errors
    /// Not the leader, another epoch, or a log that cannot be opened.
    pub fn bounds(self: &Arc<Self>, epoch: LeaderEpoch, from: ReadFrom) -> Result<Bounds, ErrorCode> {
        self.settled(epoch, from, |_, bounds| bounds)
    }

    /// The in-sync follower in a rack that has what a consumer wants to read next, and most beyond (KIP-392). `None`: no better one than
    /// this leader, or this node does not lead.
    #[must_use]
    pub fn reader_in_rack(&self, rack: &str, offset: Offset) -> Option<NodeId> {
        let image = self.host.image.load();
        let is_near = |id: NodeId| {
            image.broker(id).is_some_and(|broker| !broker.fenced && broker.rack.as_deref() == Some(rack))
        };
        if is_near(self.host.me) {
            return None;
        }
        let state = self.lock();
        let near = state.replica.readers_from(offset).filter(|(id, _)| is_near(*id));
        near.max_by_key(|(id, end)| (*end, std::cmp::Reverse(*id))).map(|(id, _)| id)
    }

    /// Looks at a log whose committed end is known.
    fn settled<T>(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        from: ReadFrom,
        look: impl FnOnce(&Log, Bounds) -> T,
    ) -> Result<T, ErrorCode> {
        let mut state = self.lock();
        state.check(epoch, from)?;
        self.ensure_open(&mut state)?;
        state.check_settled()?;
        let log = state.log.as_ref().expect("just opened");
        Ok(look(log, state.bounds(log)))
    }

    /// The leader epoch of the batch at an offset, as the log's history has it; -1 if it has none.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        let state = self.lock();
        state.log.as_ref().and_then(|log| log.epochs().epoch_at(offset)).unwrap_or(LeaderEpoch::NONE)
    }

    /// The largest epoch not above `asked`, and where it ended (KIP-101, KIP-279).
    ///
    /// # Errors
    /// Not the leader, or another epoch.
    pub fn end_of_epoch(
        self: &Arc<Self>,
        current: LeaderEpoch,
        asked: LeaderEpoch,
    ) -> Result<(LeaderEpoch, Offset), ErrorCode> {
        let mut state = self.lock();
        state.replica.check_leader(current)?;
        self.ensure_open(&mut state)?;
        let log = state.log.as_ref().expect("just opened");
        // The end of the newest epoch is what is committed, for clients.
        let end = log.end_offset_for(asked);
        Ok(end.unwrap_or((LeaderEpoch::NONE, Offset::NONE)))
    }

    /// A view of everything that the log holds, committed or not: what a coordinator is loaded from.
    ///
    /// # Errors
    /// Not the leader, or a log that cannot be opened.
    pub(crate) fn whole_view(self: &Arc<Self>) -> Result<LogView, ErrorCode> {
        let mut state = self.lock();
        state.replica.check_leader(LeaderEpoch::NONE)?;
        self.ensure_open(&mut state)?;
        Ok(state.log.as_ref().expect("just opened").view())
    }

    /// A view for long reads, with the committed end.
    ///
    /// # Errors
    /// Not the leader, another epoch, or a log that cannot be opened.
    pub fn view(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        from: ReadFrom,
    ) -> Result<(LogView, Bounds), ErrorCode> {
        self.settled(epoch, from, |log, bounds| (log.view(), bounds))
    }

    /// Raises the log start (DeleteRecords); -1 means the high watermark. Returns the new start and what to remove.
    ///
    /// # Errors
    /// Not the leader, or an offset outside of what is committed.
    pub fn delete_records(self: &Arc<Self>, offset: Offset) -> Result<(Offset, Option<Removal>), ErrorCode> {
        let mut state = self.lock();
        state.replica.check_leader(LeaderEpoch::NONE)?;
        self.ensure_open(&mut state)?;
        let high_watermark = state.replica.high_watermark();
        // "Everything that is committed" is not known yet where a crash left records that are not flushed again.
        if offset == Offset::NONE && state.check_settled().is_err() {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let target = if offset == Offset::NONE { high_watermark } else { offset };
        if target.0 < 0 || target > high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let log = state.log.as_mut().expect("just opened");
        let removal = log.trim_start(target);
        Ok((log.start_offset(), removal))
    }

    /// The producers as this replica knows them.
    ///
    /// # Errors
    /// Not a replica, or a log that cannot be opened.
    pub fn producers(self: &Arc<Self>) -> Result<Producers, ErrorCode> {
        let mut state = self.lock();
        state.replica.check_replica(LeaderEpoch::NONE)?;
        self.ensure_open(&mut state)?;
        Ok(state.producers.clone())
    }

    /// Bytes on disk; 0 where nothing was written.
    #[must_use]
    pub fn size_bytes(self: &Arc<Self>) -> u64 {
        let mut state = self.lock();
        if self.ensure_open(&mut state).is_err() {
            return 0;
        }
        state.log.as_ref().map_or(0, |log| log.size_bytes())
    }
}

impl super::State {
    fn check(&self, epoch: LeaderEpoch, from: ReadFrom) -> Result<(), ErrorCode> {
        match from {
            ReadFrom::Leader => self.replica.check_leader(epoch),
            ReadFrom::AnyReplica => self.replica.check_replica(epoch),
        }
    }

    /// After a crash the end is known once what it left is on the disk again: until then clients are told to ask again (KIP-207).
    fn check_settled(&self) -> Result<(), ErrorCode> {
        if self.replica.is_settled() { Ok(()) } else { Err(ErrorCode::OffsetNotAvailable) }
    }

    fn bounds(&self, log: &Log) -> Bounds {
        Bounds {
            log_start: log.start_offset(),
            high_watermark: self.replica.high_watermark(),
            leader_epoch: self.replica.leader_epoch(),
        }
    }

    fn note_fetcher(&mut self, wakeup: Wakeup) {
        self.fetchers.retain(|known| !known.is_done());
        self.fetchers.push(wakeup);
    }
}
