//! The log as its users see it, over the simulated disk; and openraft's own suite over our store.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use openraft::StorageError as OpenRaftStorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use ottla_protocol::types::Uuid;
use ottla_storage::memory::Crash;
use ottla_storage::{Disk, Log, LogDir, LogOptions, MemoryDisk, RealDisk};

use super::*;
use crate::log_store::LogStore;

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Remembers what it was told, and is restored from it.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().expect("no panic under the lock").clone()
    }
}

impl StateMachine for Told {
    fn apply(&mut self, _index: u64, _term: u64, entry: &[u8]) {
        self.0.lock().expect("no panic").push(String::from_utf8_lossy(entry).into_owned());
    }

    fn on_term(&mut self, _index: u64, _term: u64) {}

    fn snapshot(&self) -> Vec<u8> {
        self.list().join("\n").into_bytes()
    }

    fn restore(&mut self, _index: u64, snapshot: &[u8]) -> Result<(), String> {
        let text = String::from_utf8(snapshot.to_vec()).map_err(|error| error.to_string())?;
        *self.0.lock().expect("no panic") = text.lines().map(str::to_owned).collect();
        Ok(())
    }
}

fn log(disk: &Arc<dyn Disk>) -> Log {
    let dir = LogDir::open(Arc::clone(disk), Path::new("/data"), [7; 16]).expect("opens");
    // The directory's lock goes with it; the log works on.
    let options = LogOptions { segment_bytes: 4096, ..LogOptions::default() };
    dir.open_log("__cluster_metadata-0", Uuid::ZERO, options).expect("opens").0
}

fn start(disk: &Arc<dyn Disk>, machine: Told, snapshot_every: u64) -> MetadataLog {
    let options = RaftOptions {
        voter: 77,
        identity: b"localhost:9093".to_vec(),
        dir: "/data/raft".into(),
        disk: Arc::clone(disk),
        log: log(disk),
        snapshot_every,
        peers: None,
    };
    MetadataLog::start(options, Box::new(machine)).expect("starts")
}

fn propose(log: &MetadataLog, entry: &str) -> Result<Proposed, ProposeError> {
    let (to, from) = mpsc::channel();
    log.propose(entry.as_bytes().to_vec(), LONG, move |outcome| to.send(outcome).expect("awaited"), || {});
    from.recv().expect("answered")
}

/// A lone voter leads soon after its start; until then it says that nobody does.
fn propose_once_led(log: &MetadataLog, entry: &str) -> Proposed {
    loop {
        match propose(log, entry) {
            Err(ProposeError::NotLeader(_)) => std::thread::yield_now(),
            other => return other.expect("committed"),
        }
    }
}

#[test]
fn what_was_committed_is_applied_again_after_a_power_loss() {
    let mut disk = MemoryDisk::new();
    let mut expected = Vec::new();
    for round in 0..5u64 {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let told = Told::default();
        let running = start(&shared, told.clone(), 1000);
        for i in 0..20 {
            let entry = format!("{round}/{i}");
            propose_once_led(&running, &entry);
            expected.push(entry);
        }
        assert_eq!(told.list(), expected, "round {round}");
        assert_eq!(running.status().voters, [77]);
        running.stop();
        disk = disk.after_crash(Crash::PowerLoss, round);
    }
}

#[test]
fn snapshots_bound_the_log_and_a_restart_begins_with_the_newest() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let told = Told::default();
    let running = start(&disk, told.clone(), 50);
    let mut expected = Vec::new();
    for i in 0..300 {
        let entry = format!("entry {i} {}", "x".repeat(200));
        propose_once_led(&running, &entry);
        expected.push(entry);
    }
    running.stop();
    let again = Told::default();
    let running = start(&disk, again.clone(), 50);
    propose_once_led(&running, "last");
    expected.push("last".into());
    assert_eq!(again.list(), expected);
    running.stop();
    assert!(log(&disk).start_offset().0 > 100, "the log was purged behind its snapshots");
}

#[test]
fn a_restarted_leader_wins_a_new_term() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let running = start(&disk, Told::default(), 1000);
    propose_once_led(&running, "a");
    let term = running.status().term;
    running.stop();
    let running = start(&disk, Told::default(), 1000);
    propose_once_led(&running, "b");
    assert!(running.status().term > term);
}

#[test]
fn a_full_disk_refuses_proposals_and_heals() {
    let memory = MemoryDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let told = Told::default();
    let running = start(&disk, told.clone(), 20);
    propose_once_led(&running, "before");
    memory.set_capacity(Some(memory.used()));
    let mut expected = vec!["before".to_owned()];
    let refused = (0..).find_map(|i| {
        let entry = format!("{i} {}", "x".repeat(1000));
        match propose(&running, &entry) {
            Ok(_) => {
                expected.push(entry);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Some(ProposeError::Full(_))), "{refused:?}");
    assert!(matches!(propose(&running, &"y".repeat(200_000)), Err(ProposeError::Full(_))));
    memory.set_capacity(None);
    propose(&running, "after").expect("there is room again");
    expected.push("after".into());
    assert_eq!(told.list(), expected);
    running.stop();
    let again = Told::default();
    let running = start(&disk, again.clone(), 20);
    propose_once_led(&running, "last");
    expected.push("last".into());
    assert_eq!(again.list(), expected);
}

/// A store on a disk of its own.
struct Fresh<D>(D);

impl<D> Fresh<D> {
    fn store(disk: Arc<dyn Disk>, base: &Path) -> (LogStore, Applier) {
        let dir = LogDir::open(Arc::clone(&disk), base, [7; 16]).expect("opens");
        let (log, _) =
            dir.open_log("__cluster_metadata-0", Uuid::ZERO, LogOptions::default()).expect("opens");
        let store = LogStore::open(Arc::clone(&disk), &base.join("raft"), log).expect("opens");
        let applier =
            Applier::open(disk, &base.join("raft"), Box::new(Told::default()), None).expect("opens");
        (store, applier)
    }
}

impl StoreBuilder<TypeConfig, LogStore, Applier, ()> for Fresh<MemoryDisk> {
    async fn build(&self) -> Result<((), LogStore, Applier), OpenRaftStorageError<TypeConfig>> {
        let (store, applier) = Self::store(Arc::new(MemoryDisk::new()), Path::new("/data"));
        Ok(((), store, applier))
    }
}

impl StoreBuilder<TypeConfig, LogStore, Applier, tempfile::TempDir> for Fresh<RealDisk> {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, Applier), OpenRaftStorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, applier) = Self::store(Arc::new(RealDisk), dir.path());
        Ok((dir, store, applier))
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_passes_openrafts_own_suite_on_both_disks() {
    Suite::test_all(Fresh(MemoryDisk::new())).await.expect("passes in memory");
    Suite::test_all(Fresh(RealDisk)).await.expect("passes on a real disk");
}
