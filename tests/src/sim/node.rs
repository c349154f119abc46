//! A node of production parts, without its threads: how it starts, what drives it, how it dies.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::api::api_versions;
use ottla::clock::Clock;
use ottla::config::Config;
use ottla::controller::Published;
use ottla::endpoints::Endpoints;
use ottla::entropy::Entropy;
use ottla::flusher::{Flusher, Work};
use ottla::founding::Founding;
use ottla::janitor;
use ottla::membership::{Membership, Registered};
use ottla::net::listener::ListenAt;
use ottla::node::Node;
use ottla::partition::{FlushRound, Partition};
use ottla::parts::{self, Parts};
use ottla::peers::links::Links as PeerLinks;
use ottla::peers::{Identity, raft_id};
use ottla::replicators::Replicators;
use ottla::session::mailbox::Mailbox;
use ottla_machine::controller::command::Command;
use ottla_protocol::types::{NodeId, Uuid};
use ottla_storage::memory::Crash;
use ottla_storage::{LastStop, LogDir, MemoryDisk};
use rand::Rng as _;

use super::edges::{Follow, Links};
use super::effects::{Effect, Outbox, SimCarrier, SimQuorum, host_of};
use super::net::BROKER_PORT;
use super::quorum::Seat;
use super::voter::{Tier, Voter};
use super::world::{Event, World};

/// What may be late is looked at this often, as the process does.
const OVERDUE_US: u64 = 100_000;
/// The journal is synced this often, as the process does.
const HOUSE_US: u64 = 1_000_000;
/// Where a node has everything.
pub const DATA_DIR: &str = "/data";
/// Pieces of work that the disk's threads do at once.
const DISK_THREADS: usize = 2;

/// A machine, and the process on it if one runs.
pub struct SimNode {
    pub disk: MemoryDisk,
    pub live: Option<Live>,
    /// Counts its processes.
    pub lives: u64,
    /// Nothing happens on it before.
    pub paused_until_us: u64,
    /// The machine has power.
    pub has_machine: bool,
    /// Its wall clock is wrong by so much, and its clocks run at so many parts in 1,000.
    pub skew_ms: i64,
    pub rate: u64,
    /// Syncs take so many times as long.
    pub disk_slowness: u64,
    /// What was asked to write was lost once: only a reboot makes its disk honest again.
    pub distrusts_disk: bool,
}

/// A process.
pub struct Live {
    pub life: u64,
    pub node: Arc<Node>,
    pub membership: Arc<Membership>,
    pub replicators: Arc<Replicators>,
    pub mailbox: Arc<Mailbox>,
    pub outbox: Outbox,
    /// Its part in the quorum, of one kind or the other.
    pub seat: Option<Seat>,
    pub voter: Option<Voter>,
    pub links: Links,
    pub follows: BTreeMap<NodeId, Follow>,
    /// Registered: clients and followers may come.
    pub serves: bool,
    /// What the controller said to the first registration.
    registered: Arc<Mutex<Option<Registered>>>,
    /// Its monotonic clock, in millionths, and when it was last set.
    tick_us: u64,
    set_us: u64,
    membership_us: u64,
    overdue_us: u64,
    work: VecDeque<Work>,
    disk: BTreeMap<u64, Disk>,
    next_disk: u64,
    acts: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
    next_act: u64,
    mail_waits: Arc<AtomicBool>,
}

/// Work of the disk that is under way.
enum Disk {
    Begin(Arc<Partition>),
    Sync(Arc<Partition>, FlushRound),
    Finish(Arc<Partition>, FlushRound, std::io::Result<()>),
    Job(Box<dyn FnOnce() + Send>),
}

impl Live {
    pub(super) fn describe_follows(&self) -> String {
        let each = self.follows.iter().map(|(leader, follow)| format!("{leader}: {}", follow.describe()));
        each.collect::<Vec<_>>().join("; ")
    }
}

impl SimNode {
    #[must_use]
    pub fn new() -> Self {
        Self {
            disk: MemoryDisk::new(),
            live: None,
            lives: 0,
            paused_until_us: 0,
            has_machine: true,
            skew_ms: 0,
            rate: 1_000,
            disk_slowness: 1,
            distrusts_disk: false,
        }
    }
}

impl Default for SimNode {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Starts a process on a machine. It may fail as a real one does; then another start is tried later.
    pub(super) fn boot(&mut self, n: usize) {
        if self.nodes[n].live.is_some() {
            return;
        }
        self.nodes[n].has_machine = true;
        self.nodes[n].lives += 1;
        let life = self.nodes[n].lives;
        match self.build(n, life) {
            Ok(live) => {
                let stop = live.node.log_dir.last_stop().clone();
                self.trace.line(self.now_us, &format!("node {} starts, life {life}, after {stop:?}", n + 1));
                self.nodes[n].live = Some(live);
                self.publish_reach();
                self.schedule(self.now_us + self.plan.turn_us, Event::Turn { node: n, life });
                self.schedule(self.now_us + HOUSE_US, Event::House { node: n, life, round: 1 });
                self.sit_down(n);
                self.schedule(self.now_us, Event::Voter { node: n, life });
                let live = self.nodes[n].live.as_ref().expect("just started");
                let features = vec![("metadata.version".into(), api_versions::METADATA_VERSION)];
                let found = Command::FoundCluster { cluster_id: self.plan.cluster, features };
                live.node.controller.submit(found, |_| {});
                self.ask_to_register(n);
                self.drain(n);
            }
            Err(why) => {
                self.trace.line(self.now_us, &format!("node {} does not start: {why}", n + 1));
                self.schedule(self.now_us + 1_000_000, Event::Boot { node: n });
            }
        }
    }

    fn build(&mut self, n: usize, life: u64) -> Result<Live, String> {
        let id = NodeId(i32::try_from(n).expect("a small cluster") + 1);
        let mut config = Config::default();
        config.set("node.id", &id.to_string());
        for (name, value) in &self.plan.settings {
            config.set(name, value);
        }
        let config = Arc::new(config);
        let wall_ms =
            1_750_000_000_000 + i64::try_from(self.now_us / 1_000).expect("small") + self.nodes[n].skew_ms;
        let clock = Clock::manual(wall_ms);
        let entropy = Arc::new(Entropy::seeded(self.rng.random()));
        let disk = Arc::new(self.nodes[n].disk.clone());
        let log_dir = LogDir::open(disk, Path::new(DATA_DIR), entropy.next_bytes())
            .map_err(|error| error.to_string())?;
        let log_dir = Arc::new(log_dir);
        let published = Published::new();
        let identity =
            Arc::new(Identity::new(id, log_dir.directory_id(), Uuid::ZERO, Arc::clone(&published.image)));
        let founding = Founding::load(Arc::clone(&log_dir), Arc::clone(&identity));
        identity.set_cluster(self.plan.cluster);
        let at = ListenAt { name: "PLAINTEXT".into(), host: host_of(n), port: BROKER_PORT };
        let flusher = Flusher::start(0).map_err(|error| error.to_string())?;
        let node = Parts {
            config,
            clock,
            entropy,
            id,
            log_dir,
            published,
            identity,
            founding,
            endpoints: Endpoints::new(vec![at.clone()], vec![at]),
            flusher,
        }
        .node();
        let outbox = Outbox::default();
        let carrier = SimCarrier { node: n, outbox: outbox.clone(), reach: Arc::clone(&self.reach) };
        let links = PeerLinks::over(Box::new(carrier));
        let (replicators, membership) = parts::connect(&node, &links, &"PLAINTEXT".into(), {
            let outbox = outbox.clone();
            Box::new(move |_, replicator| outbox.push(Effect::NewLeader(Arc::clone(replicator))))
        });
        let (mut seat, mut voter) = (None, None);
        match self.tier {
            Tier::StandIn => {
                let me = raft_id(node.log_dir.directory_id());
                let taken = Seat::new(me, node.controller.state_machine());
                let view = Arc::clone(&taken.view);
                node.controller.attach(SimQuorum { me, outbox: outbox.clone(), view });
                seat = Some(taken);
            }
            Tier::Raft => voter = Some(self.start_voter(n, &node, &links)?),
        }
        let mail_waits = Arc::new(AtomicBool::new(false));
        let wakes = Arc::clone(&mail_waits);
        Ok(Live {
            life,
            membership,
            replicators,
            mailbox: Arc::new(Mailbox::new(move || wakes.store(true, Ordering::Relaxed))),
            outbox,
            seat,
            voter,
            links: Links::default(),
            follows: BTreeMap::new(),
            serves: false,
            registered: Arc::default(),
            tick_us: 0,
            set_us: self.now_us,
            membership_us: 0,
            overdue_us: 0,
            work: VecDeque::new(),
            disk: BTreeMap::new(),
            next_disk: 0,
            acts: BTreeMap::new(),
            next_act: 0,
            mail_waits,
            node,
        })
    }

    fn ask_to_register(&mut self, n: usize) {
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        let cell = Arc::clone(&live.registered);
        live.membership.ask_to_register(move |registered| {
            *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(registered);
        });
    }

    /// What a process does once the controller has answered its registration.
    fn on_registered(&mut self, n: usize, registered: Registered) {
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        match live.membership.on_registered(registered) {
            Ok(true) => {
                live.serves = true;
                live.node.partitions.settle();
                if !matches!(live.node.log_dir.last_stop(), LastStop::Clean(_) | LastStop::Fresh) {
                    live.node.partitions.recover();
                }
                let _ = live.node.coordinators.all();
                let epoch = live.node.identity.epoch();
                self.trace.line(self.now_us, &format!("node {} serves, broker epoch {epoch}", n + 1));
            }
            Ok(false) => self.ask_to_register(n),
            Err(message) => {
                self.trace.line(self.now_us, &format!("node {} is refused: {message}", n + 1));
                self.crash(n, Crash::Kill);
                self.schedule(self.now_us + 1_000_000, Event::Boot { node: n });
            }
        }
    }

    /// The process dies, or the whole machine.
    pub(super) fn crash(&mut self, n: usize, crash: Crash) {
        let Some(live) = self.nodes[n].live.take() else { return };
        let seed = self.rng.random();
        // What the dying process still does goes to the old disk, which nobody looks at again.
        let after = self.nodes[n].disk.after_crash(crash, seed);
        let before = std::mem::replace(&mut self.nodes[n].disk, after);
        self.end_conns_of(n, crash == Crash::PowerLoss);
        if crash == Crash::PowerLoss {
            (self.nodes[n].has_machine, self.nodes[n].distrusts_disk) = (false, false);
        }
        self.bury(live);
        before.forget();
        self.publish_reach();
    }

    /// The run is over. Processes of a simulation are never quite gone, but their disks are.
    pub(super) fn let_go(&mut self) {
        for n in 0..self.nodes.len() {
            self.crash(n, Crash::Kill);
            self.nodes[n].disk.forget();
        }
    }

    /// Lets go of a process: its parts know each other in circles.
    fn bury(&mut self, mut live: Live) {
        // What of its tasks has not run does not run any more.
        drop(live.voter.take());
        live.node.controller.stop();
        let _ = live.node.partitions.close();
        let _ = live.outbox.take();
        while live.node.flusher.take().is_some() {}
        let mut mail = VecDeque::new();
        live.mailbox.drain_into(&mut mail);
    }

    /// Stops a process in order: it has handed over what it leads, or has waited long enough.
    /// Returns whether it ended well.
    pub(super) fn stop(&mut self, n: usize) -> bool {
        let Some(live) = self.nodes[n].live.as_ref() else { return false };
        let node = Arc::clone(&live.node);
        let clean = node.partitions.close().and_then(|()| node.log_dir.mark_clean(b""));
        if clean.is_err() {
            self.trace.line(self.now_us, &format!("node {} could not stop cleanly", n + 1));
        }
        self.crash(n, Crash::Kill);
        clean.is_ok()
    }

    pub(super) fn paused_until(&self, party: usize) -> Option<u64> {
        let node = self.nodes.get(party)?;
        (node.paused_until_us > self.now_us).then_some(node.paused_until_us)
    }

    /// A node's clocks show what the world's do, as wrongly as they go.
    pub(super) fn set_clock(&mut self, n: usize) {
        let rate = self.nodes[n].rate;
        let Some(live) = &mut self.nodes[n].live else { return };
        live.tick_us += (self.now_us - live.set_us) * rate / 1_000;
        live.set_us = self.now_us;
        let late = (live.tick_us / 1_000).saturating_sub(live.node.clock.tick_ms());
        if late > 0 {
            live.node.clock.advance_ms(late);
        }
    }

    pub(super) fn is_life(&self, n: usize, life: u64) -> bool {
        self.nodes[n].live.as_ref().is_some_and(|live| live.life == life)
    }

    /// Timers.
    pub(super) fn on_turn(&mut self, n: usize, life: u64) {
        self.schedule(self.now_us + self.plan.turn_us, Event::Turn { node: n, life });
        let ids: Vec<u64> = self.sessions_of(n);
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        let tick_ms = live.node.clock.tick_ms();
        let node = Arc::clone(&live.node);
        for id in ids {
            let Some(session) = self.conns.get_mut(&id).and_then(|conn| conn.session.as_mut()) else {
                continue;
            };
            if session.next_deadline_ms().is_some_and(|at| at <= tick_ms) {
                session.on_tick(&node);
                self.feed(id);
            }
        }
        let now = self.now_us;
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        if live.serves {
            if now >= live.membership_us {
                let wait = live.membership.turn();
                live.membership_us =
                    now + u64::try_from(wait.as_micros()).unwrap_or(u64::MAX / 4).min(100_000);
            }
            if now >= live.overdue_us {
                live.node.overdue.look(tick_ms);
                live.overdue_us = now + OVERDUE_US;
            }
            live.node.coordinators.tick();
        }
        let registered = live.registered.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(registered) = registered {
            self.on_registered(n, registered);
        }
        self.drain(n);
        self.follow_again(n);
        self.drain(n);
    }

    /// What comes round by itself; see `ottla::janitor`.
    pub(super) fn keep_house(&mut self, n: usize, life: u64, round: u64) {
        self.schedule(self.now_us + HOUSE_US, Event::House { node: n, life, round: round + 1 });
        let Some(live) = self.nodes[n].live.as_ref().filter(|live| live.serves) else { return };
        let node = Arc::clone(&live.node);
        janitor::sync_journal(node.log_dir.journal());
        if round.is_multiple_of(self.plan.house_s) {
            // What goes is seen first.
            self.look();
            let producers_ms = node.config.number("producer.id.expiration.ms");
            for partition in node.partitions.all() {
                janitor::retain(&partition, node.clock.now_ms(), producers_ms);
                janitor::compact(&partition, node.clock.now_ms());
            }
        }
        self.drain(n);
    }

    fn sessions_of(&self, n: usize) -> Vec<u64> {
        self.conns
            .iter()
            .filter(|(_, conn)| conn.to == n && conn.session.is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    /// Does what production code asked for while it ran, until it asks for nothing more.
    pub(super) fn drain(&mut self, n: usize) {
        loop {
            let Some(live) = self.nodes[n].live.as_mut() else { return };
            let effects = live.outbox.take();
            let mut mail = VecDeque::new();
            if live.mail_waits.swap(false, Ordering::Relaxed) {
                live.mailbox.drain_into(&mut mail);
            }
            while let Some(work) = live.node.flusher.take() {
                live.work.push_back(work);
            }
            if effects.is_empty() && mail.is_empty() {
                break;
            }
            for effect in effects {
                self.on_effect(n, effect);
            }
            for letter in mail {
                self.on_letter(n, letter);
            }
        }
        self.work_on(n);
    }

    fn on_letter(&mut self, n: usize, letter: ottla::session::mailbox::Mail) {
        use ottla::session::mailbox::Mail;
        let (Mail::Completed { connection, .. }
        | Mail::Woken { connection, .. }
        | Mail::Readable { connection }) = &letter;
        let id = connection.0;
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        if let Some(session) = self.conns.get_mut(&id).and_then(|conn| conn.session.as_mut()) {
            session.on_mail(&live.node, letter);
            self.feed(id);
        }
    }

    fn on_effect(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::Call { to, line, frame, limit, on_answer } => {
                self.call(n, &to, line, frame, limit, on_answer)
            }
            Effect::After { delay, act } => self.after(n, delay, act),
            Effect::Propose { entry, limit, answer, settled } => {
                self.propose(n, entry, limit, answer, settled)
            }
            Effect::Watched => self.tell_watchers(n),
            Effect::ReplaceLeader { after } => {
                let at = self.now_us + u64::try_from(after.as_micros()).unwrap_or(0);
                self.schedule(at, Event::Replace { node: n });
            }
            Effect::TransferLeadership { to } => self.transfer(n, to),
            Effect::NewLeader(replicator) => self.begin_to_follow(n, replicator),
            Effect::FollowSend { conn, frame } => self.send(conn, 0, &frame),
            Effect::FollowClose { leader, conn } => self.on_follow_close(n, leader, conn),
        }
    }

    fn after(&mut self, n: usize, delay: Duration, act: Box<dyn FnOnce() + Send>) {
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        let (life, id) = (live.life, live.next_act);
        live.next_act += 1;
        live.acts.insert(id, act);
        let at = self.now_us + u64::try_from(delay.as_micros()).unwrap_or(u64::MAX / 4);
        self.schedule(at, Event::Act { node: n, life, act: id });
    }

    pub(super) fn on_act(&mut self, n: usize, act: u64) {
        if let Some(act) = self.nodes[n].live.as_mut().and_then(|live| live.acts.remove(&act)) {
            act();
        }
        self.drain(n);
    }

    /// Gives the disk's threads something to do.
    fn work_on(&mut self, n: usize) {
        loop {
            let slowness = self.nodes[n].disk_slowness;
            let Some(live) = self.nodes[n].live.as_mut() else { return };
            if live.disk.len() >= DISK_THREADS {
                return;
            }
            let Some(work) = live.work.pop_front() else { return };
            let id = live.next_disk;
            live.next_disk += 1;
            let step = match work {
                Work::Flush(partition) => Disk::Begin(partition),
                Work::Job(job) => Disk::Job(job),
            };
            live.disk.insert(id, step);
            let life = live.life;
            let wait = self.rng.random_range(10..100) * slowness;
            self.schedule(self.now_us + wait, Event::Disk { node: n, life, work: id });
        }
    }

    pub(super) fn on_disk(&mut self, n: usize, work: u64) {
        let slowness = self.nodes[n].disk_slowness;
        let sync_us = self.rng.random_range(60..400) * slowness;
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        let Some(step) = live.disk.remove(&work) else { return };
        let (next, wait) = match step {
            Disk::Job(job) => {
                job();
                (None, 0)
            }
            Disk::Begin(partition) => {
                (partition.begin_flush().map(|round| Disk::Sync(partition, round)), sync_us)
            }
            Disk::Sync(partition, round) => {
                let result = round.sync();
                (Some(Disk::Finish(partition, round, result)), sync_us / 4 + 1)
            }
            Disk::Finish(partition, round, result) => {
                partition.finish_flush(round, result);
                (None, 0)
            }
        };
        if let Some(next) = next {
            live.disk.insert(work, next);
            let life = live.life;
            self.schedule(self.now_us + wait, Event::Disk { node: n, life, work });
        }
        self.drain(n);
    }
}
