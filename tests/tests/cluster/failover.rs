//! What was acknowledged survives, and clients go on by themselves.

use std::collections::BTreeMap;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::DescribeQuorumRequest;
use ottla_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use ottla_protocol::record::BatchOptions;
use ottla_tests::client::Client;
use ottla_tests::process::eventually;
use ottla_tests::servers::Servers;
use ottla_tests::topic::{Placed, Write, create, delete, read_all, wait_placed};
use ottla_tests::writer::{Writer, Written};

const FLUSHED: &[(&str, &str)] = &[("flush.messages", "1")];
const IN_MEMORY: &[(&str, &str)] = &[("flush.messages", "9223372036854775807")];

fn is_whole(placed: &Placed) -> bool {
    placed.leader >= 0 && placed.isr == [1, 2, 3]
}

/// Everything that was acknowledged is where it was said to be, and nothing is there twice.
fn assert_kept(written: &Written, read: &BTreeMap<i64, String>) {
    for (offset, value) in &written.values {
        assert_eq!(read.get(offset), Some(value), "at offset {offset}; retries: {:?}", written.retries);
    }
    let in_order: Vec<String> = (0..read.len()).map(|number| number.to_string()).collect();
    assert!(read.values().eq(in_order.iter()), "each once, in order: {read:?}");
}

pub(crate) fn controller(cluster: &Servers, via: i32) -> i32 {
    let topic = TopicData {
        topic_name: "__cluster_metadata".into(),
        partitions: vec![PartitionData { partition_index: 0 }],
    };
    let request = DescribeQuorumRequest { topics: vec![topic] };
    let mut found = -1;
    eventually("a controller", || {
        found = cluster.connect(via).call(2, &request).topics[0].partitions[0].leader_id;
        found >= 0
    });
    found
}

/// A node that is none of these.
fn other_than(ids: &[i32]) -> i32 {
    (1..=3).find(|id| !ids.contains(id)).expect("three nodes")
}

#[test]
fn any_node_makes_a_topic_and_all_get_to_know_it() {
    let cluster = Servers::start();
    for via in [1, 2, 3] {
        let name = format!("by-{via}");
        create(&cluster, via, &name, &[], &[]);
        for node in [1, 2, 3] {
            wait_placed(&cluster, node, &name, "in sync everywhere", is_whole);
        }
    }
}

fn survives_kills(config: &[(&str, &str)]) {
    let mut cluster = Servers::start();
    create(&cluster, 1, "t", &[], config);
    let writer = Writer::start(&cluster, "t");
    writer.wait_more(20);

    let leader = wait_placed(&cluster, 1, "t", "in sync everywhere", is_whole).leader;
    cluster.kill(&[leader]);
    writer.wait_more(20);
    let other = other_than(&[leader]);
    wait_placed(&cluster, other, "t", "another leader", |placed| {
        placed.leader >= 0 && placed.leader != leader
    });
    cluster.restart(&[leader]);
    wait_placed(&cluster, other, "t", "the killed node catches up", is_whole);

    let controller = controller(&cluster, 1);
    cluster.kill(&[controller]);
    writer.wait_more(20);
    create(&cluster, other_than(&[controller]), "made-meanwhile", &[], &[]);
    cluster.restart(&[controller]);
    wait_placed(&cluster, controller, "t", "the killed node catches up", is_whole);

    cluster.kill(&[1, 2, 3]);
    cluster.launch(&[3, 1, 2]);
    cluster.wait_ready(&[1, 2, 3]);
    writer.wait_more(20);
    wait_placed(&cluster, 2, "t", "in sync everywhere", is_whole);
    wait_placed(&cluster, 2, "made-meanwhile", "led", is_whole);

    assert_kept(&writer.finish(), &read_all(&cluster, 3, "t"));
}

#[test]
fn acknowledged_records_survive_the_kill_of_the_leader_of_the_controller_and_of_all() {
    survives_kills(FLUSHED);
}

#[test]
fn so_do_records_that_are_acknowledged_from_memory() {
    survives_kills(IN_MEMORY);
}

#[test]
fn a_leader_that_hangs_is_replaced_and_rejoins_as_a_follower() {
    let cluster = Servers::start();
    create(&cluster, 1, "t", &[], &[]);
    let writer = Writer::start(&cluster, "t");
    writer.wait_more(20);
    let placed = wait_placed(&cluster, 1, "t", "in sync everywhere", is_whole);
    cluster.pause(placed.leader);
    let other = other_than(&[placed.leader]);
    wait_placed(&cluster, other, "t", "another leader", |now| now.leader >= 0 && now.leader != placed.leader);
    writer.wait_more(20);
    cluster.resume(placed.leader);
    wait_placed(&cluster, placed.leader, "t", "it follows", |now| {
        is_whole(now) && now.leader != placed.leader
    });
    assert_kept(&writer.finish(), &read_all(&cluster, other, "t"));
}

#[test]
fn a_node_that_stops_hands_over_what_it_leads_and_producers_hardly_notice() {
    let mut cluster = Servers::start();
    create(&cluster, 1, "t", &[], &[]);
    let writer = Writer::start(&cluster, "t");
    writer.wait_more(20);
    let leader = wait_placed(&cluster, 1, "t", "in sync everywhere", is_whole).leader;
    assert!(cluster.stop(leader).success());
    let other = other_than(&[leader]);
    // No waiting: it moved before the process ended.
    let now = wait_placed(&cluster, other, "t", "an answer", |_| true);
    assert!(now.leader >= 0 && now.leader != leader && !now.isr.contains(&leader), "{now:?}");
    writer.wait_more(20);
    let written = writer.finish();
    assert!(written.retries.len() <= 2, "{:?}", written.retries);
    assert_kept(&written, &read_all(&cluster, other, "t"));
}

#[test]
fn too_few_in_sync_replicas_refuse_acks_all_until_one_is_back() {
    let mut cluster = Servers::start();
    create(&cluster, 1, "t", &[], &[]);
    let placed = wait_placed(&cluster, 1, "t", "in sync everywhere", is_whole);
    let left = placed.leader;
    let gone: Vec<i32> = (1..=3).filter(|id| *id != left).collect();
    let write = |client: &mut Client, value: &str| {
        let options = BatchOptions::default();
        Write { topic: "t", value, options, timeout_ms: 5_000 }.send(client).expect("an answer")
    };
    let mut client = cluster.connect(left);
    eventually("a write", || write(&mut client, "0") == Ok(0));
    for id in &gone {
        assert!(cluster.stop(*id).success());
    }
    assert_eq!(write(&mut client, "refused"), Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(read_all(&cluster, left, "t").len(), 1, "what is committed is served");

    cluster.restart(&gone[..1]);
    eventually("writes are taken again", || write(&mut client, "1") == Ok(1));
    let expected = ["0", "1"].map(str::to_owned);
    assert!(read_all(&cluster, left, "t").into_values().eq(expected), "nothing that was refused");
}

#[test]
fn a_topic_that_was_made_anew_under_its_old_name_keeps_its_records_through_a_kill_of_all() {
    let mut cluster = Servers::start();
    let write = |cluster: &Servers, value: &str| {
        let leader = wait_placed(cluster, 1, "t", "in sync everywhere", is_whole).leader;
        let options = BatchOptions::default();
        let write = Write { topic: "t", value, options, timeout_ms: 5_000 };
        eventually("a write", || write.send(&mut cluster.connect(leader)).expect("an answer") == Ok(0));
    };
    create(&cluster, 1, "t", &[], &[]);
    write(&cluster, "of the first");
    delete(&cluster, 1, "t");
    create(&cluster, 1, "t", &[], &[]);
    write(&cluster, "of the second");

    // Their metadata goes through its history again, in which the name is another topic's.
    cluster.kill(&[1, 2, 3]);
    cluster.launch(&[1, 2, 3]);
    cluster.wait_ready(&[1, 2, 3]);
    wait_placed(&cluster, 1, "t", "in sync everywhere", is_whole);
    assert!(read_all(&cluster, 1, "t").into_values().eq(["of the second".to_owned()]));

    // Deleted while a node was away: what it has of the old one is no part of the new one.
    cluster.kill(&[3]);
    delete(&cluster, 1, "t");
    create(&cluster, 1, "t", &[&[1, 2, 3]], &[]);
    let options = BatchOptions::default();
    let third = Write { topic: "t", value: "of the third", options, timeout_ms: 5_000 };
    eventually("a write", || third.send(&mut cluster.connect(1)).is_ok_and(|sent| sent == Ok(0)));
    cluster.restart(&[3]);
    wait_placed(&cluster, 3, "t", "in sync everywhere", is_whole);
    cluster.kill(&[1]);
    wait_placed(&cluster, 3, "t", "another leader", |placed| placed.leader > 1);
    assert!(read_all(&cluster, 3, "t").into_values().eq(["of the third".to_owned()]));
}
