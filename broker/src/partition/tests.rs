//! Partitions on a simulated disk, flushed by hand: nothing is on the disk before a test says so.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use ottla_machine::controller::image::{Image, PartitionState};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{LeaderEpoch, NodeId, Offset, PartitionEpoch, Uuid};
use ottla_storage::{LogDir, MemoryDisk};
use smallvec::smallvec;

use super::{AppendRequest, Host, OnCommitted, Partition};
use crate::clock::Clock;
use crate::config::{Config, TopicConfig};
use crate::flusher::Flusher;

const ME: NodeId = NodeId(1);

/// A partition that this node leads, whose flushes wait for [`Partition::flush`].
pub(crate) fn led(name: &str) -> Arc<Partition> {
    let disk = Arc::new(MemoryDisk::new());
    let host = Host {
        me: ME,
        log_dir: Arc::new(LogDir::open(disk, Path::new("/data"), [1; 16]).expect("a disk without faults")),
        flusher: Flusher::start(0).expect("no threads are needed"),
        overdue: Arc::default(),
        clock: Clock::manual(0),
        image: Arc::default(),
        in_sync: Arc::default(),
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
