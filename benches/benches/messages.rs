//! Decoding and encoding of hot messages: the generated ones beside the same bytes in the `kafka-protocol` crate. And what it costs to
//! refuse what no client sends: nothing that a request claims is paid for before it is checked.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, criterion_group, criterion_main};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable};
use ottla_protocol::messages as ours;
use ottla_protocol::types::Uuid;
use ottla_protocol::wire::{Message, Reader, Writer};

fn topic(number: u8) -> Uuid {
    Uuid([number + 1; 16])
}

/// `topics` topics of `partitions` partitions, each with a batch of 16 KiB.
fn produce(topics: u8, partitions: i32) -> ours::ProduceRequest {
    use ours::produce_request::{PartitionProduceData, TopicProduceData};
    let records = Some(Bytes::from(vec![7; 16 << 10]));
    let partition = |index| PartitionProduceData { index, records: records.clone() };
    let one = |number| TopicProduceData {
        topic_id: topic(number),
        partition_data: (0..partitions).map(partition).collect(),
        ..Default::default()
    };
    ours::ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: (0..topics).map(one).collect(),
        ..Default::default()
    }
}

fn fetch(topics: u8, partitions: i32) -> ours::FetchRequest {
    use ours::fetch_request::{FetchPartition, FetchTopic};
    let partition = |partition| FetchPartition {
        partition,
        current_leader_epoch: 4,
        fetch_offset: 1 << 30,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let one = |number| FetchTopic {
        topic_id: topic(number),
        partitions: (0..partitions).map(partition).collect(),
        ..Default::default()
    };
    ours::FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        topics: (0..topics).map(one).collect(),
        ..Default::default()
    }
}

fn metadata(topics: u8) -> ours::MetadataRequest {
    use ours::metadata_request::MetadataRequestTopic;
    let one = |number| MetadataRequestTopic {
        name: Some(format!("some.topic.of.the.usual.length-{number}").into()),
        ..Default::default()
    };
    ours::MetadataRequest { topics: Some((0..topics).map(one).collect()), ..Default::default() }
}

fn metadata_response(topics: u8, partitions: i32) -> ours::MetadataResponse {
    use ours::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
    let partition = |partition_index| MetadataResponsePartition {
        partition_index,
        leader_id: 1,
        leader_epoch: 4,
        replica_nodes: vec![1, 2, 3],
        isr_nodes: vec![1, 2, 3],
        ..Default::default()
    };
    let one = |number| MetadataResponseTopic {
        name: Some(format!("some.topic.of.the.usual.length-{number}").into()),
        topic_id: topic(number),
        partitions: (0..partitions).map(partition).collect(),
        ..Default::default()
    };
    ours::MetadataResponse { topics: (0..topics).map(one).collect(), ..Default::default() }
}

fn encoded<M: Message>(message: &M, version: i16) -> Bytes {
    let mut w = Writer::new();
    message.encode(&mut w, version);
    w.into_bytes().into()
}

fn decode<M: Message, T: Decodable>(c: &mut Criterion, what: &str, message: &M, version: i16) {
    let bytes = encoded(message, version);
    let mut group = c.benchmark_group(format!("decode {} v{version}, {what}", M::NAME));
    group.bench_function("generated", |b| {
        b.iter(|| black_box(M::decode(&mut Reader::new(bytes.clone()), version)).expect("a message"));
    });
    group.bench_function("kafka-protocol", |b| {
        b.iter(|| black_box(T::decode(&mut bytes.clone(), version)).expect("a message"));
    });
    group.finish();
}

fn encode<M: Message, T: Decodable + Encodable>(c: &mut Criterion, what: &str, message: &M, version: i16) {
    let bytes = encoded(message, version);
    let same = T::decode(&mut bytes.clone(), version).expect("a message");
    let mut group = c.benchmark_group(format!("encode {} v{version}, {what}", M::NAME));
    group.bench_function("generated", |b| {
        b.iter(|| {
            let mut w = Writer::with_capacity(bytes.len());
            message.encode(&mut w, version);
            black_box(w.into_bytes())
        });
    });
    group.bench_function("kafka-protocol", |b| {
        b.iter(|| {
            let mut buffer = BytesMut::with_capacity(bytes.len());
            same.encode(&mut buffer, version).expect("room");
            black_box(buffer)
        });
    });
    group.finish();
}

/// Requests whose counts are lies, or that are all count and no content.
fn hostile(c: &mut Criterion) {
    let mut group = c.benchmark_group("refuse");
    let lie = |bytes: usize| {
        let mut claims = vec![0; bytes];
        claims[..4].copy_from_slice(&i32::MAX.to_be_bytes());
        claims
    };
    // Each topic is two bytes here, and forty times as much in memory.
    let swarm = |bytes: usize| {
        let mut claims = vec![0; bytes];
        let count = i32::try_from((bytes - 4) / 2).expect("small");
        claims[..4].copy_from_slice(&count.to_be_bytes());
        claims
    };
    for (name, bytes) in [
        ("2^31 topics in 100 bytes", lie(100)),
        ("2^31 topics in 1 MiB", lie(1 << 20)),
        ("half a million empty topics in 1 MiB", swarm(1 << 20)),
    ] {
        let bytes = Bytes::from(bytes);
        group.bench_function(name, |b| {
            b.iter(|| {
                let decoded = ours::MetadataRequest::decode(&mut Reader::new(black_box(bytes.clone())), 3);
                assert!(decoded.is_err());
            });
        });
    }
    group.finish();
}

fn messages(c: &mut Criterion) {
    decode::<_, theirs::ProduceRequest>(c, "1 batch", &produce(1, 1), 13);
    decode::<_, theirs::ProduceRequest>(c, "10 topics of 10 partitions", &produce(10, 10), 13);
    decode::<_, theirs::FetchRequest>(c, "1 partition", &fetch(1, 1), 17);
    decode::<_, theirs::FetchRequest>(c, "10 topics of 10 partitions", &fetch(10, 10), 17);
    decode::<_, theirs::MetadataRequest>(c, "1 topic", &metadata(1), 12);
    decode::<_, theirs::MetadataRequest>(c, "100 topics", &metadata(100), 12);
    encode::<_, theirs::MetadataResponse>(c, "100 topics of 3 partitions", &metadata_response(100, 3), 12);
}

criterion_group!(benches, messages, hostile);
criterion_main!(benches);
