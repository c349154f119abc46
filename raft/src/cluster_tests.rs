//! Several nodes on one thread, under one clock that leaps ahead whenever all wait: elections, failures, newcomers and leavers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla_storage::MemoryDisk;
use ottla_storage::memory::Crash;

use crate::cluster::{Cluster, KIND_AT, identity_of, propose};
use crate::tests::LONG;
use crate::{MemberChange, MessageError, PeerError, ProposeError};

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
    let (to, mut from) = tokio::sync::mpsc::unbounded_channel();
    let settled = to.clone();
    let answer = move |outcome| to.send(Some(outcome)).expect("awaited");
    let settled = move || settled.send(None).expect("awaited");
    cluster.log(leader).propose(b"lost".to_vec(), Duration::from_secs(3), answer, settled);
    assert_eq!(from.recv().await, Some(Some(Err(ProposeError::OutcomeUnknown))));
    cluster.commit_all("others", 5, &mut expected).await;
    assert!(from.is_empty(), "who hears nobody knows nothing");
    cluster.wires.mend();
    assert_eq!(from.recv().await, Some(None), "settled, now that others lead");
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
async fn founders_need_not_wait_for_a_time_out_also_where_they_start_one_after_the_other() {
    let mut cluster = Cluster { snapshot_every: 1000, first: Some(1), ..Cluster::default() };
    let began = tokio::time::Instant::now();
    cluster.start(1, MemoryDisk::new(), Some(&[1, 2, 3])).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.start(3, MemoryDisk::new(), Some(&[1, 2, 3])).await;
    cluster.start(2, MemoryDisk::new(), Some(&[1, 2, 3])).await;
    cluster.commit("the first").await;
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(cluster.leader().await, 1);
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
    let kinds: BTreeSet<u8> = requests.iter().map(|(_, request): &(u64, Vec<u8>)| request[KIND_AT]).collect();
    assert!(kinds.is_superset(&[1, 5].into()), "{kinds:?}");
    for (to, request) in requests {
        let log = cluster.log(to);
        for at in 0..request.len() {
            log.answer_peer(&request[..at]).await.expect_err("a request cut short");
            let mut flipped = request.clone();
            flipped[at] ^= 1 << (at % 8);
            log.answer_peer(&flipped).await.expect_err("a flipped bit");
        }
        log.answer_peer(&[&request[..], b"x"].concat()).await.expect_err("a byte too many");
        let refused = cluster.log(to % 3 + 1).answer_peer(&request).await.expect_err("for another node");
        assert_eq!(refused, PeerError::Refused(MessageError::NotForUs(to)));
        let refused = log.answer_peer(&[&[2], &request[1..]].concat()).await.expect_err("of another version");
        assert_eq!(refused, PeerError::Refused(MessageError::Version(2)));
    }
    cluster.commit_all("still", 3, &mut expected).await;
    cluster.all_are_told(&expected).await;
}
