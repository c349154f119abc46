//! The whole log of a lone voter, started again after power losses at any moment.

use std::sync::{Arc, mpsc};

use ottla_storage::memory::Crash;
use ottla_storage::{Disk, MemoryDisk};

use crate::crash_tests::{VOTER, log};
use crate::dice::Dice;
use crate::tests::{LONG, Told};
use crate::{MetadataLog, ProposeError, RaftOptions};

/// Starts the whole log; `None` if the disk stops before.
fn start(disk: &MemoryDisk, told: &Told, snapshot_every: u64) -> Option<MetadataLog> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let log = log(&disk, 4096).ok()?;
    let dir = "/data/raft".into();
    let options =
        RaftOptions { voter: VOTER, identity: Vec::new(), dir, disk, log, snapshot_every, peers: None };
    MetadataLog::start(options, Box::new(told.clone())).ok()
}

/// Proposes until there is a leader; `false` if the log has stopped.
fn commits(log: &MetadataLog, entry: &str) -> bool {
    let begun = std::time::Instant::now();
    loop {
        assert!(begun.elapsed() < LONG, "no leader: {:?}", log.status());
        let (to, from) = mpsc::channel();
        log.propose(entry.into(), LONG, move |outcome| to.send(outcome).expect("awaited"), || {});
        match from.recv().expect("answered") {
            Ok(_) => return true,
            Err(ProposeError::NotLeader(_)) => std::thread::yield_now(),
            Err(_) => return false,
        }
    }
}

#[test]
fn a_first_start_that_is_cut_short_anywhere_is_completed_by_the_next() {
    for changes in 0.. {
        let disk = MemoryDisk::new();
        disk.stop_after(changes);
        let done = start(&disk, &Told::default(), 1000).is_some_and(|log| commits(&log, "first"));
        for seed in 0..3 {
            let told = Told::default();
            let again = start(&disk.after_crash(Crash::PowerLoss, seed), &told, 1000).expect("starts");
            assert!(commits(&again, "second"), "after {changes} changes, seed {seed}");
            assert!(!done || told.list() == ["first", "second"], "{:?}", told.list());
        }
        if done {
            assert!(changes > 10, "a first start makes more than {changes} changes");
            return;
        }
    }
}

#[test]
fn what_was_answered_survives_power_losses_among_snapshots_and_purges() {
    for seed in 0..80 {
        let mut dice = Dice(seed);
        let mut disk = MemoryDisk::new();
        let (mut answered, mut term) = (Vec::<String>::new(), 0);
        for round in 0..4 {
            let told = Told::default();
            let log = start(&disk, &told, 5).expect("starts");
            let mark = format!("{round} begins");
            assert!(commits(&log, &mark), "seed {seed}");
            answered.push(mark);
            let list = told.list();
            let mut rest = list.iter();
            assert!(
                answered.iter().all(|entry| rest.any(|told| told == entry)),
                "seed {seed}: {answered:?} in {list:?}"
            );
            assert!(log.status().term > term, "seed {seed}: a vote was forgotten");
            disk.stop_after(dice.below(150));
            let entries = (0..).map(|i| format!("{round}/{i} {}", "x".repeat(i * 97 % 500)));
            answered.extend(entries.take_while(|entry| commits(&log, entry)));
            term = log.status().term;
            drop(log);
            disk = disk.after_crash(Crash::PowerLoss, dice.below(u64::MAX));
        }
    }
}
