//! Appending: the machine judges, the log takes, whoever must wait is noted at an offset.

use std::sync::{Arc, MutexGuard};

use ottla_machine::partition::producers::Verdict;
use ottla_machine::partition::turned_away::Addressed;
use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::batch::{self, BatchError, BatchHeader, TimestampType, Unwanted};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{LeaderEpoch, Offset};
use ottla_protocol::validate::{ProduceRules, recompress, validate_produced};
use ottla_storage::StorageError;

use super::{Due, OnCommitted, Partition, State};

/// One partition's records of a Produce request.
#[derive(Clone, Copy, Debug)]
pub struct AppendRequest<'a> {
    pub records: &'a [u8],
    pub acks_all: bool,
    pub produce_version: i16,
    pub now_ms: i64,
    pub tick_ms: u64,
    /// The tick until which an acknowledgement by all may take.
    pub deadline_ms: u64,
}

/// What was appended, or had been before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// -1 where the producer's timestamps count.
    pub log_append_time: i64,
    pub log_start: Offset,
    /// Committed once the high watermark is here.
    pub end: Offset,
}

/// Why nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: ErrorCode,
    pub message: Option<String>,
    /// The records at fault, in order, with what is wrong with them (KIP-467).
    pub records: Vec<(i32, Option<String>)>,
}

/// So many records at fault are given reasons; the others' places say enough.
const REASONS_MAX: usize = 16;

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, records: Vec::new() }
    }
}

impl From<BatchError> for Refused {
    fn from(error: BatchError) -> Self {
        let records = match &error {
            BatchError::BadRecord { index, .. } => vec![(*index, Some(error.to_string()))],
            BatchError::Unwanted(records) => {
                let reason =
                    |(at, record): (usize, &Unwanted)| (at < REASONS_MAX).then(|| record.to_string());
                records.iter().enumerate().map(|record| (record.1.index(), reason(record))).collect()
            }
            _ => Vec::new(),
        };
        Self { code: error.code(), message: Some(error.to_string()), records }
    }
}

impl From<StorageError> for Refused {
    fn from(error: StorageError) -> Self {
        Self { code: storage_code(&error), message: Some(error.to_string()), records: Vec::new() }
    }
}

/// How long a refusal that time may heal holds: longer than what was sent before it was heard of is under way.
const REFUSING_MS: u64 = 50;

/// A batch may unpack to so many times `max.message.bytes`, or this many bytes.
const UNPACKED_FACTOR: usize = 100;
const UNPACKED_MIN: usize = 16 << 20;

thread_local! {
    /// A batch on its way from the request's bytes to the log, where offset and epoch are stamped.
    static STAMPED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The code by which clients hear of a fault of storage.
pub(crate) fn storage_code(error: &StorageError) -> ErrorCode {
    match error {
        StorageError::CorruptBatch { .. } => ErrorCode::CorruptMessage,
        StorageError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        _ => ErrorCode::KafkaStorageError,
    }
}

impl Partition {
    /// Appends what a client sent. With acks=all, `on_committed` is called once that is committed, maybe before this returns.
    ///
    /// # Errors
    /// Why nothing was appended; `on_committed` is then never called.
    pub fn produce(
        self: &Arc<Self>,
        request: &AppendRequest<'_>,
        on_committed: Option<OnCommitted>,
    ) -> Result<Appended, Refused> {
        let config = Arc::clone(&self.lock().config);
        let rules = ProduceRules {
            bytes_max: config.max_message_bytes,
            unpacked_bytes_max: config.max_message_bytes.saturating_mul(UNPACKED_FACTOR).max(UNPACKED_MIN),
            compacted: config.compact,
            timestamps: config.timestamps,
            before_max_ms: config.before_max_ms,
            after_max_ms: config.after_max_ms,
            now_ms: request.now_ms,
            produce_version: request.produce_version,
        };
        // Judged before the lock is taken: other appends go on meanwhile.
        let facts = validate_produced(request.records, &rules)?;
        STAMPED.with_borrow_mut(|bytes| {
            bytes.clear();
            match config.compression {
                Some(codec) if codec != facts.compression => bytes.extend_from_slice(&recompress(
                    request.records,
                    codec,
                    config.compression_level,
                    &rules,
                )?),
                _ => bytes.extend_from_slice(request.records),
            }
            match config.timestamps {
                TimestampType::LogAppendTime => {
                    batch::set_max_timestamp(bytes, TimestampType::LogAppendTime, request.now_ms);
                }
                TimestampType::CreateTime
                    if facts.header.max_timestamp != facts.max_timestamp
                        || facts.header.timestamp_type() != TimestampType::CreateTime =>
                {
                    batch::set_max_timestamp(bytes, TimestampType::CreateTime, facts.max_timestamp);
                }
                TimestampType::CreateTime => {}
            }
            let log_append_time =
                if config.timestamps == TimestampType::LogAppendTime { request.now_ms } else { -1 };
            self.append(bytes, LeaderEpoch::NONE, request, log_append_time, on_committed)
        })
    }

    /// Appends one batch that a coordinator of this node wrote. It is committed once the high watermark reaches the answer's end.
    ///
    /// # Errors
    /// Why nothing was appended.
    pub fn append_own(
        self: &Arc<Self>,
        batch: &mut [u8],
        epoch: LeaderEpoch,
        now_ms: i64,
        tick_ms: u64,
    ) -> Result<Appended, Refused> {
        let request = AppendRequest {
            records: &[],
            acks_all: true,
            produce_version: 0,
            now_ms,
            tick_ms,
            deadline_ms: u64::MAX,
        };
        self.append(batch, epoch, &request, -1, None)
    }

    fn append(
        self: &Arc<Self>,
        bytes: &mut [u8],
        epoch: LeaderEpoch,
        request: &AppendRequest<'_>,
        log_append_time: i64,
        on_committed: Option<OnCommitted>,
    ) -> Result<Appended, Refused> {
        let header = BatchHeader::read(bytes).map_err(|error| Refused::from(error.code()))?;
        let mut state = self.lock();
        self.ensure_open(&mut state)?;
        if let Err(code) = state.replica.check_leader(epoch) {
            return Err(self.turn_away(&state, &header, code, request.tick_ms).into());
        }
        if request.acks_all
            && state.replica.state().isr.len() > 1
            && self.host.contact.is_lost(request.tick_ms)
        {
            let code = ErrorCode::NotLeaderOrFollower;
            return Err(self.turn_away(&state, &header, code, request.tick_ms).into());
        }
        if let Some((code, until_ms)) = state.refusing
            && request.tick_ms < until_ms
            && (request.acks_all || code != ErrorCode::NotEnoughReplicas)
        {
            return Err(self.turn_away(&state, &header, code, request.tick_ms).into());
        }
        if request.acks_all
            && let Err(code) = state.replica.check_in_sync(state.config.min_insync_replicas)
        {
            state.refuse_for_now(code, request.tick_ms);
            return Err(self.turn_away(&state, &header, code, request.tick_ms).into());
        }
        let verdict = state.producers.check(&header);
        let log_start = state.log.as_ref().map_or(Offset::ZERO, |log| log.start_offset());
        let appended = match verdict {
            Verdict::Refuse(code) => return Err(code.into()),
            Verdict::Duplicate(before) => Appended {
                base_offset: if is_on(Bug::DuplicateAtItsEnd) {
                    before.last_offset
                } else {
                    before.base_offset
                },
                log_append_time: if log_append_time < 0 { -1 } else { before.timestamp },
                log_start,
                end: if is_on(Bug::AcknowledgeDuplicateAtOnce) {
                    Offset::ZERO
                } else {
                    before.last_offset.plus(1)
                },
            },
            Verdict::Append => {
                let is_new = header.producer_id.0 >= 0 && !state.producers.knows(header.producer_id.0);
                if is_new && let Some(code) = self.refused_ahead(&header, request.tick_ms) {
                    return Err(code.into());
                }
                let appended = state.append_stamped(bytes, &header, request);
                match &appended {
                    Err(StorageError::Full { .. }) => {
                        state.refuse_for_now(ErrorCode::KafkaStorageError, request.tick_ms);
                        self.turn_away(&state, &header, ErrorCode::KafkaStorageError, request.tick_ms);
                    }
                    Err(StorageError::Offline { .. }) => self.tell_failure(&mut state),
                    _ => {}
                }
                let (base_offset, end) = appended?;
                if is_new {
                    self.host.refusals.forget(&self.known_as(), self.index, &header);
                }
                Appended { base_offset, log_append_time, log_start, end }
            }
        };
        let mut due = state.advance(&self.host);
        for place in &state.followers {
            place.wake();
        }
        if let Some(on_committed) = on_committed {
            let end = if is_on(Bug::AcknowledgeOneEarly) { Offset(appended.end.0 - 1) } else { appended.end };
            if end <= state.replica.high_watermark() {
                due.committed.push((on_committed, Ok(())));
            } else {
                state.waiting.push(end, request.deadline_ms, on_committed);
            }
        }
        self.settle(state, due);
        Ok(appended)
    }

    /// Refuses a batch that may be taken when it comes again, and until then none of an unknown producer that comes behind it.
    fn turn_away(&self, state: &State, header: &BatchHeader, code: ErrorCode, tick_ms: u64) -> ErrorCode {
        if !state.producers.knows(header.producer_id.0) {
            self.host.refusals.note(Addressed::Id(self.topic), self.index, header, code, tick_ms);
        }
        code
    }

    /// Why a batch of a producer that the log does not know may not come first.
    fn refused_ahead(&self, header: &BatchHeader, tick_ms: u64) -> Option<ErrorCode> {
        self.host.refusals.of(&self.known_as(), self.index, header, tick_ms)
    }

    /// How requests may have addressed this topic, also before this node knew it.
    fn known_as(&self) -> [Addressed; 2] {
        [Addressed::Id(self.topic), Addressed::Name((&*self.name).into())]
    }

    /// After an append: whoever is due is told once the lock is released, and what is to be done about the new bytes is asked for.
    pub(super) fn settle(self: &Arc<Self>, state: MutexGuard<'_, State>, due: Due) {
        let flush = state.wants_flush();
        let watch = state.needs_watch(&self.host);
        drop(state);
        due.complete();
        if flush {
            self.want_flush();
        }
        if watch {
            self.want_watch();
        }
    }
}

impl State {
    /// What refuses one batch refuses those that its producer has sent behind it, too. If one of them were judged by its sequence, now
    /// that there is room or that a replica is back, it would be out of order, and the producer would begin anew under another epoch:
    /// what it does not know to be appended may then be there twice.
    fn refuse_for_now(&mut self, code: ErrorCode, tick_ms: u64) {
        self.refusing = Some((code, tick_ms + REFUSING_MS));
    }

    /// Stamps and appends; returns the batch's first offset and the log's new end.
    fn append_stamped(
        &mut self,
        bytes: &mut [u8],
        header: &BatchHeader,
        request: &AppendRequest<'_>,
    ) -> Result<(Offset, Offset), StorageError> {
        let log = self.log.as_mut().expect("opened by the caller");
        let base = log.end_offset();
        batch::stamp(bytes, base, self.replica.leader_epoch());
        let appended = log.append(bytes, request.now_ms)?;
        let stamped = BatchHeader { base_offset: base, max_timestamp: appended.max_timestamp, ..*header };
        self.producers.apply(&stamped);
        self.unsaved_bytes += bytes.len() as u64;
        self.unflushed_records += i64::from(header.records_count);
        self.unflushed_bytes += bytes.len() as u64;
        self.unflushed_since_ms.get_or_insert(request.tick_ms);
        self.rolled |= appended.rolled;
        Ok((base, appended.last.plus(1)))
    }

    /// Whether to ask for a flush. While one is under way its end sees to it.
    pub(super) fn wants_flush(&self) -> bool {
        let many = self.unflushed_records > 0 && self.unflushed_records >= self.config.flush_messages;
        !self.flushing && (many || self.rolled || self.unflushed_bytes >= super::UNFLUSHED_BYTES_MAX)
    }
}
