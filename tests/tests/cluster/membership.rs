//! Who belongs to a cluster: nodes that join it, and nodes that only look as if they did.

use std::process::{Command, Stdio};

use ottla_protocol::record::BatchOptions;
use ottla_tests::process::command;
use ottla_tests::servers::Servers;
use ottla_tests::topic::{Write, create, read_all, wait_placed};

/// Writes `0` to `t`, and has it replicated.
fn write_one(cluster: &Servers) {
    create(cluster, 1, "t", &[], &[]);
    let leader = wait_placed(cluster, 1, "t", "in sync everywhere", |placed| placed.isr == [1, 2, 3]).leader;
    let write = Write { topic: "t", value: "0", options: BatchOptions::default(), timeout_ms: 10_000 };
    assert_eq!(write.send(&mut cluster.connect(leader)).expect("an answer"), Ok(0));
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
    assert_eq!(write.send(&mut cluster.connect(4)).expect("an answer"), Ok(0));

    cluster.kill(&[4]);
    wait_placed(&cluster, 3, "t", "another leads", |placed| [1, 2].contains(&placed.leader));
    cluster.restart(&[4]);
    wait_placed(&cluster, 4, "t", "in sync again", |placed| placed.isr == [1, 2, 4]);
    assert!(read_all(&cluster, 4, "t").into_values().eq(["0".to_owned()]));
}

#[test]
fn a_node_whose_directory_was_wiped_gets_everything_anew_but_no_vote() {
    let mut cluster = Servers::start();
    write_one(&cluster);
    cluster.kill(&[2]);
    std::fs::remove_dir_all(cluster.data_dir(2)).expect("removed");
    cluster.restart(&[2]);
    assert_unharmed(&cluster, 2);
    let log = cluster.log(2);
    assert!(log.contains("its directory is fresh") && log.contains("observer"), "{log}");
}

#[test]
fn a_second_node_with_the_id_of_a_living_one_is_refused() {
    let mut cluster = Servers::start();
    write_one(&cluster);
    // The same settings but for the ports, and a directory of its own.
    cluster.add(5, &["node.id=2", "process.roles=broker"]);
    let mut serve = command();
    serve.arg("serve").arg("--data-dir").arg(cluster.data_dir(5));
    for setting in cluster.settings(5) {
        serve.arg("--set").arg(
            setting
                .replace("controller.quorum.voters", "controller.quorum.bootstrap.servers")
                .replace("1@", "")
                .replace("2@", "")
                .replace("3@", ""),
        );
    }
    cluster.spawn(5, serve);
    assert!(!cluster.wait_end(5).success());
    let log = cluster.log(5);
    assert!(log.contains("could not register") && log.contains('2'), "{log}");
    assert_unharmed(&cluster, 1);
}

#[test]
fn a_copied_directory_is_refused_while_the_original_is_in_use() {
    let mut cluster = Servers::start();
    write_one(&cluster);
    cluster.kill(&[3]);
    let copy = cluster.data_dir(30);
    let copied = Command::new("cp").arg("-r").arg(cluster.data_dir(3)).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    cluster.restart(&[3]);
    cluster.add(3_000, &[]);
    let other_port = cluster.address(3_000).port();
    let mut serve = command();
    serve.arg("serve").arg("--data-dir").arg(&copy).stdin(Stdio::null());
    for setting in cluster.settings(3) {
        let setting = match setting.strip_prefix("listeners=") {
            Some(_) => format!("listeners=PLAINTEXT://127.0.0.1:{other_port},CONTROLLER://127.0.0.1:0"),
            None => setting,
        };
        serve.arg("--set").arg(setting);
    }
    cluster.spawn(3_000, serve);
    assert!(!cluster.wait_end(3_000).success());
    let log = cluster.log(3_000);
    assert!(log.contains("directory"), "{log}");
    assert_unharmed(&cluster, 1);
}
