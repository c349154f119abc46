//! Partitions on a simulated disk, flushed by hand: nothing is on the disk before a test says so.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use ottla_machine::controller::image::{Image, PartitionState};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset, PartitionEpoch, ProducerEpoch, ProducerId, Uuid};
use ottla_storage::{LogDir, MemoryDisk};
use smallvec::smallvec;

use super::{AppendRequest, Host, OnCommitted, Partition};
use crate::clock::Clock;
use crate::config::{Config, TopicConfig};
use crate::flusher::Flusher;
use crate::refusals::Refusals;

const ME: NodeId = NodeId(1);

/// A partition that this node leads, whose flushes wait for [`Partition::flush`].
pub(crate) fn led(name: &str) -> Arc<Partition> {
    led_on(&MemoryDisk::new(), name)
}

fn led_on(disk: &MemoryDisk, name: &str) -> Arc<Partition> {
    let disk = Arc::new(disk.clone());
    let host = Host {
        me: ME,
        log_dir: Arc::new(LogDir::open(disk, Path::new("/data"), [1; 16]).expect("a disk without faults")),
        flusher: Flusher::start(0).expect("no threads are needed"),
        overdue: Arc::default(),
        clock: Clock::manual(0),
        image: Arc::default(),
        in_sync: Arc::default(),
        contact: Arc::default(),
        refusals: Refusals::default(),
        is_settled: AtomicBool::new(true),
        lag_max_ms: 30_000,
        on_followed_flush: OnceLock::new(),
        on_damage: OnceLock::new(),
    };
    let config = Arc::new(TopicConfig::resolve(&Config::default(), &Image::default(), ME, name));
    Partition::new(Arc::new(host), Uuid([7; 16]), name.into(), 0, led_in(0), config)
}

pub(crate) fn led_in(epoch: i32) -> PartitionState {
    PartitionState {
        replicas: smallvec![ME],
        adding: smallvec![],
        removing: smallvec![],
        isr: smallvec![ME],
        elr: smallvec![],
        last_known_elr: smallvec![],
        leader: ME,
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(epoch),
    }
}

fn produce(partition: &Arc<Partition>, deadline_ms: u64, on_committed: OnCommitted) -> Offset {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(1_000, Some(b"k"), Some(b"v"));
    let request = AppendRequest {
        records: &builder.build(),
        acks_all: true,
        produce_version: 11,
        now_ms: 1_000,
        tick_ms: 0,
        deadline_ms,
    };
    partition.produce(&request, Some(on_committed)).expect("appended").end
}

#[test]
fn an_acknowledgement_by_all_comes_from_the_disk_or_is_late() {
    let partition = led("t");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = |name: &'static str| {
        let heard = Arc::clone(&heard);
        Box::new(move |outcome| heard.lock().expect("not poisoned").push((name, outcome))) as OnCommitted
    };
    produce(&partition, 100, told("impatient"));
    produce(&partition, 30_000, told("patient"));
    assert!(partition.look_after(99), "somebody waits");
    assert_eq!(*heard.lock().expect("not poisoned"), []);
    assert!(partition.look_after(100));
    assert_eq!(*heard.lock().expect("not poisoned"), [("impatient", Err(ErrorCode::RequestTimedOut))]);
    partition.flush();
    assert_eq!(heard.lock().expect("not poisoned")[1..], [("patient", Ok(()))]);
    assert!(!partition.look_after(200), "nobody waits any more");
}

#[test]
fn who_waits_for_what_is_committed_is_answered_at_once_and_others_when_it_is() {
    let partition = led("t");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = |name: &'static str| {
        let heard = Arc::clone(&heard);
        Box::new(move |outcome| heard.lock().expect("not poisoned").push((name, outcome))) as OnCommitted
    };
    partition.when_committed(Offset(0), 10, told("nothing"));
    let end = produce(&partition, 30_000, Box::new(|_| {}));
    partition.when_committed(end, 30_000, told("one"));
    assert_eq!(*heard.lock().expect("not poisoned"), [("nothing", Ok(()))]);
    partition.flush();
    assert_eq!(heard.lock().expect("not poisoned")[1..], [("one", Ok(()))]);
    let end = produce(&partition, 30_000, Box::new(|_| {}));
    partition.when_committed(end, 30_000, told("deleted"));
    drop(partition.delete());
    partition.when_committed(end, 30_000, told("gone"));
    let gone = Err(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(heard.lock().expect("not poisoned")[2..], [("deleted", gone), ("gone", gone)]);
}

#[test]
fn what_nobody_waits_for_is_flushed_behind_the_appends() {
    let partition = led("t");
    let config = Config::default();
    let mut relaxed = TopicConfig::resolve(&config, &Image::default(), ME, "t");
    relaxed.flush_messages = i64::MAX;
    partition.update(&led_in(0), &Arc::new(relaxed));
    partition.flush();
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(1_000, None, Some(&vec![b'v'; 900 << 10]));
    let records = builder.build();
    let request = AppendRequest {
        records: &records,
        acks_all: true,
        produce_version: 11,
        now_ms: 1_000,
        tick_ms: 0,
        deadline_ms: 30_000,
    };
    let (mut appended, mut end) = (0, Offset::ZERO);
    while appended + records.len() as u64 <= super::UNFLUSHED_BYTES_MAX {
        assert!(!partition.flush_queued.load(std::sync::atomic::Ordering::Acquire), "{appended} bytes");
        end = partition.produce(&request, None).expect("appended").end;
        appended += records.len() as u64;
    }
    let flushed_end = |partition: &Partition| partition.lock().log.as_ref().expect("open").flushed_end();
    assert_eq!(flushed_end(&partition), Offset::ZERO);
    let last = partition.produce(&request, None).expect("appended").end;
    assert!(last > end && partition.flush_queued.load(std::sync::atomic::Ordering::Acquire));
    partition.flush();
    assert_eq!(flushed_end(&partition), last);
}

#[test]
fn a_new_producers_batches_wait_for_its_first_one_that_was_refused() {
    let disk = MemoryDisk::new();
    let partition = led_on(&disk, "t");
    produce(&partition, 30_000, Box::new(|_| {}));
    disk.set_capacity(Some(disk.used()));
    assert_eq!(produce_at(&partition, 0, &numbered(0, 100)), Err(ErrorCode::KafkaStorageError));
    disk.set_capacity(None);
    // Of a request that was under way for long: the log does not know the producer, and would take any sequence.
    let late = produce_at(&partition, 10_000, &numbered(100, 1));
    assert_eq!(late, Err(ErrorCode::KafkaStorageError));
    assert_eq!(produce_at(&partition, 10_000, &numbered(0, 100)), Ok(Offset(1)));
    assert_eq!(produce_at(&partition, 10_000, &numbered(100, 1)), Ok(Offset(101)));
}

#[test]
fn a_new_producers_batches_wait_for_its_first_one_that_came_before_this_node_led() {
    let partition = led("t");
    let config = Arc::clone(&partition.lock().config);
    let mut led_by_another = led_in(1);
    (led_by_another.leader, led_by_another.replicas) = (NodeId(2), smallvec![ME, NodeId(2)]);
    partition.update(&led_by_another, &config);
    let refused = Err(ErrorCode::NotLeaderOrFollower);
    assert_eq!(produce_at(&partition, 0, &numbered(0, 1)), refused);
    partition.update(&led_in(2), &config);
    assert_eq!(produce_at(&partition, 10, &numbered(4, 1)), refused);
    assert_eq!(produce_at(&partition, 20, &numbered(0, 4)), Ok(Offset(0)));
    assert_eq!(produce_at(&partition, 20, &numbered(4, 1)), Ok(Offset(4)));
}

#[test]
fn a_producer_whose_beginning_never_comes_again_is_kept_out_for_a_while_only() {
    let partition = led("t");
    let config = Arc::clone(&partition.lock().config);
    let mut led_by_another = led_in(1);
    (led_by_another.leader, led_by_another.replicas) = (NodeId(2), smallvec![ME, NodeId(2)]);
    partition.update(&led_by_another, &config);
    assert_eq!(produce_at(&partition, 0, &numbered(0, 1)), Err(ErrorCode::NotLeaderOrFollower));
    partition.update(&led_in(2), &config);
    assert_eq!(produce_at(&partition, 29_999, &numbered(4, 1)), Err(ErrorCode::NotLeaderOrFollower));
    // The other leader may have had what was before, and lost it.
    assert_eq!(produce_at(&partition, 30_000, &numbered(4, 1)), Ok(Offset(0)));
}

#[test]
fn a_log_that_the_disk_failed_is_told_to_the_controller_once() {
    let disk = MemoryDisk::new();
    let partition = led_on(&disk, "t");
    let told = Arc::new(Mutex::new(Vec::new()));
    let named = partition.host.on_damage.set({
        let told = Arc::clone(&told);
        Box::new(move |topic, index| told.lock().expect("not poisoned").push((topic, index)))
    });
    assert!(named.is_ok());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    produce(&partition, 30_000, Box::new(move |outcome| hearing.lock().expect("not poisoned").push(outcome)));
    disk.set_failing_syncs(true);
    partition.flush();
    assert_eq!(*heard.lock().expect("not poisoned"), [Err(ErrorCode::KafkaStorageError)]);
    assert_eq!(*told.lock().expect("not poisoned"), [(Uuid([7; 16]), 0)]);
    assert_eq!(produce_at(&partition, 0, &numbered(0, 1)), Err(ErrorCode::KafkaStorageError));
    partition.flush();
    assert_eq!(told.lock().expect("not poisoned").len(), 1);

    let disk = MemoryDisk::new();
    let partition = led_on(&disk, "t");
    let told = Arc::new(Mutex::new(0));
    let telling = Arc::clone(&told);
    let named =
        partition.host.on_damage.set(Box::new(move |_, _| *telling.lock().expect("not poisoned") += 1));
    assert!(named.is_ok());
    produce_at(&partition, 0, &numbered(0, 1)).expect("appended");
    disk.set_failing_writes(true);
    assert_eq!(produce_at(&partition, 0, &numbered(1, 1)), Err(ErrorCode::KafkaStorageError));
    assert_eq!(*told.lock().expect("not poisoned"), 1);
}

/// A batch of an idempotent producer: so many records of a kilobyte from a sequence on.
fn numbered(sequence: i32, records: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(0),
        base_sequence: sequence,
        ..BatchOptions::default()
    });
    for _ in 0..records {
        builder.append(1_000, None, Some(&[b'v'; 1_000]));
    }
    builder.build()
}

fn produce_at(partition: &Arc<Partition>, tick_ms: u64, records: &[u8]) -> Result<Offset, ErrorCode> {
    let request = AppendRequest {
        records,
        acks_all: true,
        produce_version: 11,
        now_ms: 1_000,
        tick_ms,
        deadline_ms: u64::MAX,
    };
    partition.produce(&request, None).map(|appended| appended.base_offset).map_err(|refused| refused.code)
}

#[test]
fn what_refuses_a_batch_refuses_those_sent_behind_it_by_the_same_reason_and_not_by_their_sequence() {
    let disk = MemoryDisk::new();
    let partition = led_on(&disk, "t");
    assert_eq!(produce_at(&partition, 0, &numbered(0, 1)), Ok(Offset(0)));
    disk.set_capacity(Some(disk.used() + 10_000));
    assert_eq!(produce_at(&partition, 10, &numbered(1, 100)), Err(ErrorCode::KafkaStorageError));
    disk.set_capacity(None);
    // There is room now, but what came before is not there.
    assert_eq!(produce_at(&partition, 12, &numbered(101, 1)), Err(ErrorCode::KafkaStorageError));
    assert_eq!(produce_at(&partition, 112, &numbered(1, 100)), Ok(Offset(1)));
    assert_eq!(produce_at(&partition, 112, &numbered(101, 1)), Ok(Offset(101)));

    let mut alone = led_in(1);
    (alone.replicas, alone.isr) = (smallvec![ME, NodeId(2), NodeId(3)], smallvec![ME]);
    let mut strict = TopicConfig::resolve(&Config::default(), &Image::default(), ME, "t");
    strict.min_insync_replicas = 2;
    let strict = Arc::new(strict);
    partition.update(&alone, &strict);
    assert_eq!(produce_at(&partition, 200, &numbered(102, 1)), Err(ErrorCode::NotEnoughReplicas));
    let mut two = alone;
    (two.isr, two.partition_epoch) = (smallvec![ME, NodeId(2)], PartitionEpoch(2));
    partition.update(&two, &strict);
    assert_eq!(produce_at(&partition, 210, &numbered(103, 1)), Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(produce_at(&partition, 300, &numbered(102, 1)), Ok(Offset(102)));
}

#[test]
fn a_leader_that_has_heard_of_nobody_for_a_session_sends_producers_away() {
    let partition = led("t");
    partition.host.contact.expect(2_500, 0);
    assert_eq!(produce_at(&partition, 9_000, &numbered(0, 1)), Ok(Offset(0)), "nobody else could lead it");
    let mut with_followers = led_in(1);
    (with_followers.replicas, with_followers.isr) = (smallvec![ME, NodeId(2)], smallvec![ME, NodeId(2)]);
    let config = Arc::clone(&partition.lock().config);
    partition.update(&with_followers, &config);
    assert_eq!(produce_at(&partition, 9_000, &numbered(1, 1)), Err(ErrorCode::NotLeaderOrFollower));
    partition.host.contact.heard(8_000);
    assert_eq!(produce_at(&partition, 9_000, &numbered(1, 1)), Ok(Offset(1)));
}
