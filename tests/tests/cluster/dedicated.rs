//! Controllers that are no brokers, and brokers that do not vote.

use std::fs;
use std::time::Duration;

use ottla_protocol::record::BatchOptions;
use ottla_tests::process::eventually;
use ottla_tests::servers::Servers;
use ottla_tests::topic::{Write, create, read_all, try_create, wait_placed};

use crate::failover::controller;

const CONTROLLERS: [i32; 3] = [1, 2, 3];
const BROKERS: [i32; 3] = [4, 5, 6];

fn start() -> Servers {
    let mut cluster = Servers::planned();
    for id in CONTROLLERS {
        cluster.add(id, &["process.roles=controller"]);
    }
    for id in BROKERS {
        cluster.add(id, &["process.roles=broker"]);
    }
    cluster.launch(&[1, 2, 3, 4, 5, 6]);
    let ready = cluster.wait_ready(&[1, 2, 3, 4, 5, 6]);
    let named = ready[0]["cluster_id"].as_str().expect("an id").to_owned();
    assert_ne!(named, "AAAAAAAAAAAAAAAAAAAAAA", "a controller knows its cluster");
    assert!(ready.iter().all(|line| line["cluster_id"] == named.as_str()), "{ready:?}");
    cluster
}

/// User and system time that a process has taken so far, in clock ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    // utime and stime are fields 14 and 15, the name being the second (proc(5)).
    [11, 12].map(|at: usize| fields[at].parse::<u64>().expect("a number")).iter().sum()
}

#[test]
fn brokers_go_on_without_the_leader_of_their_controllers_and_controllers_without_a_broker() {
    let mut cluster = start();
    create(&cluster, 4, "t", &[&[4, 5, 6]], &[]);
    wait_placed(&cluster, 5, "t", "in sync", |placed| placed.isr == BROKERS);
    let write = |value: &'static str| Write {
        topic: "t",
        value,
        options: BatchOptions::default(),
        timeout_ms: 10_000,
    };
    eventually("a write", || write("0").send(&mut cluster.connect(4)).expect("an answer") == Ok(0));

    let decides = controller(&cluster, 5);
    assert!(CONTROLLERS.contains(&decides), "{decides}");
    cluster.kill(&[decides]);
    assert_eq!(write("1").send(&mut cluster.connect(4)).expect("an answer"), Ok(1));
    eventually("a topic is made", || try_create(&cluster, 6, "made-by-the-next"));

    cluster.kill(&[4]);
    let leads = wait_placed(&cluster, 5, "t", "another leads", |placed| [5, 6].contains(&placed.leader));
    assert_eq!(write("2").send(&mut cluster.connect(leads.leader)).expect("an answer"), Ok(2));
    cluster.restart(&[decides, 4]);
    wait_placed(&cluster, 4, "t", "in sync again", |placed| placed.isr == BROKERS);
    assert!(read_all(&cluster, 5, "t").into_values().eq(["0", "1", "2"].map(str::to_owned)));
}

#[test]
fn a_controller_with_nothing_to_do_does_nothing() {
    let cluster = start();
    let before = CONTROLLERS.map(|id| cpu_ticks(cluster.pid(id)));
    // The time that passes is what is looked at here. One that spins has a tenth of a core at the least.
    std::thread::sleep(Duration::from_secs(2));
    let taken: Vec<u64> =
        CONTROLLERS.iter().zip(before).map(|(id, before)| cpu_ticks(cluster.pid(*id)) - before).collect();
    assert!(taken.iter().all(|ticks| *ticks < 15), "of 200 ticks: {taken:?}");
}
