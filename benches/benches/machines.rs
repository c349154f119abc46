//! The machines alone: what a rebalance, a committed offset and a change of the metadata cost, and that the last does not grow with the
//! cluster.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ottla_machine::controller::image::{Image, PartitionState};
use ottla_machine::controller::record::{Entry, Record, decode_entry, encode_entry};
use ottla_machine::group::coordinator::{Effect, GroupCoordinator, GroupReply, GroupSettings, Now, Token};
use ottla_machine::group::join::Join;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use ottla_protocol::messages::{OffsetCommitRequest, SyncGroupRequest};
use ottla_protocol::types::{LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId, Uuid};

const NOW: Now = Now { wall_ms: 1_700_000_000_000, tick_ms: 1_000 };

/// A coordinator whose appends succeed at once.
#[derive(Debug)]
struct Coordinator {
    machine: GroupCoordinator,
    token: u64,
}

impl Coordinator {
    fn new() -> Self {
        let mut machine = GroupCoordinator::new(GroupSettings {
            min_session_timeout_ms: 100,
            max_session_timeout_ms: 60_000,
            initial_rebalance_delay_ms: 10,
            max_size: usize::MAX,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: i64::MAX,
            retention_check_interval_ms: 600_000,
        });
        machine.on_loaded(NOW);
        Self { machine, token: 0 }
    }

    /// What is answered to whom, once all is settled.
    fn settle(&mut self) -> Vec<GroupReply> {
        let mut replies = Vec::new();
        loop {
            let effects = self.machine.take_effects();
            if effects.is_empty() {
                return replies;
            }
            for effect in effects {
                match effect {
                    Effect::Reply { reply, .. } => replies.push(reply),
                    Effect::Append { id, records } => {
                        black_box(records);
                        self.machine.on_appended(id, Ok(()), NOW);
                    }
                }
            }
        }
    }

    fn token(&mut self) -> Token {
        self.token += 1;
        Token(self.token)
    }

    /// Members join, the leader deals out, all get their assignments. A member's id, and the generation.
    fn rebalance(&mut self, members: u64) -> (String, i32) {
        for number in 0..members {
            let join = Join {
                group: "g".into(),
                member_id: String::new(),
                instance_id: None,
                client_id: "c".into(),
                client_host: "/h".into(),
                session_timeout_ms: 10_000,
                rebalance_timeout_ms: 60_000,
                protocol_type: "consumer".into(),
                protocols: vec![("range".into(), Bytes::from_static(b"a subscription of twenty"))],
                requires_known_id: false,
                may_skip_assignment: true,
                fresh: number.to_string(),
            };
            let token = self.token();
            self.machine.join(token, join, NOW);
        }
        // A group that is new waits for more members, as long as any come.
        let mut joined = Vec::new();
        while joined.is_empty() {
            let tick_ms = self.machine.next_deadline_ms().expect("it waits for something");
            self.machine.on_tick(Now { tick_ms, ..NOW });
            for reply in self.settle() {
                if let GroupReply::Join(reply) = reply {
                    assert_eq!(reply.error_code, ErrorCode::None.code());
                    joined.push(reply);
                }
            }
        }
        assert_eq!(joined.len() as u64, members);
        let generation = joined[0].generation_id;
        let assignments: Vec<SyncGroupRequestAssignment> = joined
            .iter()
            .map(|reply| SyncGroupRequestAssignment {
                member_id: reply.member_id.clone(),
                assignment: Bytes::from_static(b"an assignment of some thirty bytes"),
            })
            .collect();
        for reply in &joined {
            let leads = reply.leader == reply.member_id;
            let request = SyncGroupRequest {
                group_id: "g".into(),
                generation_id: generation,
                member_id: reply.member_id.clone(),
                assignments: if leads { assignments.clone() } else { Vec::new() },
                ..Default::default()
            };
            let token = self.token();
            self.machine.sync(token, &request, NOW);
            // What it appends comes before any other input.
            black_box(self.settle());
        }
        (joined[0].member_id.to_string(), generation)
    }
}

fn groups(c: &mut Criterion) {
    let mut group = c.benchmark_group("a group's first rebalance");
    for members in [1_u64, 10, 100] {
        group.throughput(Throughput::Elements(members));
        group.bench_function(format!("{members} members"), |b| {
            b.iter_batched_ref(
                Coordinator::new,
                |coordinator| coordinator.rebalance(members),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    let mut coordinator = Coordinator::new();
    let (member, generation) = coordinator.rebalance(1);
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        topics: vec![OffsetCommitRequestTopic {
            name: "orders".into(),
            partitions: (0..10)
                .map(|partition_index| OffsetCommitRequestPartition {
                    partition_index,
                    committed_offset: 7,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    c.bench_function("commit offsets of 10 partitions", |b| {
        b.iter(|| {
            let token = coordinator.token();
            coordinator.machine.commit(token, &request, 8, &|_, _| Ok(()), NOW);
            black_box(coordinator.settle())
        });
    });
}

/// An image of so many topics of one partition each.
fn image(topics: u32) -> Image {
    let mut image = Image::default();
    for number in 0..topics {
        let id = topic_id(number);
        image.apply(&Record::Topic { id, name: format!("topic-{number}").into() }).expect("a new topic");
        let index = PartitionIndex(0);
        image.apply(&Record::Partition { topic: id, index, state: partition(0) }).expect("a new partition");
    }
    image
}

fn topic_id(number: u32) -> TopicId {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Uuid(bytes)
}

fn partition(epoch: i32) -> PartitionState {
    let nodes = || [1, 2, 3].map(NodeId).into_iter().collect();
    PartitionState {
        replicas: nodes(),
        adding: [].into_iter().collect(),
        removing: [].into_iter().collect(),
        isr: nodes(),
        elr: [].into_iter().collect(),
        last_known_elr: [].into_iter().collect(),
        leader: NodeId(1 + epoch % 3),
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(epoch),
    }
}

fn controller(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply a change of one partition, published");
    for topics in [100_u32, 10_000, 100_000] {
        let mut image = image(topics);
        let mut epoch: i32 = 0;
        group.bench_function(format!("{topics} topics"), |b| {
            b.iter(|| {
                epoch += 1;
                let topic = topic_id(epoch.unsigned_abs().wrapping_mul(7_919) % topics);
                let record = Record::Partition { topic, index: PartitionIndex(0), state: partition(epoch) };
                // Readers hold the image of before.
                let published = image.clone();
                let entry = Entry { base_version: image.version, records: vec![record] };
                image.apply_entry(&entry).expect("it fits");
                black_box(published)
            });
        });
    }
    group.finish();
    let records: Vec<Record> = (0..1_000)
        .flat_map(|number| {
            let id = topic_id(number);
            let index = PartitionIndex(0);
            [
                Record::Topic { id, name: format!("topic-{number}").into() },
                Record::Partition { topic: id, index, state: partition(0) },
            ]
        })
        .collect();
    let bytes = encode_entry(0, &records);
    let mut group = c.benchmark_group("an entry of 1,000 topics");
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("encode", |b| b.iter(|| encode_entry(0, black_box(&records))));
    group.bench_function("decode and apply", |b| {
        b.iter_batched_ref(
            Image::default,
            |image| image.apply_entry(&decode_entry(black_box(&bytes)).expect("it was encoded here")),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, groups, controller);
criterion_main!(benches);
