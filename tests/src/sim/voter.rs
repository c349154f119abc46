//! The slower tier: the real metadata log on every node, `raft` and openraft with it, over the simulated disk and the simulated network.
//!
//! Each process has a tokio runtime of its own, whose clock stands still: the world moves it on, a millisecond at a time, as fast or as
//! slowly as the node's clocks go. A process that is killed loses its runtime, and with it every task in the middle of what it was
//! doing; one that stands still finds, when it goes on, that its clock has leapt. The quorum's messages travel as all others do: frames
//! of production's links, in pieces, late, cut off, or not at all.
//!
//! openraft's own chance follows from the seed, so that here too a seed gives the same run.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ottla::founding::Founding;
use ottla::node::Node;
use ottla::parts;
use ottla::peers::links::Links as PeerLinks;
use ottla::peers::{Address, Identity, raft_id};
use ottla_machine::controller::image::Image;
use ottla_protocol::types::{NodeId, Uuid};
use ottla_raft::{MetadataLog, StateMachine, Status};
use ottla_storage::LogDir;
use rand::Rng as _;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::effects::host_of;
use super::net::CONTROLLER_PORT;
use super::node::DATA_DIR;
use super::world::{Event, World};

/// Between two steps of a node's log.
const STEP_US: u64 = 1_000;
/// A clock that is behind by more than this leaps: its process stood still.
const LEAP: Duration = Duration::from_millis(20);
/// How often it is looked at who votes.
const CHECK_US: u64 = 500_000;
/// How long a change of the voters may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// What takes the place of Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// `quorum`.
    StandIn,
    /// Nothing does.
    Raft,
}

/// What the world knows of the voters.
#[derive(Default)]
pub struct Voters {
    directories: Vec<Uuid>,
    snapshot_every: u64,
}

/// A node's metadata log.
pub struct Voter {
    runtime: Runtime,
    /// When the runtime began, by its clock.
    began: Instant,
    seen: Seen,
}

/// What the log did to the state machine.
type Seen = Arc<Mutex<Vec<Applied>>>;

enum Applied {
    Entry { index: u64, term: u64, sum: Option<u32> },
    Image(Arc<Image>),
}

/// A node's state machine, watched.
struct Watched {
    inner: Box<dyn StateMachine>,
    node: Weak<Node>,
    seen: Seen,
}

impl Watched {
    fn saw(&self, applied: Applied) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(applied);
        if let Some(node) = self.node.upgrade() {
            seen.push(Applied::Image(node.image.load_full()));
        }
    }
}

impl StateMachine for Watched {
    fn apply(&mut self, index: u64, term: u64, entry: &[u8]) {
        self.inner.apply(index, term, entry);
        self.saw(Applied::Entry { index, term, sum: Some(crc32c::crc32c(entry)) });
    }

    fn on_term(&mut self, index: u64, term: u64) {
        self.inner.on_term(index, term);
        self.saw(Applied::Entry { index, term, sum: None });
    }

    fn snapshot(&self) -> Vec<u8> {
        self.inner.snapshot()
    }

    fn restore(&mut self, index: u64, snapshot: &[u8]) -> Result<(), String> {
        self.inner.restore(index, snapshot)?;
        if let Some(node) = self.node.upgrade() {
            let image = Applied::Image(node.image.load_full());
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(image);
        }
        Ok(())
    }
}

fn address_of(n: usize) -> Address {
    let node = NodeId(i32::try_from(n).expect("a small cluster") + 1);
    Address { node, host: host_of(n), port: CONTROLLER_PORT }
}

impl World {
    /// Every node's directory is made, and knows the founders, as the founding of a real cluster leaves it.
    pub(super) fn found_voters(&mut self) {
        ottla_raft::seed_thread(Some(self.rng.random()));
        self.voters.snapshot_every = [20, 100, 1_000][self.rng.random_range(0..3)];
        let mut dirs = Vec::new();
        for node in &self.nodes {
            let disk = Arc::new(node.disk.clone());
            let dir = LogDir::open(disk, DATA_DIR.as_ref(), self.rng.random()).expect("a fresh disk");
            dirs.push(Arc::new(dir));
        }
        self.voters.directories = dirs.iter().map(|dir| dir.directory_id()).collect();
        let directories = self.voters.directories.iter();
        let founders: Vec<_> =
            directories.enumerate().map(|(n, directory)| (address_of(n), *directory)).collect();
        for (n, dir) in dirs.into_iter().enumerate() {
            let identity = Identity::new(address_of(n).node, dir.directory_id(), Uuid::ZERO, Arc::default());
            let founding = Founding::load(Arc::clone(&dir), Arc::new(identity));
            founding.accept(self.plan.cluster, &founders).expect("a fresh disk");
            dir.mark_clean(b"").expect("a fresh disk");
        }
    }

    /// Starts a node's log, as a process does.
    pub(super) fn start_voter(
        &mut self,
        n: usize,
        node: &Arc<Node>,
        links: &Arc<PeerLinks>,
    ) -> Result<Voter, String> {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().map_err(|error| error.to_string())?;
        let (own, peers) = (address_of(n), parts::voters(node, links));
        let options = parts::metadata_log(node, Some((peers, &own)), self.voters.snapshot_every)
            .map_err(|error| error.to_string())?;
        let seen = Seen::default();
        let inner = node.controller.state_machine();
        let machine = Watched { inner, node: Arc::downgrade(node), seen: Arc::clone(&seen) };
        let (log, began) = runtime.block_on(async {
            let began = Instant::now();
            (MetadataLog::start_here(options, Box::new(machine)).await, began)
        });
        node.controller.attach(log.map_err(|error| error.to_string())?);
        Ok(Voter { runtime, began, seen })
    }

    /// A node's log does what there is to do until now, by its clock.
    pub(super) fn on_voter(&mut self, n: usize, life: u64) {
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        let Some(voter) = &live.voter else { return };
        voter.run_until(Duration::from_millis(live.node.clock.tick_ms()));
        let applied = std::mem::take(&mut *voter.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let status = live.node.controller.status();
        self.schedule(self.now_us + STEP_US, Event::Voter { node: n, life });
        self.drain(n);
        for one in applied {
            match one {
                Applied::Image(image) => self.check_image(n, &image),
                Applied::Entry { index, term, sum } => {
                    self.trace.mix(&[self.now_us, n as u64, index, term, u64::from(sum.unwrap_or(0))]);
                    if let Err(violation) = self.checks.metadata_log.see(n, index, term, sum) {
                        self.violation(violation.check, violation.what);
                    }
                }
            }
        }
        let leads = status.filter(|status| status.leader == Some(self.voter_id(n)));
        match leads.map(|status| (status.term, self.checks.metadata_log.leads(n, status.term))) {
            Some((term, Ok(true))) => {
                self.stats.elections += 1;
                self.trace.line(self.now_us, &format!("node {} leads the quorum in term {term}", n + 1));
            }
            Some((_, Err(violation))) => self.violation(violation.check, violation.what),
            _ => {}
        }
    }

    fn voter_id(&self, n: usize) -> u64 {
        raft_id(self.voters.directories[n])
    }

    /// The node that leads in the newest term, with what it knows.
    fn leading_voter(&self) -> Option<(usize, Status)> {
        let leading = (0..self.nodes.len()).filter_map(|n| {
            let status = self.nodes[n].live.as_ref()?.node.controller.status()?;
            (status.leader == Some(self.voter_id(n))).then_some((n, status))
        });
        leading.max_by_key(|(_, status)| status.term)
    }

    /// The fault: another voter is to lead, or one of them loses its vote, or gets it back.
    pub(super) fn disturb_voters(&mut self) {
        let Some((leader, status)) = self.leading_voter() else { return };
        let (kind, n) = (self.rng.random_range(0..3), self.rng.random_range(0..self.nodes.len()));
        let Some(live) = self.nodes[leader].live.as_ref() else { return };
        let is_whole = status.voters.len() == self.nodes.len();
        let is_broker =
            live.node.image.load().broker(address_of(n).node).is_some_and(|broker| !broker.fenced);
        if kind == 0 {
            live.node.controller.hand_over();
        } else if !is_whole {
            self.give_votes_back(leader, &status);
        } else if is_broker {
            // One that is not would leave altogether, and come back only by an operator's hand.
            let directory = self.voters.directories[n];
            live.node.controller.remove_voter(address_of(n).node, directory, CHANGE_LIMIT, |_| {});
            self.trace.line(self.now_us, &format!("node {} is to lose its vote", n + 1));
        }
        self.drain(leader);
    }

    fn give_votes_back(&mut self, leader: usize, status: &Status) {
        for n in 0..self.nodes.len() {
            if status.voters.contains(&self.voter_id(n)) {
                continue;
            }
            self.trace.line(self.now_us, &format!("node {} is to vote again", n + 1));
            let Some(live) = self.nodes[leader].live.as_ref() else { return };
            let directory = self.voters.directories[n];
            live.node.controller.add_voter(address_of(n).node, directory, CHANGE_LIMIT, |_| {});
        }
    }

    /// Once nothing goes wrong any more, all vote again.
    pub(super) fn on_voters_check(&mut self) {
        self.schedule(self.now_us + CHECK_US, Event::QuorumCheck);
        if self.is_calm
            && let Some((leader, status)) = self.leading_voter()
            && status.voters.len() < self.nodes.len()
        {
            self.give_votes_back(leader, &status);
            self.drain(leader);
        }
    }

    /// How many entries a node has not applied that another one has, or how many votes are missing.
    pub(super) fn voter_lag(&self, n: usize) -> usize {
        let status = self.nodes[n].live.as_ref().and_then(|live| live.node.controller.status());
        let Some(status) = status else { return usize::MAX };
        let end = self.checks.metadata_log.end();
        let lag = usize::try_from(end.saturating_sub(status.applied.unwrap_or(0))).unwrap_or(usize::MAX);
        lag + (self.nodes.len() - status.voters.len())
    }
}

impl Voter {
    fn run_until(&self, tick: Duration) {
        let until = self.began + tick;
        self.runtime.block_on(async {
            let behind = until.saturating_duration_since(Instant::now());
            if behind > LEAP {
                tokio::time::advance(behind).await;
            }
            tokio::time::sleep_until(until).await;
        });
    }
}
