//! ReplicaFetch and ReplicaUpdate (keys 20006, 20007): how followers read. A connection remembers what its follower wants, so that a
//! request names only what changed, and an answer costs what there is to tell and not what is followed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::fetch_response::FetchPiece;
use ottla_protocol::messages::replica_fetch_response::ReplicaData;
use ottla_protocol::messages::{
    ReplicaFetchRequest, ReplicaFetchResponse, ReplicaUpdateRequest, ReplicaUpdateResponse,
};
use ottla_protocol::replica_fetch;
use ottla_protocol::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, TopicId};
use ottla_storage::{Read, Slice, StorageError};

use super::{Output, Parked, Reply, RequestContext, Resume};
use crate::node::Node;
use crate::partition::{FollowerSignal, Partition, Place, Wish, storage_code};

/// Bytes that one partition gets in one answer while others wait.
const PARTITION_BYTES_MAX: usize = 1 << 20;

/// What a follower's connection remembers.
#[derive(Debug, Default)]
pub(crate) struct ReplicaSession {
    signal: Arc<FollowerSignal>,
    places: Vec<Option<Held>>,
    index: HashMap<(TopicId, i32), usize>,
    /// Refusals of wishes that came beside a fetch: the next answer tells them.
    refused: Vec<Part>,
    /// Places that a throttle holds back: every fetch looks at them again.
    held_back: Vec<usize>,
}

#[derive(Debug)]
struct Held {
    partition: Arc<Partition>,
    place: Arc<Place>,
    wish: Wish,
    /// High watermark and log start, as last told.
    told: (Offset, Offset),
    /// A read that a disk thread does, and for which wish.
    cold: Option<(Wish, Loaded)>,
}

type Loaded = Arc<Mutex<Option<Result<Vec<Slice>, StorageError>>>>;

/// One partition's part of an answer.
type Part = (ReplicaData, Vec<Slice>, usize);

/// The wishes of either message: their types are generated apart, and have the same fields.
macro_rules! wishes_of {
    ($request:expr) => {
        $request
            .wishes
            .iter()
            .map(|wish| Wish {
                topic: wish.topic_id,
                index: wish.partition,
                leader_epoch: LeaderEpoch(wish.leader_epoch),
                offset: Offset(wish.offset),
                last_epoch: LeaderEpoch(wish.last_epoch),
                flushed: Offset(wish.flushed_offset),
                log_start: Offset(wish.log_start_offset),
            })
            .collect::<Vec<_>>()
    };
}

pub fn fetch(cx: &mut RequestContext<'_>, request: ReplicaFetchRequest) -> Reply<ReplicaFetchResponse> {
    let failed = |code: ErrorCode| {
        Reply::Now(ReplicaFetchResponse { error_code: code.code(), partitions: Vec::new() })
    };
    let (follower, epoch) = match follower(cx) {
        Ok(follower) => follower,
        Err(code) => return failed(code),
    };
    cx.node.identity.contact.heard(cx.tick_ms);
    let (wishes, node) = (wishes_of!(request), Arc::clone(cx.node));
    let Some(peer) = cx.connection.node.as_deref_mut() else { return failed(ErrorCode::InvalidRequest) };
    let session = &mut peer.session;
    for forgotten in &request.forgotten {
        session.forget((forgotten.topic_id, forgotten.partition));
    }
    let (mut parts, mut asked) = (std::mem::take(&mut session.refused), Vec::new());
    for wish in wishes {
        match session.want(&node, follower, epoch, wish) {
            Ok(at) => asked.push(at),
            Err(code) => parts.push(refusal(&wish, code, Offset::NONE)),
        }
    }
    asked.extend(session.signal.take().into_iter().map(|at| at as usize));
    asked.append(&mut session.held_back);
    asked.sort_unstable();
    asked.dedup();
    let max_bytes = usize::try_from(request.max_bytes).unwrap_or(0);
    session.look(&node, follower, &asked, max_bytes, &mut parts);
    if !parts.is_empty() || request.max_wait_ms <= 0 {
        return Reply::Pieces(respond(parts));
    }
    let deadline_ms = cx.tick_ms + u64::try_from(request.max_wait_ms).unwrap_or(0);
    let wakeup = cx.wakeup();
    if let Some(peer) = cx.connection.node.as_deref() {
        peer.session.signal.park(wakeup);
    }
    Reply::Park(Box::new(Waiting { follower, deadline_ms, max_bytes }))
}

/// A follower says what it has, or wants more partitions, while its fetch waits. Not answered.
pub fn update(cx: &mut RequestContext<'_>, request: ReplicaUpdateRequest) -> Reply<ReplicaUpdateResponse> {
    let Ok((follower, epoch)) = follower(cx) else { return Reply::None };
    cx.node.identity.contact.heard(cx.tick_ms);
    let (wishes, node) = (wishes_of!(request), Arc::clone(cx.node));
    let Some(peer) = cx.connection.node.as_deref_mut() else { return Reply::None };
    for forgotten in &request.forgotten {
        peer.session.forget((forgotten.topic_id, forgotten.partition));
    }
    for wish in wishes {
        let known = peer.session.index.contains_key(&(wish.topic, wish.index));
        match peer.session.want(&node, follower, epoch, wish) {
            Ok(at) => {
                if !known && let Some(held) = &peer.session.places[at] {
                    held.place.wake();
                }
            }
            // Soon, for the follower may only be a moment ahead: it asks again.
            Err(code) => {
                peer.session.refused.push(refusal(&wish, code, Offset::NONE));
                peer.session.signal.wake();
            }
        }
    }
    Reply::None
}

/// Who fetches: a registered broker, in the incarnation that is registered (CVE-2018-1288: nobody else may read as a replica).
fn follower(cx: &RequestContext<'_>) -> Result<(NodeId, BrokerEpoch), ErrorCode> {
    let peer = super::peers::member(cx).ok_or(ErrorCode::ClusterAuthorizationFailed)?;
    let image = cx.node.image.load();
    match image.broker(peer.node) {
        Some(broker) if broker.epoch == peer.epoch && broker.directory == peer.directory => {
            Ok((peer.node, peer.epoch))
        }
        _ => Err(ErrorCode::StaleBrokerEpoch),
    }
}

struct Waiting {
    follower: NodeId,
    deadline_ms: u64,
    max_bytes: usize,
}

impl Parked for Waiting {
    fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    fn resume(&mut self, cx: &mut RequestContext<'_>, why: Resume) -> Option<Output> {
        let node = Arc::clone(cx.node);
        let wakeup = cx.wakeup();
        let session = &mut cx.connection.node.as_deref_mut()?.session;
        let places: Vec<usize> = session.signal.take().into_iter().map(|at| at as usize).collect();
        let mut parts = std::mem::take(&mut session.refused);
        session.look(&node, self.follower, &places, self.max_bytes, &mut parts);
        if parts.is_empty() && why == Resume::Woken {
            session.signal.park(wakeup);
            return None;
        }
        Some(respond(parts))
    }
}

impl ReplicaSession {
    /// Notes what the follower has and wants; returns the partition's place.
    fn want(
        &mut self,
        node: &Node,
        follower: NodeId,
        epoch: BrokerEpoch,
        wish: Wish,
    ) -> Result<usize, ErrorCode> {
        let key = (wish.topic, wish.index);
        let known = self.index.get(&key).copied();
        let partition = match known.and_then(|at| self.places[at].as_ref()) {
            Some(held) => Arc::clone(&held.partition),
            None => node.partitions.get(wish.topic, wish.index).ok_or(ErrorCode::UnknownTopicOrPartition)?,
        };
        if let Err(code) = partition.on_follower(follower, epoch, &wish) {
            self.forget(key);
            return Err(code);
        }
        if let Some(at) = known
            && let Some(held) = &mut self.places[at]
        {
            // In a new epoch the partition has forgotten who listens.
            if held.wish.leader_epoch != wish.leader_epoch {
                partition.add_follower(&held.place);
            }
            held.wish = wish;
            return Ok(at);
        }
        let at = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        let place = self.signal.place(u32::try_from(at).unwrap_or(u32::MAX));
        partition.add_follower(&place);
        let none = (Offset::NONE, Offset::NONE);
        let held = Some(Held { partition, place, wish, told: none, cold: None });
        if at == self.places.len() {
            self.places.push(held);
        } else {
            self.places[at] = held;
        }
        self.index.insert(key, at);
        Ok(at)
    }

    fn forget(&mut self, key: (TopicId, i32)) {
        if let Some(at) = self.index.remove(&key)
            && let Some(held) = self.places[at].take()
        {
            held.place.close();
        }
    }

    /// Looks at some partitions, and notes what there is to tell.
    fn look(
        &mut self,
        node: &Node,
        follower: NodeId,
        places: &[usize],
        max_bytes: usize,
        parts: &mut Vec<Part>,
    ) {
        let (mut bytes, mut gone) = (0, Vec::new());
        let image = node.image.load();
        let rate = node.throttle.rate(&image);
        for at in places {
            let Some(Some(held)) = self.places.get_mut(*at) else { continue };
            held.place.clear();
            if bytes >= max_bytes {
                // Next time; the rest of the room would go to the same ones again and again otherwise.
                held.place.note();
                continue;
            }
            let throttled =
                rate.filter(|_| node.throttle.concerns(&image, held.wish.topic, held.wish.index, follower));
            if throttled.is_some_and(|rate| !node.throttle.lets_through(rate, node.clock.tick_ms())) {
                self.held_back.push(*at);
                continue;
            }
            let room = (max_bytes - bytes).min(PARTITION_BYTES_MAX);
            match held.look(node, room, bytes == 0) {
                Ok(Some(part)) => {
                    bytes += part.2;
                    if throttled.is_some() {
                        node.throttle.note(part.2);
                    }
                    parts.push(part);
                }
                Ok(None) => {}
                Err((code, log_start)) => {
                    parts.push(refusal(&held.wish, code, log_start));
                    gone.push((held.wish.topic, held.wish.index));
                }
            }
        }
        gone.into_iter().for_each(|key| self.forget(key));
    }
}

impl Drop for ReplicaSession {
    fn drop(&mut self) {
        self.places.iter().flatten().for_each(|held| held.place.close());
    }
}

impl Held {
    fn look(
        &mut self,
        node: &Node,
        room: usize,
        at_least_one: bool,
    ) -> Result<Option<Part>, (ErrorCode, Offset)> {
        let answer = self.partition.read_for_follower(&self.wish, room, at_least_one)?;
        let loaded = match self.cold.take_if(|(wish, _)| *wish != self.wish) {
            Some(_) => None,
            None => self.cold.as_ref().and_then(|(_, cell)| {
                let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
                cell.take()
            }),
        };
        let slices = match (loaded, answer.read) {
            (Some(loaded), _) => {
                self.cold = None;
                loaded.map_err(|error| {
                    tracing::error!("{} cannot be read for a follower: {error}", self.partition.dir_name);
                    self.partition.on_unreadable(&error);
                    (storage_code(&error), answer.log_start)
                })?
            }
            (None, Read::Hot(slices)) => slices,
            (None, Read::Cold(cold)) => {
                if self.cold.is_none() {
                    let cell = Loaded::default();
                    self.cold = Some((self.wish, Arc::clone(&cell)));
                    let place = Arc::clone(&self.place);
                    node.flusher.run_job(move || {
                        let loaded = cold.load();
                        *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
                        place.wake();
                    });
                }
                Vec::new()
            }
        };
        let bytes: usize = slices.iter().map(Slice::len).sum();
        let ends = (answer.high_watermark, answer.log_start);
        if bytes == 0 && answer.diverging.is_none() && ends == self.told {
            return Ok(None);
        }
        self.told = ends;
        let (diverging_epoch, diverging_end) =
            answer.diverging.map_or((-1, -1), |(epoch, end)| (epoch.0, end.0));
        let data = ReplicaData {
            error_code: 0,
            high_watermark: answer.high_watermark.0,
            log_start_offset: answer.log_start.0,
            diverging_epoch,
            diverging_end,
            ..named(&self.wish)
        };
        Ok(Some((data, slices, bytes)))
    }
}

fn named(wish: &Wish) -> ReplicaData {
    ReplicaData {
        topic_id: wish.topic,
        partition: wish.index,
        error_code: 0,
        leader_epoch: wish.leader_epoch.0,
        offset: wish.offset.0,
        high_watermark: -1,
        log_start_offset: -1,
        diverging_epoch: -1,
        diverging_end: -1,
        records: Bytes::new(),
    }
}

fn refusal(wish: &Wish, code: ErrorCode, log_start: Offset) -> Part {
    let data = ReplicaData { error_code: code.code(), log_start_offset: log_start.0, ..named(wish) };
    (data, Vec::new(), 0)
}

fn respond(parts: Vec<Part>) -> Output {
    let mut output = Output::default();
    for piece in replica_fetch::write(0, parts) {
        match piece {
            FetchPiece::Encoded(bytes) => output.push(bytes),
            FetchPiece::Records(slice) => output.push_slice(slice),
        }
    }
    output
}
