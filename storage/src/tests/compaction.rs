//! Compaction keeps the latest record of every key, never moves an offset, and a crash in the middle of it loses nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ottla_protocol::batch::{BatchHeader, RecordBatch, batches};
use ottla_protocol::compression::Compression;
use ottla_protocol::record::{BatchBuilder, BatchOptions, Record};
use ottla_protocol::types::{Offset, ProducerEpoch, ProducerId, Uuid};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::crash::crash_points;
use super::model::{read, read_all};
use crate::memory::Crash;
use crate::{
    BatchFate, Cleaner, FillFor, LastStop, Log, LogDir, LogOptions, MemoryDisk, Read, StorageError,
    Tombstones,
};

const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 3_000,
    segment_ms: i64::MAX,
    segment_jitter_ms: 0,
    index_interval_bytes: 200,
    fill_for: FillFor::Memory,
};

type Key = Option<Vec<u8>>;
type Value = Option<Vec<u8>>;

/// Keeps the latest record of every key below an offset.
struct Latest {
    offsets: BTreeMap<Key, Offset>,
    below: Offset,
}

impl Latest {
    fn of(records: &[(Offset, Key, Value)], below: Offset) -> Self {
        let known = records.iter().filter(|record| record.0 < below);
        Self { offsets: known.map(|(offset, key, _)| (key.clone(), *offset)).collect(), below }
    }
}

impl Cleaner for Latest {
    fn batch(&mut self, header: &BatchHeader) -> BatchFate {
        if header.base_offset < self.below { BatchFate::Clean } else { BatchFate::Keep }
    }

    fn is_latest(&mut self, _: &BatchHeader, record: &Record<'_>) -> bool {
        self.offsets.get(&record.key.map(<[u8]>::to_vec)) == Some(&record.offset)
    }

    fn keep_empty(&mut self, header: &BatchHeader) -> bool {
        header.producer_id == ProducerId(7)
    }
}

fn records_of(bytes: &[u8]) -> Vec<(Offset, Key, Value)> {
    let mut records = Vec::new();
    for batch in batches(bytes) {
        let batch = batch.expect("a batch");
        batch.verify_crc().expect("sound");
        let unpacked = batch.uncompressed(1 << 20).expect("small");
        for record in batch.records(&unpacked) {
            let record = record.expect("a record");
            records.push((record.offset, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec)));
        }
    }
    records
}

fn open(disk: &MemoryDisk) -> (LogDir, Log) {
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), [1; 16]).expect("open");
    let (log, recovery) = dir.open_log("t-0", Uuid::ZERO, OPTIONS).expect("open");
    assert!(recovery.is_intact(), "{recovery:?}");
    (dir, log)
}

fn append(rng: &mut SmallRng, log: &mut Log) -> Result<(), StorageError> {
    let codecs = Compression::ALL;
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: log.end_offset(),
        compression: codecs[rng.random_range(0..codecs.len())],
        producer_id: ProducerId(rng.random_range(6..8)),
        producer_epoch: ProducerEpoch(1),
        base_sequence: 5,
        ..BatchOptions::default()
    });
    for _ in 0..rng.random_range(1..5) {
        let key = format!("key {}", rng.random_range(0..12));
        let value = rng.random_range(0..5) > 0;
        let bytes = vec![rng.random::<u8>(); rng.random_range(0..200)];
        builder.append(1_000, Some(key.as_bytes()), value.then_some(&bytes));
    }
    log.append(&builder.build(), 0).map(|_| ())
}

fn flush(log: &mut Log) -> Result<(), StorageError> {
    if let Some(ticket) = log.begin_flush() {
        let result = ticket.sync();
        log.finish_flush(ticket, result)?;
    }
    Ok(())
}

/// Compacts everything that can be, as a cleaner thread does.
fn compact(log: &mut Log, tombstones: Tombstones) -> Result<u64, StorageError> {
    let records = records_of(&read_all(log)?);
    let mut cleaner = Latest::of(&records, log.flushed_end());
    let (mut from, mut saved) = (log.start_offset(), 0);
    while let Some(compaction) = log.begin_compaction(from, log.flushed_end()) {
        from = compaction.range().1;
        let compacted = compaction.rewrite(&mut cleaner, tombstones)?;
        assert!(compacted.records_after <= compacted.records_before);
        saved += compacted.bytes_before - compacted.bytes_after.min(compacted.bytes_before);
        log.finish_compaction(compacted)?.expect("nobody interferes").run()?;
    }
    log.set_cleaned_to(from);
    Ok(saved)
}

#[test]
fn the_latest_record_of_every_key_stays_where_it_was() {
    for seed in 0..30 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let (dir, mut log) = open(&disk);
        let tombstones = Tombstones { now_ms: 10_000, retention_ms: 5_000 };
        for _ in 0..3 {
            for _ in 0..80 {
                append(&mut rng, &mut log).expect("append");
            }
            flush(&mut log).expect("flush");
            let before = records_of(&read_all(&log).expect("sound"));
            let segments = log.segments.len();
            assert!(compact(&mut log, tombstones).expect("compact") > 0);
            // Sizes before a cleaning decide what fits in one file, so that neighbours meet the next time.
            compact(&mut log, tombstones).expect("compact");
            assert!(log.segments.len() < segments, "small neighbours became one");
            let bytes = read_all(&log).expect("sound");
            let after = records_of(&bytes);
            assert!(after.iter().all(|record| before.contains(record)), "nothing is new, nothing moved");
            let active = log.segments.last().expect("one").base();
            let mut wanted = BTreeMap::new();
            for (offset, key, value) in &before {
                wanted.insert(key.clone(), (*offset, value.clone()));
            }
            for (key, (offset, value)) in wanted {
                assert!(
                    after.contains(&(offset, key, value)),
                    "seed {seed}: {offset} is the latest of its key"
                );
            }
            let cleaned = after.iter().filter(|record| record.0 < active).count();
            assert!(cleaned <= 12, "{cleaned} records of 12 keys");
            // Every batch that went left no gap where a segment ends, and producer 7 kept its empty ones.
            for batch in batches(&bytes).map(|batch| *batch.expect("a batch").header()) {
                assert!(
                    batch.records_count > 0
                        || batch.producer_id == ProducerId(7)
                        || log.segments.iter().any(|s| s.end() > batch.last_offset())
                );
            }
            for offset in log.start_offset().0..log.end_offset().0 {
                let answer = log.read(Offset(offset), log.end_offset(), 1, true).expect("readable");
                let slices = match answer {
                    Read::Hot(slices) => slices,
                    Read::Cold(cold) => cold.load().expect("sound"),
                };
                assert!(!slices.is_empty(), "an offset in a gap leads to the next batch");
            }
        }
        let bytes = read_all(&log).expect("sound");
        log.close().expect("close");
        dir.close(b"").expect("close");
        let (dir, log) = open(&disk);
        assert!(matches!(dir.last_stop(), LastStop::Clean(_)));
        assert!(read_all(&log).expect("sound") == bytes);
        assert!(log.cleaned_to() > Offset(0));
    }
}

#[test]
fn a_tombstone_gets_a_horizon_and_goes_after_it() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = open(&disk);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(500, Some(b"a"), Some(b"old"));
    builder.append(600, Some(b"a"), None);
    builder.append(700, Some(b"b"), Some(b"stays"));
    log.append(&builder.build(), 0).expect("append");
    log.seal();
    let mut builder = BatchBuilder::new(BatchOptions { base_offset: Offset(3), ..BatchOptions::default() });
    builder.append(800, Some(b"c"), Some(b"active"));
    log.append(&builder.build(), 0).expect("append");
    flush(&mut log).expect("flush");
    let first = |log: &Log| {
        let bytes = read_all(log).expect("sound");
        let (batch, _) = RecordBatch::parse(&bytes).expect("a batch");
        (*batch.header(), records_of(batch.bytes()))
    };
    let at = |now_ms| Tombstones { now_ms, retention_ms: 100 };

    compact(&mut log, at(1_000)).expect("compact");
    let (header, records) = first(&log);
    assert_eq!((header.delete_horizon_ms(), records.len()), (Some(1_100), 2));
    assert_eq!((header.base_offset, header.last_offset(), header.max_timestamp), (Offset(0), Offset(2), 700));

    compact(&mut log, at(1_099)).expect("compact");
    assert_eq!(first(&log), (header, records), "not yet, and the horizon does not move");

    compact(&mut log, at(1_100)).expect("compact");
    let (header, records) = first(&log);
    assert_eq!(records, [(Offset(2), Some(b"b".to_vec()), Some(b"stays".to_vec()))]);
    assert_eq!((header.base_offset, header.last_offset()), (Offset(0), Offset(2)));
}

/// A log of several sealed segments, flushed.
fn filled(disk: &MemoryDisk) -> (LogDir, Log) {
    let mut rng = SmallRng::seed_from_u64(3);
    let (dir, mut log) = open(disk);
    for _ in 0..60 {
        append(&mut rng, &mut log).expect("append");
    }
    flush(&mut log).expect("flush");
    (dir, log)
}

#[test]
fn a_log_that_changed_meanwhile_is_not_touched_and_old_readers_go_on() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = filled(&disk);
    let records = records_of(&read_all(&log).expect("sound"));
    let mut cleaner = Latest::of(&records, log.end_offset());
    let tombstones = Tombstones { now_ms: 0, retention_ms: 0 };
    let compaction = log.begin_compaction(Offset(0), log.end_offset()).expect("sealed segments");
    let compacted = compaction.rewrite(&mut cleaner, tombstones).expect("rewrite");
    let gone = log.trim_start(compaction.range().1).expect("sealed segments go");
    assert!(log.finish_compaction(compacted).expect("nothing").is_none());
    gone.run().expect("run");

    let compaction = log.begin_compaction(Offset(0), log.end_offset()).expect("sealed segments");
    let (view, before) = (log.view(), read_all(&log).expect("sound"));
    let slices = view.read(log.start_offset(), 1 << 20).expect("read");
    let compacted = compaction.rewrite(&mut cleaner, tombstones).expect("rewrite");
    log.finish_compaction(compacted).expect("finish").expect("done").run().expect("run");
    let shown: Vec<u8> = slices.iter().flat_map(|slice| slice.bytes().iter().copied()).collect();
    assert!(before.starts_with(&shown), "slices show what was");
    assert!(matches!(view.read(log.start_offset(), 1 << 20), Err(StorageError::ViewStale { .. })));
    log.view().read(log.start_offset(), 1 << 20).expect("a new view reads on");
}

#[test]
fn a_corrupt_batch_stops_compaction_and_nothing_is_lost() {
    let disk = MemoryDisk::new();
    let (_dir, log) = filled(&disk);
    let before = read_all(&log).expect("sound");
    disk.flip_bit(Path::new("/data/t-0/00000000000000000000.log"), 100, 1).expect("flip");
    let mut cleaner = Latest::of(&records_of(&before), log.end_offset());
    let compaction = log.begin_compaction(Offset(0), log.end_offset()).expect("sealed segments");
    let error =
        compaction.rewrite(&mut cleaner, Tombstones { now_ms: 0, retention_ms: 0 }).expect_err("corrupt");
    assert!(matches!(error, StorageError::CorruptBatch { .. }), "{error}");
    disk.flip_bit(Path::new("/data/t-0/00000000000000000000.log"), 100, 1).expect("flip back");
    assert!(read_all(&log).expect("sound") == before);
}

#[test]
fn a_crash_during_compaction_leaves_old_or_new_and_loses_nothing() {
    for seed in 0..crash_points(1_000) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let (dir, mut log) = open(&disk);
        for _ in 0..60 {
            append(&mut rng, &mut log).expect("append");
            if rng.random_range(0..8) == 0 {
                flush(&mut log).expect("flush");
                if rng.random() {
                    dir.journal().sync().expect("sync");
                }
            }
        }
        flush(&mut log).expect("flush");
        if rng.random() {
            dir.journal().sync().expect("sync");
        }
        let before = records_of(&read_all(&log).expect("sound"));
        let end = log.flushed_end();
        let tombstones = Tombstones { now_ms: 0, retention_ms: 1_000 };
        disk.stop_after(rng.random_range(0..160));
        for _ in 0..3 {
            let _stopped = compact(&mut log, tombstones)
                .and_then(|_| append(&mut rng, &mut log))
                .and_then(|()| flush(&mut log))
                .and_then(|()| dir.journal().sync());
        }
        let crash = if rng.random() { Crash::Kill } else { Crash::PowerLoss };
        let (_dir, log) = open(&disk.after_crash(crash, seed));
        assert!(log.end_offset() >= end, "seed {seed} {crash:?}: ends at {}", log.end_offset());
        let bytes = read_all(&log).unwrap_or_else(|error| panic!("seed {seed} {crash:?}: {error}"));
        let found = records_of(&bytes);
        for _ in 0..20 {
            let from = Offset(rng.random_range(log.start_offset().0..log.end_offset().0));
            let part = read(&log, from, log.end_offset(), 1, true)
                .unwrap_or_else(|error| panic!("seed {seed} {crash:?}, from {from}: {error}"));
            let (first, _) = RecordBatch::parse(&part).expect("a batch at any offset");
            let before =
                found.iter().filter(|record| record.0 >= from && record.0 < first.header().base_offset);
            assert_eq!(before.count(), 0, "seed {seed}: no record is passed over");
        }
        let flushed: Vec<_> = found.iter().filter(|record| record.0 < end).collect();
        assert!(flushed.iter().all(|record| before.contains(record)), "seed {seed}: nothing is new");
        let mut latest = BTreeMap::new();
        for (offset, key, value) in &before {
            latest.insert(key, (offset, value));
        }
        for (key, (offset, value)) in latest {
            let later = found.iter().any(|record| record.0 >= end && record.1 == *key);
            let there = flushed.iter().any(|record| (&record.0, &record.2) == (offset, value));
            assert!(there || later, "seed {seed} {crash:?}: the latest of {key:?}, {offset}, is lost");
        }
    }
}
