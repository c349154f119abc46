//! Voters that lose power, wires that are slow or cut, disks that fail in the middle of a write, by seed: what was committed stays, once and in
//! order, on every node, and no term has two leaders.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use ottla_storage::MemoryDisk;
use ottla_storage::memory::Crash;

use crate::cluster::{Cluster, propose};
use crate::dice::Dice;

/// What must hold for ever.
#[derive(Default)]
struct Ledger {
    /// In the order in which they were answered.
    committed: Vec<String>,
    /// Of each term.
    leaders: BTreeMap<u64, u64>,
    /// What nodes had applied when they died.
    applied: Vec<Vec<String>>,
}

impl Ledger {
    fn note(&mut self, cluster: &Cluster) {
        for (id, node) in &cluster.nodes {
            let running = node.log.raft.metrics().borrow_watched().running_state.clone();
            assert!(!matches!(running, Err(Fatal::Panicked)), "openraft panicked on node {id}");
            let status = node.log.status();
            if status.leader == Some(*id) {
                let first = *self.leaders.entry(status.term).or_insert(*id);
                assert_eq!(first, *id, "two leaders of term {}", status.term);
            }
        }
    }

    fn kill(&mut self, cluster: &mut Cluster, id: u64, dice: &mut Dice) -> MemoryDisk {
        self.applied.push(cluster.nodes[&id].told.list());
        let crash = dice.one_of(&[Crash::Kill, Crash::PowerLoss, Crash::PowerLoss]);
        cluster.kill(id, crash, dice.below(u64::MAX))
    }

    fn check(&self, end: &[String]) {
        let mut rest = end.iter();
        for entry in &self.committed {
            assert!(rest.any(|told| told == entry), "{entry} is lost, or out of order, in {end:?}");
        }
        let mut sorted = end.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), end.len(), "once: {end:?}");
        for applied in &self.applied {
            assert!(end.starts_with(applied), "what was applied once stays: {applied:?} {end:?}");
        }
    }
}

/// Returns how many proposals were committed.
async fn play(seed: u64) -> usize {
    let mut dice = Dice(seed);
    let mut cluster = Cluster::of_three(7).await;
    let mut ledger = Ledger::default();
    let mut down = BTreeMap::new();
    *cluster.wires.trouble.lock().expect("no panic") = Some(Dice(seed));
    for i in 0..80 {
        let some = 1 + dice.below(3);
        match dice.below(14) {
            0 if cluster.nodes.contains_key(&some) => {
                down.insert(some, ledger.kill(&mut cluster, some, &mut dice));
            }
            1 if cluster.nodes.contains_key(&some) => {
                // It dies with its disk, in the middle of something.
                cluster.nodes[&some].disk.stop_after(dice.below(30));
                tokio::time::sleep(Duration::from_millis(dice.below(2000))).await;
                down.insert(some, ledger.kill(&mut cluster, some, &mut dice));
            }
            2 => cluster.wires.cut(some),
            3 | 4 => cluster.wires.mend(),
            5 => cluster.nodes.values().for_each(|node| node.log.transfer_leadership(some)),
            6 => cluster.nodes.values().for_each(|node| node.log.trigger_snapshot()),
            7..=9 => {
                if let Some((id, disk)) = down.pop_first() {
                    cluster.start(id, disk, None).await;
                }
            }
            _ => {
                let leads = |id: &u64| cluster.nodes[id].log.status().leader == Some(*id);
                let leaders: Vec<u64> = cluster.nodes.keys().copied().filter(leads).collect();
                if !leaders.is_empty() {
                    let (log, entry) = (cluster.log(dice.one_of(&leaders)), format!("entry {i}"));
                    if propose(log, &entry, Duration::from_secs(1)).await.is_ok() {
                        ledger.committed.push(entry);
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.below(700))).await;
        ledger.note(&cluster);
    }
    cluster.wires.mend();
    *cluster.wires.trouble.lock().expect("no panic") = None;
    for (id, disk) in down {
        cluster.start(id, disk, None).await;
    }
    for id in 1..=3 {
        // A node whose disk has failed says nothing any more; with another start, it does.
        let disk = ledger.kill(&mut cluster, id, &mut dice);
        cluster.start(id, disk, None).await;
    }
    cluster.commit("the end").await;
    let whole = |list: &Vec<String>| list.last().is_some_and(|last| last == "the end");
    let end = cluster.until("one is told all", || Some(cluster.nodes[&1].told.list()).filter(whole)).await;
    cluster.all_are_told(&end).await;
    ledger.check(&end);
    ledger.committed.len()
}

#[test]
fn what_voters_committed_survives_whatever_happens_to_them() {
    let mut committed = 0;
    for seed in 0..15 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        committed += runtime.block_on(play(seed));
    }
    assert!(committed > 75, "{committed} were committed at all");
}
