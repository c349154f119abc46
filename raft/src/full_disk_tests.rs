//! Voters without space: they vote, hear who leads, say what they wait for, and go on once there is space; the others go on at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftLogReader as _;
use ottla_protocol::types::Uuid;
use ottla_storage::memory::Crash;
use ottla_storage::{Disk, LogDir, LogOptions, MemoryDisk, StorageError};

use crate::ProposeError;
use crate::cluster::{Cluster, propose};
use crate::log_store::{LogStore, Patience};
use crate::tests::LONG;

/// More than a log has reserved ahead.
const ENTRY_BYTES: usize = 100_000;

fn fill(cluster: &Cluster, id: u64) {
    let disk = &cluster.nodes[&id].disk;
    disk.set_capacity(Some(disk.used()));
}

async fn write_until_full(cluster: &Cluster, leader: u64) -> ProposeError {
    for i in 0..1000 {
        let entry = format!("{i} {}", "x".repeat(ENTRY_BYTES));
        if let Err(error) = propose(cluster.log(leader), &entry, LONG).await {
            return error;
        }
    }
    panic!("the disk of the leader has no end");
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_space_hands_over_knows_it_and_follows_when_it_has_some() {
    let cluster = Cluster::of_three(1000).await;
    let mut expected = Vec::new();
    cluster.commit_all("before", 5, &mut expected).await;
    cluster.all_are_told(&expected).await;
    let full = cluster.leader().await;
    fill(&cluster, full);
    let refused = write_until_full(&cluster, full).await;
    assert!(matches!(refused, ProposeError::Full(_)), "{refused:?}");
    let told = cluster.nodes[&full].told.list();

    let next = full % 3 + 1;
    cluster.log(full).transfer_leadership(next);
    // All three agree, the one without space too.
    cluster.until("another leads", || (cluster.log(full).status().leader == Some(next)).then_some(())).await;
    assert_eq!(cluster.leader().await, next);
    let refused = propose(cluster.log(full), "refused", LONG).await;
    assert!(refused.is_err(), "{refused:?}");
    // The others commit what it has no room for.
    let mut expected = told;
    for i in 0..30 {
        let entry = format!("after {i} {}", "x".repeat(ENTRY_BYTES));
        propose(cluster.log(next), &entry, LONG).await.expect("two of three have space");
        expected.push(entry);
    }
    assert_ne!(cluster.nodes[&full].told.list(), expected);
    cluster.nodes[&full].disk.set_capacity(None);
    cluster.all_are_told(&expected).await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_without_space_votes_but_does_not_stand_for_election() {
    for seed in 0..10 {
        let mut cluster = Cluster::of_three(1000).await;
        let mut expected = Vec::new();
        cluster.commit_all("before", 5, &mut expected).await;
        let leader = cluster.leader().await;
        let (full, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        cluster.all_are_told(&expected).await;
        fill(&cluster, full);
        let term = cluster.log(leader).status().term;
        cluster.kill(leader, Crash::PowerLoss, seed);
        cluster
            .until("the one with space leads", || {
                assert_ne!(cluster.log(full).status().leader, Some(full));
                (cluster.log(other).status().leader == Some(other)).then_some(())
            })
            .await;
        assert!(cluster.log(other).status().term > term);
        // Whatever happens to the one without, it will not vote otherwise in that term.
        let term = cluster.log(other).status().term;
        let disk = cluster.nodes[&full].disk.after_crash(Crash::PowerLoss, seed);
        let vote = stored_vote(&disk).await;
        assert!(vote >= term, "seed {seed}: it has voted in term {term}, and its disk says {vote}");
        cluster.nodes[&full].disk.set_capacity(None);
        cluster.commit_all("later", 5, &mut expected).await;
        cluster.all_are_told(&expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_does_not_go_to_a_voter_without_space() {
    let mut cluster = Cluster::of_three(1000).await;
    let mut expected = Vec::new();
    cluster.commit_all("before", 5, &mut expected).await;
    cluster.all_are_told(&expected).await;
    let leader = cluster.leader().await;
    let full = leader % 3 + 1;
    fill(&cluster, full);
    let term = cluster.log(leader).status().term;
    cluster.log(leader).transfer_leadership(full);
    // The leader has let go; who has space takes it.
    let next = cluster
        .until("another term", || {
            let status = cluster.log(leader).status();
            assert_ne!(cluster.log(full).status().leader, Some(full));
            status.leader.filter(|_| status.term > term)
        })
        .await;
    assert_ne!(next, full);
    propose(cluster.log(next), "after", LONG).await.expect("two of three have space");
    cluster.kill(full, Crash::Kill, 0);
}

/// The term of the vote that a restart would find.
async fn stored_vote(disk: &MemoryDisk) -> u64 {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = LogDir::open(Arc::clone(&disk), Path::new("/data"), [7; 16]).expect("opens");
    let (log, _) = dir.open_log("__cluster_metadata-0", Uuid::ZERO, LogOptions::default()).expect("opens");
    let mut store = LogStore::open(disk, Path::new("/data/raft"), log).expect("opens");
    store.read_vote().await.expect("readable").expect("it has voted").leader_id.term
}

#[tokio::test(start_paused = true)]
async fn a_follower_without_space_hears_who_leads_and_can_be_stopped() {
    let cluster = Cluster::of_three(1000).await;
    let leader = cluster.leader().await;
    let full = leader % 3 + 1;
    fill(&cluster, full);
    for i in 0..30 {
        let entry = format!("{i} {}", "x".repeat(ENTRY_BYTES));
        propose(cluster.log(leader), &entry, LONG).await.expect("two of three have space");
    }
    let log = &cluster.nodes[&full].log;
    assert!(log.status().last_index < cluster.log(leader).status().last_index, "it waits");
    // It hears who leads all the same, and can be stopped.
    assert_eq!(log.status().leader, Some(leader));
    log.stop();
    let ended = tokio::time::timeout(Duration::from_secs(5), log.raft.shutdown()).await;
    assert!(ended.is_ok(), "its task goes on waiting");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_space_ends_when_there_is_some_or_with_the_log() {
    let full = || Err::<(), _>(StorageError::Full { path: "/data".into() });
    let patience = Patience::default();
    let mut attempts = 0;
    let outcome = patience.once_there_is_room("a test", || {
        attempts += 1;
        if attempts < 5 { full() } else { Ok(()) }
    });
    outcome.await.expect("there is some");
    assert_eq!(attempts, 5);
    let waits = patience.once_there_is_room("a test", full);
    let (outcome, ()) = tokio::join!(waits, async {
        tokio::time::sleep(LONG).await;
        patience.end();
    });
    assert!(outcome.is_err());
}
