//! Crashes at random points: nothing flushed is ever lost, and what is recovered is a log that was.

use std::path::Path;
use std::sync::Arc;

use ottla_protocol::types::{Offset, Uuid};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::model::{Model, OPTIONS, read_all, step};
use crate::memory::Crash;
use crate::{FillFor, LogDir, LogOptions, MemoryDisk};

/// Set higher for a longer run.
const POINTS_VARIABLE: &str = "OTTLA_CRASH_POINTS";

/// How many crashes to play.
pub(crate) fn crash_points(usual: u64) -> u64 {
    std::env::var(POINTS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What must survive: the model up to the flushed end.
struct Promise {
    flushed_end: Offset,
    model: Model,
}

#[test]
fn random_crash_points_lose_nothing_that_was_flushed() {
    let points = crash_points(10_000);
    let mut torn = 0;
    for seed in 0..points {
        torn += u64::from(crash_once(seed));
    }
    assert!(torn > points / 20, "only {torn} of {points} crashes tore a tail: they prove little");
}

/// One life that ends in a crash, and the next one. Says whether a tail was cut.
fn crash_once(seed: u64) -> bool {
    let mut rng = SmallRng::seed_from_u64(seed);
    let disk = MemoryDisk::new();
    let root = Path::new("/data");
    let open = |disk: &MemoryDisk| LogDir::open(Arc::new(disk.clone()), root, [1; 16]).expect("open");
    let fill_for = if seed.is_multiple_of(2) { FillFor::Memory } else { FillFor::Syncs };
    let options = LogOptions { fill_for, ..OPTIONS };
    let mut disks = disk;
    let mut model = Model::new();
    let mut torn = false;
    for life in 0..rng.random_range(1..3) {
        let dir = open(&disks);
        let (mut log, recovery) = dir.open_log("t-0", Uuid::ZERO, options).expect("open");
        if life == 0 {
            assert!(recovery.is_intact());
        }
        disks.stop_after(rng.random_range(0..60));
        // Every state that the log was in since the last flush is one that may be found.
        let mut promise = Promise { flushed_end: log.flushed_end(), model: model.clone() };
        let mut doing = model.clone();
        for _ in 0..200 {
            let before = doing.clone();
            doing.cut_to = Offset(i64::MAX);
            let result = step(&mut rng, &mut log, &mut doing);
            promise.flushed_end = promise.flushed_end.min(doing.end).max(log.flushed_end().min(doing.end));
            promise.model = doing.clone();
            if result.is_err() {
                // A step that failed half-way may have happened or not.
                promise.flushed_end =
                    promise.flushed_end.min(before.end).min(log.end_offset()).min(doing.cut_to);
                promise.model = before;
                break;
            }
        }
        let crash = if rng.random() { Crash::Kill } else { Crash::PowerLoss };
        let left = disks.after_crash(crash, seed);
        drop((log, dir));
        let dir = open(&left);
        let (log, recovery) = dir.open_log("t-0", Uuid::ZERO, options).expect("open");
        assert!(recovery.is_intact(), "seed {seed} {crash:?}: {recovery:?}");
        torn |= recovery.cut.is_some();
        let end = log.end_offset();
        assert!(end >= promise.flushed_end, "seed {seed} {crash:?}: {end} < {}", promise.flushed_end);
        let found = read_all(&log).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // What is below the flushed end is what was written; above, a batch may be of a state before.
        let expected: Vec<u8> = promise
            .model
            .batches
            .iter()
            .filter(|batch| batch.next > log.start_offset() && batch.next <= promise.flushed_end)
            .flat_map(|batch| batch.bytes.iter().copied())
            .collect();
        assert!(
            found.starts_with(&expected),
            "seed {seed} {crash:?}: {} bytes found, {} expected up to {}",
            found.len(),
            expected.len(),
            promise.flushed_end
        );
        model = remodel(&log, &found);
        drop((log, dir));
        disks = left;
    }
    torn
}

/// The model of what was found.
fn remodel(log: &crate::Log, mut found: &[u8]) -> Model {
    let mut model = Model::new();
    model.start = log.start_offset();
    while !found.is_empty() {
        let head = crate::head::Head::parse(found).expect("whole batches");
        let (bytes, rest) = found.split_at(head.size as usize);
        let count = (head.last.0 - head.base.0) as i32 + 1;
        model.push(head.base, count, head.epoch, bytes.to_vec());
        found = rest;
    }
    model.end = log.end_offset();
    model.epochs = log.epochs().clone();
    if let Some(latest) = model.epochs.latest() {
        model.epoch_floor = model.epoch_floor.max(latest.epoch);
    }
    model
}
