//! Batches as a broker meets them: what a check on append costs, a walk over the records, packing and unpacking.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ottla_load::payload::{BatchShape, Content};
use ottla_protocol::batch::{RecordBatch, TimestampType, stamp};
use ottla_protocol::compression::{Compression, compress, decompress};
use ottla_protocol::types::{LeaderEpoch, Offset};
use ottla_protocol::validate::{ProduceRules, validate_produced};

const RULES: ProduceRules = ProduceRules {
    bytes_max: 8 << 20,
    unpacked_bytes_max: 64 << 20,
    compacted: false,
    timestamps: TimestampType::CreateTime,
    before_max_ms: i64::MAX,
    after_max_ms: i64::MAX,
    now_ms: 1_700_000_000_000,
    produce_version: 13,
};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Records of text that compresses, so that codecs have work; without a codec, of bytes that do not.
fn batch(codec: Compression, value_bytes: usize, batch_bytes: usize) -> Vec<u8> {
    let shape = BatchShape::filling(value_bytes, batch_bytes);
    let content = Content { codec, keys: shape.records, ..Content::plain(shape, RULES.now_ms) };
    content.batches()[0].bytes().to_vec()
}

fn validation(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate a batch");
    for (name, value_bytes, batch_bytes) in [
        ("16 KiB of 1 KiB", 1_024, 16 << 10),
        ("16 KiB of 100 B", 100, 16 << 10),
        ("64 KiB of 1 KiB", 1_024, 64 << 10),
    ] {
        let bytes = batch(Compression::None, value_bytes, batch_bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| validate_produced(black_box(&bytes), &RULES).expect("a good batch"));
        });
    }
    for codec in &CODECS[1..] {
        let bytes = batch(*codec, 1_024, 16 << 10);
        group.throughput(Throughput::Bytes(16 << 10));
        group.bench_function(format!("16 KiB of 1 KiB, {codec:?}"), |b| {
            b.iter(|| validate_produced(black_box(&bytes), &RULES).expect("a good batch"));
        });
    }
    group.finish();
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("walk over records");
    for (name, value_bytes) in [("of 1 KiB", 1_024), ("of 100 B", 100), ("of 10 B", 10)] {
        let bytes = batch(Compression::None, value_bytes, 64 << 10);
        let (parsed, _) = RecordBatch::parse(&bytes).expect("a batch");
        let count = u64::try_from(parsed.header().records_count).expect("not negative");
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |b| {
            b.iter(|| {
                let (batch, _) = RecordBatch::parse(black_box(&bytes)).expect("a batch");
                for record in batch.records(batch.payload()) {
                    black_box(record.expect("a record"));
                }
            });
        });
    }
    group.finish();
    let mut bytes = batch(Compression::None, 1_024, 16 << 10);
    c.bench_function("stamp an offset and an epoch", |b| {
        b.iter(|| stamp(black_box(&mut bytes), Offset(7_000), LeaderEpoch(3)));
    });
}

fn codecs(c: &mut Criterion) {
    // What the batches hold, as one piece.
    let text = {
        let bytes = batch(Compression::Gzip, 1_024, 64 << 10);
        let (parsed, _) = RecordBatch::parse(&bytes).expect("a batch");
        parsed.uncompressed(1 << 20).expect("it was packed here").into_owned()
    };
    for (name, packs) in [("pack 64 KiB", true), ("unpack 64 KiB", false)] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(text.len() as u64));
        for codec in &CODECS[1..] {
            let packed = compress(*codec, None, &text);
            group.bench_function(format!("{codec:?}"), |b| {
                if packs {
                    b.iter(|| compress(*codec, None, black_box(&text)));
                } else {
                    b.iter(|| decompress(*codec, black_box(&packed), 1 << 20).expect("it was packed here"));
                }
            });
        }
        group.finish();
    }
}

criterion_group!(benches, validation, records, codecs);
criterion_main!(benches);
