//! Following: for each broker that leads partitions of ours, one thread that fetches all of them over one connection and appends what
//! comes. The same thread asks, reads and appends, so records cross no queue on their way.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ottla_machine::controller::image::{DiffItem, Image};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::replica_fetch_request::{ForgottenReplica, ReplicaWish};
use ottla_protocol::messages::replica_fetch_response::ReplicaData;
use ottla_protocol::messages::replica_update_request::UpdatedWish;
use ottla_protocol::messages::{ReplicaFetchRequest, ReplicaUpdateRequest};
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset, TopicId};

use crate::partition::{Followed, LeaderAnswer, Partition, Wish};
use crate::partitions::Partitions;
use crate::peers::Identity;
use crate::peers::dial::{Dial, DialError, Sender};

/// After a failed connection, or an answer that says "not now".
const PAUSE: Duration = Duration::from_millis(50);
/// Two nodes' images are that far apart, at the most, on an ordinary day.
const MOMENT: Duration = Duration::from_millis(3);
/// Longer than a fetch may wait at the leader, an answer is not waited for.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

type Key = (TopicId, i32);

/// How followers fetch.
#[derive(Clone, Debug)]
pub struct ReplicatorSettings {
    /// The listener that brokers use among themselves.
    pub listener: Arc<str>,
    /// `replica.fetch.wait.max.ms`.
    pub max_wait: Duration,
    /// `replica.fetch.response.max.bytes`.
    pub max_bytes: i32,
}

/// All of this node.
pub struct Replicators {
    identity: Arc<Identity>,
    image: Arc<ArcSwap<Image>>,
    partitions: Arc<Partitions>,
    settings: ReplicatorSettings,
    table: Mutex<HashMap<NodeId, Arc<Replicator>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// From one leader.
struct Replicator {
    leader: NodeId,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    followed: HashMap<Key, Arc<Partition>>,
    /// To be asked for with the next fetch.
    due: HashSet<Key>,
    /// To be asked for again at some time.
    later: Vec<(Instant, Key)>,
    forgotten: Vec<Key>,
    /// The connection, while there is one.
    sender: Option<Sender>,
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
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            image,
            partitions,
            settings,
            table: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Replicator>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the step from one image to the next, after the partitions did.
    pub fn on_image(self: &Arc<Self>, before: &Image, image: &Image) {
        let mut news: HashMap<NodeId, Vec<Key>> = HashMap::new();
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
        let (all, own) = (Arc::clone(self), Arc::clone(&replicator));
        let thread = std::thread::Builder::new()
            .name(format!("follow-{leader}"))
            .spawn(move || own.run(&all))
            .expect("the operating system has a thread for each other broker");
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
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
            let (leader, wish) = partition.wish().filter(|(leader, _)| *leader == self.leader)?;
            debug_assert_eq!(leader, self.leader);
            Some(UpdatedWish {
                topic_id: wish.topic,
                partition: wish.index,
                leader_epoch: wish.leader_epoch.0,
                offset: wish.offset.0,
                last_epoch: wish.last_epoch.0,
                flushed_offset: wish.flushed.0,
                log_start_offset: wish.log_start.0,
            })
        });
        let request = ReplicaUpdateRequest { wishes: wishes.collect(), ..Default::default() };
        let sent = state.sender.as_ref().is_some_and(|sender| sender.try_send(&request));
        if !sent {
            state.due.extend(request.wishes.iter().map(|wish| (wish.topic_id, wish.partition)));
        }
    }

    fn run(&self, all: &Replicators) {
        loop {
            {
                let mut state = self.state();
                while state.followed.is_empty() && !state.stopping {
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stopping {
                    return;
                }
            }
            if let Err(error) = self.converse(all) {
                tracing::debug!("following node {}: {error}", self.leader);
            }
            let mut state = self.state();
            state.sender = None;
            let (state, _) = self
                .wake
                .wait_timeout_while(state, PAUSE, |state| !state.stopping)
                .unwrap_or_else(PoisonError::into_inner);
            if state.stopping {
                return;
            }
        }
    }

    /// One connection, from its greeting to its end.
    fn converse(&self, all: &Replicators) -> Result<(), DialError> {
        let image = all.image.load_full();
        let endpoint = image.broker(self.leader).and_then(|leader| leader.endpoint(&all.settings.listener));
        let Some(endpoint) = endpoint else {
            return Err(DialError::Unreadable(format!("it has no listener {}", all.settings.listener)));
        };
        let (mut dial, greeted) = Dial::connect(&endpoint.host, endpoint.port, &all.identity.hello())?;
        if greeted.node_id != self.leader.0 {
            return Err(DialError::Unreadable(format!("node {} answers at its address", greeted.node_id)));
        }
        dial.set_patience(all.settings.max_wait + ANSWER_GRACE)?;
        {
            let mut state = self.state();
            state.sender = Some(dial.sender()?);
            let keys: Vec<Key> = state.followed.keys().copied().collect();
            state.due.extend(keys);
            state.forgotten.clear();
        }
        let mut sent: HashMap<Key, Wish> = HashMap::new();
        loop {
            if !self.ask(all, &mut dial, &mut sent)? {
                return Ok(());
            }
            let answer = dial.receive::<ReplicaFetchRequest>()?;
            if answer.error_code != 0 {
                let code = ErrorCode::from_code(answer.error_code).unwrap_or(ErrorCode::UnknownServerError);
                return Err(DialError::Refused(code, String::new()));
            }
            for data in &answer.partitions {
                self.take(data);
            }
        }
    }

    /// Sends the next fetch; `false` if there is nothing to follow any more.
    fn ask(
        &self,
        all: &Replicators,
        dial: &mut Dial,
        sent: &mut HashMap<Key, Wish>,
    ) -> Result<bool, DialError> {
        let mut state = self.state();
        if state.stopping || state.followed.is_empty() || state.sender.is_none() {
            return Ok(false);
        }
        let now = Instant::now();
        let due: Vec<Key> = state.later.extract_if(.., |(at, _)| *at <= now).map(|(_, key)| key).collect();
        state.due.extend(due);
        let keys: Vec<Key> = state.due.drain().collect();
        let mut wishes = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(partition) = state.followed.get(&key) else { continue };
            match partition.wish() {
                Some((leader, wish)) if leader == self.leader => {
                    sent.insert(key, wish);
                    wishes.push(ReplicaWish {
                        topic_id: wish.topic,
                        partition: wish.index,
                        leader_epoch: wish.leader_epoch.0,
                        offset: wish.offset.0,
                        last_epoch: wish.last_epoch.0,
                        flushed_offset: wish.flushed.0,
                        log_start_offset: wish.log_start.0,
                    });
                }
                // Its partition follows the image a moment later, or its log takes nothing.
                _ => state.later.push((now + MOMENT, key)),
            }
        }
        let forgotten = std::mem::take(&mut state.forgotten);
        let forgotten =
            forgotten.into_iter().map(|(topic_id, partition)| ForgottenReplica { topic_id, partition });
        // What is to be asked for again soon must not wait for what others wait for.
        let wait = match state.later.iter().map(|(at, _)| *at).min() {
            Some(at) => at.saturating_duration_since(now).min(all.settings.max_wait),
            None => all.settings.max_wait,
        };
        let request = ReplicaFetchRequest {
            max_wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
            max_bytes: all.settings.max_bytes,
            wishes,
            forgotten: forgotten.collect(),
        };
        dial.send(&request)?;
        Ok(true)
    }

    fn take(&self, data: &ReplicaData) {
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
            Followed::Soon => state.later.push((Instant::now() + MOMENT, key)),
            Followed::Later => state.later.push((Instant::now() + PAUSE, key)),
            Followed::Stopped => state.later.push((Instant::now() + 10 * PAUSE, key)),
        }
    }
}
