//! What every batch passes on its way: its producer is known and its sequence is the next one, and, once followers have it, the watermark moves.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ottla_machine::controller::image::PartitionState;
use ottla_machine::partition::leader::{Mode, OwnLog, Progress, Replica};
use ottla_machine::partition::producers::{Producers, Verdict};
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{
    BrokerEpoch, LeaderEpoch, NodeId, Offset, PartitionEpoch, ProducerEpoch, ProducerId,
};

/// Records of a batch.
const RECORDS: i32 = 16;

/// The header of a producer's batch.
fn header(producer: i64, base_sequence: i32) -> BatchHeader {
    let options = BatchOptions {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        base_sequence,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    (0..RECORDS).for_each(|_| builder.append(1, None, Some(b"a value")));
    BatchHeader::read(&builder.build()).expect("a batch")
}

fn producers(c: &mut Criterion) {
    let mut group = c.benchmark_group("an idempotent producer's batch is checked and noted");
    for count in [1_i64, 10_000] {
        let mut producers = Producers::default();
        (0..count).for_each(|id| producers.apply(&header(id, 0)));
        let mut next = header(count / 2, RECORDS);
        group.bench_function(format!("one of {count}"), |b| {
            b.iter(|| {
                let verdict = producers.check(black_box(&next));
                assert_eq!(verdict, Verdict::Append);
                producers.apply(&next);
                // Sequences wrap; 31 bits hold a whole number of batches.
                next.base_sequence = next.base_sequence.wrapping_add(RECORDS) & i32::MAX;
                next.base_offset = next.base_offset.plus(i64::from(RECORDS));
            });
        });
    }
    group.finish();
}

fn nodes<C: FromIterator<NodeId>>() -> C {
    [1, 2, 3].map(NodeId).into_iter().collect()
}

/// What a batch at replication factor 3 costs the leader's machine: its own append, and two followers that have it.
fn watermark(c: &mut Criterion) {
    let state = PartitionState {
        replicas: nodes(),
        adding: [].into_iter().collect(),
        removing: [].into_iter().collect(),
        isr: nodes(),
        elr: [].into_iter().collect(),
        last_known_elr: [].into_iter().collect(),
        leader: NodeId(1),
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(7),
    };
    let mode = Mode { flushed_counts: false, min_insync_replicas: 2, lag_max_ms: 30_000 };
    let active = |node: NodeId| Some(BrokerEpoch(i64::from(node.0)));
    let own = |end| OwnLog { start: Offset(0), end: Offset(end), flushed: Offset(end) };
    let mut leader = Replica::new(NodeId(1), state);
    leader.on_opened(own(0), &mode, 0);
    let mut end = 0;
    c.bench_function("three replicas: a batch is appended, and two followers have it", |b| {
        b.iter(|| {
            end += i64::from(RECORDS);
            assert!(!leader.advance(own(end), &mode, &active, 1), "followers have not seen it yet");
            for follower in [2, 3] {
                let progress = Progress {
                    follower: NodeId(follower),
                    epoch: BrokerEpoch(i64::from(follower)),
                    end: Offset(end),
                    flushed: Offset(end),
                };
                black_box(leader.on_follower(progress, own(end), &mode, &active, 1));
                leader.advance(own(end), &mode, &active, 1);
            }
            assert_eq!(leader.high_watermark(), Offset(end));
        });
    });
}

criterion_group!(benches, producers, watermark);
criterion_main!(benches);
