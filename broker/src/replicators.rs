//! Following: for each broker that leads partitions of ours, one thread (`thread`) that fetches all of them over one connection and
//! appends what comes. The same thread asks, reads and appends, so records cross no queue on their way.

mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use ottla_machine::controller::image::{DiffItem, Image};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::replica_fetch_request::{ForgottenReplica, ReplicaWish};
use ottla_protocol::messages::replica_fetch_response::ReplicaData;
use ottla_protocol::messages::replica_update_request::UpdatedWish;
use ottla_protocol::messages::{ReplicaFetchRequest, ReplicaFetchResponse, ReplicaUpdateRequest};
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset, TopicId};

use crate::clock::Clock;
use crate::partition::{Followed, LeaderAnswer, Partition};
use crate::partitions::Partitions;
use crate::peers::Identity;

/// After a failed connection, or an answer that says "not now".
pub const PAUSE_MS: u64 = 50;
/// While a log takes nothing.
const LONG_PAUSE_MS: u64 = 500;
/// Two nodes' images are that far apart, at the most, on an ordinary day.
const MOMENT_MS: u64 = 3;
/// Longer than a fetch may wait at the leader, an answer is not waited for.
pub const ANSWER_GRACE_MS: u64 = 1_000;

type Key = (TopicId, i32);

/// How followers fetch.
#[derive(Clone, Debug)]
pub struct ReplicatorSettings {
    /// The listener that brokers use among themselves.
    pub listener: Arc<str>,
    /// `replica.fetch.wait.max.ms`.
    pub max_wait_ms: u64,
    /// `replica.fetch.response.max.bytes`.
    pub max_bytes: i32,
}

pub use thread::follow_on_threads;

/// A wish as either message has it: their types are generated apart, and have the same fields.
macro_rules! asked {
    ($type:ident, $wish:ident) => {
        $type {
            topic_id: $wish.topic,
            partition: $wish.index,
            leader_epoch: $wish.leader_epoch.0,
            offset: $wish.offset.0,
            last_epoch: $wish.last_epoch.0,
            flushed_offset: $wish.flushed.0,
            log_start_offset: $wish.log_start.0,
        }
    };
}

/// All of this node.
pub struct Replicators {
    identity: Arc<Identity>,
    image: Arc<ArcSwap<Image>>,
    partitions: Arc<Partitions>,
    settings: ReplicatorSettings,
    clock: Clock,
    on_leader: OnLeader,
    table: Mutex<BTreeMap<NodeId, Arc<Replicator>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The sending half of a connection to a leader.
pub trait Sending: Send {
    /// Sends without ever waiting; `false` if the connection takes no more at the moment. What was sent in part only ends it.
    fn try_send(&self, frame: &[u8]) -> bool;
    /// Ends the connection, also for who reads.
    fn close(&self);
}

/// Begins to serve a leader that was not followed before: a thread, or a simulation's.
pub type OnLeader = Box<dyn Fn(&Arc<Replicators>, &Arc<Replicator>) + Send + Sync>;

/// From one leader. Synchronous: whoever has the connection calls [`Replicator::begin`], then [`Replicator::ask`] and
/// [`Replicator::on_answer`] in turn, and [`Replicator::end`].
pub struct Replicator {
    leader: NodeId,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    followed: BTreeMap<Key, Arc<Partition>>,
    /// To be asked for with the next fetch.
    due: BTreeSet<Key>,
    /// To be asked for again at some tick.
    later: Vec<(u64, Key)>,
    forgotten: Vec<Key>,
    /// The connection, while there is one.
    sender: Option<Box<dyn Sending>>,
    stopping: bool,
}

impl fmt::Debug for Replicators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replicators({})", self.table().len())
    }
}

impl Replicators {
    #[must_use]
    pub fn new(
        identity: Arc<Identity>,
        image: Arc<ArcSwap<Image>>,
        partitions: Arc<Partitions>,
        settings: ReplicatorSettings,
        clock: Clock,
        on_leader: OnLeader,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            image,
            partitions,
            settings,
            clock,
            on_leader,
            table: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Replicator>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the step from one image to the next, after the partitions did.
    pub fn on_image(self: &Arc<Self>, before: &Image, image: &Image) {
        let mut news: BTreeMap<NodeId, Vec<Key>> = BTreeMap::new();
        for item in before.topics.diff(&image.topics) {
            let (old, new) = match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            let me = self.identity.node;
            let followed = |state: Option<&Arc<ottla_machine::controller::image::PartitionState>>| {
                let state = state?;
                let follows =
                    state.leader != me && state.leader != NodeId::NONE && state.replicas.contains(&me);
                follows.then_some((state.leader, state.leader_epoch))
            };
            let count = |topic: Option<&Arc<ottla_machine::controller::image::Topic>>| {
                topic.map_or(0, |topic| topic.partitions.len())
            };
            for index in 0..count(old).max(count(new)) {
                let at = |topic: Option<&Arc<ottla_machine::controller::image::Topic>>| {
                    followed(topic.and_then(|topic| topic.partitions.get(index)))
                };
                let (was, is) = (at(old), at(new));
                if was == is {
                    continue;
                }
                let Some(topic) = new.or(old) else { continue };
                let key = (topic.id, i32::try_from(index).unwrap_or(i32::MAX));
                if let Some((leader, _)) = was
                    && is.is_none_or(|(next, _)| next != leader)
                    && let Some(replicator) = self.table().get(&leader)
                {
                    replicator.forget(key);
                }
                if let Some((leader, _)) = is {
                    news.entry(leader).or_default().push(key);
                }
            }
        }
        for (leader, keys) in news {
            self.of(leader).follow(keys.into_iter().filter_map(|key| {
                let partition = self.partitions.get(key.0, key.1)?;
                Some((key, partition))
            }));
        }
        // A leader that came back listens elsewhere, perhaps, and as another incarnation.
        for item in before.brokers.diff(&image.brokers) {
            if let DiffItem::Update { old: (id, old), new: (_, new) } = item
                && old.epoch != new.epoch
                && let Some(replicator) = self.table().get(id)
            {
                replicator.reconnect();
            }
        }
    }

    fn of(self: &Arc<Self>, leader: NodeId) -> Arc<Replicator> {
        let mut table = self.table();
        if let Some(replicator) = table.get(&leader) {
            return Arc::clone(replicator);
        }
        let replicator = Arc::new(Replicator { leader, state: Mutex::default(), wake: Condvar::new() });
        table.insert(leader, Arc::clone(&replicator));
        drop(table);
        (self.on_leader)(self, &replicator);
        replicator
    }

    /// A partition that this node follows has flushed further: its leader is told at once.
    pub fn on_flush(&self, partition: &Arc<Partition>) {
        let Some((leader, _)) = partition.wish() else { return };
        let replicator = self.table().get(&leader).cloned();
        if let Some(replicator) = replicator {
            replicator.update(std::slice::from_ref(partition));
        }
    }

    /// Ends the threads.
    pub fn stop(&self) {
        for replicator in self.table().values() {
            let mut state = replicator.state();
            state.stopping = true;
            if let Some(sender) = state.sender.take() {
                sender.close();
            }
            replicator.wake.notify_all();
        }
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            if thread.join().is_err() {
                tracing::error!("a thread that follows a leader panicked");
            }
        }
    }
}

impl Replicator {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, partitions: impl Iterator<Item = (Key, Arc<Partition>)>) {
        let mut added = Vec::new();
        {
            let mut state = self.state();
            for (key, partition) in partitions {
                state.forgotten.retain(|gone| *gone != key);
                state.due.insert(key);
                added.push(Arc::clone(&partition));
                state.followed.insert(key, partition);
            }
            self.wake.notify_all();
        }
        // A fetch may be waiting at the leader for the others.
        self.update(&added);
    }

    fn forget(&self, key: Key) {
        let mut state = self.state();
        if state.followed.remove(&key).is_some() {
            state.due.remove(&key);
            state.forgotten.push(key);
        }
    }

    fn reconnect(&self) {
        if let Some(sender) = self.state().sender.take() {
            sender.close();
        }
    }

    /// Tells the leader what this node has of some partitions, beside the fetch that may be waiting there. If the connection takes no
    /// more at the moment, the next fetch tells it.
    fn update(&self, partitions: &[Arc<Partition>]) {
        let mut state = self.state();
        if state.sender.is_none() {
            return;
        }
        // Under the lock, so that what is told later is never older.
        let wishes = partitions.iter().filter_map(|partition| {
            let (_, wish) = partition.wish().filter(|(leader, _)| *leader == self.leader)?;
            Some(asked!(UpdatedWish, wish))
        });
        let request = ReplicaUpdateRequest { wishes: wishes.collect(), ..Default::default() };
        let frame = frame::encode_request(&request, 0, 0, None);
        let sent = state.sender.as_ref().is_some_and(|sender| sender.try_send(&frame));
        if !sent {
            state.due.extend(request.wishes.iter().map(|wish| (wish.topic_id, wish.partition)));
        }
    }

    /// A connection to the leader begins: everything is asked for anew.
    pub fn begin(&self, sender: Box<dyn Sending>) {
        let mut state = self.state();
        state.sender = Some(sender);
        let keys: Vec<Key> = state.followed.keys().copied().collect();
        state.due.extend(keys);
        state.forgotten.clear();
    }

    /// The connection has ended.
    pub fn end(&self) {
        self.state().sender = None;
    }

    /// Whether there is anything to follow.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let state = self.state();
        !state.followed.is_empty() && !state.stopping
    }

    /// The broker that is followed.
    #[must_use]
    pub fn leader(&self) -> NodeId {
        self.leader
    }

    /// Sends the next fetch; `false` if there is nothing to follow any more.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn ask<E>(
        &self,
        all: &Replicators,
        send: impl FnOnce(&ReplicaFetchRequest) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut state = self.state();
        if state.stopping || state.followed.is_empty() || state.sender.is_none() {
            return Ok(false);
        }
        let now = all.clock.tick_ms();
        let due: Vec<Key> = state.later.extract_if(.., |(at, _)| *at <= now).map(|(_, key)| key).collect();
        state.due.extend(due);
        let keys = std::mem::take(&mut state.due);
        let mut wishes = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(partition) = state.followed.get(&key) else { continue };
            match partition.wish() {
                Some((leader, wish)) if leader == self.leader => {
                    wishes.push(asked!(ReplicaWish, wish));
                }
                // The leader need not send what cannot be taken.
                _ if partition.takes_nothing() => {
                    state.forgotten.push(key);
                    state.later.push((now + LONG_PAUSE_MS, key));
                }
                // Its partition follows the image a moment later.
                _ => state.later.push((now + MOMENT_MS, key)),
            }
        }
        let forgotten = std::mem::take(&mut state.forgotten);
        let forgotten =
            forgotten.into_iter().map(|(topic_id, partition)| ForgottenReplica { topic_id, partition });
        // What is to be asked for again soon must not wait for what others wait for.
        let wait = match state.later.iter().map(|(at, _)| *at).min() {
            Some(at) => at.saturating_sub(now).min(all.settings.max_wait_ms),
            None => all.settings.max_wait_ms,
        };
        let request = ReplicaFetchRequest {
            max_wait_ms: i32::try_from(wait).unwrap_or(i32::MAX),
            max_bytes: all.settings.max_bytes,
            wishes,
            forgotten: forgotten.collect(),
        };
        // Under the lock, so that what is told later is never older.
        send(&request)?;
        Ok(true)
    }

    /// Does what the leader's answer asks for.
    ///
    /// # Errors
    /// The code by which it refuses this follower.
    pub fn on_answer(&self, all: &Replicators, answer: &ReplicaFetchResponse) -> Result<(), ErrorCode> {
        if answer.error_code != 0 {
            return Err(ErrorCode::from_code(answer.error_code).unwrap_or(ErrorCode::UnknownServerError));
        }
        let tick_ms = all.clock.tick_ms();
        answer.partitions.iter().for_each(|data| self.take(data, tick_ms));
        Ok(())
    }

    fn take(&self, data: &ReplicaData, tick_ms: u64) {
        let key = (data.topic_id, data.partition);
        let Some(partition) = self.state().followed.get(&key).cloned() else { return };
        let diverging = (data.diverging_epoch >= 0)
            .then_some((LeaderEpoch(data.diverging_epoch), Offset(data.diverging_end)));
        let followed = partition.on_leader_answer(&LeaderAnswer {
            leader: self.leader,
            epoch: LeaderEpoch(data.leader_epoch),
            offset: Offset(data.offset),
            error: ErrorCode::from_code(data.error_code).unwrap_or(ErrorCode::UnknownServerError),
            high_watermark: Offset(data.high_watermark),
            log_start: Offset(data.log_start_offset),
            diverging,
            records: &data.records,
        });
        let mut state = self.state();
        if !state.followed.contains_key(&key) {
            return;
        }
        match followed {
            Followed::On => {
                // Without records or a cut it has nothing to ask that the leader does not know.
                if !data.records.is_empty() || diverging.is_some() || data.error_code != 0 {
                    state.due.insert(key);
                }
            }
            Followed::Soon => state.later.push((tick_ms + MOMENT_MS, key)),
            Followed::Later => state.later.push((tick_ms + PAUSE_MS, key)),
            Followed::Stopped => {
                // Or the leader would send the same again with whatever comes.
                state.forgotten.push(key);
                state.later.push((tick_ms + LONG_PAUSE_MS, key));
            }
        }
    }
}
