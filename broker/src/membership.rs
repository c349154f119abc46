//! This broker's place in a cluster of several nodes: it registers with the controller, says again and again that it is alive, and asks
//! to be let go before it stops. One thread.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ottla_machine::controller::command::{Answer, Command, LogProof, Registration};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::{BrokerBeatRequest, JoinQuorumRequest};
use ottla_protocol::types::{BrokerEpoch, TopicId};
use ottla_storage::{LogDir, StorageError};

use crate::controller::Controller;
use crate::peers::dial::{Dial, DialError};
use crate::peers::links::{Line, Links};
use crate::peers::{Address, Identity, raft_id};

/// Who decides looks at the sessions of others this often.
const CHECK_EVERY: Duration = Duration::from_millis(100);
/// Everybody else looks this often whether it decides by now: a session that begins with that lasts longer.
const IDLE_EVERY: Duration = Duration::from_millis(500);
/// While nobody decides, one is looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The thread, and what it works with.
pub struct Membership {
    identity: Arc<Identity>,
    controller: Arc<Controller>,
    links: Arc<Links>,
    registration: Registration,
    log_dir: Arc<LogDir>,
    /// `broker.heartbeat.interval.ms`.
    interval: Duration,
    state: Mutex<State>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// The last heartbeat said that this broker may lead.
    is_serving: bool,
    /// The controller does not know this registration: it must be made anew.
    is_stale: bool,
    /// Logs that proved to be damaged since: the controller must not count on them.
    damaged: Vec<(TopicId, i32)>,
    /// It is being made anew.
    is_registering: bool,
    /// Not before this tick: the disk was full. 0: at once.
    again_at_ms: u64,
    /// The answer to that.
    registered: Option<Registered>,
    /// The tick of the next heartbeat.
    next_beat_ms: u64,
}

/// The controller's answer to a registration.
#[derive(Debug)]
pub struct Registered {
    answer: Answer,
    /// The damaged logs that it named.
    damaged: Vec<(TopicId, i32)>,
}

impl State {
    /// Whether there is something to do that cannot wait.
    fn has_news(&self) -> bool {
        self.registered.is_some() || self.is_stale && !self.is_registering && self.again_at_ms == 0
    }
}

/// Another node that lives longer than this under the same id is no former self.
const TWIN_LIMIT: Duration = Duration::from_secs(5);
/// A full disk is given so long before the next attempt.
const SPACE_PAUSE_MS: u64 = 1_000;

/// The directory's property that says in which incarnation it served last.
const BROKER_EPOCH: &str = "broker.epoch";

/// The incarnation in which this directory served last; -1 for none.
#[must_use]
pub fn noted_epoch(log_dir: &LogDir) -> BrokerEpoch {
    let noted = log_dir.properties().get(BROKER_EPOCH).and_then(|epoch| epoch.parse().ok());
    BrokerEpoch(noted.unwrap_or(-1))
}

fn note_epoch(log_dir: &LogDir, epoch: BrokerEpoch) -> Result<(), StorageError> {
    let mut properties = log_dir.properties();
    properties.insert(BROKER_EPOCH.to_owned(), epoch.to_string());
    log_dir.set_properties(&properties)
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Membership {
    #[must_use]
    pub fn new(
        identity: Arc<Identity>,
        controller: Arc<Controller>,
        links: Arc<Links>,
        registration: Registration,
        log_dir: Arc<LogDir>,
        interval: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            controller,
            links,
            registration,
            log_dir,
            interval,
            state: Mutex::default(),
            wake: Condvar::new(),
            thread: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node that is no member of the quorum asks to become a learner, until it is one. Blocks.
    ///
    /// # Errors
    /// Another node goes on living under its id; in words.
    pub fn join_quorum(&self, own: &Address, known: &[Address]) -> Result<(), String> {
        let raft_id = raft_id(self.identity.directory);
        let request = JoinQuorumRequest {
            raft_id: i64::from_ne_bytes(raft_id.to_ne_bytes()),
            address: own.to_text().into(),
        };
        let mut twin_since: Option<Instant> = None;
        loop {
            let status = self.controller.status().unwrap_or_default();
            if status.identities.contains_key(&raft_id) {
                return Ok(());
            }
            let mut twin = None;
            for address in known.iter().filter(|address| address.node != own.node) {
                match self.ask_to_join(address, &request) {
                    Ok(()) => break,
                    Err(DialError::Refused(ErrorCode::DuplicateBrokerRegistration, message)) => {
                        twin = Some(message);
                    }
                    Err(_) => {}
                }
            }
            match twin {
                // One that died a moment ago, such as this node with its former directory, is known as living for a session more.
                Some(message) if twin_since.get_or_insert_with(Instant::now).elapsed() > TWIN_LIMIT => {
                    return Err(message);
                }
                Some(_) => {}
                None => twin_since = None,
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn ask_to_join(&self, at: &Address, request: &JoinQuorumRequest) -> Result<(), DialError> {
        let (mut dial, _) = Dial::connect(&at.host, at.port, &self.identity.hello())?;
        dial.set_patience(Duration::from_secs(60))?;
        let answer = dial.call(request)?;
        match ErrorCode::from_code(answer.error_code).unwrap_or(ErrorCode::UnknownServerError) {
            ErrorCode::None => Ok(()),
            code => Err(DialError::Refused(code, answer.error_message.unwrap_or_default().to_string())),
        }
    }

    /// Says that it is alive from now on, and waits until the controller lets this broker serve. Blocks.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn enter(self: &Arc<Self>) -> Result<(), String> {
        self.watch()?;
        let mut state = self.state();
        while !state.is_serving && !state.stopping {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Starts the thread. On a node that is no broker it looks after the sessions of those that are.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn watch(self: &Arc<Self>) -> Result<(), String> {
        let membership = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("membership".into())
            .spawn(move || membership.run())
            .map_err(|error| error.to_string())?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Registers this incarnation; repeats while nobody decides. Blocks.
    ///
    /// # Errors
    /// The controller's refusal, in words.
    pub fn register(self: &Arc<Self>) -> Result<(), String> {
        loop {
            let (to, from) = std::sync::mpsc::sync_channel(1);
            self.ask_to_register(move |answered| {
                let _ = to.send(answered);
            });
            let Ok(answered) = from.recv() else { return Err("the node stops".to_owned()) };
            if self.on_registered(answered)? {
                return Ok(());
            }
            let mut state = self.state();
            if std::mem::take(&mut state.again_at_ms) > 0 {
                let pause = Duration::from_millis(SPACE_PAUSE_MS);
                let waited = self.wake.wait_timeout_while(state, pause, |state| !state.stopping);
                (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopping {
                return Err("the node stops".to_owned());
            }
        }
    }

    /// Asks once; `then` gets what [`Self::on_registered`] takes.
    pub fn ask_to_register(self: &Arc<Self>, then: impl FnOnce(Registered) + Send + 'static) {
        let damaged = self.state().damaged.clone();
        let mut registration = Registration {
            cluster_id: self.identity.cluster(),
            previous_epoch: noted_epoch(&self.log_dir),
            damaged: damaged.clone(),
            ..self.registration.clone()
        };
        if self.identity.epoch() >= BrokerEpoch(0) {
            // This very process has been registered before, and has lost nothing since.
            registration.proof = LogProof::Complete;
        }
        let command = Command::RegisterBroker(registration);
        self.controller.submit(command, move |answer| then(Registered { answer, damaged }));
    }

    /// Takes the answer to a registration: whether this incarnation is registered now. Waits for the disk.
    ///
    /// # Errors
    /// The controller's refusal, in words.
    pub fn on_registered(&self, registered: Registered) -> Result<bool, String> {
        let Registered { answer, damaged } = registered;
        match answer {
            Answer::Registered(epoch) => {
                // On the disk before this broker serves: a copy of the directory that is older than that proves nothing.
                match note_epoch(&self.log_dir, epoch) {
                    Ok(()) => {}
                    Err(error @ StorageError::Full { .. }) => {
                        tracing::warn!("not registered yet: {error}");
                        let again_at_ms = self.controller.tick_ms() + SPACE_PAUSE_MS;
                        self.state().again_at_ms = again_at_ms;
                        return Ok(false);
                    }
                    Err(error) => return Err(error.to_string()),
                }
                self.identity.set_epoch(epoch);
                self.state().damaged.retain(|log| !damaged.contains(log));
                Ok(true)
            }
            Answer::Failed(failure) => match failure.code {
                ErrorCode::NotController | ErrorCode::RequestTimedOut => {
                    tracing::info!("not registered yet: {}", failure.message);
                    Ok(false)
                }
                _ => Err(failure.message),
            },
            other => Err(format!("{other:?}")),
        }
    }

    fn run(self: &Arc<Self>) {
        loop {
            let wait = self.turn();
            let state = self.state();
            let (state, _) = self
                .wake
                .wait_timeout_while(state, wait, |state| !state.stopping && !state.has_news())
                .unwrap_or_else(PoisonError::into_inner);
            if state.stopping {
                return;
            }
        }
    }

    /// Does what is due, and says how long nothing more is. Waits for nobody but the disk.
    pub fn turn(self: &Arc<Self>) -> Duration {
        let registered = self.state().registered.take();
        if let Some(registered) = registered {
            let outcome = self.on_registered(registered);
            let mut state = self.state();
            state.is_registering = false;
            state.is_stale |= matches!(outcome, Ok(false));
            drop(state);
            if let Err(message) = outcome {
                tracing::error!("this broker could not register again: {message}");
            }
        }
        let again = {
            let mut state = self.state();
            let again =
                state.is_stale && !state.is_registering && self.controller.tick_ms() >= state.again_at_ms;
            if again {
                (state.is_stale, state.is_registering, state.again_at_ms) = (false, true, 0);
            }
            again
        };
        if again {
            let membership = Arc::clone(self);
            self.ask_to_register(move |registered| {
                membership.state().registered = Some(registered);
                membership.wake.notify_all();
            });
        }
        let now_ms = self.controller.tick_ms();
        let beats = {
            let state = self.state();
            now_ms >= state.next_beat_ms && !state.is_registering
        };
        if beats && self.identity.epoch() >= BrokerEpoch(0) {
            let pause = if self.beat() { self.interval } else { LOOK_EVERY };
            self.state().next_beat_ms = now_ms + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        }
        self.controller.check_sessions();
        self.controller.balance_leaders();
        let check = if self.controller.is_active() { CHECK_EVERY } else { IDLE_EVERY };
        if self.identity.epoch() < BrokerEpoch(0) {
            return check;
        }
        let next_ms = self.state().next_beat_ms.saturating_sub(self.controller.tick_ms());
        Duration::from_millis(next_ms).clamp(LOOK_EVERY, check)
    }

    /// Whether this node's own image has its registration: then it knows everything that was decided before it.
    fn is_ready(&self) -> bool {
        let image = self.identity.image.load();
        image.broker(self.identity.node).is_some_and(|broker| broker.epoch == self.identity.epoch())
    }

    /// A log is damaged: this broker registers anew without it, so that nobody counts on it.
    pub fn on_damage(&self, topic: TopicId, index: i32) {
        let mut state = self.state();
        state.damaged.push((topic, index));
        // Before the first registration it is part of that one.
        state.is_stale |= self.identity.epoch() >= BrokerEpoch(0);
        self.wake.notify_all();
    }

    /// Sends a heartbeat; `false` if it is known at once that nobody heard it, or that another is needed soon.
    fn beat(self: &Arc<Self>) -> bool {
        let (node, epoch) = (self.identity.node, self.identity.epoch());
        if self.controller.is_active() {
            let heard = self.controller.on_beat(node, epoch, self.is_ready());
            return self.on_answer(heard);
        }
        let Some(address) = self.controller.leader_address().filter(|address| address.node != node) else {
            return false;
        };
        let request = BrokerBeatRequest {
            node_id: node.0,
            broker_epoch: epoch.0,
            image_version: i64::try_from(self.identity.image.load().version).unwrap_or(i64::MAX),
            is_ready: self.is_ready(),
        };
        let (membership, sent_ms) = (Arc::clone(self), self.controller.tick_ms());
        self.links.call(&address, Line::Beats, &request, self.interval * 4, move |outcome| {
            let heard = match outcome {
                Ok(answer) => match ErrorCode::from_code(answer.error_code) {
                    Some(ErrorCode::None) => {
                        membership.identity.contact.heard(sent_ms);
                        Ok(answer.is_fenced)
                    }
                    code => Err(code.unwrap_or(ErrorCode::UnknownServerError)),
                },
                Err(_) => Err(ErrorCode::NetworkException),
            };
            membership.on_answer(heard);
        });
        // Until this broker serves, the next heartbeat may be the one that is answered so.
        self.state().is_serving
    }

    fn on_answer(&self, heard: Result<bool, ErrorCode>) -> bool {
        let mut state = self.state();
        match heard {
            Ok(is_fenced) => {
                state.is_serving |= !is_fenced;
                self.wake.notify_all();
                !is_fenced
            }
            Err(ErrorCode::StaleBrokerEpoch) => {
                state.is_stale = true;
                self.wake.notify_all();
                false
            }
            Err(_) => false,
        }
    }

    /// Asks the controller to move this broker's leaderships to others, and waits until they are, or until `limit`. Blocks.
    pub fn leave(&self, limit: Duration) {
        let (id, epoch) = (self.identity.node, self.identity.epoch());
        let (to, from) = std::sync::mpsc::sync_channel(1);
        self.controller.submit(Command::ShutDownBroker { id, epoch }, move |answer| {
            let _ = to.send(answer);
        });
        match from.recv_timeout(limit) {
            Ok(Answer::Failed(failure)) => tracing::warn!("leaderships stay here: {}", failure.message),
            Ok(_) => {}
            Err(_) => tracing::warn!("no controller took this broker's leaderships within {limit:?}"),
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state().stopping = true;
        self.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the membership's thread panicked");
        }
    }
}
