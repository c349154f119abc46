//! The event loop: what happens next, at what virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ottla_machine::controller::command::{Answer, Command, NewTopic};
use ottla_machine::controller::image::Image;
use ottla_protocol::types::NodeId;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::client::Client;
use super::effects::{Reach, SharedReach};
use super::faults::Mend;
use super::member::Member;
use super::net::{Conn, PARTIES};
use super::node::SimNode;
use super::plan::Plan;
use super::quorum::QuorumModel;
use super::report::Stats;
use super::trace::Trace;
use super::voter::{Tier, Voters};
use crate::check::{Checks, Look, Violation};

/// The topic that clients use.
pub const TOPIC: &str = "simulated";

/// Something that happens.
pub enum Event {
    Connect { conn: u64 },
    GreetLimit { conn: u64 },
    Silence { conn: u64 },
    Arrive { conn: u64, dir: usize },
    Turn { node: usize, life: u64 },
    Disk { node: usize, life: u64, work: u64 },
    Act { node: usize, life: u64, act: u64 },
    CallLimit { node: usize, life: u64, call: u64 },
    Patience { node: usize, life: u64, leader: NodeId, conn: u64, asked: u64 },
    Hear { node: usize, life: u64 },
    House { node: usize, life: u64, round: u64 },
    Voter { node: usize, life: u64 },
    Replace { node: usize },
    Commit { proposal: u64 },
    ProposalLimit { proposal: u64 },
    QuorumCheck,
    Client { client: usize },
    Boot { node: usize },
    Topic,
    Check,
    Fault,
    Strike,
    Hunt { node: usize },
    Mend(Mend),
    Calm,
}

/// Everything.
pub struct World {
    pub(super) rng: SmallRng,
    /// Strikes at new leaders have a chance of their own, and only some seeds have them: the others stay what they were.
    pub(super) hunter: Option<SmallRng>,
    pub(super) hunts: bool,
    pub(super) now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(super) plan: Plan,
    pub(super) nodes: Vec<SimNode>,
    pub(super) conns: BTreeMap<u64, Conn>,
    pub(super) next_conn: u64,
    pub(super) reach: SharedReach,
    /// Everything takes up to this much longer.
    pub(super) delay_us: u64,
    pub(super) tier: Tier,
    pub(super) quorum: QuorumModel,
    pub(super) voters: Voters,
    pub(super) clients: Vec<Client>,
    pub(super) trace: Trace,
    pub(super) stats: Stats,
    pub(super) is_calm: bool,
    /// Producers make new records.
    pub(super) produces: bool,
    topic_made: Arc<Mutex<bool>>,
    /// On which node a partition's replica has had a bit flipped.
    pub(super) flipped: BTreeMap<i32, usize>,
    /// The newest image that any node has had.
    newest: Option<Arc<Image>>,
    pub(super) checks: Checks,
    violations: Vec<Violation>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub stats: Stats,
    pub hash: u64,
    pub violation: Option<Violation>,
    /// The last lines of what happened.
    pub trace: Vec<String>,
    pub plan: Plan,
}

/// Runs one seed to its end, or to the first violation, with the stand-in for Raft.
#[must_use]
pub fn run(seed: u64, prints: bool) -> Outcome {
    run_in(Tier::StandIn, seed, prints)
}

/// The same in one of the tiers.
#[must_use]
pub fn run_in(tier: Tier, seed: u64, prints: bool) -> Outcome {
    let mut world = World::new(tier, seed, prints);
    world.run_to_end();
    world.let_go();
    ottla_raft::seed_thread(None);
    let World { mut stats, trace, violations, plan, now_us, checks, .. } = world;
    stats.virtual_us = now_us;
    stats.states = checks.in_sync.states;
    Outcome {
        seed,
        stats,
        hash: trace.hash(),
        violation: violations.into_iter().next(),
        trace: trace.tail(),
        plan,
    }
}

impl World {
    fn new(tier: Tier, seed: u64, prints: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::draw(seed, &mut rng);
        let retains = plan.retains;
        let mut trace = Trace::new(prints);
        trace.line(0, &format!("seed {seed}: {plan:?}"));
        let mut clients = Vec::new();
        for partition in 0..plan.partitions {
            for _ in 0..plan.producers {
                clients.push(Client::producer(partition, clients.len()));
            }
        }
        clients.extend((0..plan.partitions).map(Client::consumer));
        for group in 0..plan.groups.count {
            for _ in 0..plan.groups.members {
                let first = clients.len();
                clients.extend((0..plan.partitions).map(Client::fetcher));
                let fetchers = (0..plan.partitions).zip(first..).collect();
                clients.push(Client::member(Member::new(group, clients.len(), fetchers)));
            }
        }
        let reach = Reach {
            listens: vec![false; 3],
            machine: vec![true; 3],
            cut: vec![vec![false; PARTIES]; PARTIES],
        };
        Self {
            rng,
            hunter: plan.hunts(seed).then(|| SmallRng::seed_from_u64(!seed)),
            hunts: false,
            now_us: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            plan,
            nodes: (0..3).map(|_| SimNode::new()).collect(),
            conns: BTreeMap::new(),
            next_conn: 1,
            reach: Arc::new(Mutex::new(reach)),
            delay_us: 0,
            tier,
            quorum: QuorumModel::default(),
            voters: Voters::default(),
            clients,
            trace,
            stats: Stats::default(),
            is_calm: false,
            produces: true,
            topic_made: Arc::default(),
            flipped: BTreeMap::new(),
            newest: None,
            checks: Checks::new(retains),
            violations: Vec::new(),
        }
    }

    pub(super) fn schedule(&mut self, at_us: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at_us.max(self.now_us), self.scheduled), event);
    }

    pub(super) fn latency_us(&mut self) -> u64 {
        let base = self.rng.random_range(50..900);
        if self.delay_us > 0 && self.rng.random() {
            base + self.rng.random_range(0..self.delay_us)
        } else {
            base
        }
    }

    pub(super) fn violation(&mut self, check: &'static str, what: String) {
        self.trace.line(self.now_us, &format!("VIOLATION of {check}: {what}"));
        self.violations.push(Violation { check, what });
    }

    fn run_to_end(&mut self) {
        if self.tier == Tier::Raft {
            self.found_voters();
        }
        for n in 0..self.nodes.len() {
            let at = self.rng.random_range(0..200_000);
            self.schedule(at, Event::Boot { node: n });
        }
        for c in 0..self.clients.len() {
            self.schedule(500_000, Event::Client { client: c });
        }
        self.schedule(10_000, Event::QuorumCheck);
        self.schedule(400_000, Event::Topic);
        self.schedule(self.plan.check_us, Event::Check);
        self.schedule(3_000_000, Event::Fault);
        let safety_us = self.plan.safety_ms * 1_000;
        self.schedule(safety_us, Event::Calm);
        let converge_ms = self.plan.converge_ms;
        let end_us = safety_us + converge_ms * 1_000;
        while self.violations.is_empty() {
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            self.now_us = at;
            self.stats.events += 1;
            self.on_event(event);
            if self.is_calm && at >= end_us {
                if let Err(why) = self.converged() {
                    self.describe();
                    self.violation("liveness", format!("{converge_ms} ms after the last fault {why}"));
                }
                break;
            }
            if self.stats.converged {
                break;
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let of_life = match &event {
            Event::Turn { node, life }
            | Event::Disk { node, life, .. }
            | Event::Act { node, life, .. }
            | Event::CallLimit { node, life, .. }
            | Event::Patience { node, life, .. }
            | Event::House { node, life, .. }
            | Event::Hear { node, life }
            | Event::Voter { node, life } => Some((*node, *life)),
            _ => None,
        };
        if let Some((node, life)) = of_life {
            if !self.is_life(node, life) {
                return;
            }
            if let Some(at) = self.paused_until(node) {
                return self.schedule(at, event);
            }
            self.set_clock(node);
        }
        match event {
            Event::Connect { conn } => self.on_connect(conn),
            Event::GreetLimit { conn } => self.on_greet_limit(conn),
            Event::Silence { conn } => self.on_silence(conn),
            Event::Arrive { conn, dir } => {
                let party = self.conns.get(&conn).map(|conn| if dir == 0 { conn.to } else { conn.from });
                if let Some(node) = party.filter(|party| *party < self.nodes.len()) {
                    self.set_clock(node);
                }
                self.on_arrive(conn, dir);
            }
            Event::Turn { node, life } => self.on_turn(node, life),
            Event::Disk { node, work, .. } => self.on_disk(node, work),
            Event::Act { node, act, .. } => self.on_act(node, act),
            Event::CallLimit { node, call, .. } => {
                self.on_call_limit(node, call);
                self.drain(node);
            }
            Event::Patience { node, leader, conn, asked, .. } => self.on_patience(node, leader, conn, asked),
            Event::Hear { node, .. } => self.on_hear(node),
            Event::House { node, life, round } => self.keep_house(node, life, round),
            Event::Voter { node, life } => self.on_voter(node, life),
            Event::Replace { node } => self.on_replace(node),
            Event::Commit { proposal } => self.on_commit(proposal),
            Event::ProposalLimit { proposal } => self.on_proposal_limit(proposal),
            Event::QuorumCheck => self.on_quorum_check(),
            Event::Client { client } => self.on_client(client),
            Event::Boot { node } => self.boot(node),
            Event::Topic => self.make_topic(),
            Event::Check => self.on_check(),
            Event::Fault => self.on_fault(),
            Event::Strike => self.strike_somewhere(),
            Event::Hunt { node } => self.hunt_down(node),
            Event::Mend(mend) => self.on_mend(mend),
            Event::Calm => self.calm_down(),
        }
    }

    /// Somebody makes the topic, and tries again until it is there.
    fn make_topic(&mut self) {
        if *self.topic_made.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        self.schedule(self.now_us + 500_000, Event::Topic);
        let n = self.rng.random_range(0..self.nodes.len());
        let Some(live) = self.nodes[n].live.as_ref().filter(|live| live.serves) else { return };
        if live.node.image.load().brokers.values().filter(|broker| !broker.fenced).count() < self.nodes.len()
        {
            return;
        }
        let configs = self.plan.topic_settings.iter();
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partitions: self.plan.partitions,
            replication_factor: self.plan.replicas,
            configs: configs.map(|(name, value)| ((*name).to_owned(), Some(value.clone()))).collect(),
            ..NewTopic::default()
        };
        let made = Arc::clone(&self.topic_made);
        live.node.controller.submit(
            Command::CreateTopics { topics: vec![topic], validate_only: false },
            move |answer| {
                let exists = matches!(&answer, Answer::Topics(topics) if topics.iter().all(|topic| match topic {
                    Ok(_) => true,
                    Err(failure) => failure.code == ottla_protocol::error::ErrorCode::TopicAlreadyExists,
                }));
                *made.lock().unwrap_or_else(PoisonError::into_inner) |= exists;
            },
        );
        self.drain(n);
    }

    pub(super) fn publish_reach(&mut self) {
        let mut reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        for (n, node) in self.nodes.iter().enumerate() {
            reach.listens[n] = node.live.is_some();
            reach.machine[n] = node.has_machine;
        }
    }

    pub(super) fn check_image(&mut self, n: usize, image: &Arc<Image>) {
        if self.newest.as_ref().is_none_or(|newest| newest.version < image.version) {
            self.newest = Some(Arc::clone(image));
        }
        if let Err(violation) = self.checks.images.see(n, image).and_then(|()| self.checks.in_sync.see(image))
        {
            self.violation(violation.check, violation.what);
        }
        for line in std::mem::take(&mut self.checks.in_sync.news) {
            self.trace.line(self.now_us, &line);
        }
        self.stats.leader_changes = self.checks.in_sync.leader_changes;
        for leader in std::mem::take(&mut self.checks.in_sync.new_leaders) {
            self.hunt(leader);
        }
    }

    pub(super) fn check_producer_id(&mut self, id: i64) {
        if let Err(violation) = self.checks.idempotence.see_id(id) {
            self.violation(violation.check, violation.what);
        }
    }

    pub(super) fn acknowledged(
        &mut self,
        producer: usize,
        partition: i32,
        first: u64,
        count: u64,
        offset: i64,
    ) {
        self.stats.acknowledged += count;
        self.trace.mix(&[self.now_us, producer as u64, first, offset.unsigned_abs()]);
        self.checks.acknowledged.see(producer, partition, first, count, offset);
    }

    pub(super) fn consumed(&mut self, partition: i32, _from: i64, records: &[(i64, Vec<u8>)]) {
        self.stats.consumed += records.len() as u64;
        if let Err(violation) = self.checks.acknowledged.consumed(partition, records) {
            self.violation(violation.check, violation.what);
        }
    }

    pub(super) fn looks(&self) -> Vec<Look> {
        let mut looks = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(live) = &node.live else { continue };
            for partition in live.node.partitions.all() {
                if &*partition.name == TOPIC {
                    let is_flipped = self.flipped.get(&partition.index) == Some(&n);
                    let seen = partition.inspect();
                    let epoch = live.node.identity.epoch();
                    looks.push(Look { node: n, life: live.life, epoch, seen, partition, is_flipped });
                }
            }
        }
        looks
    }

    /// Looks at every partition of every node.
    pub(super) fn look(&mut self) {
        for n in 0..self.nodes.len() {
            if let Some(live) = &self.nodes[n].live {
                let image = live.node.image.load_full();
                self.check_image(n, &image);
            }
        }
        let looks = self.looks();
        if let Err(violation) = self.checks.look(self.newest.as_deref(), &looks) {
            self.violation(violation.check, violation.what);
        }
    }

    fn on_check(&mut self) {
        self.schedule(self.now_us + self.plan.check_us, Event::Check);
        self.look();
        if self.is_calm {
            let left = (self.plan.safety_ms + self.plan.converge_ms / 3) * 1_000;
            // Producers go on for a while, to show that they can.
            self.produces = self.now_us < left;
            if !self.produces && self.converged().is_ok() {
                self.stats.converged = true;
                if let Err(violation) = self.finish() {
                    self.violation(violation.check, violation.what);
                }
            }
        }
    }

    /// How things stand, for a person.
    fn describe(&mut self) {
        let mut lines = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(live) = &node.live else {
                lines.push(format!("node {}: down", n + 1));
                continue;
            };
            let image = live.node.image.load();
            for broker in image.brokers.values() {
                let (id, epoch) = (broker.id, broker.epoch);
                let state = (broker.fenced, broker.shutting_down);
                lines.push(format!(
                    "node {}: broker {id} epoch {epoch} (fenced, shutting down) {state:?}",
                    n + 1
                ));
            }
            let own = live.node.identity.epoch();
            let tick_ms = live.node.clock.tick_ms();
            lines.push(format!(
                "node {}: own epoch {own}, tick {tick_ms}, follows {}",
                n + 1,
                live.describe_follows()
            ));
        }
        for look in self.looks() {
            let seen = &look.seen;
            let end = seen.view.as_ref().map(|view| view.end_offset());
            lines.push(format!(
                "{} on node {}: end {end:?} flushed {} watermark {} offline {:?} damaged {} {:?} {:?}",
                look.partition.dir_name,
                look.node + 1,
                seen.flushed,
                seen.high_watermark,
                seen.offline,
                seen.is_damaged,
                seen.placed,
                seen.followers
            ));
        }
        lines.extend(
            self.clients.iter().enumerate().map(|(c, client)| format!("client {c}: {}", client.describe())),
        );
        for line in lines {
            self.trace.line(self.now_us, &line);
        }
    }

    /// Whether everything is as it should be where nothing is wrong.
    fn converged(&self) -> Result<(), String> {
        for n in 0..self.nodes.len() {
            if self.nodes[n].live.as_ref().is_none_or(|live| !live.serves) {
                return Err(format!("node {} does not serve", n + 1));
            }
            if self.quorum_lag(n) > 0 {
                return Err(format!("node {} has not applied all of the metadata log", n + 1));
            }
        }
        let live = self.nodes[0].live.as_ref().ok_or("node 1 is gone")?;
        let image = live.node.image.load();
        if let Some(broker) = image.brokers.values().find(|broker| !broker.is_active()) {
            return Err(format!("broker {} is fenced or on its way out", broker.id));
        }
        crate::check::liveness::converged(&self.looks(), self.plan.partitions as usize)?;
        for (c, client) in self.clients.iter().enumerate() {
            if let Some((producer, made, pending)) = client.made()
                && (pending > 0 || made == 0)
            {
                return Err(format!("producer {producer} waits for {pending} batches, {made} records made"));
            }
            let end = self.checks.logs.committed(client.partition);
            if client.position().is_some_and(|position| position < end) {
                return Err(format!("client {c} has not consumed all of partition {}", client.partition));
            }
        }
        self.groups_are_done()
    }

    /// The last look, at everything that was ever written.
    fn finish(&mut self) -> Result<(), Violation> {
        let looks = self.looks();
        self.checks.look(self.newest.as_deref(), &looks)?;
        let made: Vec<(usize, i32, u64)> = self
            .clients
            .iter()
            .filter_map(|client| client.made().map(|(producer, made, _)| (producer, client.partition, made)))
            .collect();
        self.checks.finish(&made)
    }
}
