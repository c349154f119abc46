//! A stand-in for Raft: one log of committed entries that never loses any, leaders that change at bad moments, commits that take long,
//! and proposals whose outcome nobody knows. What a node sees of it lags behind, and a leader that is cut off goes on believing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::controller::OnOutcome;
use ottla::peers::Address;
use ottla_protocol::types::NodeId;
use ottla_raft::{ProposeError, Proposed, StateMachine, Status};
use rand::Rng as _;

use super::effects::{QuorumView, host_of};
use super::net::CONTROLLER_PORT;
use super::voter::Tier;
use super::world::{Event, World};

/// Of so many commits, one is followed by a fault at once.
const BAD_MOMENTS: u32 = 12;
/// How often it is looked at whether somebody leads who can.
const CHECK_US: u64 = 50_000;

/// The log of all, as only the world knows it.
#[derive(Default)]
pub struct QuorumModel {
    log: Vec<Entry>,
    term: u64,
    /// Who leads, and in which of its lives.
    leader: Option<(usize, u64)>,
    proposals: BTreeMap<u64, Proposal>,
    next: u64,
    /// Since when nobody leads who can, and how long that is borne.
    doubt: Option<(u64, u64)>,
    /// By node, for good once known.
    ids: BTreeMap<usize, u64>,
    snapshot: Option<(usize, Vec<u8>)>,
}

struct Entry {
    term: u64,
    /// `None`: a term begins.
    bytes: Option<Arc<[u8]>>,
}

struct Proposal {
    node: usize,
    life: u64,
    term: u64,
    entry: Vec<u8>,
    answer: Option<OnOutcome>,
    settled: Option<Box<dyn FnOnce() + Send>>,
    /// A later leader has it, or never will.
    decided: bool,
}

/// One node's part in it.
pub struct Seat {
    me: u64,
    machine: Box<dyn StateMachine>,
    /// Entries that were applied.
    applied: usize,
    /// Entries that there were when this process began.
    before: usize,
    pub view: Arc<Mutex<QuorumView>>,
}

impl Seat {
    #[must_use]
    pub fn new(me: u64, machine: Box<dyn StateMachine>) -> Self {
        Self { me, machine, applied: 0, before: 0, view: Arc::default() }
    }
}

impl World {
    /// A node takes its seat: it knows who votes, and hears the rest later.
    pub(super) fn sit_down(&mut self, n: usize) {
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        let life = live.life;
        let Some(seat) = &mut live.seat else { return };
        self.quorum.ids.insert(n, seat.me);
        seat.before = self.quorum.log.len();
        if let Some((applied, bytes)) = self.quorum.snapshot.clone()
            && self.rng.random()
        {
            seat.machine.restore(applied as u64, &bytes).expect("a snapshot of this program");
            seat.applied = applied;
        }
        let term = self.quorum.term;
        self.set_view(n, None, term);
        let at = self.now_us + self.rng.random_range(1_000..60_000);
        self.schedule(at, Event::Hear { node: n, life });
    }

    fn set_view(&mut self, n: usize, leader: Option<usize>, term: u64) {
        let ids = self.quorum.ids.clone();
        let identity = |node: usize| {
            let id = NodeId(i32::try_from(node).expect("a small cluster") + 1);
            Address { node: id, host: host_of(node), port: CONTROLLER_PORT }.to_text().into_bytes()
        };
        let Some(seat) = self.seat(n) else { return };
        let applied = Some(seat.applied as u64);
        let status = Status {
            leader: leader.and_then(|leader| ids.get(&leader).copied()),
            term,
            last_index: applied,
            committed: applied,
            applied,
            voters: ids.values().copied().collect(),
            learners: Vec::new(),
            identities: ids.iter().map(|(node, id)| (*id, identity(*node))).collect(),
            replicated: BTreeMap::new(),
        };
        let changed = {
            let mut view = seat.view.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = (view.status.leader, view.status.term) != (status.leader, status.term)
                || view.status.identities != status.identities;
            view.status = status;
            changed
        };
        if changed {
            self.tell_watchers(n);
        }
    }

    pub(super) fn tell_watchers(&mut self, n: usize) {
        let Some(seat) = self.seat(n) else { return };
        let view = Arc::clone(&seat.view);
        let (status, mut watchers) = {
            let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
            (view.status.clone(), std::mem::take(&mut view.watchers))
        };
        watchers.iter_mut().for_each(|told| told(status.clone()));
        view.lock().unwrap_or_else(PoisonError::into_inner).watchers.append(&mut watchers);
    }

    /// Applies what is committed on one node.
    fn apply_on(&mut self, n: usize) {
        loop {
            let Some(live) = self.nodes[n].live.as_mut() else { return };
            let Some(seat) = &mut live.seat else { return };
            let Some(entry) = self.quorum.log.get(seat.applied) else { break };
            let index = seat.applied as u64 + 1;
            match &entry.bytes {
                Some(bytes) => seat.machine.apply(index, entry.term, bytes),
                None if seat.applied >= seat.before => seat.machine.on_term(index, entry.term),
                None => {}
            }
            seat.applied += 1;
            let applied = seat.applied;
            let image = live.node.image.load_full();
            self.check_image(n, &image);
            if applied.is_multiple_of(50) && self.quorum.snapshot.as_ref().is_none_or(|(at, _)| *at < applied)
            {
                let snapshot = self.seat(n).expect("it has one").machine.snapshot();
                self.quorum.snapshot = Some((applied, snapshot));
            }
        }
    }

    pub(super) fn propose(
        &mut self,
        n: usize,
        entry: Vec<u8>,
        limit: Duration,
        answer: OnOutcome,
        settled: Box<dyn FnOnce() + Send>,
    ) {
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        let life = live.life;
        let Some(seat) = &live.seat else { return };
        let me = seat.me;
        let status = seat.view.lock().unwrap_or_else(PoisonError::into_inner).status.clone();
        if status.leader != Some(me) {
            answer(Err(ProposeError::NotLeader(status.leader)));
            return settled();
        }
        let id = self.quorum.next;
        self.quorum.next += 1;
        let proposal = Proposal {
            node: n,
            life,
            term: status.term,
            entry,
            answer: Some(answer),
            settled: Some(settled),
            decided: false,
        };
        self.quorum.proposals.insert(id, proposal);
        let commit_us = match self.rng.random_range(0..40) {
            0 => self.rng.random_range(1_000..self.plan.commit_us_max.max(2_000)),
            _ => self.rng.random_range(300..3_000),
        };
        self.schedule(self.now_us + commit_us, Event::Commit { proposal: id });
        let at = self.now_us + u64::try_from(limit.as_micros()).unwrap_or(u64::MAX / 4);
        self.schedule(at, Event::ProposalLimit { proposal: id });
    }

    /// A proposal reaches a majority, if its leader still can.
    pub(super) fn on_commit(&mut self, id: u64) {
        let Some(proposal) = self.quorum.proposals.get(&id) else { return };
        let (n, life, term) = (proposal.node, proposal.life, proposal.term);
        let leads = self.quorum.leader == Some((n, life)) && self.quorum.term == term;
        if !leads || !self.is_life(n, life) {
            // Whoever leads next has decided its fate, or will.
            return;
        }
        if !self.can_lead(n) {
            return self.schedule(self.now_us + 30_000, Event::Commit { proposal: id });
        }
        let mut proposal = self.quorum.proposals.remove(&id).expect("looked up above");
        self.trace.mix(&[self.now_us, id, self.quorum.log.len() as u64]);
        self.trace.mix_bytes(&proposal.entry);
        self.quorum.log.push(Entry { term, bytes: Some(proposal.entry.into()) });
        self.set_clock(n);
        self.apply_on(n);
        let index = self.quorum.log.len() as u64;
        if let Some(answer) = proposal.answer.take() {
            answer(Ok(Proposed { index }));
        }
        if let Some(settled) = proposal.settled.take() {
            settled();
        }
        self.drain(n);
        self.spread();
        // What is decided and not known yet everywhere: a bad moment.
        if self.rng.random_range(0..BAD_MOMENTS) == 0 {
            let at = self.now_us + self.rng.random_range(0..4_000);
            self.schedule(at, Event::Strike);
        }
    }

    pub(super) fn on_proposal_limit(&mut self, id: u64) {
        let Some(proposal) = self.quorum.proposals.get_mut(&id) else { return };
        let (n, life, answer) = (proposal.node, proposal.life, proposal.answer.take());
        if let Some(answer) = answer.filter(|_| self.is_life(n, life)) {
            answer(Err(ProposeError::OutcomeUnknown));
            self.drain(n);
        }
    }

    /// Everybody hears of what is new, sooner or later.
    fn spread(&mut self) {
        for n in 0..self.nodes.len() {
            let Some(life) = self.nodes[n].live.as_ref().map(|live| live.life) else { continue };
            let late = match self.rng.random_range(0..30) {
                0 => self.rng.random_range(1_000..self.plan.commit_us_max.max(2_000)),
                _ => self.rng.random_range(200..4_000),
            };
            // Its metadata log lies on the same disk.
            let late = late + self.rng.random_range(0..2_000) * (self.nodes[n].disk_slowness - 1);
            self.schedule(self.now_us + late, Event::Hear { node: n, life });
        }
    }

    /// A node hears from the leader: who leads, and what is committed.
    pub(super) fn on_hear(&mut self, n: usize) {
        let Some((leader, leader_life)) = self.quorum.leader else { return };
        let reaches = {
            let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
            leader == n || !reach.cut[leader][n] && !reach.cut[n][leader]
        };
        let Some(life) = self.nodes[n].live.as_ref().map(|live| live.life) else { return };
        if !self.is_life(leader, leader_life) || !reaches || self.paused_until(leader).is_some() {
            return self.schedule(self.now_us + 100_000, Event::Hear { node: n, life });
        }
        self.set_clock(n);
        self.apply_on(n);
        let term = self.quorum.term;
        self.set_view(n, Some(leader), term);
        // What this node proposed in terms of before will not be heard of again.
        let over: Vec<u64> = self
            .quorum
            .proposals
            .iter()
            .filter(|(_, proposal)| proposal.node == n && proposal.term < term)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            let mut proposal = self.quorum.proposals.remove(&id).expect("just found");
            if proposal.life != life {
                continue;
            }
            if let Some(answer) = proposal.answer.take() {
                answer(Err(ProposeError::OutcomeUnknown));
            }
            if let Some(settled) = proposal.settled.take() {
                settled();
            }
        }
        self.drain(n);
    }

    /// Whether a node runs and can reach a majority.
    fn can_lead(&self, n: usize) -> bool {
        let reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = |m: usize| self.nodes[m].live.is_some() && self.paused_until(m).is_none();
        let others =
            (0..self.nodes.len()).filter(|m| *m != n && runs(*m) && !reach.cut[n][*m] && !reach.cut[*m][n]);
        runs(n) && (others.count() + 1) * 2 > self.nodes.len()
    }

    /// Looks whether there must be an election.
    pub(super) fn on_quorum_check(&mut self) {
        if self.tier == Tier::Raft {
            return self.on_voters_check();
        }
        self.schedule(self.now_us + CHECK_US, Event::QuorumCheck);
        let leads = |world: &Self| {
            world.quorum.leader.is_some_and(|(n, life)| world.is_life(n, life) && world.can_lead(n))
        };
        if leads(self) {
            self.quorum.doubt = None;
            return;
        }
        let now = self.now_us;
        let patience = self.rng.random_range(100_000..500_000);
        let (since, patience) = *self.quorum.doubt.get_or_insert((now, patience));
        if now - since >= patience {
            self.elect(None);
        }
    }

    /// Somebody leads from here on: one that can.
    pub(super) fn elect(&mut self, wanted: Option<usize>) {
        if self.tier == Tier::Raft {
            return self.disturb_voters();
        }
        let able: Vec<usize> = (0..self.nodes.len()).filter(|n| self.can_lead(*n)).collect();
        let n = match wanted {
            Some(n) if able.contains(&n) => n,
            Some(_) => return,
            None if able.is_empty() => return,
            None => able[self.rng.random_range(0..able.len())],
        };
        self.quorum.doubt = None;
        self.quorum.term += 1 + u64::from(self.rng.random_range(0..4) == 0);
        let term = self.quorum.term;
        // Of what was under way, it may have the first and what follows it.
        let mut survives = true;
        let pending: Vec<u64> = self.quorum.proposals.keys().copied().collect();
        for id in pending {
            let was = self.quorum.leader;
            let old = self.quorum.proposals.get_mut(&id).expect("just listed");
            if std::mem::replace(&mut old.decided, true) {
                continue;
            }
            survives &= was == Some((old.node, old.life)) && self.rng.random();
            if survives {
                let entry = Entry { term: old.term, bytes: Some(old.entry.as_slice().into()) };
                self.quorum.log.push(entry);
            }
        }
        self.quorum.log.push(Entry { term, bytes: None });
        let life = self.nodes[n].live.as_ref().expect("it can lead").life;
        self.quorum.leader = Some((n, life));
        self.stats.elections += 1;
        self.trace.line(self.now_us, &format!("node {} leads the quorum in term {term}", n + 1));
        self.set_clock(n);
        // Leadership and the beginning of the term are seen in either order.
        if self.rng.random() {
            self.set_view(n, Some(n), term);
            self.drain(n);
        }
        self.on_hear(n);
        self.spread();
    }

    pub(super) fn on_replace(&mut self, n: usize) {
        let gone = self.quorum.leader.is_none_or(|(leader, life)| !self.is_life(leader, life));
        if gone {
            self.elect(Some(n));
        }
    }

    pub(super) fn transfer(&mut self, n: usize, to: u64) {
        let target = self.quorum.ids.iter().find(|(_, id)| **id == to).map(|(node, _)| *node);
        if self.quorum.leader.is_some_and(|(leader, _)| leader == n)
            && let Some(target) = target
        {
            self.elect(Some(target));
        }
    }

    /// How many entries are committed, and how far a node is.
    pub(super) fn quorum_lag(&self, n: usize) -> usize {
        if self.tier == Tier::Raft {
            return self.voter_lag(n);
        }
        self.seat(n).map_or(usize::MAX, |seat| self.quorum.log.len() - seat.applied)
    }

    fn seat(&self, n: usize) -> Option<&Seat> {
        self.nodes[n].live.as_ref()?.seat.as_ref()
    }
}
