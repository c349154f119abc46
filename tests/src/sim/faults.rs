//! What goes wrong, when, and how it ends.

use std::sync::PoisonError;

use ottla_machine::controller::command::{Command, Reassignment};
use ottla_protocol::types::NodeId;
use ottla_storage::memory::Crash;
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::net::{CLIENTS, PARTIES};
use super::plan::{Fault, Pace};
use super::world::{Event, TOPIC, World};

/// What of a fault ends later.
#[derive(Clone, Copy, Debug)]
pub enum Mend {
    Cut(usize, usize),
    Disk(usize),
    Space(usize),
    Rate(usize),
    Delay,
    Stop(usize, u64),
    /// Somebody has read the log of a node whose disk failed.
    Reboot(usize),
}

impl World {
    pub(super) fn on_fault(&mut self) {
        if self.is_calm {
            return;
        }
        let every = self.plan.fault_us;
        let next = self.now_us + self.rng.random_range(every / 4..every * 2);
        self.schedule(next, Event::Fault);
        self.strike_somewhere();
    }

    /// One of the seed's faults happens now.
    pub(super) fn strike_somewhere(&mut self) {
        if self.is_calm || self.plan.faults.is_empty() {
            return;
        }
        let fault = self.plan.faults[self.rng.random_range(0..self.plan.faults.len())];
        let n = self.rng.random_range(0..self.nodes.len());
        self.trace.line(self.now_us, &format!("fault: {fault:?} (node {})", n + 1));
        if self.strike(fault, n) {
            *self.stats.faults.entry(fault).or_default() += 1;
        }
    }

    /// Somebody leads anew: it may be struck while its followers find out what they have in common with it.
    pub(super) fn hunt(&mut self, leader: NodeId) {
        let Ok(node) = usize::try_from(leader.0 - 1) else { return };
        let is_due = !self.is_calm && !self.hunts;
        let Some(hunter) = self.hunter.as_mut().filter(|_| is_due) else { return };
        if hunter.random_range(0..3) > 0 {
            return;
        }
        let soon = [3_000, 30_000, 300_000][hunter.random_range(0..3)];
        let at = self.now_us + hunter.random_range(0..soon);
        self.hunts = true;
        self.schedule(at, Event::Hunt { node });
    }

    pub(super) fn hunt_down(&mut self, n: usize) {
        self.hunts = false;
        let Some(hunter) = self.hunter.as_mut().filter(|_| !self.is_calm) else { return };
        let all =
            [Fault::Kill, Fault::Kill, Fault::PowerLoss, Fault::Pause, Fault::Partition, Fault::OneWayCut];
        let fault = all[hunter.random_range(0..all.len())];
        self.trace.line(self.now_us, &format!("fault: {fault:?} (node {}, a new leader)", n + 1));
        if self.strike(fault, n) {
            *self.stats.faults.entry(fault).or_default() += 1;
        }
    }

    /// Whether there was something to strike.
    fn strike(&mut self, fault: Fault, n: usize) -> bool {
        let all = 0..self.nodes.len();
        let lived = self.nodes[n].live.is_some();
        match fault {
            Fault::Kill => self.fell(n, Crash::Kill),
            Fault::KillAll => all.for_each(|n| self.fell(n, Crash::Kill)),
            Fault::PowerLoss if !self.plan.is_flushed && !self.can_spare_memory_of(n) => {}
            Fault::PowerLoss => self.fell(n, Crash::PowerLoss),
            Fault::PowerLossAll => all.for_each(|n| self.fell(n, Crash::PowerLoss)),
            Fault::Restart => self.leave(n),
            Fault::Pause => {
                let long = self.rng.random_range(0..3) == 0;
                let for_us = if long { 2_000_000..15_000_000 } else { 20_000..1_500_000 };
                let until_us = self.now_us + self.lasts(for_us);
                // What is put off until then comes then, also if the faults are over before.
                self.nodes[n].paused_until_us = until_us.min(self.plan.safety_ms * 1_000);
            }
            Fault::ClockJump => {
                // Within what message.timestamp.after.max.ms forgives.
                let skew_ms = self.rng.random_range(-1_500_000..1_500_000);
                let by = skew_ms - self.nodes[n].skew_ms;
                self.nodes[n].skew_ms = skew_ms;
                if let Some(live) = &self.nodes[n].live {
                    live.node.clock.jump_ms(by);
                }
                return true;
            }
            Fault::ClockDrift => {
                self.set_clock(n);
                self.nodes[n].rate = self.rng.random_range(800..1_250);
                self.mend_later(1_000_000..20_000_000, Mend::Rate(n));
                return true;
            }
            Fault::Delay => {
                self.delay_us = self.rng.random_range(1_000..800_000);
                self.mend_later(200_000..8_000_000, Mend::Delay);
                return true;
            }
            Fault::OneWayCut => {
                let (from, to) = (self.rng.random_range(0..PARTIES), n);
                if from == to {
                    return false;
                }
                let (from, to) = if self.rng.random() { (from, to) } else { (to, from) };
                let for_us = self.lasts(100_000..12_000_000);
                self.cut(from, to, for_us);
                return true;
            }
            Fault::Partition => {
                let with_clients = self.rng.random_range(0..3) == 0;
                let for_us = self.lasts(100_000..15_000_000);
                for other in (0..PARTIES).filter(|other| *other != n) {
                    if other != CLIENTS || with_clients {
                        self.cut(n, other, for_us);
                        self.cut(other, n, for_us);
                    }
                }
                return true;
            }
            Fault::SlowDisk => {
                self.nodes[n].disk_slowness = [5, 50, 1_000][self.rng.random_range(0..3)];
                self.mend_later(200_000..8_000_000, Mend::Disk(n));
            }
            Fault::FailingSync => {
                if self.nodes.iter().any(|node| node.distrusts_disk) {
                    return false;
                }
                self.nodes[n].disk.set_failing_syncs(true);
                self.nodes[n].distrusts_disk = true;
                self.mend_later(50_000..2_000_000, Mend::Disk(n));
                if self.plan.pace == Pace::Calm {
                    self.mend_later(5_000_000..15_000_000, Mend::Reboot(n));
                }
            }
            Fault::FullDisk => {
                let used = self.nodes[n].disk.used();
                self.nodes[n].disk.set_capacity(Some(used + self.rng.random_range(0..20_000)));
                self.mend_later(200_000..8_000_000, Mend::Space(n));
            }
            Fault::Member => {
                let members: Vec<usize> =
                    (0..self.clients.len()).filter(|c| self.clients[*c].group().is_some()).collect();
                if members.is_empty() {
                    return false;
                }
                let c = members[self.rng.random_range(0..members.len())];
                let says_so = self.rng.random();
                let back_us = self.now_us + self.lasts(50_000..10_000_000);
                self.part(c, says_so, back_us);
                return true;
            }
            Fault::Unregister => return self.unregister(n),
            Fault::BitFlip => return self.flip(n),
            Fault::Election => {
                let before = self.stats.elections;
                self.elect(None);
                return self.stats.elections > before;
            }
            Fault::Reassign => self.reassign(n),
            Fault::Reset => {
                let ids: Vec<u64> =
                    self.conns.iter().filter(|(_, conn)| conn.is_open).map(|(id, _)| *id).collect();
                for id in ids {
                    if self.rng.random_range(0..4) == 0 {
                        self.close(id, 1);
                    }
                }
                return true;
            }
        }
        lived || matches!(fault, Fault::KillAll | Fault::PowerLossAll)
    }

    /// How long something lasts: more in a calm run, but for what is mended once faults are over.
    pub(super) fn lasts(&mut self, for_us: std::ops::Range<u64>) -> u64 {
        let stretch = if self.is_calm { 1 } else { self.plan.stretch };
        self.rng.random_range(for_us.start..for_us.end * stretch)
    }

    /// Where acknowledged means in memory: whether every record is in the memory of two other machines, too.
    fn can_spare_memory_of(&self, n: usize) -> bool {
        let images = self.nodes.iter().filter_map(|node| Some(node.live.as_ref()?.node.image.load_full()));
        let Some(image) = images.max_by_key(|image| image.version) else { return false };
        let is_there = |m: usize| {
            let id = NodeId(i32::try_from(m).expect("a small cluster") + 1);
            let epoch = self.nodes[m].live.as_ref().map(|live| live.node.identity.epoch());
            image.broker(id).is_some_and(|broker| Some(broker.epoch) == epoch && broker.is_active())
        };
        let held = |id: &NodeId| usize::try_from(id.0 - 1) != Ok(n);
        (0..self.nodes.len()).all(is_there)
            && image
                .topics
                .values()
                .flat_map(|topic| topic.partitions.iter())
                .all(|state| state.isr.iter().filter(|id| held(id)).count() >= 2)
    }

    /// Ends a process or a machine, and starts it again later.
    pub(super) fn fell(&mut self, n: usize, crash: Crash) {
        // A disk that lied once is honest again only after its machine was: nobody goes on after a failed sync.
        let crash = if self.nodes[n].distrusts_disk { Crash::PowerLoss } else { crash };
        if crash == Crash::PowerLoss {
            self.nodes[n].disk.set_failing_syncs(false);
        }
        self.crash(n, crash);
        let quick = self.rng.random();
        let after = if quick { 50_000..800_000 } else { 1_000_000..10_000_000 };
        let at = self.now_us + self.lasts(after);
        self.schedule(at, Event::Boot { node: n });
    }

    /// A process asks to be let go, waits a while, and stops.
    fn leave(&mut self, n: usize) {
        if self.nodes[n].distrusts_disk {
            return self.fell(n, Crash::PowerLoss);
        }
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        let (life, id, epoch) = (live.life, live.node.id, live.node.identity.epoch());
        live.node.controller.submit(Command::ShutDownBroker { id, epoch }, |_| {});
        self.drain(n);
        let at = self.now_us + self.lasts(20_000..3_000_000);
        self.schedule(at, Event::Mend(Mend::Stop(n, life)));
    }

    fn mend_later(&mut self, after_us: std::ops::Range<u64>, mend: Mend) {
        let at = self.now_us + self.lasts(after_us);
        self.schedule(at, Event::Mend(mend));
    }

    fn cut(&mut self, from: usize, to: usize, for_us: u64) {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).cut[from][to] = true;
        self.schedule(self.now_us + for_us, Event::Mend(Mend::Cut(from, to)));
    }

    /// Somebody takes a broker for lost, where everything else is whole: whoever forgets the last good replica loses it.
    fn unregister(&mut self, n: usize) -> bool {
        let asked = self.rng.random_range(0..self.nodes.len());
        let Some(live) = self.nodes[asked].live.as_ref().filter(|live| live.serves) else { return false };
        let image = live.node.image.load();
        let mut states = image.topics.values().flat_map(|topic| topic.partitions.iter());
        if states.any(|state| state.isr.len() < state.replicas.len()) || image.active_brokers().count() < 3 {
            return false;
        }
        let id = NodeId(i32::try_from(n).expect("a small cluster") + 1);
        live.node.controller.submit(Command::UnregisterBroker { id }, |_| {});
        self.drain(asked);
        true
    }

    fn reassign(&mut self, n: usize) {
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        let mut to: Vec<NodeId> = (1..=3).map(NodeId).collect();
        to.shuffle(&mut self.rng);
        // Two replicas still make the minimum.
        to.truncate(self.rng.random_range(2..=3));
        let change = Reassignment {
            topic: TOPIC.to_owned(),
            index: self.rng.random_range(0..self.plan.partitions),
            replicas: (self.rng.random_range(0..5) > 0).then_some(to),
        };
        let command = Command::AlterReassignments { changes: vec![change], may_change_factor: true };
        live.node.controller.submit(command, |_| {});
        self.drain(n);
    }

    pub(super) fn on_mend(&mut self, mend: Mend) {
        match mend {
            Mend::Cut(from, to) => {
                self.reach.lock().unwrap_or_else(PoisonError::into_inner).cut[from][to] = false;
            }
            Mend::Disk(n) => {
                self.nodes[n].disk.set_failing_syncs(false);
                self.nodes[n].disk_slowness = 1;
            }
            Mend::Space(n) => self.nodes[n].disk.set_capacity(None),
            Mend::Rate(n) => {
                self.set_clock(n);
                self.nodes[n].rate = 1_000;
            }
            Mend::Delay => self.delay_us = 0,
            Mend::Stop(n, life) if self.is_life(n, life) => {
                self.stop(n);
                let at = self.now_us + self.rng.random_range(50_000..3_000_000);
                self.schedule(at, Event::Boot { node: n });
            }
            Mend::Stop(..) => {}
            Mend::Reboot(n) if self.nodes[n].distrusts_disk && self.nodes[n].live.is_some() => {
                self.fell(n, Crash::PowerLoss);
            }
            Mend::Reboot(_) => {}
        }
    }

    /// From here on nothing goes wrong any more.
    pub(super) fn calm_down(&mut self) {
        self.is_calm = true;
        self.trace.line(self.now_us, "faults are over");
        for n in 0..self.nodes.len() {
            for mend in [Mend::Disk(n), Mend::Space(n), Mend::Rate(n)] {
                self.on_mend(mend);
            }
            self.nodes[n].paused_until_us = 0;
            for m in 0..PARTIES {
                self.on_mend(Mend::Cut(n, m));
                self.on_mend(Mend::Cut(m, n));
            }
            // Logs that a failed disk took offline come back with a start: an operator sees to that.
            let is_offline = self.nodes[n].live.as_ref().is_some_and(|live| {
                live.node.partitions.all().iter().any(|partition| {
                    let seen = partition.inspect();
                    seen.offline.is_some() || seen.is_damaged
                })
            });
            if self.nodes[n].distrusts_disk || is_offline {
                self.fell(n, Crash::Kill);
            } else if self.nodes[n].live.is_none() {
                self.schedule(self.now_us + 500_000, Event::Boot { node: n });
            }
        }
        self.on_mend(Mend::Delay);
        self.everybody_is_back();
    }
}
