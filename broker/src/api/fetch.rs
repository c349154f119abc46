//! Fetch (key 1), versions 4 to 18: long poll, byte limits, sessions. v11 brings the client's rack and reads from followers (KIP-392), v13
//! topic ids, v16 where the leader is that a client should have asked (KIP-951).

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use bytestring::ByteString;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::fetch_response::{self, FetchPiece};
use ottla_protocol::messages::FetchRequest;
use ottla_protocol::messages::fetch_response::{
    FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use ottla_protocol::types::NodeId;
use ottla_storage::{Read, Slice, StorageError};

use super::{Output, Parked, Reply, RequestContext, Resume};
use crate::config::RACK_AWARE;
use crate::fetch_sessions::{SessionAnswer, TopicName, Wanted};
use crate::partition::{Bounds, Partition, ReadFrom, storage_code};

/// How long the disk may take to load what a fetch asks for.
const LOAD_LIMIT_MS: u64 = 10_000;

pub fn handle(cx: &mut RequestContext<'_>, request: FetchRequest) -> Reply<FetchResponse> {
    let replica = if cx.version >= 15 { request.replica_state.replica_id } else { request.replica_id };
    let failed =
        |code: ErrorCode| Reply::Now(FetchResponse { error_code: code.code(), ..FetchResponse::default() });
    // Only a registered peer may fetch as a replica, and there is none yet (CVE-2018-1288).
    if replica >= 0 {
        return failed(ErrorCode::ClusterAuthorizationFailed);
    }
    if !(0..=1).contains(&request.isolation_level) || request.max_bytes < 0 {
        return failed(ErrorCode::InvalidRequest);
    }
    let by_id = cx.version >= 13;
    let node = cx.node;
    let begun = node.fetch_sessions().begin(&request, by_id, cx.tick_ms, || node.entropy.next_u64() as i32);
    let (wanted, answer) = match begun {
        Ok(begun) => begun,
        Err(code) => return failed(code),
    };
    let is_rack_aware = || cx.node.config.text("replica.selector.class") == Some(RACK_AWARE);
    let rack = Some(&request.rack_id).filter(|rack| !rack.is_empty() && is_rack_aware()).cloned();
    let mut fetch = Fetch {
        answer,
        from: if cx.version >= 11 { ReadFrom::AnyReplica } else { ReadFrom::Leader },
        rack,
        is_sent_on: false,
        read_committed: request.isolation_level == 1,
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(usize::MAX).min(cx.node.fetch_bytes_max),
        deadline_ms: cx.tick_ms + u64::try_from(request.max_wait_ms).unwrap_or(0),
        load_deadline_ms: 0,
        cold: wanted.iter().map(|_| None).collect(),
        found: Vec::with_capacity(wanted.len()),
        bytes: 0,
        loading: 0,
        failed: false,
        wanted,
    };
    let waits = request.max_wait_ms > 0 && !fetch.wanted.is_empty();
    for at in 0..fetch.wanted.len() {
        fetch.look(cx, at, waits);
    }
    match fetch.attempt(cx, waits, false) {
        Some(output) => Reply::Pieces(output),
        None => Reply::Park(Box::new(fetch)),
    }
}

type Loaded = Arc<Mutex<Option<Result<Vec<Slice>, StorageError>>>>;

/// A fetch on its way.
struct Fetch {
    answer: SessionAnswer,
    wanted: Vec<Wanted>,
    from: ReadFrom,
    /// The client's, where followers near to it are looked for.
    rack: Option<ByteString>,
    /// Another replica is to be asked: the client must know at once.
    is_sent_on: bool,
    read_committed: bool,
    min_bytes: usize,
    max_bytes: usize,
    deadline_ms: u64,
    /// Until when reads of the disk are waited for, once there are any.
    load_deadline_ms: u64,
    /// Reads that a disk thread does, by the place of their partition.
    cold: Vec<Option<Loaded>>,
    /// What was found so far, by the same places, and its bytes in all.
    found: Vec<Found>,
    bytes: usize,
    /// How many of `cold` are under way.
    loading: usize,
    failed: bool,
}

/// What was found for one partition.
struct Found {
    data: PartitionData,
    slices: Vec<Slice>,
    bytes: usize,
    bounds: Option<Bounds>,
}

impl Parked for Fetch {
    fn deadline_ms(&self) -> u64 {
        // However little time the client gives: an empty answer would only have it ask for the same bytes again.
        if self.loading > 0 { self.deadline_ms.max(self.load_deadline_ms) } else { self.deadline_ms }
    }

    fn resume(&mut self, cx: &mut RequestContext<'_>, why: Resume) -> Option<Output> {
        // Elsewhere nothing has changed: what a wake-up costs does not grow with the number of partitions.
        let mut woken = cx.wakeup().take_woken();
        woken.sort_unstable();
        woken.dedup();
        for at in woken {
            self.look(cx, at as usize, why == Resume::Woken);
        }
        self.attempt(cx, why == Resume::Woken, why == Resume::TimedOut)
    }
}

impl Fetch {
    /// Answers if there is enough. `None`: there is too little yet, and the wake-up is noted where more may come.
    fn attempt(&mut self, cx: &mut RequestContext<'_>, may_wait: bool, timed_out: bool) -> Option<Output> {
        let loading = self.loading > 0;
        let enough = self.bytes >= self.min_bytes && !(loading && self.bytes == 0);
        if enough || self.failed || self.is_sent_on || timed_out || (!may_wait && !loading) {
            let found = std::mem::take(&mut self.found);
            return Some(self.respond(cx, found));
        }
        None
    }

    /// Looks at one partition, for the first time or again.
    fn look(&mut self, cx: &mut RequestContext<'_>, at: usize, may_wait: bool) {
        self.bytes -= self.found.get(at).map_or(0, |found| found.bytes);
        self.loading -= usize::from(self.cold[at].is_some());
        let found = self.one(cx, at, self.bytes, may_wait);
        self.bytes += found.bytes;
        self.loading += usize::from(self.cold[at].is_some());
        self.failed |= found.data.error_code != 0;
        self.is_sent_on |= found.data.preferred_read_replica >= 0;
        match self.found.get_mut(at) {
            Some(before) => *before = found,
            None => self.found.push(found),
        }
    }

    fn one(&mut self, cx: &mut RequestContext<'_>, at: usize, so_far: usize, may_park: bool) -> Found {
        let wanted = &self.wanted[at];
        let image = cx.node.image.load();
        let topic = match &wanted.topic {
            TopicName::Name(name) => image.topic_by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition),
            TopicName::Id(id) => image.topic(*id).ok_or(ErrorCode::UnknownTopicId),
        };
        let partition = topic.and_then(|topic| {
            cx.node.partitions.get(topic.id, wanted.index).ok_or(ErrorCode::UnknownTopicOrPartition)
        });
        let partition = match partition {
            Ok(partition) => partition,
            Err(code) => return self.failure(at, code, None),
        };
        if let Some(found) = self.send_on(&partition, at) {
            return found;
        }
        let room = self.max_bytes.saturating_sub(so_far);
        let max_bytes = usize::try_from(self.wanted[at].max_bytes).unwrap_or(0).min(room);
        // The first batch is returned whatever the limits, or a consumer would never get past it (KIP-74).
        let at_least_one = so_far == 0;
        let loaded = self.cold[at]
            .as_ref()
            .and_then(|cell| cell.lock().unwrap_or_else(PoisonError::into_inner).take());
        let wanted = &self.wanted[at];
        let wakeup = may_park.then(|| (cx.wakeup().at(at), self.min_bytes.saturating_sub(so_far)));
        let answer = partition.read(wanted.offset, wanted.epoch, max_bytes, at_least_one, wakeup, self.from);
        let answer = match answer {
            Ok(answer) => answer,
            Err((code, bounds)) => {
                let mut found = self.failure(at, code, bounds);
                if cx.version >= 16
                    && matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch)
                    && let Some(state) = image.partition(partition.topic, wanted.index.into())
                {
                    found.data.current_leader =
                        LeaderIdAndEpoch { leader_id: state.leader.0, leader_epoch: state.leader_epoch.0 };
                }
                return found;
            }
        };
        let slices = match (loaded, answer.read) {
            (Some(Ok(slices)), _) => {
                self.cold[at] = None;
                slices
            }
            (Some(Err(error)), _) => {
                self.cold[at] = None;
                tracing::error!("fetch of {} at offset {}: {error}", partition.dir_name, wanted.offset);
                partition.on_unreadable(&error);
                let code = storage_code(&error);
                return self.failure(at, code, Some(answer.bounds));
            }
            (None, Read::Hot(slices)) => slices,
            (None, Read::Cold(cold)) => {
                if self.cold[at].is_none() {
                    let cell = Loaded::default();
                    self.cold[at] = Some(Arc::clone(&cell));
                    self.load_deadline_ms = cx.tick_ms + LOAD_LIMIT_MS;
                    let wakeup = cx.wakeup().at(at);
                    cx.node.flusher.run_job(move || {
                        let loaded = cold.load();
                        *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
                        wakeup.wake();
                    });
                }
                Vec::new()
            }
        };
        let bytes = slices.iter().map(Slice::len).sum();
        Found { data: self.told(at, answer.bounds), slices, bytes, bounds: Some(answer.bounds) }
    }

    /// Where a follower is nearer to the client than this leader: no records, but whom to ask for them.
    fn send_on(&self, partition: &Arc<Partition>, at: usize) -> Option<Found> {
        let (rack, wanted) = (self.rack.as_deref()?, &self.wanted[at]);
        let replica = partition.reader_in_rack(rack, wanted.offset)?;
        // What is wrong with the request is told by who would read.
        let bounds = partition.bounds(wanted.epoch, ReadFrom::Leader).ok()?;
        let data = PartitionData { preferred_read_replica: replica.0, ..self.told(at, bounds) };
        Some(Found { data, slices: Vec::new(), bytes: 0, bounds: Some(bounds) })
    }

    fn told(&self, at: usize, bounds: Bounds) -> PartitionData {
        PartitionData {
            partition_index: self.wanted[at].index,
            high_watermark: bounds.high_watermark.0,
            // Without transactions everything that is committed is stable.
            last_stable_offset: bounds.high_watermark.0,
            log_start_offset: bounds.log_start.0,
            aborted_transactions: self.read_committed.then(Vec::new),
            preferred_read_replica: -1,
            records: Some(Bytes::new()),
            ..PartitionData::default()
        }
    }

    fn failure(&self, at: usize, code: ErrorCode, bounds: Option<Bounds>) -> Found {
        let data = PartitionData {
            partition_index: self.wanted[at].index,
            error_code: code.code(),
            high_watermark: bounds.map_or(-1, |bounds| bounds.high_watermark.0),
            last_stable_offset: bounds.map_or(-1, |bounds| bounds.high_watermark.0),
            log_start_offset: bounds.map_or(-1, |bounds| bounds.log_start.0),
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Some(Bytes::new()),
            ..PartitionData::default()
        };
        Found { data, slices: Vec::new(), bytes: 0, bounds: None }
    }

    fn respond(&mut self, cx: &RequestContext<'_>, found: Vec<Found>) -> Output {
        let (mut told, mut served) = (Vec::new(), Vec::new());
        let mut responses: Vec<FetchableTopicResponse> = Vec::new();
        let mut records = Vec::new();
        for (wanted, found) in self.wanted.iter().zip(found) {
            let ends = (found.data.high_watermark, found.data.log_start_offset);
            let news = found.bytes > 0
                || found.data.error_code != 0
                || found.data.preferred_read_replica >= 0
                || ends != wanted.told;
            if self.answer.incremental && !news {
                continue;
            }
            if self.answer.session_id != 0 {
                if found.bytes > 0 {
                    served.push((wanted.topic.clone(), wanted.index));
                }
                if ends != wanted.told && found.bounds.is_some() {
                    told.push((wanted.topic.clone(), wanted.index, ends));
                }
            }
            let (topic, topic_id) = match &wanted.topic {
                TopicName::Name(name) => (name.clone(), Default::default()),
                TopicName::Id(id) => (Default::default(), *id),
            };
            match responses.last_mut() {
                Some(last) if last.topic == topic && last.topic_id == topic_id => {
                    last.partitions.push(found.data);
                }
                _ => responses.push(FetchableTopicResponse { topic, topic_id, partitions: vec![found.data] }),
            }
            records.push((found.slices, found.bytes));
        }
        if self.answer.session_id != 0 {
            cx.node.fetch_sessions().note(self.answer.session_id, &told, &served);
        }
        let node_endpoints = endpoints(cx, &responses);
        let session_id = self.answer.session_id;
        let response = FetchResponse { session_id, responses, node_endpoints, ..FetchResponse::default() };
        let mut output = Output::default();
        for piece in fetch_response::write(&response, cx.version, records) {
            match piece {
                FetchPiece::Encoded(bytes) => output.push(bytes),
                FetchPiece::Records(slice) => output.push_slice(slice),
            }
        }
        output
    }
}

/// Where the leaders are that the answer names.
fn endpoints(cx: &RequestContext<'_>, responses: &[FetchableTopicResponse]) -> Vec<NodeEndpoint> {
    let partitions = responses.iter().flat_map(|topic| &topic.partitions);
    let mut leaders: Vec<i32> = partitions.map(|data| data.current_leader.leader_id).collect();
    leaders.retain(|id| *id >= 0);
    leaders.sort_unstable();
    leaders.dedup();
    let image = cx.node.image.load();
    let known = leaders.into_iter().filter_map(|id| image.broker(NodeId(id)));
    known
        .filter_map(|broker| {
            let (host, port) = cx.address_of(broker)?;
            let rack = broker.rack.as_deref().map(ByteString::from);
            Some(NodeEndpoint { node_id: broker.id.0, host, port, rack })
        })
        .collect()
}
