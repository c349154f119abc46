//! Who belongs to a cluster: nodes that join it, and nodes that only look as if they did.

use std::path::Path;
use std::process::Command;

use ottla_protocol::record::BatchOptions;
use ottla_tests::process::{command, eventually};
use ottla_tests::servers::Servers;
use ottla_tests::topic::{self, Write, create, read_all, wait_placed};

/// Writes `0` to `t`, and has it replicated.
fn write_one(cluster: &Servers) {
    create(cluster, 1, "t", &[], &[]);
    let leader = wait_placed(cluster, 1, "t", "in sync everywhere", |placed| placed.isr == [1, 2, 3]).leader;
    let write = Write { topic: "t", value: "0", options: BatchOptions::default(), timeout_ms: 10_000 };
    // The leader may hear of its topic a moment after the others.
    eventually("a write", || write.send(&mut cluster.connect(leader)).expect("an answer") == Ok(0));
}

fn assert_unharmed(cluster: &Servers, via: i32) {
    wait_placed(cluster, via, "t", "in sync everywhere", |placed| {
        placed.leader >= 0 && placed.isr == [1, 2, 3]
    });
    assert!(read_all(cluster, via, "t").into_values().eq(["0".to_owned()]));
}

#[test]
fn a_broker_that_is_no_voter_joins_and_takes_replicas() {
    let mut cluster = Servers::start();
    cluster.add(4, &["process.roles=broker"]);
    cluster.launch(&[4]);
    cluster.wait_ready(&[4]);
    create(&cluster, 4, "t", &[&[4, 1, 2]], &[]);
    let placed = wait_placed(&cluster, 1, "t", "in sync", |placed| placed.isr == [1, 2, 4]);
    assert_eq!(placed.leader, 4);
    let write = Write { topic: "t", value: "0", options: BatchOptions::default(), timeout_ms: 10_000 };
    eventually("a write", || write.send(&mut cluster.connect(4)).expect("an answer") == Ok(0));

    cluster.kill(&[4]);
    wait_placed(&cluster, 3, "t", "another leads", |placed| [1, 2].contains(&placed.leader));
    cluster.restart(&[4]);
    wait_placed(&cluster, 4, "t", "in sync again", |placed| placed.isr == [1, 2, 4]);
    assert!(read_all(&cluster, 4, "t").into_values().eq(["0".to_owned()]));
}

#[test]
fn a_node_whose_directory_was_wiped_gets_everything_anew_and_its_vote_by_a_command() {
    let mut cluster = Servers::start();
    write_one(&cluster);
    cluster.kill(&[2]);
    std::fs::remove_dir_all(cluster.data_dir(2)).expect("removed");
    cluster.restart(&[2]);
    assert_unharmed(&cluster, 2);
    let log = cluster.log(2);
    assert!(log.contains("its directory is fresh") && log.contains("ottla quorum replace 2"), "{log}");

    let replace = |cluster: &Servers| {
        let bootstrap = cluster.address(1).to_string();
        command().args(["quorum", "replace", "2", "--bootstrap", &bootstrap]).output().expect("ottla runs")
    };
    let said = replace(&cluster);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // It votes: with it and one other there is a majority.
    cluster.kill(&[3]);
    eventually("a topic is made", || topic::try_create(&cluster, 2, "made-with-its-vote"));
    cluster.restart(&[3]);
    let again = replace(&cluster);
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && why.contains("no node 2 without a vote"), "{why}");
    assert_unharmed(&cluster, 3);
}

/// Node `id` runs on other ports, in `data_dir`, by `settings`.
fn start_elsewhere(cluster: &mut Servers, id: i32, data_dir: &Path, settings: &[String]) -> String {
    let place = id + 100;
    cluster.add(place, &[]);
    let mut serve = command();
    serve.arg("serve").arg("--data-dir").arg(data_dir);
    let listeners =
        format!("listeners=PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:0", cluster.address(place).port());
    for setting in settings.iter().filter(|setting| !setting.starts_with("listeners=")).chain([&listeners]) {
        serve.arg("--set").arg(setting);
    }
    cluster.spawn(place, serve);
    assert!(!cluster.wait_end(place).success(), "it is taken in");
    cluster.log(place)
}

#[test]
fn a_second_voter_with_the_id_of_a_living_one_is_refused_with_another_directory_and_with_a_copy_of_its_own() {
    let mut cluster = Servers::start();
    write_one(&cluster);
    let settings = cluster.settings(3);
    let other = tempfile::tempdir().expect("a directory");
    let said = start_elsewhere(&mut cluster, 3, other.path(), &settings);
    assert!(said.contains("node 3 runs already") && said.contains("with another directory"), "{said}");

    cluster.kill(&[3]);
    let copy = other.path().join("copy");
    let copied = Command::new("cp").arg("-r").arg(cluster.data_dir(3)).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    cluster.restart(&[3]);
    let said = start_elsewhere(&mut cluster, 3, &copy, &settings);
    assert!(said.contains("node 3 runs already") && said.contains("with a copy of this directory"), "{said}");
    assert_unharmed(&cluster, 1);
}

#[test]
fn a_broker_with_the_id_of_a_living_node_is_refused() {
    let mut cluster = Servers::start();
    write_one(&cluster);
    let known = cluster.voters();
    let known: Vec<&str> =
        known.split(',').filter_map(|voter| voter.split_once('@')).map(|(_, at)| at).collect();
    let settings = [
        "node.id=2".to_owned(),
        "process.roles=broker".to_owned(),
        format!("controller.quorum.bootstrap.servers={}", known.join(",")),
        "controller.listener.names=CONTROLLER".to_owned(),
    ];
    let fresh = tempfile::tempdir().expect("a directory");
    let said = start_elsewhere(&mut cluster, 2, fresh.path(), &settings);
    assert!(said.contains("node.id 2 belongs to a living node"), "{said}");
    assert_unharmed(&cluster, 1);
}
