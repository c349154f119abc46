//! A cluster for tests: nodes on simulated disks, and wires between them that can be cut, all on the runtime of the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ottla_protocol::types::Uuid;
use ottla_storage::memory::Crash;
use ottla_storage::{Disk, LogDir, LogOptions, MemoryDisk};
use tokio::sync::oneshot;

use crate::dice::Dice;
use crate::tests::{LONG, Told};
use crate::{MemberChange, MetadataLog, Peers, ProposeError, Proposed, RaftOptions, Transport};

/// Where a request has its kind.
pub(crate) const KIND_AT: usize = 5;

/// The wires between the nodes.
#[derive(Default)]
pub(crate) struct Wires {
    nodes: Mutex<BTreeMap<u64, Weak<MetadataLog>>>,
    cut: Mutex<BTreeSet<u64>>,
    /// Requests by the number of their kind.
    sent: [AtomicUsize; 6],
    /// Delays and losses.
    pub trouble: Mutex<Option<Dice>>,
    /// Where requests are kept, with whom they went to.
    pub recorded: Mutex<Option<Arc<Mutex<Vec<(u64, Vec<u8>)>>>>>,
}

impl Wires {
    fn node(&self, id: u64) -> io::Result<Arc<MetadataLog>> {
        let node = self.nodes.lock().expect("no panic").get(&id).and_then(Weak::upgrade);
        node.filter(|_| !self.is_cut(id)).ok_or_else(|| io::Error::other(format!("{id} is not there")))
    }

    /// A message's way, in one direction; it may have no end.
    async fn pass(&self) {
        let delay = match &mut *self.trouble.lock().expect("no panic") {
            None => Some(1),
            Some(dice) => match dice.below(50) {
                0 => None,
                1..=3 => Some(dice.below(500)),
                _ => Some(dice.below(10)),
            },
        };
        match delay {
            Some(delay) => tokio::time::sleep(Duration::from_millis(delay)).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn is_cut(&self, id: u64) -> bool {
        self.cut.lock().expect("no panic").contains(&id)
    }

    pub(crate) fn cut(&self, id: u64) {
        self.cut.lock().expect("no panic").insert(id);
    }

    pub(crate) fn mend(&self) {
        self.cut.lock().expect("no panic").clear();
    }

    pub(crate) fn sent(&self, kind: usize) -> usize {
        self.sent[kind].load(Ordering::Relaxed)
    }
}

/// A node's end of them.
struct End(u64, Arc<Wires>);

impl Transport for End {
    fn ask(&self, to: u64, identity: &[u8], request: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        assert_eq!(identity, identity_of(to), "the membership knows the node");
        let (from, wires) = (self.0, Arc::clone(&self.1));
        if let Some(recorded) = &*wires.recorded.lock().expect("no panic") {
            recorded.lock().expect("no panic").push((to, request.clone()));
        }
        Box::pin(async move {
            wires.sent[usize::from(request[KIND_AT])].fetch_add(1, Ordering::Relaxed);
            wires.pass().await;
            let node = wires.node(to).and_then(|node| wires.node(from).map(|_| node))?;
            let answer = node.answer_peer(&request).await.map_err(io::Error::other)?;
            wires.pass().await;
            wires.node(from).and(wires.node(to))?;
            Ok(answer)
        })
    }
}

pub(crate) fn identity_of(id: u64) -> Vec<u8> {
    vec![b'n', 0xff, u8::try_from(id).expect("small")]
}

pub(crate) struct Node {
    pub log: Arc<MetadataLog>,
    pub told: Told,
    pub disk: MemoryDisk,
}

#[derive(Default)]
pub(crate) struct Cluster {
    pub wires: Arc<Wires>,
    pub nodes: BTreeMap<u64, Node>,
    pub snapshot_every: u64,
    /// The founder that calls the first election.
    pub first: Option<u64>,
}

impl Cluster {
    /// Founded by voters 1 to 3.
    pub(crate) async fn of_three(snapshot_every: u64) -> Self {
        let mut cluster = Self { snapshot_every, ..Self::default() };
        for id in 1..=3 {
            cluster.start(id, MemoryDisk::new(), Some(&[1, 2, 3])).await;
        }
        cluster
    }

    pub(crate) async fn start(&mut self, id: u64, disk: MemoryDisk, founders: Option<&[u64]>) {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = LogDir::open(Arc::clone(&shared), Path::new("/data"), [7; 16]).expect("opens");
        let log_options = LogOptions { segment_bytes: 4096, ..LogOptions::default() };
        let (log, _) = dir.open_log("__cluster_metadata-0", Uuid::ZERO, log_options).expect("opens");
        let founders = founders.map(|ids| ids.iter().map(|id| (*id, identity_of(*id))).collect());
        let wires = Arc::new(End(id, Arc::clone(&self.wires)));
        let options = RaftOptions {
            voter: id,
            identity: identity_of(id),
            dir: "/data/raft".into(),
            disk: shared,
            log,
            snapshot_every: self.snapshot_every,
            peers: Some(Peers { is_first: self.first == Some(id), ..Peers::new(wires, founders) }),
        };
        let told = Told::default();
        let log = Arc::new(MetadataLog::start_here(options, Box::new(told.clone())).await.expect("starts"));
        self.wires.nodes.lock().expect("no panic").insert(id, Arc::downgrade(&log));
        self.nodes.insert(id, Node { log, told, disk });
    }

    /// The node is gone at once, and its disk is what a crash leaves.
    pub(crate) fn kill(&mut self, id: u64, crash: Crash, seed: u64) -> MemoryDisk {
        self.wires.nodes.lock().expect("no panic").remove(&id);
        let node = self.nodes.remove(&id).expect("it runs");
        node.log.stop();
        node.disk.after_crash(crash, seed)
    }

    pub(crate) async fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        for _ in 0..6000 {
            if let Some(found) = found() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let statuses: Vec<_> = self.nodes.iter().map(|(id, node)| (id, node.log.status())).collect();
        panic!("{what} in a minute: {statuses:#?}");
    }

    /// Of those that are not cut off: all agree on one that is among them.
    pub(crate) async fn leader(&self) -> u64 {
        self.until("a leader", || {
            let mut leaders = BTreeSet::new();
            for (_, node) in self.nodes.iter().filter(|(id, _)| !self.wires.is_cut(**id)) {
                leaders.insert(node.log.status().leader?);
            }
            let leader = leaders.pop_first()?;
            let there = self.nodes.contains_key(&leader) && !self.wires.is_cut(leader);
            (leaders.is_empty() && there).then_some(leader)
        })
        .await
    }

    pub(crate) fn log(&self, id: u64) -> &MetadataLog {
        &self.nodes[&id].log
    }

    /// Through whoever leads, until it is committed.
    pub(crate) async fn commit(&self, entry: &str) {
        loop {
            let leader = self.leader().await;
            match propose(self.log(leader), entry, LONG).await {
                Ok(_) => return,
                Err(ProposeError::NotLeader(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    pub(crate) async fn commit_all(&self, name: &str, count: usize, expected: &mut Vec<String>) {
        for i in 0..count {
            let entry = format!("{name} {i}");
            self.commit(&entry).await;
            expected.push(entry);
        }
    }

    pub(crate) async fn all_are_told(&self, expected: &[String]) {
        self.until("all are told the same", || {
            self.nodes.values().all(|node| node.told.list() == expected).then_some(())
        })
        .await;
    }

    pub(crate) async fn change(&self, change: MemberChange) -> Result<Proposed, ProposeError> {
        self.change_on(self.leader().await, change).await
    }

    pub(crate) async fn change_on(&self, id: u64, change: MemberChange) -> Result<Proposed, ProposeError> {
        let (to, from) = oneshot::channel();
        self.log(id).change_members(change, LONG, move |outcome| to.send(outcome).expect("awaited"));
        from.await.expect("answered")
    }
}

pub(crate) async fn propose(
    log: &MetadataLog,
    entry: &str,
    timeout: Duration,
) -> Result<Proposed, ProposeError> {
    let (to, from) = oneshot::channel();
    log.propose(entry.into(), timeout, move |outcome| to.send(outcome).expect("awaited"), || {});
    from.await.expect("answered")
}
