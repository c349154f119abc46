//! Whatever is done to a log, it answers as a list of batches would, on both disks, and again after it was closed and opened.

use std::path::Path;
use std::sync::Arc;

use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::batches::batch;
use crate::epochs::EpochHistory;
use crate::{Disk, FillFor, LastStop, Log, LogDir, LogOptions, MemoryDisk, Read, RealDisk, StorageError};

/// A log as a list of batches.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// In order; those below the start may be there or not.
    pub(crate) batches: Vec<ModelBatch>,
    pub(crate) epochs: EpochHistory,
    /// Leader epochs never fall, also where the history of those below the start is forgotten.
    pub(crate) epoch_floor: LeaderEpoch,
    /// The end that the last cut was to leave, which a failed one may have left.
    pub(crate) cut_to: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelBatch {
    pub(crate) base: Offset,
    pub(crate) next: Offset,
    pub(crate) bytes: Vec<u8>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let (start, end, cut_to) = (Offset(0), Offset(0), Offset(i64::MAX));
        let (epochs, epoch_floor) = (EpochHistory::default(), LeaderEpoch(0));
        Self { start, end, batches: Vec::new(), epochs, epoch_floor, cut_to }
    }

    pub(crate) fn push(&mut self, base: Offset, count: i32, epoch: LeaderEpoch, bytes: Vec<u8>) {
        let next = base.plus(i64::from(count));
        self.batches.push(ModelBatch { base, next, bytes });
        self.epochs.assign(epoch, base);
        self.epoch_floor = self.epoch_floor.max(epoch);
        self.end = next;
    }

    /// What a read answers.
    fn read(&self, from: Offset, end: Offset, max_bytes: usize, at_least_one: bool) -> Vec<u8> {
        let mut answer = Vec::new();
        if from >= end {
            return answer;
        }
        for batch in self.batches.iter().filter(|batch| batch.next > from) {
            let first = answer.is_empty();
            let fits = answer.len() + batch.bytes.len() <= max_bytes || first && at_least_one;
            if batch.next > end || !fits {
                break;
            }
            answer.extend_from_slice(&batch.bytes);
        }
        answer
    }

    pub(crate) fn truncate(&mut self, end: Offset) {
        self.epochs.truncate_to(end);
        if end >= self.end {
            return;
        }
        self.batches.retain(|batch| batch.next <= end);
        let left = self.batches.last().map_or(self.start, |last| last.next);
        if left < self.start {
            return self.restart(self.start);
        }
        self.end = left;
        self.epochs.truncate_to(self.end);
    }

    pub(crate) fn restart(&mut self, start: Offset) {
        *self = Self { start, end: start, ..Self::new() };
    }

    pub(crate) fn trim(&mut self, start: Offset) {
        if start > self.start {
            self.start = start;
            self.epochs.trim_start(start);
        }
    }
}

/// Reads as a broker does: cold where it is cold.
pub(crate) fn read(
    log: &Log,
    from: Offset,
    end: Offset,
    max_bytes: usize,
    one: bool,
) -> Result<Vec<u8>, StorageError> {
    let slices = match log.read(from, end, max_bytes, one)? {
        Read::Hot(slices) => slices,
        Read::Cold(cold) => cold.load()?,
    };
    let mut bytes = Vec::new();
    for slice in slices {
        if let Some((file, position)) = slice.file() {
            let mut again = vec![0; slice.len()];
            crate::segment::read_exactly(&**file, &mut again, position)
                .expect("the file has the slice's bytes");
            assert_eq!(again, *slice.bytes());
        }
        bytes.extend_from_slice(slice.bytes());
    }
    Ok(bytes)
}

/// Everything from the start on.
pub(crate) fn read_all(log: &Log) -> Result<Vec<u8>, StorageError> {
    let (mut bytes, mut from) = (Vec::new(), log.start_offset());
    while from < log.end_offset() {
        let part = read(log, from, log.end_offset(), 5000, true)?;
        if part.is_empty() {
            let (start, end) = (log.start_offset(), log.end_offset());
            return Err(StorageError::OutOfRange { requested: from, start, end });
        }
        let mut rest = part.as_slice();
        while !rest.is_empty() {
            let head = crate::head::Head::parse(rest).expect("whole batches");
            from = head.next();
            rest = &rest[head.size as usize..];
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

pub(crate) const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 6_000,
    segment_ms: 5_000,
    segment_jitter_ms: 0,
    index_interval_bytes: 300,
    fill_for: FillFor::Memory,
};

/// One step of a random life.
pub(crate) fn step(rng: &mut SmallRng, log: &mut Log, model: &mut Model) -> Result<(), StorageError> {
    match rng.random_range(0..100) {
        0..60 => append(rng, log, model)?,
        60..75 => {
            if let Some(ticket) = log.begin_flush() {
                let result = ticket.sync();
                log.finish_flush(ticket, result)?;
            }
        }
        75..80 => {
            log.journal().sync()?;
        }
        80..84 => log.seal(),
        84..89 => {
            let back = rng.random_range(0..30).min(model.end.0 - model.start.0);
            let end = model.end.plus(-back);
            // A batch has up to six records and goes as a whole, and the one before ends up to 20 offsets earlier.
            model.cut_to = end.plus(-26);
            let cut = log.truncate_to(end)?;
            model.truncate(end);
            assert_eq!(cut, log.end_offset());
        }
        89..94 => {
            let start = model.start.plus(rng.random_range(0..=(model.end.0 - model.start.0)));
            if let Some(removal) = log.trim_start(start) {
                model.trim(start);
                removal.run()?;
            }
            model.trim(start);
        }
        94..97 => {
            let below = model.start.plus(rng.random_range(0..=(model.end.0 - model.start.0)));
            if let Some(removal) = log.drop_segments_below(below) {
                model.trim(log.start_offset());
                assert!(log.start_offset() <= below);
                removal.run()?;
            }
        }
        97 => {
            let epoch = LeaderEpoch(model.epoch_floor.0 + 1);
            model.epoch_floor = epoch;
            log.assign_epoch(epoch);
            model.epochs.assign(epoch, model.end);
        }
        98 if rng.random_range(0..5) == 0 => {
            let start = Offset(rng.random_range(0..model.end.0 + 10));
            model.cut_to = start;
            log.restart_at(start)?;
            model.restart(start);
        }
        _ => {}
    }
    Ok(())
}

fn append(rng: &mut SmallRng, log: &mut Log, model: &mut Model) -> Result<(), StorageError> {
    let mut epoch = model.epoch_floor;
    if rng.random_range(0..20) == 0 {
        epoch.0 += 1;
    }
    let mut next = model.end;
    if rng.random_range(0..10) == 0 {
        next = next.plus(rng.random_range(0..20));
    }
    let (mut bytes, mut pushed) = (Vec::new(), model.clone());
    for _ in 0..rng.random_range(1..4) {
        let count = rng.random_range(1..6);
        let body = *[0, 10, 100, 700].get(rng.random_range(0..4)).expect("one of four");
        let new = batch(next, count, epoch, next.0 * 10, body);
        bytes.extend_from_slice(&new);
        pushed.push(next, count, epoch, new);
        next = pushed.end;
    }
    let appended = log.append(&bytes, 0)?;
    *model = pushed;
    assert_eq!((appended.last.plus(1), appended.len), (model.end, bytes.len()));
    Ok(())
}

pub(crate) fn check(rng: &mut SmallRng, log: &Log, model: &Model) {
    assert_eq!((log.start_offset(), log.end_offset()), (model.start, model.end));
    assert_eq!(log.epochs(), &model.epochs);
    for _ in 0..3 {
        let from = model.start.plus(rng.random_range(0..=(model.end.0 - model.start.0)));
        let end = from.plus(rng.random_range(0..100));
        let (max_bytes, one) = (rng.random_range(0..4_000), rng.random());
        let answer = read(log, from, end, max_bytes, one).expect("a sound log");
        let expected = model.read(from, end.min(model.end), max_bytes, one);
        // What is in memory may be answered first, if the rest is not.
        let same = expected.starts_with(&answer) && answer.is_empty() == expected.is_empty();
        assert!(
            same,
            "from {from} to {end}, {max_bytes} bytes, {one}: {} not {}",
            answer.len(),
            expected.len()
        );
    }
    let from = model.start.plus(rng.random_range(0..=(model.end.0 - model.start.0)));
    let mut walked = Vec::new();
    log.view()
        .headers(from, |header| walked.push((header.base_offset, header.next_offset())))
        .expect("sound");
    let there = model.batches.iter().filter(|batch| batch.next > from && batch.base < model.end);
    assert_eq!(
        walked,
        there.map(|batch| (batch.base, batch.next)).collect::<Vec<_>>(),
        "headers from {from}"
    );
    let outside = [model.start.plus(-1), model.end.plus(1)];
    for from in outside {
        assert!(matches!(read(log, from, model.end, 100, true), Err(StorageError::OutOfRange { .. })));
    }
}

fn live(disk: Arc<dyn Disk>, root: &Path, seed: u64, steps: usize, cold: impl Fn(bool)) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let open = |expected: Option<LastStop>| {
        let dir = LogDir::open(Arc::clone(&disk), root, [1; 16]).expect("open");
        if let Some(expected) = expected {
            assert_eq!(*dir.last_stop(), expected);
        }
        let (log, recovery) = dir.open_log("t-0", Uuid([3; 16]), OPTIONS).expect("open");
        assert!(recovery.is_intact() && recovery.cut.is_none(), "{recovery:?}");
        (dir, log, recovery)
    };
    let (mut dir, mut log, _) = open(Some(LastStop::Fresh));
    let mut model = Model::new();
    for number in 0..steps {
        step(&mut rng, &mut log, &mut model)
            .unwrap_or_else(|error| panic!("seed {seed} step {number}: {error}"));
        check(&mut rng, &log, &model);
        if number % 50 == 49 {
            cold(rng.random());
            if rng.random() {
                log.close().expect("close");
                dir.close(b"").expect("close");
                let again = open(Some(LastStop::Clean(bytes::Bytes::new())));
                assert_eq!(again.2.scanned_bytes, 0, "a clean log is not scanned");
                (dir, log) = (again.0, again.1);
            } else {
                dir.journal().sync().expect("sync");
                drop((log, dir));
                let again = open(Some(LastStop::Killed));
                (dir, log) = (again.0, again.1);
            }
            check(&mut rng, &log, &model);
        }
    }
    let expected = model.read(model.start, model.end, usize::MAX, true);
    assert!(read_all(&log).expect("sound") == expected);
}

#[test]
fn a_log_answers_as_a_list_of_batches_on_the_simulated_disk() {
    for seed in 0..60 {
        let disk = MemoryDisk::new();
        live(Arc::new(disk.clone()), Path::new("/data"), seed, 300, |cold| disk.set_cold(cold));
    }
}

#[test]
fn a_log_answers_as_a_list_of_batches_on_the_real_disk() {
    for seed in 0..6 {
        let root = tempfile::tempdir().expect("a temporary directory");
        live(Arc::new(RealDisk), root.path(), seed, 200, |_| ());
    }
}

#[test]
fn a_batch_is_found_from_any_offset_within_it() {
    let disk = MemoryDisk::new();
    let dir = LogDir::open(Arc::new(disk), Path::new("/data"), [1; 16]).expect("open");
    let (mut log, _) = dir.open_log("t-0", Uuid::ZERO, OPTIONS).expect("open");
    let bytes = batch(Offset(0), 10, LeaderEpoch(0), 0, 50);
    log.append(&bytes, 0).expect("append");
    for from in 0..10 {
        assert_eq!(read(&log, Offset(from), Offset(10), 1, true).expect("read"), bytes);
    }
    assert!(
        read(&log, Offset(3), Offset(9), 1000, true).expect("read").is_empty(),
        "whole below the end, or not"
    );
}

#[test]
fn no_file_exists_before_the_first_append_and_none_after_deletion() {
    let disk = MemoryDisk::new();
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), [1; 16]).expect("open");
    let (mut log, _) = dir.open_log("t-0", Uuid::ZERO, OPTIONS).expect("open");
    let before = disk.list(Path::new("/data")).expect("list");
    assert!(before.iter().all(|entry| !entry.is_dir));
    assert!(log.begin_flush().is_none());
    log.append(&batch(Offset(0), 1, LeaderEpoch(0), 0, 50), 0).expect("append");
    let Read::Hot(slices) = log.read(Offset(0), Offset(1), 1000, true).expect("read") else { panic!("hot") };
    let removal = log.delete().expect("delete");
    assert!(disk.list(Path::new("/data/t-0")).is_err(), "the name is free");
    removal.run().expect("run");
    assert!(disk.list(Path::new("/data")).expect("list").iter().all(|entry| !entry.is_dir));
    assert_eq!(slices[0].len(), 111, "a slice lives on");
    assert!(dir.journal().facts("t-0").is_none());
}
