//! The controller's part: commands in, decisions through the metadata log, the image out.
//!
//! Everything that waits joins one proposal; one is in flight at a time. An entry names the image version that it was decided on, and
//! counts on no other. Nothing is decided before this leader's term has begun here, nor while an outcome is unknown.
//!
//! Rooms: `forward` (commands on a node that does not lead), `sessions` (which brokers are alive, on the node that does), `quorum` (the
//! metadata log, and its way to other nodes), `members` (who takes part in it), `balance` (leaders go back to where they belong).

mod balance;
mod forward;
mod members;
mod quorum;
mod sessions;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::command::{Answer, Command, ConfigRules, Failure};
use ottla_machine::controller::decide::decide;
use ottla_machine::controller::image::Image;
use ottla_machine::controller::leadership::is_unclean_election;
use ottla_machine::controller::record::{
    Applied, Record, decode_entry, decode_snapshot, encode_entry, encode_snapshot,
};
use ottla_machine::env::Env;
use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::Uuid;
use ottla_raft::{ProposeError, StateMachine, Status};

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::peers::links::Links;
use crate::peers::{Identity, raft_id};

pub use members::{Member, Unanswered};
pub use quorum::{OnOutcome, QUORUM_ELECTION, QUORUM_HEARTBEAT, Quorum, QuorumTransport};
use sessions::Sessions;

/// How long a proposal may take before its outcome counts as unknown.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(30);
/// A command that no decision was made on after one to two of these is told so: there is no leader, or an outcome stays unknown.
const WAIT_LIMIT: Duration = Duration::from_secs(15);
/// How long another voter is waited for when this one stops leading.
const RESIGN_LIMIT_MS: u64 = 500;
/// Where no voter has space, leadership goes round no faster than this.
const HAND_OVER_EVERY_MS: u64 = 1_000;
/// Commands that may wait; more are told to try again.
const WAITING_MAX: usize = 10_000;

/// Of a command that may wait as long as any.
const NO_DEADLINE: u64 = u64::MAX;

type Reply = Box<dyn FnOnce(Answer) + Send>;
/// Told of every new image.
pub type OnImage = Box<dyn Fn(&Arc<Image>) + Send + Sync>;

/// The published image and who wants to hear of a new one.
pub struct Published {
    pub image: Arc<ArcSwap<Image>>,
    on_image: OnceLock<OnImage>,
    waiting: Mutex<Vec<(u64, OnVersion)>>,
}

type OnVersion = Box<dyn FnOnce() + Send>;

/// What is needed to reach other nodes.
#[derive(Debug)]
pub struct Others {
    pub links: Arc<Links>,
    pub identity: Arc<Identity>,
    /// `broker.session.timeout.ms`.
    pub session_timeout_ms: u64,
    /// How often leadership is given back to preferred replicas; `None`: never.
    pub balance_every_ms: Option<u64>,
    /// How long the quorum hears nothing of its leader, at least, before another is elected.
    pub election_ms: u64,
    /// The listener that brokers use among themselves.
    pub listener: Arc<str>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("version", &self.image.load().version).finish_non_exhaustive()
    }
}

struct Waiting {
    command: Command,
    reply: Reply,
    /// The tick from which on it is not decided any more.
    deadline_ms: u64,
    /// The sweep before which it came.
    sweep: u64,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    in_flight: bool,
    /// The term that has begun here.
    term: Option<u64>,
    /// Sweeps of what waited too long; one is on its way while something waits.
    sweep: u64,
    sweeping: bool,
    /// Why nothing is decided any more.
    stopped: Option<Failure>,
    /// For want of space another voter is asked to lead, but not before this tick.
    hand_over_again_ms: u64,
}

/// Where commands go.
pub struct Controller {
    published: Arc<Published>,
    state: Mutex<State>,
    log: OnceLock<Arc<dyn Quorum>>,
    rules: Box<dyn ConfigRules>,
    clock: Clock,
    entropy: Arc<Entropy>,
    /// `None` for a node that is alone.
    others: OnceLock<Others>,
    sessions: Sessions,
    /// See `balance`.
    next_balance_ms: AtomicU64,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Published {
    #[must_use]
    pub fn new() -> Arc<Self> {
        let image = Arc::new(ArcSwap::from_pointee(Image::default()));
        Arc::new(Self { image, on_image: OnceLock::new(), waiting: Mutex::default() })
    }

    /// Names who is told of every new image, on the log's thread, before answers leave.
    pub fn subscribe(&self, on_image: OnImage) {
        assert!(self.on_image.set(on_image).is_ok(), "the node subscribes once");
    }

    fn publish(&self, image: Image) {
        let image = Arc::new(image);
        self.image.store(Arc::clone(&image));
        if let Some(on_image) = self.on_image.get() {
            on_image(&image);
        }
        let reached: Vec<_> = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.extract_if(.., |(version, _)| *version <= image.version).collect()
        };
        reached.into_iter().for_each(|(_, then)| then());
    }

    /// Calls `then` once this node's image is of that version or a later one.
    pub fn when(&self, version: u64, then: impl FnOnce() + Send + 'static) {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if self.image.load().version < version {
                waiting.push((version, Box::new(then)));
                return;
            }
        }
        then();
    }
}

impl Controller {
    #[must_use]
    pub fn new(
        published: Arc<Published>,
        rules: Box<dyn ConfigRules>,
        clock: Clock,
        entropy: Arc<Entropy>,
    ) -> Arc<Self> {
        let state = Mutex::new(State::default());
        Arc::new(Self {
            published,
            state,
            log: OnceLock::new(),
            rules,
            clock,
            entropy,
            others: OnceLock::new(),
            sessions: Sessions::default(),
            next_balance_ms: AtomicU64::new(0),
        })
    }

    /// Names the way to other nodes, once, before the log is attached.
    pub fn connect(&self, others: Others) {
        assert!(self.others.set(others).is_ok(), "the others are named once");
    }

    /// What the metadata log is started with.
    #[must_use]
    pub fn state_machine(self: &Arc<Self>) -> Box<dyn StateMachine> {
        Box::new(Machine { controller: Arc::clone(self), image: Image::default() })
    }

    /// Hands over the log once it has been started.
    pub fn attach(self: &Arc<Self>, log: impl Quorum + 'static) {
        let log: Arc<dyn Quorum> = Arc::new(log);
        let controller = Arc::downgrade(self);
        log.when_stopped(Box::new(move |reason| {
            if let Some(controller) = controller.upgrade() {
                tracing::error!("{reason}: metadata stays as it is until this node is restarted");
                controller.stop_deciding(Failure::new(ErrorCode::KafkaStorageError, reason));
            }
        }));
        let controller = Arc::downgrade(self);
        assert!(self.log.set(Arc::clone(&log)).is_ok(), "the log is attached once");
        log.watch(Box::new(move |status| {
            if let Some(controller) = controller.upgrade() {
                controller.on_status(&status);
            }
        }));
        self.decide_next();
        self.sweep_later();
    }

    /// Whether this node leads the metadata log.
    #[must_use]
    pub fn is_active(&self) -> bool {
        let Some(log) = self.log.get() else { return false };
        let status = log.status();
        status.leader.is_some() && status.leader == self.voter_id()
    }

    /// By what the log knows this node; `None` where nobody else is.
    fn voter_id(&self) -> Option<u64> {
        match self.others.get() {
            Some(others) => Some(raft_id(others.identity.directory)),
            None => self.log.get()?.status().leader,
        }
    }

    /// Another leader, or another term: what waits here is no business of a node that does not lead.
    fn on_status(self: &Arc<Self>, status: &Status) {
        if self.others.get().is_none() {
            return self.decide_next();
        }
        if status.leader.is_some() && status.leader == self.voter_id() {
            self.begin_sessions(status.term);
            return self.decide_next();
        }
        self.sessions.follow(self.leader_address().map(|address| address.node));
        let waiting = std::mem::take(&mut self.state().waiting);
        for Waiting { command, reply, deadline_ms, .. } in waiting {
            self.submit_until(command, reply, deadline_ms);
        }
    }

    /// Asks for a decision, of this node or of the one that leads. `reply` is called once: when it is committed and applied here, or when
    /// there is none.
    pub fn submit(self: &Arc<Self>, command: Command, reply: impl FnOnce(Answer) + Send + 'static) {
        self.submit_until(command, Box::new(reply), NO_DEADLINE);
    }

    /// As [`Self::submit`], but what is not decided within `limit` never will be. That is said when it is noticed, which may be later.
    pub fn submit_within(
        self: &Arc<Self>,
        command: Command,
        limit: Duration,
        reply: impl FnOnce(Answer) + Send + 'static,
    ) {
        self.submit_until(command, Box::new(reply), self.deadline_ms(limit));
    }

    fn submit_until(self: &Arc<Self>, command: Command, reply: Reply, deadline_ms: u64) {
        if self.others.get().is_some() && !self.is_active() {
            return self.forward(command, reply, deadline_ms);
        }
        self.decide_here(command, reply, deadline_ms);
    }

    fn deadline_ms(&self, limit: Duration) -> u64 {
        self.clock.tick_ms().saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// Asks this node for a decision in another node's name, within `limit`; the answer comes with the version of the image that shows it.
    ///
    /// `Err`: this node does not lead.
    pub fn submit_here(
        self: &Arc<Self>,
        command: Command,
        limit: Duration,
        reply: impl FnOnce(Result<(Answer, u64), ()>) + Send + 'static,
    ) {
        if !self.is_active() {
            return reply(Err(()));
        }
        let published = Arc::clone(&self.published);
        let reply = move |answer: Answer| {
            let not_here =
                matches!(&answer, Answer::Failed(failure) if failure.code == ErrorCode::NotController);
            let version = published.image.load().version;
            reply(if not_here { Err(()) } else { Ok((answer, version)) });
        };
        self.decide_here(command, Box::new(reply), self.deadline_ms(limit));
    }

    fn decide_here(self: &Arc<Self>, command: Command, reply: Reply, deadline_ms: u64) {
        let mut state = self.state();
        let refused = match &state.stopped {
            Some(failure) => Some(failure.clone()),
            None if state.waiting.len() >= WAITING_MAX => Some(ErrorCode::RequestTimedOut.into()),
            None => None,
        };
        if let Some(failure) = refused {
            drop(state);
            reply(Answer::Failed(failure));
            return;
        }
        let sweep = state.sweep;
        state.waiting.push_back(Waiting { command, reply, deadline_ms, sweep });
        drop(state);
        self.decide_next();
        self.sweep_later();
    }

    /// Sees to it that whatever waits now is looked at again, decided on or not.
    fn sweep_later(self: &Arc<Self>) {
        let Some(log) = self.log.get() else { return };
        let mut state = self.state();
        if state.sweeping || state.waiting.is_empty() {
            return;
        }
        state.sweeping = true;
        drop(state);
        let controller = Arc::clone(self);
        log.after(WAIT_LIMIT, Box::new(move || controller.sweep()));
    }

    fn sweep(self: &Arc<Self>) {
        let late: Vec<Waiting> = {
            let mut state = self.state();
            state.sweeping = false;
            let before = state.sweep;
            state.sweep += 1;
            let count = state.waiting.iter().take_while(|waiting| waiting.sweep < before).count();
            state.waiting.drain(..count).collect()
        };
        late.into_iter().for_each(|waiting| (waiting.reply)(not_in_time()));
        self.sweep_later();
    }

    /// From here on nothing is decided; what waits is told why.
    fn stop_deciding(&self, failure: Failure) {
        let waiting = {
            let mut state = self.state();
            state.stopped.get_or_insert_with(|| failure.clone());
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|waiting| (waiting.reply)(Answer::Failed(failure.clone())));
    }

    /// Asks and waits for the answer. Not for workers.
    #[must_use]
    pub fn ask(self: &Arc<Self>, command: Command) -> Answer {
        let (to, from) = std::sync::mpsc::sync_channel(1);
        self.submit(command, move |answer| {
            let _ = to.send(answer);
        });
        from.recv().unwrap_or_else(|_| Answer::Failed(ErrorCode::NotController.into()))
    }

    /// Ends the metadata log's thread; from here on nothing is decided any more.
    pub fn stop(&self) {
        self.stop_deciding(Failure::new(ErrorCode::NotController, "this node is stopping"));
        if let Some(log) = self.log.get() {
            log.stop();
        }
        if let Some(others) = self.others.get() {
            others.links.stop();
        }
    }

    /// Lets another voter lead the metadata log, if this node does: for a stop in order. Waits a little for it. Blocks.
    pub fn resign(&self) {
        let (Some(log), Some(me)) = (self.log.get(), self.voter_id()) else { return };
        if !self.hand_over() {
            return;
        }
        let limit = self.clock.tick_ms() + RESIGN_LIMIT_MS;
        while log.status().leader == Some(me) && self.clock.tick_ms() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks the voter that has most of the metadata log to lead it; `false` if this node does not, or is the only one.
    pub fn hand_over(&self) -> bool {
        let (Some(log), Some(me)) = (self.log.get(), self.voter_id()) else { return false };
        let status = log.status();
        let next = status.voters.iter().filter(|id| **id != me).max_by_key(|id| status.replicated.get(id));
        let (true, Some(next)) = (status.leader == Some(me), next) else { return false };
        log.transfer_leadership(*next);
        true
    }

    /// There is no space for the metadata log here: while that is so this node decides nothing, and another may have some.
    fn on_full(&self, why: &str) {
        let tick_ms = self.clock.tick_ms();
        {
            let mut state = self.state();
            if tick_ms < state.hand_over_again_ms {
                return;
            }
            state.hand_over_again_ms = tick_ms + HAND_OVER_EVERY_MS;
        }
        if self.hand_over() {
            tracing::warn!("{why}: another voter is asked to lead the metadata log");
        }
    }

    /// Milliseconds of this node's monotonic clock.
    #[must_use]
    pub fn tick_ms(&self) -> u64 {
        self.clock.tick_ms()
    }

    /// Which cluster the image is of; zero before its first entry.
    #[must_use]
    pub fn cluster_id(&self) -> Uuid {
        self.published.image.load().cluster_id
    }

    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.log.get().map(|log| log.status())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides everything that waits, on the image as it will be after each, and proposes it as one entry.
    fn decide_next(self: &Arc<Self>) {
        let Some(log) = self.log.get() else { return };
        let status = log.status();
        let tick_ms = self.clock.tick_ms();
        let (late, taken, term) = {
            let mut state = self.state();
            // The image is whole once an entry of the own term has been applied.
            let term_began = state.term == Some(status.term) && status.leader == self.voter_id();
            if state.in_flight || !term_began || state.waiting.is_empty() {
                return;
            }
            let waiting = std::mem::take(&mut state.waiting).into_iter();
            let (late, taken): (Vec<_>, Vec<_>) = waiting.partition(|waiting| waiting.deadline_ms <= tick_ms);
            state.in_flight = !taken.is_empty();
            (late, taken, status.term)
        };
        late.into_iter().for_each(|waiting| (waiting.reply)(not_in_time()));
        if taken.is_empty() {
            return;
        }
        let base = self.published.image.load_full();
        let mut image = Image::clone(&base);
        let (mut records, mut answers) = (Vec::<Record>::new(), Vec::new());
        for Waiting { command, reply, .. } in taken {
            let mut random = || self.entropy.next_u64();
            let mut env = Env {
                now_ms: self.clock.now_ms(),
                tick_ms: self.clock.tick_ms(),
                image: &image,
                random: &mut random,
            };
            let decision = decide(&mut env, &*self.rules, &command);
            for record in &decision.records {
                warn_of_unclean_election(&image, record);
                image.apply(record).expect("a decision fits the image that it was decided on");
            }
            records.extend(decision.records);
            answers.push((reply, decision.answer));
        }
        if records.is_empty() {
            // Nothing new: every answer rests on what is committed already.
            self.state().in_flight = false;
            answers.into_iter().for_each(|(reply, answer)| reply(answer));
            self.decide_next();
            return;
        }
        let expected = base.version + 1;
        let (on_outcome, on_settled) = (Arc::clone(self), Arc::clone(self));
        if is_on(Bug::ApplyBeforeCommit) {
            image.version += 1;
            self.published.publish(image);
        }
        log.propose(
            encode_entry(base.version, &records),
            PROPOSAL_LIMIT,
            Box::new(move |outcome| on_outcome.on_outcome(outcome.map(|_| ()), expected, answers)),
            Box::new(move || on_settled.on_settled(term)),
        );
    }

    fn on_outcome(
        &self,
        outcome: Result<(), ProposeError>,
        expected_version: u64,
        answers: Vec<(Reply, Answer)>,
    ) {
        let failure = match outcome {
            Ok(()) if self.published.image.load().version >= expected_version => None,
            Ok(()) => Some(Failure::new(ErrorCode::NotController, "another controller decided first")),
            Err(error @ ProposeError::NotLeader(_)) => {
                Some(Failure::new(ErrorCode::NotController, error.to_string()))
            }
            Err(error @ (ProposeError::Full(_) | ProposeError::Stopped(_))) => {
                if matches!(error, ProposeError::Full(_)) {
                    self.on_full(&error.to_string());
                }
                Some(Failure::new(ErrorCode::KafkaStorageError, error.to_string()))
            }
            Err(error @ (ProposeError::TooLarge(_) | ProposeError::MembersStay(_))) => {
                Some(Failure::new(ErrorCode::InvalidRequest, error.to_string()))
            }
            Err(error @ ProposeError::OutcomeUnknown) => {
                Some(Failure::new(ErrorCode::RequestTimedOut, error.to_string()))
            }
        };
        for (reply, answer) in answers {
            reply(match &failure {
                None => answer,
                Some(failure) => Answer::Failed(failure.clone()),
            });
        }
    }

    /// The fate of the proposal is known: it was applied here, or will never be by this leader.
    fn on_settled(self: &Arc<Self>, proposed_in: u64) {
        let leads = self.log.get().is_some_and(|log| log.leads(proposed_in));
        {
            let mut state = self.state();
            state.in_flight = false;
            // The next term may have begun already, and then counts.
            if state.term == Some(proposed_in) && !leads {
                state.term = None;
            }
        }
        self.decide_next();
    }
}

fn not_in_time() -> Answer {
    Answer::Failed(Failure::new(ErrorCode::RequestTimedOut, "no controller decided in time"))
}

/// Record by record, for an entry may hold several steps of one partition.
fn warn_of_unclean_election(image: &Image, record: &Record) {
    let Record::Partition { topic, index, state } = record else { return };
    let Some(topic) = image.topic(*topic) else { return };
    if topic.partition(*index).is_some_and(|before| is_unclean_election(before, state)) {
        tracing::warn!(
            "{}-{index}: node {} is to lead although it was neither in sync nor eligible: acknowledged records may be lost",
            topic.name,
            state.leader
        );
    }
}

/// What the metadata log applies its entries to.
struct Machine {
    controller: Arc<Controller>,
    image: Image,
}

impl StateMachine for Machine {
    fn apply(&mut self, index: u64, _term: u64, entry: &[u8]) {
        let entry = decode_entry(entry).unwrap_or_else(|error| {
            panic!("entry {index} of the metadata log cannot be read: {error}. It may be of a newer Ottla; this node stops")
        });
        match self.image.apply_entry(&entry) {
            Ok(Applied::Yes) => self.controller.published.publish(self.image.clone()),
            Ok(Applied::Stale) => tracing::warn!(
                "entry {index} of the metadata log was decided on an older version: it changes nothing"
            ),
            Err(error) => panic!("entry {index} of the metadata log does not fit: {error}; this node stops"),
        }
    }

    fn on_term(&mut self, _index: u64, term: u64) {
        self.controller.state().term = Some(term);
        self.controller.decide_next();
    }

    fn snapshot(&self) -> Vec<u8> {
        encode_snapshot(&self.image)
    }

    fn restore(&mut self, _index: u64, snapshot: &[u8]) -> Result<(), String> {
        self.image = decode_snapshot(snapshot).map_err(|error| error.to_string())?;
        self.controller.published.publish(self.image.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
