//! Disks that are full, and writes and syncs that fail.

use std::path::Path;
use std::sync::Arc;

use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};

use super::batches::{batch, single};
use super::model::{OPTIONS, read, read_all};
use crate::memory::Crash;
use crate::{Log, LogDir, LogOptions, MemoryDisk, Read, StorageError};

fn open(disk: &MemoryDisk, options: LogOptions) -> (LogDir, Log) {
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), [1; 16]).expect("open");
    let (log, _) = dir.open_log("t-0", Uuid::ZERO, options).expect("open");
    (dir, log)
}

fn flush(log: &mut Log) -> Result<Offset, StorageError> {
    let ticket = log.begin_flush().expect("something to flush");
    let result = ticket.sync();
    log.finish_flush(ticket, result)
}

#[test]
fn a_full_disk_refuses_the_append_serves_reads_and_heals() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = open(&disk, LogOptions { segment_bytes: 1 << 20, ..OPTIONS });
    log.append(&single(0, 0, 1000), 0).expect("append");
    disk.set_capacity(Some(disk.used() + 50_000));
    let mut next = 1;
    let full = loop {
        match log.append(&single(next, 0, 1000), 0) {
            Ok(_) => next += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StorageError::Full { .. }), "{full}");
    assert!(next > 90, "the last byte is used: {next}");
    assert!(matches!(log.append(&single(next, 0, 1000), 0), Err(StorageError::Full { .. })));
    assert_eq!(log.end_offset(), Offset(next));
    assert_eq!(read_all(&log).expect("reads go on").len(), next as usize * 1061);
    flush(&mut log).expect("what is there can be flushed");
    disk.set_capacity(None);
    log.append(&single(next, 0, 1000), 0).expect("healed");
    assert_eq!(read_all(&log).expect("sound").len(), (next as usize + 1) * 1061);
}

#[test]
fn a_full_disk_refuses_even_the_first_append_and_heals() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = open(&disk, OPTIONS);
    disk.set_capacity(Some(disk.used()));
    assert!(matches!(log.append(&single(0, 0, 100), 0), Err(StorageError::Full { .. })));
    disk.set_capacity(None);
    log.append(&single(0, 0, 100), 0).expect("healed");
}

#[test]
fn a_failed_sync_takes_the_log_offline_for_good_and_says_why() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = open(&disk, OPTIONS);
    log.append(&single(0, 0, 100), 0).expect("append");
    flush(&mut log).expect("flush");
    log.append(&single(1, 0, 100), 0).expect("append");
    disk.set_failing_syncs(true);
    let error = flush(&mut log).expect_err("a failing sync");
    assert!(error.to_string().contains("a sync failed: simulated"), "{error}");
    disk.set_failing_syncs(false);
    assert!(matches!(log.append(&single(2, 0, 100), 0), Err(StorageError::Offline { .. })));
    assert!(log.begin_flush().is_none(), "never retried");
    assert_eq!(log.flushed_end(), Offset(1));
    assert_eq!(read(&log, Offset(0), Offset(2), 1000, true).expect("reads go on").len(), 2 * 161);
}

#[test]
fn a_failed_write_takes_the_log_offline() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = open(&disk, OPTIONS);
    log.append(&single(0, 0, 100), 0).expect("append");
    disk.set_failing_writes(true);
    assert!(matches!(log.append(&single(1, 0, 100), 0), Err(StorageError::Offline { .. })));
    disk.set_failing_writes(false);
    assert!(matches!(log.append(&single(1, 0, 100), 0), Err(StorageError::Offline { .. })));
}

#[test]
fn batches_that_do_not_continue_the_log_are_refused_whole() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = open(&disk, OPTIONS);
    log.append(&single(0, 0, 10), 0).expect("append");
    let mut two = single(1, 0, 10);
    two.extend(single(1, 0, 10));
    assert!(matches!(log.append(&two, 0), Err(StorageError::OutOfOrder { .. })));
    assert!(matches!(log.append(&single(0, 0, 10), 0), Err(StorageError::OutOfOrder { .. })));
    assert!(matches!(log.append(&single(1, 0, 10)[..70], 0), Err(StorageError::Malformed(_))));
    assert!(matches!(log.append(&[], 0), Err(StorageError::Malformed(_))));
    let mut old = single(1, 0, 10);
    old[16] = 1;
    assert!(matches!(log.append(&old, 0), Err(StorageError::Malformed(_))));
    assert_eq!(log.end_offset(), Offset(1));
    log.append(&single(1, 0, 10), 0).expect("append");
}

#[test]
fn segments_roll_by_size_and_by_age_without_a_sync() {
    let disk = MemoryDisk::new();
    let (_dir, mut log) = open(&disk, OPTIONS);
    let before = disk.syncs();
    let mut rolled = Vec::new();
    for offset in 0..100 {
        if log.append(&single(offset, 0, 100), 0).expect("append").rolled {
            rolled.push(offset);
        }
    }
    assert_eq!(rolled, [37, 74], "161 bytes each, 6,000 a segment");
    assert!(!log.append(&single(100, 5_000, 100), 0).expect("append").rolled);
    assert!(log.append(&single(101, 5_001, 100), 0).expect("append").rolled, "segment.ms is 5,000");
    assert_eq!(disk.syncs(), before, "nobody waits for a sync");
    let ticket = log.begin_flush().expect("to flush");
    assert!(log.begin_flush().is_none(), "one flush at a time");
    ticket.sync().expect("sync");
    // Four files, their directory, its parent, and the journal.
    assert_eq!(disk.syncs(), before + 7);
    assert_eq!(log.finish_flush(ticket, Ok(())).expect("finish"), Offset(102));
    let sealed: u64 = log.segments[..3].iter().map(|segment| segment.size()).sum();
    assert!(disk.used() < sealed + (64 << 10) + 10_000, "unused blocks of sealed segments were given back");
}

#[test]
fn a_flush_that_a_truncation_overtook_covers_what_is_left() {
    let disk = MemoryDisk::new();
    let (dir, mut log) = open(&disk, OPTIONS);
    for offset in 0..10 {
        log.append(&single(offset, 0, 100), 0).expect("append");
    }
    let ticket = log.begin_flush().expect("to flush");
    assert_eq!(log.truncate_to(Offset(5)).expect("truncate"), Offset(5));
    log.append(&batch(Offset(5), 1, LeaderEpoch(1), 0, 10), 0).expect("append");
    ticket.sync().expect("sync");
    assert_eq!(log.finish_flush(ticket, Ok(())).expect("finish"), Offset(5));
    dir.journal().sync().expect("sync");
    flush(&mut log).expect("flush");
    drop((log, dir));
    for seed in 0..20 {
        let disk = disk.after_crash(Crash::PowerLoss, seed);
        let dir = LogDir::open(Arc::new(disk), Path::new("/data"), [1; 16]).expect("open");
        let (log, recovery) = dir.open_log("t-0", Uuid::ZERO, OPTIONS).expect("open");
        assert_eq!(log.end_offset(), Offset(6), "seed {seed}: {recovery:?}");
    }
}

#[test]
fn closing_does_not_rest_on_a_flush_that_is_not_done() {
    let disk = MemoryDisk::new();
    let (dir, mut log) = open(&disk, OPTIONS);
    log.append(&single(0, 0, 100), 0).expect("append");
    let unfinished = log.begin_flush().expect("to flush");
    log.append(&single(1, 0, 100), 0).expect("append");
    log.close().expect("close");
    dir.close(b"").expect("close");
    drop(unfinished);
    for seed in 0..20 {
        let (_dir, log) = open(&disk.after_crash(Crash::PowerLoss, seed), OPTIONS);
        assert_eq!((log.end_offset(), log.flushed_end()), (Offset(2), Offset(2)));
    }
}

#[test]
fn slices_outlive_truncation_and_the_file_is_cut_after_them() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = LogDir::open(Arc::new(crate::RealDisk), root.path(), [1; 16]).expect("open");
    let (mut log, _) = dir.open_log("t-0", Uuid::ZERO, LogOptions::default()).expect("open");
    for offset in 0..100 {
        log.append(&single(offset, 0, 1000), 0).expect("append");
    }
    let Read::Hot(slices) = log.read(Offset(0), Offset(100), 1 << 20, true).expect("read") else {
        panic!("just written")
    };
    let before = slices[0].bytes().to_vec();
    assert_eq!(before.len(), 100 * 1061);
    let bytes = slices[0].bytes().clone();
    log.truncate_to(Offset(3)).expect("truncate");
    log.append(&batch(Offset(3), 1, LeaderEpoch(2), 0, 5), 0).expect("append");
    let len = || std::fs::metadata(root.path().join("t-0/00000000000000000000.log")).expect("there").len();
    assert_eq!(len(), 100 * 1061, "somebody looks at it");
    assert_eq!(slices[0].bytes(), &before);
    flush(&mut log).expect("flush");
    drop(slices);
    assert_eq!(bytes, before);
    assert_eq!(len(), 100 * 1061);
    drop(bytes);
    assert_eq!(len(), 3 * 1061);
    assert_eq!(read_all(&log).expect("sound").len(), 3 * 1061 + 66);
}
