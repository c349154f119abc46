//! The log alone, on the real disk, single-threaded: what an append, a read and an opening cost.
//!
//! `OTTLA_BENCH_DIR` names the directory to work in (by default the one for temporary files; a tmpfs shows the code's cost, a disk
//! the system's), `OTTLA_BENCH_LOG_BYTES` the size of the log that is opened (by default 1 GiB). With `OTTLA_BENCH_COLD` set, and as
//! root, the page cache is emptied before each opening.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ottla_protocol::batch::stamp;
use ottla_protocol::fetch_response;
use ottla_protocol::messages::FetchResponse;
use ottla_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};
use ottla_storage::{Log, LogDir, LogOptions, Read, RealDisk, Slice};

fn work_dir() -> PathBuf {
    std::env::var_os("OTTLA_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

fn open(dir: &tempfile::TempDir, options: LogOptions) -> (LogDir, Log) {
    let logs = LogDir::open(Arc::new(RealDisk), dir.path(), [1; 16]).expect("a directory of our own");
    let (log, recovery) = logs.open_log("bench-0", Uuid::ZERO, options).expect("open");
    assert!(recovery.is_intact());
    (logs, log)
}

/// A batch of records of 1 KiB each, `bytes` in all.
fn batch(bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = vec![b'v'; 1_000];
    while builder.payload_bytes() < bytes {
        builder.append(1, None, Some(&value));
    }
    builder.build()
}

fn append_one(log: &mut Log, bytes: &mut [u8]) {
    stamp(bytes, log.end_offset(), LeaderEpoch(0));
    black_box(log.append(bytes, 0).expect("room"));
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for kib in [4, 16, 64] {
        let dir = tempfile::tempdir_in(work_dir()).expect("a temporary directory");
        let (_logs, mut log) = open(&dir, LogOptions { segment_bytes: 32 << 20, ..LogOptions::default() });
        let mut bytes = batch(kib << 10);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{kib} KiB"), |b| {
            b.iter(|| {
                append_one(&mut log, &mut bytes);
                if log.size_bytes() > 64 << 20
                    && let Some(removal) = log.drop_segments_below(log.end_offset().plus(-1))
                {
                    removal.run().expect("removed");
                }
            });
        });
    }
    for kib in [4, 16] {
        let dir = tempfile::tempdir_in(work_dir()).expect("a temporary directory");
        let (_logs, mut log) = open(&dir, LogOptions::default());
        let mut bytes = batch(kib << 10);
        group.bench_function(format!("{kib} KiB and flush"), |b| {
            b.iter(|| {
                append_one(&mut log, &mut bytes);
                let ticket = log.begin_flush().expect("something to flush");
                let result = ticket.sync();
                log.finish_flush(ticket, result).expect("flushed");
            });
        });
    }
    group.finish();
}

/// A log of 64 MiB to read from.
fn filled(dir: &tempfile::TempDir) -> (LogDir, Log) {
    let (logs, mut log) = open(dir, LogOptions::default());
    let mut bytes = batch(16 << 10);
    while log.size_bytes() < 64 << 20 {
        append_one(&mut log, &mut bytes);
    }
    (logs, log)
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    let dir = tempfile::tempdir_in(work_dir()).expect("a temporary directory");
    let (_logs, log) = filled(&dir);
    let end = log.end_offset();
    for (name, max_bytes) in [("one batch of 16 KiB", 20 << 10), ("256 KiB", 256 << 10), ("1 MiB", 1 << 20)] {
        let mut from = Offset(0);
        group.bench_function(name, |b| {
            b.iter(|| {
                from = Offset((from.0 + 7_919) % (end.0 - 1_100));
                match log.read(from, end, max_bytes, true).expect("sound") {
                    Read::Hot(slices) => black_box(slices),
                    Read::Cold(_) => panic!("it was just written"),
                }
            });
        });
    }
    group.finish();
}

/// As a consumer's fetch of 1 MiB is answered: slices of the log between encoded pieces.
fn fetch(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(work_dir()).expect("a temporary directory");
    let (_logs, log) = filled(&dir);
    let end = log.end_offset();
    let partition =
        PartitionData { high_watermark: end.0, last_stable_offset: end.0, ..PartitionData::default() };
    let topic = FetchableTopicResponse {
        topic_id: Uuid([7; 16]),
        partitions: vec![partition],
        ..FetchableTopicResponse::default()
    };
    let response = FetchResponse { responses: vec![topic], ..FetchResponse::default() };
    let mut from = Offset(0);
    c.bench_function("read 1 MiB and answer a fetch with it", |b| {
        b.iter(|| {
            from = Offset((from.0 + 7_919) % (end.0 - 1_100));
            let Read::Hot(slices) = log.read(from, end, 1 << 20, true).expect("sound") else {
                panic!("it was just written");
            };
            let length = slices.iter().map(Slice::len).sum();
            black_box(fetch_response::write(&response, 17, [(slices, length)]))
        });
    });
}

fn forget_pages() {
    if std::env::var_os("OTTLA_BENCH_COLD").is_some() {
        std::fs::write("/proc/sys/vm/drop_caches", "3").expect("only root may");
    }
}

fn recovery(c: &mut Criterion) {
    let mut group = c.benchmark_group("recovery");
    group.sample_size(10);
    let wanted = std::env::var("OTTLA_BENCH_LOG_BYTES").ok().and_then(|text| text.parse().ok());
    let wanted: u64 = wanted.unwrap_or(1 << 30);
    let dir = tempfile::tempdir_in(work_dir()).expect("a temporary directory");
    let (logs, mut log) = open(&dir, LogOptions::default());
    let mut bytes = batch(64 << 10);
    let mut flushed = 0;
    while log.size_bytes() < wanted {
        append_one(&mut log, &mut bytes);
        if log.size_bytes() > flushed + (32 << 20) {
            let ticket = log.begin_flush().expect("something to flush");
            let result = ticket.sync();
            log.finish_flush(ticket, result).expect("flushed");
            logs.journal().sync().expect("synced");
            flushed = log.size_bytes();
        }
    }
    drop((log, logs));
    group.bench_function(format!("open {} MiB after a kill", wanted >> 20), |b| {
        b.iter_batched(
            forget_pages,
            |()| black_box(open(&dir, LogOptions::default())),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("open it and read its first and last batch", |b| {
        b.iter_batched(
            forget_pages,
            |()| {
                let (logs, log) = open(&dir, LogOptions::default());
                for from in [Offset(0), log.end_offset().plus(-1)] {
                    if let Read::Cold(cold) = log.read(from, log.end_offset(), 1, true).expect("sound") {
                        black_box(cold.load().expect("sound"));
                    }
                }
                (logs, log)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, append, read, fetch, recovery);
criterion_main!(benches);
