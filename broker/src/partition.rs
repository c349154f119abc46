//! One partition on this node: its log, its replica machine, and who waits for it. The only caller of `storage::Log`.
//!
//! Lock order: a partition's lock is the innermost but for those inside storage; replies are completed after it is released.

mod follow;
mod inspect;
mod keeping;
mod lead;
mod open;
mod produce;
mod read;
#[cfg(test)]
pub(crate) mod tests;
mod waiting;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use ottla_machine::controller::image::{Image, PartitionState};
use ottla_machine::partition::leader::{IsrProposal, Mode, OwnLog, Replica};
use ottla_machine::partition::producers::Producers;
use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, NodeId, Offset, TopicId};
use ottla_storage::{FlushTicket, Log, LogDir, Removal, StorageError};

use crate::api::Wakeup;
use crate::clock::Clock;
use crate::config::TopicConfig;
use crate::contact::Contact;
use crate::flusher::Flusher;
use crate::in_sync::InSync;
use crate::overdue::Overdue;
use crate::refusals::Refusals;

pub use follow::{Followed, LeaderAnswer};
pub use inspect::Inspection;
pub use lead::{FollowerSignal, Place, ReplicaAnswer, Wish};
pub(crate) use produce::storage_code;
pub use produce::{AppendRequest, Appended, Refused};
pub use read::{Bounds, ReadAnswer, ReadFrom};
use waiting::{Waiting, told};

/// Called once the offset it waits for is committed, or with the reason why it will not be.
pub type OnCommitted = Box<dyn FnOnce(Result<(), ErrorCode>) + Send>;

/// Bytes appended since the producers were last written down, after which they are again.
const PRODUCER_SNAPSHOT_BYTES: u64 = 64 << 20;
/// So many bytes are flushed behind the appends, also where nobody waits for it: a start after a crash reads what was not (at some
/// 3.5 GB/s), and a power loss takes no more than this and what comes while it is synced. The kernel would write them soon anyway.
const UNFLUSHED_BYTES_MAX: u64 = 32 << 20;

pub struct Partition {
    pub topic: TopicId,
    pub name: Arc<str>,
    pub index: i32,
    /// `topic-index`: the directory's name.
    pub dir_name: String,
    host: Arc<Host>,
    state: Mutex<State>,
    /// The flusher has it on its list.
    flush_queued: AtomicBool,
    /// So has the thread that looks after what is late.
    watched: AtomicBool,
}

/// What the partitions of a node have in common.
pub struct Host {
    pub me: NodeId,
    pub log_dir: Arc<LogDir>,
    pub flusher: Arc<Flusher>,
    pub overdue: Arc<Overdue>,
    pub clock: Clock,
    pub image: Arc<ArcSwap<Image>>,
    /// Where changes of in-sync sets are asked for.
    pub in_sync: Arc<InSync>,
    pub contact: Arc<Contact>,
    /// Whose first batches were refused.
    pub refusals: Refusals,
    /// The image is as new as this node's registration, and what it says is no history any more.
    pub is_settled: AtomicBool,
    /// `replica.lag.time.max.ms`.
    pub lag_max_ms: u64,
    /// Told of a partition that this node follows and has flushed further; set once there are other nodes.
    pub on_followed_flush: OnceLock<OnFollowedFlush>,
    /// Told of a log that takes nothing more: its durable bytes are missing or corrupt, or the disk failed. Under the partition's lock.
    pub on_damage: OnceLock<OnDamage>,
}

/// See [`Host::on_damage`].
pub type OnDamage = Box<dyn Fn(TopicId, i32) + Send + Sync>;

/// See [`Host::on_followed_flush`].
pub type OnFollowedFlush = Box<dyn Fn(&Arc<Partition>) + Send + Sync>;

pub(crate) struct State {
    config: Arc<TopicConfig>,
    /// `None` until somebody needs it, and again once the topic is deleted.
    log: Option<Log>,
    replica: Replica,
    producers: Producers,
    /// Bytes appended since the producers were written down.
    unsaved_bytes: u64,
    /// Records appended since the last flush began, and when (ticks) the first of them came.
    unflushed_records: i64,
    unflushed_since_ms: Option<u64>,
    /// Bytes appended since then.
    unflushed_bytes: u64,
    /// A segment was sealed: it is flushed whatever the mode.
    rolled: bool,
    /// A flush is under way; whether another was asked for meanwhile. An append does not wake a thread that could only find this out.
    flushing: bool,
    flush_again: bool,
    waiting: Waiting,
    fetchers: Vec<Wakeup>,
    /// Followers' sessions, which hear of every append.
    followers: Vec<Arc<Place>>,
    /// Why nothing can be committed any more: the topic is gone, the node stops, the disk failed.
    offline: Option<ErrorCode>,
    /// That the log failed has been told: see [`Host::on_damage`].
    is_failure_told: bool,
    /// Appends are refused with this code until that tick: see [`produce`].
    refusing: Option<(ErrorCode, u64)>,
    /// That there is no space is said again at this tick.
    say_full_at_ms: u64,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partition({}, {})", self.dir_name, self.topic)
    }
}

impl Partition {
    #[must_use]
    pub fn new(
        host: Arc<Host>,
        topic: TopicId,
        name: Arc<str>,
        index: i32,
        placed: PartitionState,
        config: Arc<TopicConfig>,
    ) -> Arc<Self> {
        let state = State {
            config,
            log: None,
            replica: Replica::new(host.me, placed),
            producers: Producers::default(),
            unsaved_bytes: 0,
            unflushed_records: 0,
            unflushed_since_ms: None,
            unflushed_bytes: 0,
            rolled: false,
            flushing: false,
            flush_again: false,
            waiting: Waiting::default(),
            fetchers: Vec::new(),
            followers: Vec::new(),
            offline: None,
            is_failure_told: false,
            refusing: None,
            say_full_at_ms: 0,
        };
        Arc::new(Self {
            topic,
            dir_name: format!("{name}-{index}"),
            name,
            index,
            host,
            state: Mutex::new(state),
            flush_queued: AtomicBool::new(false),
            watched: AtomicBool::new(false),
        })
    }

    /// The same partition with nothing in it yet.
    pub(crate) fn emptied(&self) -> Arc<Self> {
        let (placed, config) = {
            let state = self.lock();
            (state.replica.state().clone(), Arc::clone(&state.config))
        };
        Self::new(Arc::clone(&self.host), self.topic, Arc::clone(&self.name), self.index, placed, config)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Panics abort the process; under a test's unwinding the state may be torn, and the test has failed anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The controller decided anew, or a configuration changed.
    pub fn update(self: &Arc<Self>, placed: &PartitionState, config: &Arc<TopicConfig>) {
        let tick_ms = self.host.clock.tick_ms();
        let mut state = self.lock();
        let mut lost = Due::default();
        if state.replica.state() != placed {
            let led = state.replica.leads();
            let own = state.own();
            if state.replica.on_state(placed.clone(), own, tick_ms) {
                let epoch = placed.leader_epoch;
                if let Some(log) = &mut state.log {
                    log.assign_epoch(epoch);
                }
                if is_on(Bug::ForgetProducersOnLeading) {
                    state.producers = Producers::default();
                }
            }
            if led && !state.replica.leads() && !is_on(Bug::WaitersSurviveTheirLeader) {
                // Whoever waits for this leader is sent to the next one.
                lost = Due::told(told(state.waiting.all(), Err(ErrorCode::NotLeaderOrFollower)));
                lost.woken = std::mem::take(&mut state.fetchers);
                state.followers.clear();
            }
        }
        if !Arc::ptr_eq(&state.config, config) && *state.config != **config {
            state.config = Arc::clone(config);
            if let Some(log) = &mut state.log {
                log.set_options(config.log_options());
            }
        }
        let due = state.advance(&self.host);
        let watch = state.needs_watch(&self.host);
        drop(state);
        lost.complete();
        due.complete();
        self.want_flush();
        if watch {
            self.want_watch();
        }
    }

    /// Whether this node is one of its replicas.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lock().replica.is_held()
    }

    /// Whether this node leads it, and in the epoch of `placed`.
    pub(crate) fn leads_in(&self, placed: &PartitionState) -> bool {
        let state = self.lock();
        state.replica.state().leader == self.host.me && state.replica.leader_epoch() == placed.leader_epoch
    }

    pub(crate) fn tick_ms(&self) -> u64 {
        self.host.clock.tick_ms()
    }

    /// Puts the partition on the flusher's list, once.
    pub(crate) fn want_flush(self: &Arc<Self>) {
        if !self.flush_queued.swap(true, Ordering::AcqRel) {
            self.host.flusher.queue(Arc::clone(self));
        }
    }

    /// One round of group commit, on a flusher's thread.
    pub(crate) fn flush(self: &Arc<Self>) {
        if let Some(round) = self.begin_flush() {
            let result = round.sync();
            self.finish_flush(round, result);
        }
    }

    /// The first third of it: what the log's end is now will be flushed. `None`: there is nothing, or somebody is at it.
    pub fn begin_flush(self: &Arc<Self>) -> Option<FlushRound> {
        let (ticket, save) = {
            // From here on an append asks for another round.
            self.flush_queued.store(false, Ordering::Release);
            let mut state = self.lock();
            if state.flushing {
                state.flush_again = true;
                return None;
            }
            state.unflushed_records = 0;
            state.unflushed_since_ms = None;
            state.unflushed_bytes = 0;
            state.rolled = false;
            let ticket = state.log.as_mut().and_then(Log::begin_flush)?;
            state.flushing = true;
            (ticket, self.producers_to_save(&mut state, false))
        };
        Some(FlushRound { ticket, save })
    }

    /// The last third: what the round covers is on the disk, or `result` says why not.
    pub fn finish_flush(self: &Arc<Self>, round: FlushRound, result: std::io::Result<()>) {
        let FlushRound { ticket, save } = round;
        if self.flushed(ticket, result)
            && let Some(save) = save
        {
            self.save_producers(&save);
        }
    }

    /// Whether what the ticket covers is on the disk.
    fn flushed(self: &Arc<Self>, ticket: FlushTicket, result: std::io::Result<()>) -> bool {
        let mut state = self.lock();
        state.flushing = false;
        let asked = std::mem::take(&mut state.flush_again);
        let Some(log) = &mut state.log else { return false };
        let failed = log.finish_flush(ticket, result).is_err();
        let more = log.flushed_end() < log.end_offset();
        let due =
            if failed { state.fail_all(ErrorCode::KafkaStorageError) } else { state.advance(&self.host) };
        let awaited = more && state.config.is_flushed_before_ack();
        let again = !failed && (asked || awaited || state.wants_flush());
        let follows = !failed && !state.replica.leads() && !is_on(Bug::NeverTellFlush);
        if failed {
            self.tell_failure(&mut state);
        }
        drop(state);
        due.complete();
        if again {
            self.want_flush();
        }
        if follows && let Some(on_flush) = self.host.on_followed_flush.get() {
            on_flush(self);
        }
        !failed
    }

    /// Has the controller told, once, that nobody may count on this log: it goes on to others to lead and to be in sync. What fails here
    /// is for good, until a start.
    fn tell_failure(&self, state: &mut State) {
        let has_failed = state.log.as_ref().is_none_or(|log| log.failure().is_some());
        if has_failed
            && !std::mem::replace(&mut state.is_failure_told, true)
            && let Some(on_damage) = self.host.on_damage.get()
        {
            on_damage(self.topic, self.index);
        }
    }

    /// Waits until everything below `offset` is committed, but not beyond the tick `deadline_ms`. `on_committed` may be called before this
    /// returns.
    pub fn when_committed(self: &Arc<Self>, offset: Offset, deadline_ms: u64, on_committed: OnCommitted) {
        let mut state = self.lock();
        if offset <= state.replica.high_watermark() {
            drop(state);
            return on_committed(Ok(()));
        }
        // Nothing moves the watermark of a log that is closed.
        if let Some(code) = state.offline {
            drop(state);
            return on_committed(Err(code));
        }
        state.waiting.push(offset, deadline_ms, on_committed);
        drop(state);
        self.want_watch();
    }

    /// Has the partition looked after, while something may become late.
    pub(crate) fn want_watch(self: &Arc<Self>) {
        if !self.watched.swap(true, Ordering::AcqRel) {
            self.host.overdue.watch(Arc::clone(self));
        }
    }

    /// Records that wait for a flush too long (`flush.ms`) get one, and who waits too long is told. Returns whether more may become late.
    pub(crate) fn look_after(self: &Arc<Self>, tick_ms: u64) -> bool {
        let mut state = self.lock();
        let limit = u64::try_from(state.config.flush_ms).unwrap_or(u64::MAX);
        let flush = state.unflushed_since_ms.is_some_and(|since| tick_ms.saturating_sub(since) >= limit);
        let enough = state.replica.has_enough(state.config.min_insync_replicas);
        let why = if enough { ErrorCode::RequestTimedOut } else { ErrorCode::NotEnoughReplicasAfterAppend };
        let outcome = if is_on(Bug::TimeOutIsSuccess) { Ok(()) } else { Err(why) };
        let late = Due::told(told(state.waiting.timed_out(tick_ms), outcome));
        let proposal = state.lagging(&self.host, tick_ms);
        let due = state.advance(&self.host);
        let more = state.needs_watch(&self.host);
        if !more {
            // Under the lock: whoever appends next puts it on the list again.
            self.watched.store(false, Ordering::Release);
        }
        drop(state);
        late.complete();
        due.complete();
        self.propose(proposal);
        if flush {
            self.want_flush();
        }
        more
    }

    /// The topic is gone: everybody who waits is told, and the files go. The name is free when this returns.
    pub fn delete(&self) -> Option<Removal> {
        let mut state = self.lock();
        let due = state.fail_all(ErrorCode::UnknownTopicOrPartition);
        let log = state.log.take();
        drop(state);
        due.complete();
        let log = match log {
            Some(log) => Some(log),
            // Never opened in this process, but it may have files; those of another topic of the same name are none of its own.
            None => {
                let opened = self.host.log_dir.open_log(&self.dir_name, self.topic, TopicOptions::default());
                opened.ok().map(|(log, _)| log).filter(|log| log.owner() == self.topic)
            }
        };
        match log.map(Log::delete) {
            Some(Ok(removal)) => Some(removal),
            Some(Err(error)) => {
                tracing::error!("the files of {} stay: {error}", self.dir_name);
                None
            }
            None => None,
        }
    }

    /// Flushes, writes the producers down and closes the log: for a clean shutdown.
    ///
    /// # Errors
    /// What could not be flushed.
    pub fn close(&self) -> Result<(), StorageError> {
        let mut state = self.lock();
        let save = self.producers_to_save(&mut state, true);
        let log = state.log.take();
        let due = state.fail_all(ErrorCode::NotLeaderOrFollower);
        drop(state);
        let result = log.map_or(Ok(()), Log::close);
        if result.is_ok()
            && let Some(save) = save
        {
            self.save_producers(&save);
        }
        due.complete();
        result
    }
}

/// A flush under way.
pub struct FlushRound {
    ticket: FlushTicket,
    save: Option<open::ProducersToSave>,
}

impl FlushRound {
    /// The second third: waits for the disk, without the partition's lock.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> std::io::Result<()> {
        if is_on(Bug::SkipSync) {
            return Ok(());
        }
        self.ticket.sync()
    }
}

type TopicOptions = ottla_storage::LogOptions;

/// What became due under the lock, to be done after it.
#[must_use]
#[derive(Default)]
pub(crate) struct Due {
    committed: Vec<(OnCommitted, Result<(), ErrorCode>)>,
    woken: Vec<Wakeup>,
}

impl Due {
    fn told(committed: Vec<(OnCommitted, Result<(), ErrorCode>)>) -> Self {
        Self { committed, woken: Vec::new() }
    }

    pub(crate) fn complete(self) {
        for (on_committed, result) in self.committed {
            on_committed(result);
        }
        for wakeup in self.woken {
            wakeup.wake();
        }
    }
}

impl State {
    /// Moves the high watermark to where the log allows it, and takes out who waited for that.
    pub(crate) fn advance(&mut self, host: &Host) -> Due {
        let Some(own) = self.own() else { return Due::default() };
        // Looked at only where a follower is not in sync.
        let registered = |id: NodeId| active(&host.image.load())(id);
        if !self.replica.advance(own, &self.mode(host), &registered, host.clock.tick_ms()) {
            return Due::default();
        }
        self.watermark_moved()
    }

    /// Takes out who waited for the high watermark to be where it is now.
    fn watermark_moved(&mut self) -> Due {
        for place in &self.followers {
            place.note();
        }
        let reached = self.replica.high_watermark();
        let mut due = Due { committed: Vec::new(), woken: std::mem::take(&mut self.fetchers) };
        due.committed = told(self.waiting.reached(reached), Ok(()));
        due
    }

    fn own(&self) -> Option<OwnLog> {
        let log = self.log.as_ref()?;
        Some(OwnLog { start: log.start_offset(), end: log.end_offset(), flushed: log.flushed_end() })
    }

    fn mode(&self, host: &Host) -> Mode {
        Mode {
            flushed_counts: self.config.is_flushed_before_ack(),
            min_insync_replicas: self.config.min_insync_replicas,
            lag_max_ms: host.lag_max_ms,
        }
    }

    /// Time has passed: a member of the in-sync set may have to leave it.
    fn lagging(&mut self, host: &Host, tick_ms: u64) -> Option<IsrProposal> {
        let own = self.own()?;
        let mode = self.mode(host);
        let image = host.image.load();
        self.replica.on_tick(own, &mode, &active(&image), tick_ms)
    }

    /// Whether something may become late here.
    fn needs_watch(&self, host: &Host) -> bool {
        let unsettled = || {
            let active = |id| active(&host.image.load())(id);
            self.own().is_some_and(|own| self.replica.is_unsettled(own, &self.mode(host), &active))
        };
        !self.waiting.is_empty() || self.has_flush_limit() && self.unflushed_since_ms.is_some() || unsettled()
    }

    /// Whether `flush.ms` limits how long records wait for a flush.
    fn has_flush_limit(&self) -> bool {
        self.config.flush_ms < i64::MAX
    }

    /// Nothing will be committed any more, and `code` says why.
    fn fail_all(&mut self, code: ErrorCode) -> Due {
        self.offline = Some(code);
        let committed = told(self.waiting.all(), Err(code));
        Due { committed, woken: std::mem::take(&mut self.fetchers) }
    }
}

/// The epochs of brokers that may lead and be in sync.
fn active(image: &Image) -> impl Fn(NodeId) -> Option<BrokerEpoch> + '_ {
    |id| image.broker(id).filter(|broker| broker.is_active()).map(|broker| broker.epoch)
}
