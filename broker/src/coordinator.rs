//! Group coordinators on this node: one for each partition of `__consumer_offsets` that it leads, loaded from that partition's log.
//!
//! What a coordinator decides is appended under its lock, so every decision rests on the log's end, and a reply leaves once everything
//! up to the end that it rests on is committed. Lock order: a coordinator's state, then the partition's.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::image::{DiffItem, Image};
use ottla_machine::group::coordinator::{
    Effect, GroupCoordinator, GroupReply, GroupSettings, Now, Token, coordinator_error,
};
use ottla_machine::group::record::StoredRecord;
use ottla_protocol::batch;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset, TopicId};

use crate::api::internal_topics::CONSUMER_OFFSETS;
use crate::clock::Clock;
use crate::config::Config;
use crate::flusher::Flusher;
use crate::partition::Partition;
use crate::partitions::Partitions;

/// Bytes of the log that are read at once when a coordinator is loaded.
const LOAD_BYTES: usize = 4 << 20;
/// Groups and offsets of one batch may unpack to so much.
const UNPACKED_MAX: usize = 1 << 30;
/// Without a nearer deadline the timer thread looks again after so long.
const TICK_MAX_MS: u64 = 60_000;

type OnReply = Box<dyn FnOnce(GroupReply) + Send>;

/// The coordinators of this node.
pub struct Coordinators {
    me: NodeId,
    settings: GroupSettings,
    commit_timeout_ms: u64,
    clock: Clock,
    image: Arc<ArcSwap<Image>>,
    partitions: Arc<Partitions>,
    flusher: Arc<Flusher>,
    table: Mutex<BTreeMap<(TopicId, i32), Arc<Coordinator>>>,
    ticker: Arc<Ticker>,
}

/// One of them, for one term of its partition's leadership.
pub struct Coordinator {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    clock: Clock,
    /// `offsets.commit.timeout.ms`.
    commit_timeout_ms: u64,
    state: Mutex<State>,
    /// Something that it decided will never be committed: what it knows is worth nothing any more.
    broken: AtomicBool,
    ticker: Arc<Ticker>,
}

struct State {
    phase: Phase,
    machine: GroupCoordinator,
    waiting: HashMap<Token, OnReply>,
    next_token: u64,
    /// The end of the last append: what every answer rests on.
    rests_on: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    /// Its records could not be read, at this tick.
    Failed(u64),
    /// This node leads the partition no longer.
    Gone,
}

/// A load that failed is tried again after so long.
const RELOAD_MS: u64 = 1_000;

/// Wakes the timer thread when a deadline is nearer than the one that it waits for.
struct Ticker {
    state: Mutex<TickerState>,
    wake: Condvar,
}

#[derive(Default)]
struct TickerState {
    next_ms: Option<u64>,
    stopping: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Coordinators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coordinators({})", lock(&self.table).len())
    }
}

impl Ticker {
    fn at_latest(&self, at_ms: u64) {
        let mut state = lock(&self.state);
        if state.next_ms.is_none_or(|next| at_ms < next) {
            state.next_ms = Some(at_ms);
            self.wake.notify_one();
        }
    }
}

fn settings(config: &Config) -> GroupSettings {
    let number = |name: &str| config.number(name);
    let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
    GroupSettings {
        min_session_timeout_ms: i32::try_from(number("group.min.session.timeout.ms")).unwrap_or(0),
        max_session_timeout_ms: i32::try_from(number("group.max.session.timeout.ms")).unwrap_or(i32::MAX),
        initial_rebalance_delay_ms: u64::try_from(number("group.initial.rebalance.delay.ms")).unwrap_or(0),
        max_size: size("group.max.size"),
        offset_metadata_max_bytes: size("offset.metadata.max.bytes"),
        offsets_retention_ms: number("offsets.retention.minutes").saturating_mul(60_000),
        retention_check_interval_ms: u64::try_from(number("offsets.retention.check.interval.ms"))
            .unwrap_or(600_000),
    }
}

/// The partition of `__consumer_offsets` that a group belongs to: Java's hash of its id, as Kafka's clients and tools compute it.
#[must_use]
pub fn partition_of(group: &str, partitions: usize) -> i32 {
    let hash =
        group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let count = i32::try_from(partitions).unwrap_or(i32::MAX).max(1);
    hash.checked_abs().unwrap_or(0) % count
}

impl Coordinators {
    #[must_use]
    pub fn new(
        me: NodeId,
        config: &Config,
        clock: Clock,
        image: Arc<ArcSwap<Image>>,
        partitions: Arc<Partitions>,
        flusher: Arc<Flusher>,
    ) -> Arc<Self> {
        let ticker = Arc::new(Ticker { state: Mutex::default(), wake: Condvar::new() });
        Arc::new(Self {
            me,
            settings: settings(config),
            commit_timeout_ms: u64::try_from(config.number("offsets.commit.timeout.ms")).unwrap_or(0),
            clock,
            image,
            partitions,
            flusher,
            table: Mutex::default(),
            ticker,
        })
    }

    /// Starts the timer thread, and loads what this node leads already, so that groups of before the start live on.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let _ = self.all();
        let (weak, ticker, clock) = (Arc::downgrade(self), Arc::clone(&self.ticker), self.clock.clone());
        std::thread::Builder::new()
            .name("group-timers".into())
            .spawn(move || run_timers(&weak, &ticker, &clock))
            .map(|_| ())
    }

    /// Timers of groups that are due fire: on the timer thread, or by who has none.
    pub fn tick(&self) {
        let all: Vec<_> = lock(&self.table).values().cloned().collect();
        for coordinator in all {
            coordinator.tick();
        }
    }

    pub fn stop(&self) {
        lock(&self.ticker.state).stopping = true;
        self.ticker.wake.notify_all();
    }

    /// The coordinator of a group.
    ///
    /// # Errors
    /// NOT_COORDINATOR if another node, or none, leads its partition of `__consumer_offsets`; COORDINATOR_LOAD_IN_PROGRESS.
    pub fn of(&self, group: &str) -> Result<Arc<Coordinator>, ErrorCode> {
        let image = self.image.load();
        let topic = image.topic_by_name(CONSUMER_OFFSETS).ok_or(ErrorCode::NotCoordinator)?;
        let coordinator = self.at(&image, topic.id, partition_of(group, topic.partitions.len()))?;
        coordinator.check()?;
        Ok(coordinator)
    }

    /// Every coordinator of this node.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS if one of them does not know its groups yet.
    pub fn all(&self) -> Result<Vec<Arc<Coordinator>>, ErrorCode> {
        let image = self.image.load();
        let Some(topic) = image.topic_by_name(CONSUMER_OFFSETS) else { return Ok(Vec::new()) };
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let mut all = Vec::new();
        for index in 0..count {
            let Ok(coordinator) = self.at(&image, topic.id, index) else { continue };
            match coordinator.check() {
                Ok(()) => all.push(coordinator),
                Err(code @ ErrorCode::CoordinatorLoadInProgress) => return Err(code),
                Err(_) => {}
            }
        }
        Ok(all)
    }

    fn at(&self, image: &Image, topic: TopicId, index: i32) -> Result<Arc<Coordinator>, ErrorCode> {
        let placed = image.partition(topic, index.into()).ok_or(ErrorCode::NotCoordinator)?;
        if placed.leader != self.me {
            return Err(ErrorCode::NotCoordinator);
        }
        let mut table = lock(&self.table);
        if let Some(coordinator) = table.get(&(topic, index))
            && coordinator.epoch == placed.leader_epoch
            && !coordinator.may_reload()
        {
            return Ok(Arc::clone(coordinator));
        }
        if !self.partitions.is_settled() {
            // The image goes through its history.
            return Err(ErrorCode::CoordinatorLoadInProgress);
        }
        // The partition follows the image a moment later; so may its coordinator.
        let partition = self.partitions.get(topic, index).filter(|partition| partition.leads_in(placed));
        let partition = partition.ok_or(ErrorCode::CoordinatorLoadInProgress)?;
        let coordinator = Arc::new(Coordinator {
            partition,
            epoch: placed.leader_epoch,
            clock: self.clock.clone(),
            commit_timeout_ms: self.commit_timeout_ms,
            state: Mutex::new(State {
                phase: Phase::Loading,
                machine: GroupCoordinator::new(self.settings),
                waiting: HashMap::new(),
                next_token: 0,
                rests_on: Offset::ZERO,
            }),
            broken: AtomicBool::new(false),
            ticker: Arc::clone(&self.ticker),
        });
        let before = table.insert((topic, index), Arc::clone(&coordinator));
        drop(table);
        if let Some(before) = before {
            before.unload();
        }
        // A log without a record loads at once; others on a thread that may wait for the disk.
        if coordinator.partition.size_bytes() == 0 {
            coordinator.load();
        } else {
            let loading = Arc::clone(&coordinator);
            self.flusher.run_job(move || loading.load());
        }
        Ok(coordinator)
    }

    /// Follows the step from one image to the next: coordinators come and go with the leadership of their partitions, and offsets
    /// go with their topics.
    pub fn on_image(&self, before: &Image, image: &Image) {
        let is_led = |topic: TopicId, index: i32, epoch: LeaderEpoch| {
            let placed = image.partition(topic, index.into());
            placed.is_some_and(|placed| placed.leader == self.me && placed.leader_epoch == epoch)
        };
        let gone: Vec<_> = {
            let mut table = lock(&self.table);
            table
                .extract_if(.., |(topic, index), coordinator| !is_led(*topic, *index, coordinator.epoch))
                .map(|(_, coordinator)| coordinator)
                .collect()
        };
        gone.iter().for_each(|coordinator| coordinator.unload());
        let offsets = |image: &Image| image.topic_by_name(CONSUMER_OFFSETS).cloned();
        let now = offsets(image);
        if let Some(topic) = &now
            && offsets(before).is_none_or(|old| !Arc::ptr_eq(&old, topic))
        {
            for index in 0..i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX) {
                // One that this node does not lead is no business of ours.
                let _ = self.at(image, topic.id, index);
            }
        }
        let deleted = before.topics.diff(&image.topics).filter_map(|item| match item {
            DiffItem::Remove(_, topic) => Some(topic.name.to_string()),
            _ => None,
        });
        let deleted: BTreeSet<String> = deleted.collect();
        if !deleted.is_empty() {
            let all: Vec<_> = lock(&self.table).values().cloned().collect();
            all.iter().for_each(|coordinator| coordinator.on_topics_deleted(&deleted));
        }
    }
}

fn run_timers(coordinators: &Weak<Coordinators>, ticker: &Ticker, clock: &Clock) {
    loop {
        {
            let mut state = lock(&ticker.state);
            loop {
                if state.stopping {
                    return;
                }
                let now = clock.tick_ms();
                let next = state.next_ms.unwrap_or(now + TICK_MAX_MS);
                if next <= now {
                    state.next_ms = None;
                    break;
                }
                let wait = Duration::from_millis(next - now);
                state = ticker.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let Some(coordinators) = coordinators.upgrade() else { return };
        coordinators.tick();
    }
}

impl Coordinator {
    fn now(&self) -> Now {
        Now { wall_ms: self.clock.now_ms(), tick_ms: self.clock.tick_ms() }
    }

    fn check(&self) -> Result<(), ErrorCode> {
        match lock(&self.state).phase {
            _ if self.broken.load(Ordering::Acquire) => Err(ErrorCode::NotCoordinator),
            Phase::Active => Ok(()),
            Phase::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Phase::Failed(_) | Phase::Gone => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Whether another attempt may read what this one could not.
    fn may_reload(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Failed(at_ms) if self.clock.tick_ms() >= at_ms + RELOAD_MS)
    }

    /// Reads the partition's log into the machine. Blocks.
    fn load(self: &Arc<Self>) {
        let began = self.clock.tick_ms();
        let outcome = self.replay();
        let mut state = lock(&self.state);
        if state.phase != Phase::Loading {
            return;
        }
        match outcome {
            Ok((records, end)) => {
                let now = self.now();
                state.machine.on_loaded(now);
                state.rests_on = end;
                state.phase = Phase::Active;
                if records > 0 {
                    let took = now.tick_ms.saturating_sub(began);
                    tracing::info!(
                        "{}: {records} records of groups loaded in {took} ms",
                        self.partition.dir_name
                    );
                }
            }
            Err(reason) => {
                tracing::error!("{}: its groups cannot be loaded: {reason}", self.partition.dir_name);
                state.phase = Phase::Failed(self.clock.tick_ms());
            }
        }
        let next = state.machine.next_deadline_ms();
        drop(state);
        if let Some(at) = next {
            self.ticker.at_latest(at);
        }
    }

    fn replay(&self) -> Result<(u64, Offset), String> {
        // To the log's end: after a crash the tail may not be flushed again yet, and it is the newest state that there is.
        let view = self.partition.whole_view().map_err(|code| code.to_string())?;
        let (mut from, end, mut count) = (view.start_offset(), view.end_offset(), 0);
        while from < end {
            let slices = view.read(from, LOAD_BYTES).map_err(|error| {
                self.partition.on_unreadable(&error);
                error.to_string()
            })?;
            let before = from;
            // In slices: other requests see "loading" meanwhile, and nobody waits for the lock long.
            let mut state = lock(&self.state);
            if state.phase != Phase::Loading {
                return Err("this node does not lead it any more".to_owned());
            }
            for slice in &slices {
                for batch in batch::batches(slice.bytes()) {
                    let batch = batch.map_err(|error| error.to_string())?;
                    from = batch.header().next_offset();
                    if batch.header().is_control() {
                        continue;
                    }
                    let unpacked = batch.uncompressed(UNPACKED_MAX).map_err(|error| error.to_string())?;
                    for record in batch.records(&unpacked) {
                        let record = record.map_err(|error| error.to_string())?;
                        let Some(key) = record.key else { continue };
                        if let Err(error) = state.machine.apply(key, record.value, self.now()) {
                            tracing::warn!("{} offset {}: {error}", self.partition.dir_name, record.offset);
                        }
                        count += 1;
                    }
                }
            }
            // The rest of a compacted log may hold no batch any more.
            if from == before {
                break;
            }
        }
        Ok((count, end))
    }

    /// This node leads the partition no longer: who waits is sent to the next coordinator.
    fn unload(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.phase = Phase::Gone;
            state.machine.fail_waiting(ErrorCode::NotCoordinator);
            state.take_replies()
        };
        // They rest on nothing but the loss.
        waiting.into_iter().for_each(|(on_reply, reply)| on_reply(reply));
    }

    /// Gives the machine an input whose answer `on_reply` takes. `refusal`: the answer of a coordinator that is gone meanwhile.
    pub fn step(
        self: &Arc<Self>,
        refusal: GroupReply,
        on_reply: impl FnOnce(GroupReply) + Send + 'static,
        input: impl FnOnce(&mut GroupCoordinator, Token, Now),
    ) {
        let mut state = lock(&self.state);
        if state.phase != Phase::Active {
            drop(state);
            return on_reply(refusal.failed(ErrorCode::NotCoordinator));
        }
        let token = Token(state.next_token);
        state.next_token += 1;
        state.waiting.insert(token, Box::new(on_reply));
        input(&mut state.machine, token, self.now());
        self.settle(state);
    }

    /// Looks at the machine; `then` gets what `look` saw once that is committed, or why it will not be.
    pub fn read<T: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&GroupCoordinator) -> T,
        then: impl FnOnce(Result<T, ErrorCode>) + Send + 'static,
    ) {
        let state = lock(&self.state);
        if state.phase != Phase::Active {
            drop(state);
            return then(Err(ErrorCode::NotCoordinator));
        }
        let (seen, rests_on) = (look(&state.machine), state.rests_on);
        drop(state);
        self.when_committed(rests_on, move |outcome| then(outcome.map(|()| seen)));
    }

    fn when_committed(
        self: &Arc<Self>,
        end: Offset,
        then: impl FnOnce(Result<(), ErrorCode>) + Send + 'static,
    ) {
        let coordinator = Arc::clone(self);
        let deadline_ms = self.clock.tick_ms() + self.commit_timeout_ms;
        let on_committed = move |outcome: Result<(), ErrorCode>| {
            // What is late may come yet; anything else means that it never will.
            let is_late =
                |code| matches!(code, ErrorCode::RequestTimedOut | ErrorCode::NotEnoughReplicasAfterAppend);
            if outcome.is_err_and(|code| !is_late(code)) {
                coordinator.broken.store(true, Ordering::Release);
            }
            then(outcome.map_err(coordinator_error));
        };
        self.partition.when_committed(end, deadline_ms, Box::new(on_committed));
    }

    fn tick(self: &Arc<Self>) {
        loop {
            let mut state = lock(&self.state);
            let now = self.now();
            if state.phase != Phase::Active {
                return;
            }
            state.machine.on_tick(now);
            let next = self.settle(state);
            // It stops where something had to be appended first.
            if next.is_none_or(|at| at > now.tick_ms) {
                return;
            }
        }
    }

    fn on_topics_deleted(self: &Arc<Self>, deleted: &BTreeSet<String>) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Active {
            state.machine.on_topics_deleted(deleted);
            self.settle(state);
        }
    }

    /// Does what was decided: appends under the lock, replies after it. Returns the next deadline.
    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Option<u64> {
        let mut replies = Vec::new();
        loop {
            let effects = state.machine.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Reply { token, reply } => {
                        let on_reply = state.waiting.remove(&token);
                        replies.extend(on_reply.map(|on_reply| (on_reply, reply)));
                    }
                    Effect::Append { id, records } => {
                        let outcome = self.append(&records);
                        if let Ok(end) = outcome {
                            state.rests_on = end;
                        }
                        state.machine.on_appended(id, outcome.map(|_| ()), self.now());
                    }
                }
            }
        }
        let (next, rests_on) = (state.machine.next_deadline_ms(), state.rests_on);
        drop(state);
        if let Some(at) = next {
            self.ticker.at_latest(at);
        }
        for (on_reply, reply) in replies {
            self.when_committed(rests_on, move |outcome| match outcome {
                Ok(()) => on_reply(reply),
                Err(code) => on_reply(reply.failed(code)),
            });
        }
        next
    }

    fn append(&self, records: &[StoredRecord]) -> Result<Offset, ErrorCode> {
        let (now_ms, tick_ms) = (self.clock.now_ms(), self.clock.tick_ms());
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for record in records {
            builder.append(now_ms, Some(&record.key), record.value.as_deref());
        }
        let mut bytes = builder.build();
        match self.partition.append_own(&mut bytes, self.epoch, now_ms, tick_ms) {
            Ok(appended) => Ok(appended.end),
            Err(refused) => Err(refused.code),
        }
    }
}

impl State {
    /// The replies among the effects, with who takes them.
    fn take_replies(&mut self) -> Vec<(OnReply, GroupReply)> {
        let mut replies = Vec::new();
        for effect in self.machine.take_effects() {
            if let Effect::Reply { token, reply } = effect {
                replies.extend(self.waiting.remove(&token).map(|on_reply| (on_reply, reply)));
            }
        }
        replies
    }
}
