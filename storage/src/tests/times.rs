//! Searches by timestamp answer as a look at every record would.

use std::path::Path;
use std::sync::Arc;

use ottla_protocol::batch::{TimestampType, set_max_timestamp};
use ottla_protocol::compression::Compression;
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{FillFor, FoundTimestamp, LogDir, LogOptions, MemoryDisk};

#[test]
fn a_search_by_time_finds_what_a_look_at_every_record_finds() {
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let open = || {
            let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), [1; 16]).expect("open");
            let options = LogOptions {
                segment_bytes: 2_000,
                segment_ms: i64::MAX,
                segment_jitter_ms: 0,
                index_interval_bytes: 150,
                fill_for: FillFor::Memory,
            };
            let (log, _) = dir.open_log("t-0", Uuid::ZERO, options).expect("open");
            (dir, log)
        };
        let (dir, mut log) = open();
        let mut records: Vec<FoundTimestamp> = Vec::new();
        let mut clock = 1_000;
        for number in 0..100 {
            if number == 70 {
                // After a kill, the index is known from here on, and loaded for what is before.
                let ticket = log.begin_flush().expect("something to flush");
                let result = ticket.sync();
                log.finish_flush(ticket, result).expect("flushed");
            }
            let leader_epoch = LeaderEpoch(records.len() as i32 / 50);
            let base_offset = log.end_offset();
            let compression = Compression::ALL[rng.random_range(0..5)];
            let options = BatchOptions { base_offset, leader_epoch, compression, ..BatchOptions::default() };
            let mut builder = BatchBuilder::new(options);
            let mut times = Vec::new();
            for _ in 0..rng.random_range(1..6) {
                clock += rng.random_range(-300..400);
                let time = if rng.random_range(0..10) == 0 { -1 } else { clock.max(0) };
                builder.append(time, None, Some(b"value"));
                times.push(time);
            }
            let mut batch = builder.build();
            if rng.random_range(0..5) == 0 {
                set_max_timestamp(&mut batch, TimestampType::LogAppendTime, clock.max(0));
                times.fill(clock.max(0));
            }
            log.append(&batch, 0).expect("append");
            records.extend(times.iter().enumerate().map(|(at, time)| FoundTimestamp {
                timestamp_ms: *time,
                offset: base_offset.plus(at as i64),
                leader_epoch,
            }));
        }
        check(&log, &records, clock, seed, &mut rng);
        dir.journal().sync().expect("sync");
        drop((log, dir));
        let (dir, mut log) = open();
        check(&log, &records, clock, seed, &mut rng);
        let end = log.truncate_to(Offset(records.len() as i64 * 3 / 4)).expect("truncate");
        records.truncate(end.0 as usize);
        check(&log, &records, clock, seed, &mut rng);
        if let Some(removal) = log.trim_start(Offset(records.len() as i64 / 3)) {
            removal.run().expect("run");
        }
        check(&log, &records, clock, seed, &mut rng);
        dir.journal().sync().expect("sync");
        drop((log, dir));
        let (_dir, log) = open();
        check(&log, &records, clock, seed, &mut rng);
    }
}

fn check(log: &crate::Log, records: &[FoundTimestamp], clock: i64, seed: u64, rng: &mut SmallRng) {
    let view = log.view();
    let there = || records.iter().filter(|record| record.offset >= log.start_offset()).copied();
    for _ in 0..40 {
        let time = rng.random_range(-10..clock + 1_000);
        let expected = there().find(|record| record.timestamp_ms >= time);
        assert_eq!(view.find_by_timestamp(time).expect("sound"), expected, "seed {seed}, {time}");
    }
    let max = there().map(|record| record.timestamp_ms).max().filter(|max| *max >= 0);
    let expected = max.and_then(|max| there().find(|record| record.timestamp_ms == max));
    assert_eq!(view.max_timestamp().expect("sound"), expected, "seed {seed}");
}
