//! Group coordinators on this node: one for each partition of `__consumer_offsets` that it leads, loaded from that partition's log.
//!
//! Lock order: a coordinator's `drain`, then its `state`, then the partition's. Effects leave in the order in which they were decided.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::image::Image;
use ottla_machine::group::coordinator::{
    AppendId, Effect, GroupCoordinator, GroupReply, GroupSettings, Now, Token,
};
use ottla_machine::group::record::StoredRecord;
use ottla_protocol::batch;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::TopicId;

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
    settings: GroupSettings,
    clock: Clock,
    image: Arc<ArcSwap<Image>>,
    partitions: Arc<Partitions>,
    flusher: Arc<Flusher>,
    table: Mutex<HashMap<(TopicId, i32), Arc<Coordinator>>>,
    ticker: Arc<Ticker>,
}

/// One of them.
pub struct Coordinator {
    partition: Arc<Partition>,
    clock: Clock,
    state: Mutex<State>,
    drain: Mutex<()>,
    ticker: Arc<Ticker>,
}

struct State {
    phase: Phase,
    machine: GroupCoordinator,
    waiting: HashMap<Token, OnReply>,
    next_token: u64,
    effects: VecDeque<Effect>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Failed,
}

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
        config: &Config,
        clock: Clock,
        image: Arc<ArcSwap<Image>>,
        partitions: Arc<Partitions>,
        flusher: Arc<Flusher>,
    ) -> Arc<Self> {
        let ticker = Arc::new(Ticker { state: Mutex::default(), wake: Condvar::new() });
        Arc::new(Self {
            settings: settings(config),
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
        drop(self.all());
        let (weak, ticker, clock) = (Arc::downgrade(self), Arc::clone(&self.ticker), self.clock.clone());
        std::thread::Builder::new()
            .name("group-timers".into())
            .spawn(move || run_timers(&weak, &ticker, &clock))
            .map(|_| ())
    }

    pub fn stop(&self) {
        lock(&self.ticker.state).stopping = true;
        self.ticker.wake.notify_all();
    }

    /// The coordinator of a group.
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE while there is no `__consumer_offsets`, NOT_COORDINATOR if another node leads its partition,
    /// COORDINATOR_LOAD_IN_PROGRESS.
    pub fn of(&self, group: &str) -> Result<Arc<Coordinator>, ErrorCode> {
        let image = self.image.load();
        let topic = image.topic_by_name(CONSUMER_OFFSETS).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let coordinator = self.at(topic.id, partition_of(group, topic.partitions.len()))?;
        coordinator.check()?;
        Ok(coordinator)
    }

    /// Every coordinator of this node.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Coordinator>> {
        let image = self.image.load();
        let Some(topic) = image.topic_by_name(CONSUMER_OFFSETS) else { return Vec::new() };
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        (0..count).filter_map(|index| self.at(topic.id, index).ok()).collect()
    }

    fn at(&self, topic: TopicId, index: i32) -> Result<Arc<Coordinator>, ErrorCode> {
        let mut table = lock(&self.table);
        if let Some(coordinator) = table.get(&(topic, index)) {
            return Ok(Arc::clone(coordinator));
        }
        let partition = self.partitions.get(topic, index).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        if !partition.is_leader() {
            return Err(ErrorCode::NotCoordinator);
        }
        // A topic that was deleted and made again has other ids.
        table.retain(|(known, _), _| *known == topic);
        let coordinator = Arc::new(Coordinator {
            partition,
            clock: self.clock.clone(),
            state: Mutex::new(State {
                phase: Phase::Loading,
                machine: GroupCoordinator::new(self.settings),
                waiting: HashMap::new(),
                next_token: 0,
                effects: VecDeque::new(),
            }),
            drain: Mutex::new(()),
            ticker: Arc::clone(&self.ticker),
        });
        table.insert((topic, index), Arc::clone(&coordinator));
        drop(table);
        // A log without a record loads at once; others on a thread that may wait for the disk.
        if coordinator.partition.size_bytes() == 0 {
            coordinator.load();
        } else {
            let loading = Arc::clone(&coordinator);
            self.flusher.run_job(move || loading.load());
        }
        Ok(coordinator)
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
        let all: Vec<_> = lock(&coordinators.table).values().cloned().collect();
        drop(coordinators);
        for coordinator in all {
            coordinator.tick();
        }
    }
}

impl Coordinator {
    fn now(&self) -> Now {
        Now { wall_ms: self.clock.now_ms(), tick_ms: self.clock.tick_ms() }
    }

    fn check(&self) -> Result<(), ErrorCode> {
        match lock(&self.state).phase {
            Phase::Active => Ok(()),
            Phase::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Phase::Failed => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Reads the partition's log into the machine. Blocks.
    fn load(self: &Arc<Self>) {
        let began = self.clock.tick_ms();
        let outcome = self.replay();
        let mut state = lock(&self.state);
        match outcome {
            Ok(records) => {
                let now = self.now();
                state.machine.on_loaded(now);
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
                state.phase = Phase::Failed;
            }
        }
        let next = state.machine.next_deadline_ms();
        drop(state);
        self.watch(next);
    }

    fn replay(&self) -> Result<u64, String> {
        // To the log's end: after a crash the tail may not be flushed again yet, and it is the newest state that there is.
        let view = self.partition.whole_view().map_err(|code| code.to_string())?;
        let (mut from, end, mut count) = (view.start_offset(), view.end_offset(), 0);
        while from < end {
            let slices = view.read(from, LOAD_BYTES).map_err(|error| error.to_string())?;
            let before = from;
            // In slices: other requests see "loading" meanwhile, and nobody waits for the lock long.
            let mut state = lock(&self.state);
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
        Ok(count)
    }

    /// Gives the machine an input whose answer `on_reply` takes.
    pub fn step(
        self: &Arc<Self>,
        on_reply: impl FnOnce(GroupReply) + Send + 'static,
        input: impl FnOnce(&mut GroupCoordinator, Token, Now),
    ) {
        let mut state = lock(&self.state);
        let token = Token(state.next_token);
        state.next_token += 1;
        state.waiting.insert(token, Box::new(on_reply));
        input(&mut state.machine, token, self.now());
        self.settle(state);
    }

    /// Looks at the machine.
    pub fn read<T>(&self, look: impl FnOnce(&GroupCoordinator) -> T) -> T {
        look(&lock(&self.state).machine)
    }

    fn tick(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.phase == Phase::Active {
            state.machine.on_tick(self.now());
        }
        self.settle(state);
    }

    fn on_committed(self: &Arc<Self>, id: AppendId, outcome: Result<(), ErrorCode>) {
        let mut state = lock(&self.state);
        state.machine.on_committed(id, outcome, self.now());
        self.settle(state);
    }

    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let effects = state.machine.take_effects();
        state.effects.extend(effects);
        let next = state.machine.next_deadline_ms();
        drop(state);
        self.watch(next);
        self.perform();
    }

    fn watch(&self, next: Option<u64>) {
        if let Some(at) = next {
            self.ticker.at_latest(at);
        }
    }

    /// Does what was decided, in order. If another thread (or a frame below this one) is at it, it does ours, too.
    fn perform(self: &Arc<Self>) {
        loop {
            let drain = match self.drain.try_lock() {
                Ok(drain) => drain,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            while let Some(effect) = {
                let mut state = lock(&self.state);
                state.effects.pop_front()
            } {
                match effect {
                    Effect::Reply { token, reply } => {
                        let on_reply = lock(&self.state).waiting.remove(&token);
                        if let Some(on_reply) = on_reply {
                            on_reply(reply);
                        }
                    }
                    Effect::Append { id, records } => self.append(id, &records),
                }
            }
            drop(drain);
            // An effect that came between the last look and the unlock would be nobody's.
            if lock(&self.state).effects.is_empty() {
                return;
            }
        }
    }

    fn append(self: &Arc<Self>, id: AppendId, records: &[StoredRecord]) {
        let now_ms = self.clock.now_ms();
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for record in records {
            builder.append(now_ms, Some(&record.key), record.value.as_deref());
        }
        let mut bytes = builder.build();
        let coordinator = Arc::clone(self);
        let appended = self.partition.append_own(
            &mut bytes,
            now_ms,
            Box::new(move |outcome| coordinator.on_committed(id, outcome)),
        );
        if let Err(refused) = appended {
            self.on_committed(id, Err(refused.code));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hash_to_the_partitions_that_kafka_gives_them() {
        // "polygenelubricants" hashes to the smallest number there is, whose absolute value is none.
        for (group, expected) in [("", 0), ("a", 97 % 50), ("my-group", 12), ("polygenelubricants", 0)] {
            assert_eq!(partition_of(group, 50), expected, "{group}");
        }
    }
}
