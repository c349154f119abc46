//! The controller's part: commands in, decisions through the metadata log, the image out.
//!
//! Everything that waits joins one proposal; one is in flight at a time. An entry names the image version that it was decided on, and
//! counts on no other. Nothing is decided before this leader's term has begun here, nor while an outcome is unknown.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::command::{Answer, Command, ConfigRules, Failure};
use ottla_machine::controller::decide::decide;
use ottla_machine::controller::image::Image;
use ottla_machine::controller::record::{
    Applied, Record, decode_entry, decode_snapshot, encode_entry, encode_snapshot,
};
use ottla_machine::env::Env;
use ottla_protocol::error::ErrorCode;
use ottla_raft::{MetadataLog, ProposeError, StateMachine, Status};

use crate::clock::Clock;
use crate::entropy::Entropy;

/// How long a proposal may take before its outcome counts as unknown.
const PROPOSAL_LIMIT: Duration = Duration::from_secs(30);
/// Commands that may wait; more are told to try again.
const WAITING_MAX: usize = 10_000;

type Reply = Box<dyn FnOnce(Answer) + Send>;
/// Told of every new image.
pub type OnImage = Box<dyn Fn(&Arc<Image>) + Send + Sync>;

/// The published image and who wants to hear of a new one.
pub struct Published {
    pub image: Arc<ArcSwap<Image>>,
    on_image: OnceLock<OnImage>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("version", &self.image.load().version).finish_non_exhaustive()
    }
}

struct Waiting {
    command: Command,
    reply: Reply,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    in_flight: bool,
    /// The term that has begun here.
    term: Option<u64>,
}

/// Where commands go.
pub struct Controller {
    published: Arc<Published>,
    state: Mutex<State>,
    log: OnceLock<MetadataLog>,
    rules: Box<dyn ConfigRules>,
    clock: Clock,
    entropy: Arc<Entropy>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Published {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { image: Arc::new(ArcSwap::from_pointee(Image::default())), on_image: OnceLock::new() })
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
        Arc::new(Self { published, state, log: OnceLock::new(), rules, clock, entropy })
    }

    /// What the metadata log is started with.
    #[must_use]
    pub fn state_machine(self: &Arc<Self>) -> Box<dyn StateMachine> {
        Box::new(Machine { controller: Arc::clone(self), image: Image::default() })
    }

    /// Hands over the log once it has been started.
    pub fn attach(self: &Arc<Self>, log: MetadataLog) {
        assert!(self.log.set(log).is_ok(), "the log is attached once");
        self.decide_next();
    }

    /// Asks for a decision. `reply` is called once: when it is committed and applied here, or when there is none.
    pub fn submit(self: &Arc<Self>, command: Command, reply: impl FnOnce(Answer) + Send + 'static) {
        let mut state = self.state();
        if state.waiting.len() >= WAITING_MAX {
            drop(state);
            reply(Answer::Failed(ErrorCode::RequestTimedOut.into()));
            return;
        }
        state.waiting.push_back(Waiting { command, reply: Box::new(reply) });
        drop(state);
        self.decide_next();
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
        if let Some(log) = self.log.get() {
            log.stop();
        }
    }

    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.log.get().map(MetadataLog::status)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides everything that waits, on the image as it will be after each, and proposes it as one entry.
    fn decide_next(self: &Arc<Self>) {
        let Some(log) = self.log.get() else { return };
        let taken = {
            let mut state = self.state();
            if state.in_flight || state.term.is_none() || state.waiting.is_empty() {
                return;
            }
            state.in_flight = true;
            std::mem::take(&mut state.waiting)
        };
        let base = self.published.image.load_full();
        let mut image = Image::clone(&base);
        let (mut records, mut answers) = (Vec::<Record>::new(), Vec::new());
        for Waiting { command, reply } in taken {
            let mut random = || self.entropy.next_u64();
            let mut env = Env {
                now_ms: self.clock.now_ms(),
                tick_ms: self.clock.tick_ms(),
                image: &image,
                random: &mut random,
            };
            let decision = decide(&mut env, &*self.rules, &command);
            for record in &decision.records {
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
        let controller = Arc::clone(self);
        let expected = base.version + 1;
        log.propose(encode_entry(base.version, &records), PROPOSAL_LIMIT, move |outcome| {
            controller.on_outcome(outcome.map(|_| ()), expected, answers);
        });
    }

    fn on_outcome(
        self: &Arc<Self>,
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
            Err(error) => Some(Failure::new(ErrorCode::RequestTimedOut, error.to_string())),
        };
        {
            let mut state = self.state();
            state.in_flight = false;
            if failure.is_some() {
                // Whatever happened to the entry, a new term settles it.
                state.term = None;
            }
        }
        for (reply, answer) in answers {
            reply(match &failure {
                None => answer,
                Some(failure) => Answer::Failed(failure.clone()),
            });
        }
        self.decide_next();
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
