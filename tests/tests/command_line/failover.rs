//! Producing and consuming while nodes are killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ottla_tests::cluster::Cluster;
use serde_json::Value;

use crate::shell::bare;

const ROUNDS: usize = 40;
const LINES: usize = 25;

#[test]
fn every_line_is_written_once_and_in_order_through_the_death_of_a_leader() {
    let cluster = Cluster::up(3, &[]);
    let servers: Vec<String> = [1, 2, 3].map(|node| cluster.address(node).to_string()).into();
    let ottla = |arguments: &[&str]| {
        let mut command = bare();
        command.args(arguments).env("OTTLA_BOOTSTRAP_SERVER", servers.join(","));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("ottla runs")
    };
    assert!(ottla(&["topic", "create", "t", "-p", "3", "-r", "3"]).wait().expect("it ends").success());
    let mut consumer =
        ottla(&["consume", "t", "-c", &(ROUNDS * LINES).to_string(), "-f", "%p %s\n", "--timeout", "120"]);
    let mut producer =
        ottla(&["produce", "t", "-K", ":", "--batch-bytes", "300", "--timeout", "120", "--json"]);
    let mut input = producer.stdin.take().expect("piped");
    let mut said = BufReader::new(consumer.stdout.take().expect("piped")).lines();
    let mut read = Vec::new();
    for round in 0..ROUNDS {
        for line in 0..LINES {
            let n = round * LINES + line;
            writeln!(input, "k{}:{n}", n % 11).expect("it reads");
        }
        if round == ROUNDS / 4 {
            // Some of what was sent has come, so the death falls into the midst.
            while read.len() < LINES {
                read.push(said.next().expect("a line").expect("readable"));
            }
            cluster.run(&["kill", "2"]);
        }
        if round == ROUNDS / 2 {
            cluster.run(&["start", "2"]);
        }
    }
    drop(input);
    let output = producer.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["written"], ROUNDS * LINES, "{answer}");

    read.extend(said.map(|line| line.expect("readable")));
    assert!(consumer.wait().expect("it ends").success());
    let mut last = [-1i64; 11];
    for line in &read {
        let n: i64 = line.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
        let key = usize::try_from(n % 11).expect("small");
        assert!(last[key] < n, "{n} after {}", last[key]);
        last[key] = n;
    }
    assert_eq!(read.len(), ROUNDS * LINES);
}

#[test]
fn a_topic_without_enough_replicas_is_told_with_the_reason_when_the_time_is_up() {
    let cluster = Cluster::up(3, &[]);
    let run = |arguments: &[&str]| {
        let mut command = bare();
        command
            .args(arguments)
            .env("OTTLA_BOOTSTRAP_SERVER", cluster.address(1).to_string())
            .stdin(Stdio::null());
        command.output().expect("ottla runs")
    };
    assert!(
        run(&["topic", "create", "t", "-p", "1", "-r", "1", "--set", "min.insync.replicas=1"])
            .status
            .success()
    );
    assert!(
        run(&["topic", "create", "all", "-p", "1", "-r", "3", "--set", "min.insync.replicas=3"])
            .status
            .success()
    );
    assert!(run(&["produce", "all", "x"]).status.success());
    cluster.run(&["kill", "3"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = run(&["topic", "describe", "all"]);
        if String::from_utf8_lossy(&output.stdout).contains("out of sync: 3") {
            break;
        }
        assert!(Instant::now() < deadline, "node 3 is not missed");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = run(&["produce", "all", "x", "--timeout", "3"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("line 1 is not written: all-0: broker"), "{said}");
    assert!(said.contains("within 3 s, at last: all-0:") && said.contains("NOT_ENOUGH_REPLICAS"), "{said}");
}
