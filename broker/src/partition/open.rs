//! Opening a partition's log when it is first needed, with its producers: the last snapshot of them, and the log behind it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_machine::partition::producers::Producers;
use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::batch;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::Offset;
use ottla_storage::{Log, LogOptions, LogView, ProducerSnapshots, Recovery, StorageError};

use super::{Partition, State};

/// Snapshots of the producers that are kept.
const SNAPSHOTS_KEPT: usize = 2;
/// Bytes of the log that are read at once to rebuild the producers.
const REPLAY_BYTES: usize = 4 << 20;

impl Partition {
    pub(super) fn open_log(&self, options: &LogOptions) -> Result<(Log, Recovery), StorageError> {
        let (log, recovery) = self.host.log_dir.open_log(&self.dir_name, self.topic, *options)?;
        if log.owner() == self.topic {
            return Ok((log, recovery));
        }
        // Left by a topic of the same name that was deleted while this node was down.
        tracing::warn!("{} belongs to a deleted topic of the same name: removed", self.dir_name);
        log.delete()?.run()?;
        self.host.log_dir.open_log(&self.dir_name, self.topic, *options)
    }

    /// Opens the log if it is not yet open.
    pub(super) fn ensure_open(self: &Arc<Self>, state: &mut State) -> Result<(), ErrorCode> {
        if state.log.is_some() {
            return Ok(());
        }
        if let Some(code) = state.offline {
            return Err(code);
        }
        if !self.host.is_settled.load(Ordering::Acquire) {
            // After a restart the image goes through its history again: this may be a topic that is gone by now, and the directory of
            // its name another's.
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let opened = self.open_log(&state.config.log_options()).and_then(|(mut log, recovery)| {
            self.report(state, &recovery);
            let damage;
            (state.producers, damage) = self.load_producers(&log, recovery.walked_from)?;
            if is_on(Bug::ForgetProducersOnStart) {
                state.producers = Producers::default();
            }
            if state.replica.leads() {
                log.assign_epoch(state.replica.leader_epoch());
            }
            Ok((log, damage))
        });
        match opened {
            Ok((log, damage)) => {
                let unflushed = log.flushed_end() < log.end_offset();
                state.log = Some(log);
                if let Some(damage) = damage {
                    self.give_up(state, &damage);
                }
                // What survived a crash is there: with one replica it is committed once it is on the disk again.
                let (own, mode) = (state.own().expect("just opened"), state.mode(&self.host));
                state.replica.on_opened(own, &mode, self.host.clock.tick_ms());
                // Where nobody waits for it, it still spares another crash from reading the same again.
                if unflushed {
                    self.want_flush();
                }
                if state.needs_watch(&self.host) {
                    self.want_watch();
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!("{} cannot be opened: {error}", self.dir_name);
                self.tell_failure(state);
                Err(ErrorCode::KafkaStorageError)
            }
        }
    }

    fn report(&self, state: &mut State, recovery: &Recovery) {
        if let Some(damage) = &recovery.damage {
            self.tell_failure(state);
            tracing::error!("{} is damaged and takes no appends: {damage}", self.dir_name);
        }
        if let Some(tail) = &recovery.cut {
            tracing::warn!("{} had a torn tail, which was cut: {tail:?}", self.dir_name);
        }
    }

    /// A read found damage. Where another replica is in sync or eligible, this one gives its place up and fetches everything anew from the next
    /// leader; alone it serves what is sound.
    pub(crate) fn on_unreadable(&self, error: &StorageError) {
        self.give_up(&mut self.lock(), error);
    }

    pub(super) fn give_up(&self, state: &mut State, error: &StorageError) {
        let StorageError::CorruptBatch { .. } = error else { return };
        let placed = state.replica.state();
        if placed.isr.iter().chain(&placed.elr).all(|id| *id == self.host.me) {
            return;
        }
        let Some(log) = state.log.as_mut().filter(|log| log.failure().is_none()) else { return };
        log.quarantine(&error.to_string());
        self.tell_failure(state);
    }

    /// Opens the log if it has one, so that what a crash left is on the disk, and seen, before somebody asks.
    pub(crate) fn recover(self: &Arc<Self>) {
        let mut state = self.lock();
        // An error is logged, and told to whoever asks.
        let _ = self.ensure_open(&mut state);
    }

    /// The producers as the last snapshot and the log behind it have them; and the damage beyond which nothing is known of them.
    ///
    /// `walked_from`: from there on this process's predecessor wrote the batches and the kernel kept them, so that their headers will do.
    pub(super) fn load_producers(
        &self,
        log: &Log,
        walked_from: Option<Offset>,
    ) -> Result<(Producers, Option<StorageError>), StorageError> {
        let (mut producers, mut from) = (Producers::default(), log.start_offset());
        if let Some((at, bytes)) = log.producer_snapshots().latest(log.end_offset())?
            && at >= log.start_offset()
            && let Some(saved) = Producers::decode(&bytes)
        {
            (producers, from) = (saved, at);
        }
        let view = log.view();
        let checked_end = walked_from.map_or(log.end_offset(), |walked| walked.min(log.end_offset()));
        let mut outcome = replay_checked(&view, &mut producers, &mut from, checked_end);
        if outcome.is_ok() && from < log.end_offset() {
            outcome = view.headers(from, |header| {
                if header.base_offset >= from {
                    producers.apply(header);
                    from = header.next_offset();
                }
            });
        }
        match outcome {
            Err(error @ (StorageError::CorruptBatch { .. } | StorageError::Quarantined { .. })) => {
                let dir = &self.dir_name;
                tracing::error!("the producers of {dir} are known up to offset {from} only: {error}");
                Ok((producers, Some(error)))
            }
            outcome => outcome.map(|()| (producers, None)),
        }
    }

    /// The producers as they stand at the log's end, if enough was appended since they were written down last (`always`: anything).
    pub(super) fn producers_to_save(&self, state: &mut State, always: bool) -> Option<ProducersToSave> {
        let log = state.log.as_ref()?;
        let due = if always { 1 } else { super::PRODUCER_SNAPSHOT_BYTES };
        if state.unsaved_bytes < due {
            return None;
        }
        state.unsaved_bytes = 0;
        Some(ProducersToSave {
            offset: log.end_offset(),
            bytes: state.producers.encode(),
            snapshots: log.producer_snapshots(),
        })
    }

    /// Writes them down, so that the next start need not read the log behind them. Only once everything below their offset is flushed.
    pub(super) fn save_producers(&self, save: &ProducersToSave) {
        if let Err(error) = save.snapshots.write(save.offset, &save.bytes, SNAPSHOTS_KEPT) {
            tracing::warn!("the producers of {} are not written down: {error}", self.dir_name);
        }
    }
}

/// Takes in the batches from `from` on up to `end`, checksums looked at; `from` is then what has been taken in.
fn replay_checked(
    view: &LogView,
    producers: &mut Producers,
    from: &mut Offset,
    end: Offset,
) -> Result<(), StorageError> {
    while *from < end {
        let before = *from;
        for slice in view.read(before, REPLAY_BYTES)? {
            for batch in batch::batches(slice.bytes()).map_while(Result::ok) {
                let header = batch.header();
                if header.base_offset >= before && header.base_offset < end {
                    producers.apply(header);
                    *from = header.next_offset();
                }
            }
        }
        if *from == before {
            break;
        }
    }
    Ok(())
}

/// Producers on their way to the disk.
pub(super) struct ProducersToSave {
    offset: Offset,
    bytes: Vec<u8>,
    snapshots: ProducerSnapshots,
}
