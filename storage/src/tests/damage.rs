//! Flushed bytes that are gone or changed are told, and never cut.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::batches::{batch, single};
use super::model::{OPTIONS, read, read_all};
use crate::memory::Crash;
use crate::{Disk, Log, LogDir, LogOptions, MemoryDisk, StorageError};

fn open(disk: &MemoryDisk, options: LogOptions) -> (LogDir, Log, crate::Recovery) {
    let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), [1; 16]).expect("open");
    let (log, recovery) = dir.open_log("t-0", Uuid::ZERO, options).expect("open");
    (dir, log, recovery)
}

fn flush(log: &mut Log) {
    let ticket = log.begin_flush().expect("something to flush");
    let result = ticket.sync();
    log.finish_flush(ticket, result).expect("flushed");
}

/// A hundred records of 161 bytes, flushed and journaled, in three segments.
fn filled() -> (MemoryDisk, LogDir, Log) {
    let disk = MemoryDisk::new();
    let (dir, mut log, _) = open(&disk, OPTIONS);
    for offset in 0..100 {
        log.append(&single(offset, offset, 100), 0).expect("append");
    }
    flush(&mut log);
    dir.journal().sync().expect("sync");
    (disk, dir, log)
}

fn file(base: i64) -> PathBuf {
    Path::new("/data/t-0").join(format!("{base:020}.log"))
}

#[test]
fn a_flipped_bit_anywhere_is_told_by_the_read_and_cuts_nothing() {
    let (disk, dir, log) = filled();
    drop((dir, log));
    for crash in [Crash::Kill, Crash::PowerLoss] {
        for (number, position) in (0..100_u64).map(|number| (number, number * 161 + number % 161)) {
            let left = disk.after_crash(crash, number);
            let base = (number / 37 * 37) as i64;
            let at = position - base as u64 * 161;
            left.flip_bit(&file(base), at, number as u32).expect("flip");
            let (_dir, log, recovery) = open(&left, OPTIONS);
            assert!(recovery.is_intact() && recovery.cut.is_none(), "nothing past the durable end");
            assert_eq!(log.end_offset(), Offset(100));
            let offset = Offset(number as i64);
            // The base offset and the epoch are not covered by the checksum, but the neighbours show a wrong offset up.
            let in_crc = number % 161 >= 17 || (8..12).contains(&(number % 161)) || number % 161 == 16;
            let answer = read(&log, offset, Offset(100), 161, true);
            if in_crc {
                let Err(StorageError::CorruptBatch { file: found, position, .. }) = answer else {
                    panic!("{number}: {answer:?}")
                };
                assert_eq!((found, position), (file(base), at - number % 161));
            }
            if number % 37 > 0 {
                let before = read(&log, offset.plus(-1), Offset(100), 161, true).expect("the one before");
                assert_eq!(before, single(number as i64 - 1, number as i64 - 1, 100));
            }
        }
    }
}

#[test]
fn good_batches_before_a_bad_one_are_served_and_checks_happen_once() {
    let (disk, dir, log) = filled();
    drop((dir, log));
    let (_dir, log, _) = open(&disk, OPTIONS);
    assert_eq!(read(&log, Offset(0), Offset(100), 10 * 161, true).expect("read").len(), 10 * 161);
    disk.flip_bit(&file(0), 5 * 161 + 100, 3).expect("flip");
    // Checked before, and still in memory as far as anybody knows.
    assert_eq!(read(&log, Offset(0), Offset(100), 10 * 161, true).expect("read").len(), 10 * 161);
    drop((_dir, log));
    let (_dir, log, _) = open(&disk, OPTIONS);
    assert_eq!(read(&log, Offset(0), Offset(100), 10 * 161, true).expect("read").len(), 5 * 161);
    assert!(matches!(read(&log, Offset(5), Offset(100), 161, true), Err(StorageError::CorruptBatch { .. })));
    assert_eq!(read(&log, Offset(6), Offset(100), 161, true).expect("the one after").len(), 161);
}

#[test]
fn a_file_shorter_than_what_was_flushed_quarantines_the_log() {
    for stop in [Crash::Kill, Crash::PowerLoss] {
        let (disk, dir, log) = filled();
        drop((dir, log));
        let left = disk.after_crash(stop, 1);
        let handle = left.open(&file(74), crate::disk::OpenMode::Existing).expect("open");
        handle.set_len(1000).expect("cut");
        let (_dir, mut log, recovery) = open(&left, OPTIONS);
        let damage = recovery.damage.expect("damage");
        assert!(damage.contains("has 1000 bytes, but 4186 had been flushed"), "{damage}");
        assert_eq!(handle.len().expect("len"), 1000, "nothing was cut");
        assert!(matches!(log.append(&single(100, 0, 1), 0), Err(StorageError::Quarantined { .. })));
        assert_eq!(log.end_offset(), Offset(100));
        assert_eq!(read(&log, Offset(0), Offset(100), 161, true).expect("sound part").len(), 161);
        assert_eq!(read(&log, Offset(75), Offset(100), 161, true).expect("sound part").len(), 161);
        let error = read(&log, Offset(90), Offset(100), 161, true).expect_err("gone");
        assert!(matches!(error, StorageError::CorruptBatch { .. }), "{error}");
        log.restart_at(Offset(60)).expect("to be fetched anew");
        log.append(&single(60, 0, 1), 0).expect("append");
        assert_eq!((log.start_offset(), log.end_offset()), (Offset(60), Offset(61)));
    }
}

#[test]
fn a_missing_file_quarantines_the_log_or_fails_its_reads() {
    let (disk, dir, log) = filled();
    drop((dir, log));
    let last = disk.after_crash(Crash::Kill, 1);
    last.remove_file(&file(74)).expect("remove");
    let (_dir, log, recovery) = open(&last, OPTIONS);
    assert!(recovery.damage.expect("damage").contains("is missing"));
    assert!(read_all(&log).is_err());

    let middle = disk.after_crash(Crash::Kill, 1);
    middle.remove_file(&file(37)).expect("remove");
    let (_dir, log, recovery) = open(&middle, OPTIONS);
    assert!(recovery.is_intact(), "nobody looked");
    assert_eq!(read(&log, Offset(36), Offset(100), 100_000, true).expect("what is there").len(), 161);
    let error = read(&log, Offset(37), Offset(100), 161, true).expect_err("missing");
    assert!(error.to_string().contains("ends at offset 37, but the next begins at 74"), "{error}");
    assert_eq!(read(&log, Offset(74), Offset(100), 161, true).expect("sound part").len(), 161);
}

#[test]
fn after_a_kill_a_bad_batch_past_the_durable_end_is_damage_and_an_unfinished_one_is_cut() {
    let (disk, dir, mut log) = filled();
    log.append(&single(100, 0, 500), 0).expect("append");
    log.append(&single(101, 0, 500), 0).expect("append");
    drop((dir, log));
    let killed = disk.after_crash(Crash::Kill, 1);
    killed.flip_bit(&file(74), 26 * 161 + 16, 0).expect("flip");
    let (_dir, mut log, recovery) = open(&killed, OPTIONS);
    assert!(recovery.damage.is_some() && recovery.cut.is_none());
    assert!(log.append(&single(100, 0, 1), 0).is_err());

    let killed = disk.after_crash(Crash::Kill, 1);
    killed.flip_bit(&file(74), 26 * 161 + 80, 0).expect("flip");
    let (_dir, log, recovery) = open(&killed, OPTIONS);
    assert!(recovery.is_intact() && recovery.cut.is_none(), "bodies are left to their first reader");
    assert_eq!((recovery.walked_from, log.end_offset()), (Some(Offset(100)), Offset(102)));
    let error = read(&log, Offset(100), Offset(102), 161, true).expect_err("flipped");
    assert!(matches!(error, StorageError::CorruptBatch { position, .. } if position == 26 * 161), "{error}");

    let killed = disk.after_crash(Crash::Kill, 1);
    let handle = killed.open(&file(74), crate::disk::OpenMode::Existing).expect("open");
    handle.set_len(26 * 161 + 561 + 300).expect("an append that was under way");
    let (_dir, mut log, recovery) = open(&killed, OPTIONS);
    let cut = recovery.cut.expect("cut");
    assert_eq!((cut.end, cut.bytes, cut.position), (Offset(101), 300, 26 * 161 + 561));
    assert_eq!(recovery.scanned_bytes, 561);
    log.append(&single(101, 0, 1), 0).expect("the log goes on");
    assert_eq!(read_all(&log).expect("sound").len(), 100 * 161 + 561 + 62);
}

/// A log of batches of 561 bytes in one file, filled ahead of them, and killed; with the end of its data.
fn filled_ahead(batches: i64) -> (MemoryDisk, u64) {
    let disk = MemoryDisk::new();
    let options = LogOptions { segment_bytes: 1 << 20, ..OPTIONS };
    let (_dir, mut log, _) = open(&disk, options);
    for offset in 0..batches {
        log.append(&single(offset, 0, 500), 0).expect("append");
    }
    (disk.after_crash(Crash::Kill, 1), batches as u64 * 561)
}

#[test]
fn zeros_ahead_of_the_data_are_no_damage_and_go_when_the_log_is_opened_or_closed() {
    let (killed, size) = filled_ahead(10);
    let len = killed.read(&file(0)).expect("read").len() as u64;
    assert!(size < len && len <= size + 1_024, "{len} bytes for {size} of data");
    let (dir, mut log, recovery) = open(&killed, LogOptions { segment_bytes: 1 << 20, ..OPTIONS });
    assert!(recovery.is_intact() && recovery.cut.is_none() && log.end_offset() == Offset(10));
    assert_eq!(killed.read(&file(0)).expect("read").len() as u64, size);
    for offset in 10..20 {
        log.append(&single(offset, 0, 500), 0).expect("append");
    }
    assert!(killed.read(&file(0)).expect("read").len() > 20 * 561);
    log.seal();
    flush(&mut log);
    assert_eq!(killed.read(&file(0)).expect("read").len(), 20 * 561, "sealed");
    for offset in 20..30 {
        log.append(&single(offset, 0, 500), 0).expect("append");
    }
    log.close().expect("close");
    drop(dir);
    assert_eq!(killed.read(&file(20)).expect("read").len(), 10 * 561, "closed");
}

#[test]
fn an_append_that_a_kill_interrupted_over_zeros_is_cut_and_a_flipped_bit_is_not() {
    let options = LogOptions { segment_bytes: 1 << 20, ..OPTIONS };
    for block in [10 * 561 / 512 + 1, 10 * 561 / 512 + 2] {
        let (killed, size) = filled_ahead(11);
        let cut_at = block * 512;
        let handle = killed.open(&file(0), crate::disk::OpenMode::Existing).expect("open");
        handle.write_zeros(size - cut_at, cut_at).expect("an append that was under way");
        let (_dir, log, recovery) = open(&killed, options);
        let cut = recovery.cut.expect("cut");
        assert_eq!((cut.end, cut.position), (Offset(10), 10 * 561));
        assert_eq!(read_all(&log).expect("sound").len(), 10 * 561);
    }
    let (killed, size) = filled_ahead(11);
    killed.flip_bit(&file(0), size - 300, 3).expect("flip");
    let (_dir, log, recovery) = open(&killed, options);
    assert!(recovery.is_intact() && recovery.cut.is_none() && log.end_offset() == Offset(11));
    assert!(matches!(
        read(&log, Offset(10), Offset(11), 1_000, true),
        Err(StorageError::CorruptBatch { .. })
    ));
    // Within a header.
    let (killed, size) = filled_ahead(11);
    let handle = killed.open(&file(0), crate::disk::OpenMode::Existing).expect("open");
    handle.write_zeros(size - 10 * 561 - 14, 10 * 561 + 14).expect("an append that was under way");
    let (_dir, _log, recovery) = open(&killed, options);
    assert_eq!(recovery.cut.expect("cut").end, Offset(10));
}

#[test]
fn an_epoch_whose_records_were_lost_does_not_condemn_older_ones_that_take_their_place() {
    let disk = MemoryDisk::new();
    let (dir, mut log, _) = open(&disk, OPTIONS);
    let in_epoch = |base, epoch| batch(Offset(base), 1, LeaderEpoch(epoch), 0, 100);
    log.append(&in_epoch(0, 1), 0).expect("append");
    flush(&mut log);
    log.append(&in_epoch(1, 1), 0).expect("append");
    log.assign_epoch(LeaderEpoch(3));
    dir.journal().sync().expect("sync");
    let lost = (0..100).map(|seed| disk.after_crash(Crash::PowerLoss, seed));
    let lost = lost
        .into_iter()
        .find(|left| open(&left.after_crash(Crash::Kill, 0), OPTIONS).1.end_offset() == Offset(1));
    let disk = lost.expect("a power loss that takes the second batch");
    let (_dir, mut log, _) = open(&disk, OPTIONS);
    log.append(&in_epoch(1, 2), 0).expect("from the leader of epoch 4, whose history has epoch 2 here");
    log.append(&in_epoch(2, 2), 0).expect("append");
    let (_dir, log, recovery) = open(&disk.after_crash(Crash::Kill, 0), OPTIONS);
    assert_eq!((recovery.damage, recovery.cut, log.end_offset()), (None, None, Offset(3)));
}

#[test]
fn an_epoch_that_never_got_a_record_gives_way_to_records_of_an_older_one() {
    let disk = MemoryDisk::new();
    let (dir, mut log, _) = open(&disk, OPTIONS);
    let in_epoch = |base, epoch| batch(Offset(base), 1, LeaderEpoch(epoch), 0, 100);
    log.append(&in_epoch(0, 1), 0).expect("append");
    flush(&mut log);
    log.assign_epoch(LeaderEpoch(3));
    dir.journal().sync().expect("sync");
    log.append(&in_epoch(1, 1), 0).expect("from the leader of epoch 4, whose log goes on in epoch 1");
    assert_eq!(log.epochs().epoch_at(Offset(1)), Some(LeaderEpoch(1)));
    flush(&mut log);
    for seed in 0..20 {
        let (_dir, log, recovery) = open(&disk.after_crash(Crash::PowerLoss, seed), OPTIONS);
        assert_eq!((recovery.damage, recovery.cut, log.end_offset()), (None, None, Offset(2)));
        assert_eq!(log.epochs().epoch_at(Offset(1)), Some(LeaderEpoch(1)));
    }
}

#[test]
fn a_lost_or_foreign_index_is_built_anew_from_the_data() {
    let (disk, dir, log) = filled();
    log.close().expect("close");
    dir.close(b"").expect("close");
    let indexes: Vec<_> = disk
        .list(Path::new("/data/t-0"))
        .expect("list")
        .into_iter()
        .filter(|entry| entry.name.ends_with("index"))
        .map(|entry| Path::new("/data/t-0").join(entry.name))
        .collect();
    assert_eq!(indexes.len(), 3);
    let want = |disk: &MemoryDisk| {
        let (_dir, log, _) = open(disk, OPTIONS);
        for offset in (0..100).rev() {
            let bytes = read(&log, Offset(offset), Offset(100), 161, true).expect("sound");
            assert_eq!(bytes, single(offset, offset, 100));
        }
        let segments = log.segments.iter();
        segments.map(|segment| segment.index().entries().to_vec()).collect::<Vec<_>>()
    };
    let whole = want(&disk.after_crash(Crash::Kill, 0));
    for index in &indexes {
        let left = disk.after_crash(Crash::Kill, 0);
        left.remove_file(index).expect("remove");
        assert_eq!(want(&left), whole, "rebuilt");
        for position in (0..disk.read(index).expect("read").len() as u64).step_by(7) {
            let left = disk.after_crash(Crash::Kill, 0);
            left.flip_bit(index, position, 2).expect("flip");
            assert_eq!(want(&left), whole, "byte {position}");
        }
    }
}

#[test]
fn whatever_bits_flip_in_whatever_file_answers_are_right_or_errors() {
    let (disk, dir, mut log) = filled();
    for offset in 100..130 {
        log.append(&single(offset, offset, 100), 0).expect("append");
    }
    flush(&mut log);
    dir.journal().sync().expect("sync");
    for segment in log.segments.iter() {
        segment.save_index();
    }
    drop((log, dir));
    let mut paths: Vec<PathBuf> = disk
        .list(Path::new("/data/t-0"))
        .expect("list")
        .into_iter()
        .map(|entry| Path::new("/data/t-0").join(entry.name))
        .collect();
    paths.push("/data/journal".into());
    let originals: BTreeSet<Vec<u8>> =
        (0..130).map(|offset| single(offset, offset, 100)[16..].to_vec()).collect();
    for seed in super::fuzz_seeds(3_000) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let crash = if rng.random() { Crash::Kill } else { Crash::PowerLoss };
        let left = disk.after_crash(crash, seed);
        for _ in 0..rng.random_range(1..4) {
            let path = &paths[rng.random_range(0..paths.len())];
            // The name of an index is not synced.
            let len = left.read(path).map_or(0, |bytes| bytes.len() as u64);
            if len == 0 {
                continue;
            }
            // Headers more often than the rest.
            let position =
                if rng.random() { rng.random_range(0..len.min(200)) } else { rng.random_range(0..len) };
            left.flip_bit(path, position, rng.random_range(0..8)).expect("flip");
        }
        let Ok(dir) = LogDir::open(Arc::new(left), Path::new("/data"), [1; 16]) else { continue };
        let Ok((mut log, _)) = dir.open_log("t-0", Uuid::ZERO, OPTIONS) else { continue };
        for _ in 0..30 {
            let from = Offset(rng.random_range(0..131));
            let Ok(bytes) = read(&log, from, log.end_offset(), rng.random_range(0..2_000), true) else {
                continue;
            };
            for batch in bytes.chunks(161) {
                // Offset and epoch are not covered by the checksum, so that a flip there may pass; the rest is as it was written.
                assert!(originals.contains(&batch[16..]), "seed {seed}, from {from}");
            }
        }
        let _found = log.view().find_by_timestamp(rng.random_range(0..130));
        let _max = log.view().max_timestamp();
        let end = log.end_offset();
        if log.append(&single(end.0, end.0, 100), 0).is_ok() {
            read(&log, end, log.end_offset(), 1_000, true).expect("what was just written");
        }
        let _cut = log.truncate_to(Offset(rng.random_range(0..131)));
    }
}

/// The base offset is not covered by the checksum; an index is built of what it says.
#[test]
fn a_batch_whose_offset_lies_before_or_far_behind_its_segment_ends_the_walk_and_not_the_process() {
    let (disk, dir, log) = filled();
    drop((dir, log));
    let middle = 6 * 161; // Here the index has an entry.
    // The lowest bytes take it below the one before, and below the segment; the upper ones beyond what a segment spans.
    for byte in 0..8 {
        for base in [0, 37] {
            let left = disk.after_crash(Crash::Kill, byte);
            left.flip_bit(&file(base), middle + byte, 5).expect("flip");
            let _index = left.remove_file(&file(base).with_extension("ottla-index"));
            let (_dir, log, _) = open(&left, OPTIONS);
            let found = read(&log, Offset(base + 5), Offset(100), 161, true).expect("the one before");
            assert_eq!(found, single(base + 5, base + 5, 100), "byte {byte}");
            let _answer = read(&log, Offset(base + 36), Offset(100), 161, true);
            let _found = log.view().find_by_timestamp(base + 36);
            log.segments.iter().for_each(|segment| segment.save_index());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_index_a_journal_and_a_header_or_not(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _head = crate::head::Head::parse(&bytes);
        let index = crate::index::Index::parse(&bytes, Offset(5), 1_000, Offset(1_000));
        prop_assert!(index.end() < 1_000);
        for (at, byte) in b"OTTLAIDX\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x05".iter().enumerate().take(bytes.len()) {
            bytes[at] = *byte;
        }
        let index = crate::index::Index::parse(&bytes, Offset(5), 1_000, Offset(1_000));
        prop_assert!(index.end() < 1_000);
        let disk = MemoryDisk::new();
        let path = Path::new("/journal");
        for header in [&b""[..], b"OTTLAJNL\0\x01\0\0\0\0\0\0"] {
            let all = [header, &bytes].concat();
            disk.open(path, crate::disk::OpenMode::Replace).expect("open").write_at(&all, 0).expect("write");
            let _journal = crate::Journal::open(Arc::new(disk.clone()), path);
        }
    }
}
