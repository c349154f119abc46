//! The controller over a metadata log on the simulated disk: nothing that was answered is lost, nobody waits for ever, and the image
//! is the same whether it was lived or replayed.

use std::path::Path;
use std::sync::mpsc;

use ottla_machine::controller::command::{LogProof, NewTopic, Registration};
use ottla_protocol::types::{BrokerEpoch, NodeId, Uuid};
use ottla_raft::{MetadataLog, RaftOptions};
use ottla_storage::memory::Crash;
use ottla_storage::{Disk, LogDir, LogOptions, MemoryDisk};

use super::*;
use crate::config::Config;
use crate::config::rules::Rules;

const NODE: NodeId = NodeId(1);
const CLUSTER: Uuid = Uuid([9; 16]);
const AWAITED: Duration = Duration::from_secs(60);

/// A controller on a disk; registered, unless the disk stops before.
struct Rig {
    controller: Arc<Controller>,
    image: Arc<ArcSwap<Image>>,
    clock: Clock,
}

impl Rig {
    fn unattached() -> Self {
        let published = Published::new();
        let rules = Box::new(Rules { config: Arc::new(Config::default()), node: NODE });
        let clock = Clock::manual(1_700_000_000_000);
        let image = Arc::clone(&published.image);
        let controller = Controller::new(published, rules, clock.clone(), Arc::new(Entropy::seeded(7)));
        Self { controller, image, clock }
    }

    /// `false` if the disk does not let it start.
    fn attach(&self, disk: &MemoryDisk, snapshot_every: u64) -> bool {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let Ok(dir) = LogDir::open(Arc::clone(&disk), Path::new("/data"), [7; 16]) else { return false };
        let opened = dir.open_log("__cluster_metadata-0", Uuid::ZERO, LogOptions::default());
        let Ok((log, _)) = opened else { return false };
        let dir = "/data/metadata".into();
        let options =
            RaftOptions { voter: 7, identity: Vec::new(), dir, disk, log, snapshot_every, peers: None };
        let Ok(log) = MetadataLog::start(options, self.controller.state_machine()) else { return false };
        self.controller.attach(log);
        true
    }

    fn start(disk: &MemoryDisk, snapshot_every: u64) -> Self {
        let rig = Self::unattached();
        assert!(rig.attach(disk, snapshot_every), "starts");
        assert!(rig.register(), "registers");
        rig
    }

    fn register(&self) -> bool {
        let found = Command::FoundCluster { cluster_id: CLUSTER, features: Vec::new() };
        self.controller.submit(found, |_| {});
        matches!(self.ask(registration()), Answer::Registered(_))
    }

    fn ask(&self, command: Command) -> Answer {
        let (to, from) = mpsc::channel();
        self.controller.submit(command, move |answer| to.send(answer).expect("awaited"));
        from.recv_timeout(AWAITED).expect("every command is answered")
    }

    fn create(&self, name: &str) -> Result<(), ErrorCode> {
        match self.ask(new_topic(name)) {
            Answer::Topics(topics) => match &topics[..] {
                [Ok(_)] => Ok(()),
                [Err(failure)] => Err(failure.code),
                _ => panic!("one answer to one topic: {topics:?}"),
            },
            Answer::Failed(failure) => Err(failure.code),
            other => panic!("{other:?}"),
        }
    }
}

fn registration() -> Command {
    Command::RegisterBroker(Registration {
        id: NODE,
        directory: Uuid([7; 16]),
        endpoints: Vec::new(),
        rack: None,
        cluster_id: CLUSTER,
        previous_epoch: BrokerEpoch(-1),
        proof: LogProof::Complete,
        damaged: Vec::new(),
        fenced: false,
    })
}

fn new_topic(name: &str) -> Command {
    let topic =
        NewTopic { name: name.to_owned(), partitions: 3, replication_factor: 1, ..NewTopic::default() };
    Command::CreateTopics { topics: vec![topic], validate_only: false }
}

#[test]
fn what_was_answered_survives_a_power_loss_at_any_moment() {
    for seed in 0..40u64 {
        let disk = MemoryDisk::new();
        Rig::start(&disk, 10).controller.stop();
        disk.stop_after(seed * 7 % 120);
        let rig = Rig::unattached();
        let mut answered = Vec::new();
        if rig.attach(&disk, 10) && rig.register() {
            answered =
                (0..).map(|i| format!("topic-{i}")).take_while(|name| rig.create(name).is_ok()).collect();
        }
        rig.controller.stop();
        let after = Rig::start(&disk.after_crash(Crash::PowerLoss, seed), 10);
        let image = after.image.load();
        for name in &answered {
            assert!(image.topic_by_name(name).is_some(), "seed {seed}: {name} of {}", answered.len());
        }
    }
}

#[test]
fn the_image_that_was_lived_is_the_image_that_is_replayed() {
    for snapshot_every in [5, 1000] {
        let disk = MemoryDisk::new();
        let rig = Rig::start(&disk, snapshot_every);
        for i in 0..30 {
            rig.create(&format!("topic-{i}")).expect("created");
        }
        let lived = rig.image.load_full();
        rig.controller.stop();
        let again = Rig::unattached();
        assert!(again.attach(&disk, snapshot_every), "starts");
        // Nothing is decided before everything of the terms before was applied; and this decides nothing new.
        assert_eq!(again.create("topic-0"), Err(ErrorCode::TopicAlreadyExists));
        assert_eq!(*again.image.load_full(), *lived, "snapshots every {snapshot_every}");
    }
}

#[test]
fn everything_that_waits_joins_one_entry() {
    let rig = Rig::unattached();
    let (to, from) = mpsc::channel();
    rig.controller.submit(Command::FoundCluster { cluster_id: CLUSTER, features: Vec::new() }, |_| {});
    rig.controller.submit(registration(), |_| {});
    for i in 0..100 {
        let to = to.clone();
        rig.controller.submit(new_topic(&format!("topic-{i}")), move |answer| {
            to.send(matches!(answer, Answer::Topics(_))).expect("awaited");
        });
    }
    assert!(rig.attach(&MemoryDisk::new(), 1000), "starts");
    for _ in 0..100 {
        assert!(from.recv_timeout(AWAITED).expect("answered"));
    }
    assert_eq!((rig.image.load().version, rig.image.load().topics.len()), (1, 100));
}

#[test]
fn a_full_disk_is_said_at_once_and_heals() {
    let disk = MemoryDisk::new();
    let rig = Rig::start(&disk, 1000);
    disk.set_capacity(Some(disk.used()));
    let refused = (0..).find_map(|i| rig.create(&format!("{}-{i}", "x".repeat(200))).err());
    assert_eq!(refused, Some(ErrorCode::KafkaStorageError));
    disk.set_capacity(None);
    assert_eq!(rig.create("after"), Ok(()));
}

#[test]
fn a_metadata_log_that_died_answers_everybody() {
    let disk = MemoryDisk::new();
    let rig = Rig::start(&disk, 1000);
    disk.set_failing_syncs(true);
    for name in ["in-flight", "later", "even-later"] {
        assert_eq!(rig.create(name), Err(ErrorCode::KafkaStorageError), "{name}");
    }
    // Nor does it come back to life: what the kernel dropped is not known.
    disk.set_failing_syncs(false);
    assert_eq!(rig.create("once-more"), Err(ErrorCode::KafkaStorageError));
    rig.controller.stop();
}

#[test]
fn what_was_not_decided_in_its_time_never_is() {
    let rig = Rig::unattached();
    let (to, from) = mpsc::channel();
    rig.controller.submit(Command::FoundCluster { cluster_id: CLUSTER, features: Vec::new() }, |_| {});
    rig.controller.submit(registration(), |_| {});
    for (name, limit_ms) in [("late", 100), ("in-time", 101)] {
        let to = to.clone();
        rig.controller.submit_within(new_topic(name), Duration::from_millis(limit_ms), move |answer| {
            to.send((name, answer)).expect("awaited");
        });
    }
    rig.clock.advance_ms(100);
    assert!(rig.attach(&MemoryDisk::new(), 1000), "starts");
    let late = from.recv_timeout(AWAITED).expect("answered");
    assert!(
        matches!(&late, ("late", Answer::Failed(failure)) if failure.code == ErrorCode::RequestTimedOut),
        "{late:?}"
    );
    let decided = from.recv_timeout(AWAITED).expect("answered");
    assert!(matches!(decided, ("in-time", Answer::Topics(_))), "{decided:?}");
    let image = rig.image.load();
    assert!(image.topic_by_name("late").is_none() && image.topic_by_name("in-time").is_some());
}

#[test]
fn a_stopped_controller_leaves_nobody_waiting() {
    let rig = Rig::unattached();
    let (to, from) = mpsc::channel();
    rig.controller.submit(new_topic("early"), move |answer| to.send(answer).expect("awaited"));
    rig.controller.stop();
    let failed = |answer: &Answer| matches!(answer, Answer::Failed(_));
    assert!(failed(&from.recv_timeout(AWAITED).expect("answered")));
    assert!(failed(&rig.ask(new_topic("late"))));
}

#[test]
fn an_entry_that_was_decided_on_another_version_changes_nothing() {
    let rig = Rig::start(&MemoryDisk::new(), 1000);
    let now = rig.image.load_full();
    let mut machine = Machine { controller: Arc::clone(&rig.controller), image: Image::clone(&now) };
    for base in [0, now.version - 1, now.version + 1] {
        machine.apply(99, 99, &encode_entry(base, &[Record::ProducerIds { next: 4_000 }]));
        assert_eq!(machine.image, *now, "decided on {base}, applied on {}", now.version);
    }
}
