//! Several nodes on one thread, under one clock that leaps ahead whenever all wait: elections, failures, newcomers and leavers.

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

use crate::tests::{LONG, Told};
use crate::{
    MemberChange, MessageError, MetadataLog, PeerError, Peers, ProposeError, Proposed, RaftOptions, Transport,
};

/// The wires between the nodes.
#[derive(Default)]
struct Wires {
    nodes: Mutex<BTreeMap<u64, Weak<MetadataLog>>>,
    cut: Mutex<BTreeSet<u64>>,
    /// Requests by their kind, as the second byte has it.
    sent: [AtomicUsize; 6],
    /// Where requests are kept, with whom they went to.
    recorded: Mutex<Option<Arc<Mutex<Vec<(u64, Vec<u8>)>>>>>,
}

impl Wires {
    fn node(&self, id: u64) -> io::Result<Arc<MetadataLog>> {
        let node = self.nodes.lock().expect("no panic").get(&id).and_then(Weak::upgrade);
        node.filter(|_| !self.is_cut(id)).ok_or_else(|| io::Error::other(format!("{id} is not there")))
    }

    fn is_cut(&self, id: u64) -> bool {
        self.cut.lock().expect("no panic").contains(&id)
    }

    fn cut(&self, id: u64) {
        self.cut.lock().expect("no panic").insert(id);
    }

    fn mend(&self) {
        self.cut.lock().expect("no panic").clear();
    }

    fn sent(&self, kind: usize) -> usize {
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
            wires.sent[usize::from(request[1])].fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            let node = wires.node(to).and_then(|node| wires.node(from).map(|_| node))?;
            let answer = node.answer_peer(&request).await.map_err(io::Error::other)?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            wires.node(from).and(wires.node(to))?;
            Ok(answer)
        })
    }
}

fn identity_of(id: u64) -> Vec<u8> {
    vec![b'n', 0xff, u8::try_from(id).expect("small")]
}

struct Node {
    log: Arc<MetadataLog>,
    told: Told,
    disk: MemoryDisk,
}

#[derive(Default)]
struct Cluster {
    wires: Arc<Wires>,
    nodes: BTreeMap<u64, Node>,
    snapshot_every: u64,
}

impl Cluster {
    /// Founded by voters 1 to 3.
    async fn of_three(snapshot_every: u64) -> Self {
        let mut cluster = Self { snapshot_every, ..Self::default() };
        for id in 1..=3 {
            cluster.start(id, MemoryDisk::new(), Some(&[1, 2, 3])).await;
        }
        cluster
    }

    async fn start(&mut self, id: u64, disk: MemoryDisk, founders: Option<&[u64]>) {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = LogDir::open(Arc::clone(&shared), Path::new("/data"), [7; 16]).expect("opens");
        let log_options = LogOptions { segment_bytes: 4096, ..LogOptions::default() };
        let (log, _) = dir.open_log("__cluster_metadata-0", Uuid::ZERO, log_options).expect("opens");
        let founders = founders.map(|ids| ids.iter().map(|id| (*id, identity_of(*id))).collect());
        let options = RaftOptions {
            voter: id,
            identity: identity_of(id),
            dir: "/data/raft".into(),
            disk: shared,
            log,
            snapshot_every: self.snapshot_every,
            peers: Some(Peers::new(Arc::new(End(id, Arc::clone(&self.wires))), founders)),
        };
        let told = Told::default();
        let log = Arc::new(MetadataLog::start_here(options, Box::new(told.clone())).await.expect("starts"));
        self.wires.nodes.lock().expect("no panic").insert(id, Arc::downgrade(&log));
        self.nodes.insert(id, Node { log, told, disk });
    }

    /// The node is gone at once, and its disk is what a crash leaves.
    fn kill(&mut self, id: u64, crash: Crash, seed: u64) -> MemoryDisk {
        self.wires.nodes.lock().expect("no panic").remove(&id);
        let node = self.nodes.remove(&id).expect("it runs");
        node.log.stop();
        node.disk.after_crash(crash, seed)
    }

    async fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
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
    async fn leader(&self) -> u64 {
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

    fn log(&self, id: u64) -> &MetadataLog {
        &self.nodes[&id].log
    }

    /// Through whoever leads, until it is committed.
    async fn commit(&self, entry: &str) {
        loop {
            let leader = self.leader().await;
            match propose(self.log(leader), entry, LONG).await {
                Ok(_) => return,
                Err(ProposeError::NotLeader(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    async fn commit_all(&self, name: &str, count: usize, expected: &mut Vec<String>) {
        for i in 0..count {
            let entry = format!("{name} {i}");
            self.commit(&entry).await;
            expected.push(entry);
        }
    }

    async fn all_are_told(&self, expected: &[String]) {
        self.until("all are told the same", || {
            self.nodes.values().all(|node| node.told.list() == expected).then_some(())
        })
        .await;
    }

    async fn change(&self, change: MemberChange) -> Result<Proposed, ProposeError> {
        self.change_on(self.leader().await, change).await
    }

    async fn change_on(&self, id: u64, change: MemberChange) -> Result<Proposed, ProposeError> {
        let (to, from) = oneshot::channel();
        self.log(id).change_members(change, LONG, move |outcome| to.send(outcome).expect("awaited"));
        from.await.expect("answered")
    }
}

async fn propose(log: &MetadataLog, entry: &str, timeout: Duration) -> Result<Proposed, ProposeError> {
    let (to, from) = oneshot::channel();
    log.propose(entry.into(), timeout, move |outcome| to.send(outcome).expect("awaited"));
    from.await.expect("answered")
}

fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<u64> {
    ids.into()
}

#[tokio::test(start_paused = true)]
async fn voters_go_on_without_their_leader_and_it_catches_up() {
    let mut cluster = Cluster::of_three(1000).await;
    let mut expected = Vec::new();
    for round in 0..4 {
        cluster.commit_all(&format!("all {round}"), 10, &mut expected).await;
        let leader = cluster.leader().await;
        let term = cluster.log(leader).status().term;
        let disk = cluster.kill(leader, Crash::PowerLoss, round);
        cluster.commit_all(&format!("two {round}"), 10, &mut expected).await;
        let next = cluster.leader().await;
        assert!(next != leader && cluster.log(next).status().term > term);
        cluster.start(leader, disk, None).await;
        cluster.all_are_told(&expected).await;
        assert_eq!(cluster.log(leader).status().voters, [1, 2, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_lags_gets_a_snapshot_in_pieces() {
    let mut cluster = Cluster::of_three(5).await;
    let mut expected = Vec::new();
    cluster.commit_all("all", 3, &mut expected).await;
    let lagging = cluster.leader().await % 3 + 1;
    let disk = cluster.kill(lagging, Crash::PowerLoss, 1);
    let pieces = |cluster: &Cluster| cluster.wires.sent(4);
    let long = "x".repeat(200_000);
    for i in 0..15 {
        cluster.commit(&format!("{i} {long}")).await;
        expected.push(format!("{i} {long}"));
    }
    assert_eq!(pieces(&cluster), 0, "no snapshot before the log is cut");
    // The log is cut when a request to it has failed, not while one is under way.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = pieces(&cluster);
    cluster.start(lagging, disk, None).await;
    cluster.all_are_told(&expected).await;
    let sent = pieces(&cluster) - before;
    assert!(sent >= 3, "3 MB in {sent} pieces");
    let disk = cluster.kill(lagging, Crash::PowerLoss, 2);
    cluster.start(lagging, disk, None).await;
    cluster.all_are_told(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn many_long_entries_travel_in_several_requests() {
    let mut cluster = Cluster::of_three(1000).await;
    let lagging = cluster.leader().await % 3 + 1;
    let disk = cluster.kill(lagging, Crash::Kill, 0);
    let (mut expected, long) = (Vec::new(), "x".repeat(700_000));
    cluster.commit_all(&long, 6, &mut expected).await;
    cluster.start(lagging, disk, None).await;
    cluster.all_are_told(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_learns_then_votes_and_a_leader_may_leave() {
    let mut cluster = Cluster { snapshot_every: 20, ..Cluster::default() };
    let mut expected = Vec::new();
    cluster.start(1, MemoryDisk::new(), Some(&[1])).await;
    cluster.commit_all("alone", 50, &mut expected).await;
    for id in 2..=4 {
        cluster.start(id, MemoryDisk::new(), None).await;
    }
    let refused = cluster.change_on(1, MemberChange::Promote(ids([2]))).await;
    assert!(matches!(refused, Err(ProposeError::MembersStay(_))), "who has no log has no vote: {refused:?}");
    for id in 2..=4 {
        let added = cluster.change_on(1, MemberChange::AddLearner { id, identity: identity_of(id) }).await;
        added.expect("added");
    }
    assert_eq!(cluster.log(1).status().learners, [2, 3, 4]);
    cluster.all_are_told(&expected).await;
    cluster.change(MemberChange::Promote(ids([2, 3, 4]))).await.expect("promoted");
    let status = cluster.log(1).status();
    assert_eq!((status.voters, status.learners), (vec![1, 2, 3, 4], vec![]));
    assert_eq!(status.identities[&3], identity_of(3));
    cluster.commit_all("four", 10, &mut expected).await;

    cluster.change(MemberChange::Demote(ids([1]))).await.expect("demoted");
    cluster.until("another leads", || cluster.log(2).status().leader.filter(|leader| *leader != 1)).await;
    cluster.commit_all("three", 10, &mut expected).await;
    cluster.all_are_told(&expected).await;
    cluster.change(MemberChange::Remove(ids([1]))).await.expect("removed");
    cluster.kill(1, Crash::Kill, 0);
    cluster.commit_all("without", 10, &mut expected).await;
    cluster.all_are_told(&expected).await;
    assert_eq!(cluster.log(2).status().voters, [2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::of_three(1000).await;
    let mut expected = Vec::new();
    cluster.commit_all("first", 5, &mut expected).await;
    for _ in 0..5 {
        let leader = cluster.leader().await;
        let (to, term) = (leader % 3 + 1, cluster.log(leader).status().term);
        let begun = tokio::time::Instant::now();
        cluster.log(leader).transfer_leadership(to);
        let led = || (cluster.log(leader).status().leader == Some(to)).then_some(());
        cluster.until("the other leads", led).await;
        assert!(
            begun.elapsed() < Duration::from_millis(200),
            "no time-out is waited for: {:?}",
            begun.elapsed()
        );
        assert_eq!(cluster.log(to).status().term, term + 1);
        cluster.commit_all(&format!("term {term}"), 5, &mut expected).await;
    }
    cluster.all_are_told(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_was_cut_off_does_not_disturb_when_it_is_back() {
    let cluster = Cluster::of_three(1000).await;
    let leader = cluster.leader().await;
    let term = cluster.log(leader).status().term;
    cluster.wires.cut(leader % 3 + 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.wires.mend();
    tokio::time::sleep(Duration::from_secs(20)).await;
    for id in 1..=3 {
        let status = cluster.log(id).status();
        assert_eq!((status.leader, status.term), (Some(leader), term), "as node {id} sees it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_without_a_quorum_proposes_has_an_unknown_outcome() {
    let cluster = Cluster::of_three(1000).await;
    let mut expected = Vec::new();
    cluster.commit_all("first", 5, &mut expected).await;
    let leader = cluster.leader().await;
    cluster.wires.cut(leader);
    let outcome = propose(cluster.log(leader), "lost", Duration::from_secs(3)).await;
    assert_eq!(outcome, Err(ProposeError::OutcomeUnknown));
    cluster.commit_all("others", 5, &mut expected).await;
    cluster.wires.mend();
    cluster.all_are_told(&expected).await;
    let follower = cluster.leader().await % 3 + 1;
    let refused = propose(cluster.log(follower), "no", LONG).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader(Some(_)))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_started_with_two_founders_too_few_waits() {
    let mut cluster = Cluster { snapshot_every: 1000, ..Cluster::default() };
    cluster.start(1, MemoryDisk::new(), Some(&[1, 2, 3])).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(cluster.log(1).status().leader, None);
    let refused = propose(cluster.log(1), "early", LONG).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader(None))), "{refused:?}");
    cluster.start(2, MemoryDisk::new(), None).await;
    cluster.commit("two are a majority").await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_none_are_refused_and_harm_nothing() {
    let cluster = Cluster::of_three(1000).await;
    let mut expected = Vec::new();
    let recorded = Arc::new(Mutex::new(Vec::new()));
    *cluster.wires.recorded.lock().expect("no panic") = Some(Arc::clone(&recorded));
    cluster.commit_all("first", 3, &mut expected).await;
    let leader = cluster.leader().await;
    cluster.log(leader).transfer_leadership(leader % 3 + 1);
    cluster.until("another leads", || cluster.log(leader).status().leader.filter(|led| *led != leader)).await;
    *cluster.wires.recorded.lock().expect("no panic") = None;

    let requests = std::mem::take(&mut *recorded.lock().expect("no panic"));
    let kinds: BTreeSet<u8> = requests.iter().map(|(_, request): &(u64, Vec<u8>)| request[1]).collect();
    assert!(kinds.is_superset(&[1, 5].into()), "{kinds:?}");
    for (to, request) in requests {
        let log = cluster.log(to);
        for cut in [0, 1, 5, 13, 14, 20, request.len() - 1] {
            log.answer_peer(&request[..cut]).await.expect_err("a request cut short");
        }
        let other = [&request[..2], &(to + 1).to_be_bytes(), &request[10..]].concat();
        let refused = log.answer_peer(&other).await.expect_err("a request for another node");
        assert_eq!(refused, PeerError::Refused(MessageError::NotForUs(to + 1)));
        let newer = [&[2], &request[1..]].concat();
        let refused = log.answer_peer(&newer).await.expect_err("a request of another version");
        assert_eq!(refused, PeerError::Refused(MessageError::Version(2)));
        let longer = [&request[..], b"x"].concat();
        if request[1] == 1 {
            log.answer_peer(&longer).await.expect_err("bytes behind the entries");
        }
    }
    cluster.commit_all("still", 3, &mut expected).await;
    cluster.all_are_told(&expected).await;
}
