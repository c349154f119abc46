//! `ottla bench`, as a user runs it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use ottla_protocol::messages::ListOffsetsRequest;
use ottla_protocol::messages::MetadataRequest;
use ottla_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_tests::client::Client;
use ottla_tests::process::{Ottla, command, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Short runs: what is tested is the measuring, not the broker.
const SHORT: [&str; 4] = ["--duration", "1s", "--warmup", "200ms"];

fn bench(words: &[&str]) -> Output {
    command().arg("bench").args(words).output().expect("ottla runs")
}

/// The document that a run prints.
fn measured(words: &[&str]) -> Value {
    let output = bench(&[words, &["--json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
    serde_json::from_slice(&output.stdout).expect("one document of JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The names of all topics, and the sum of the ends of one topic's partitions.
fn ends(address: SocketAddr) -> Vec<(String, i64)> {
    let mut client = Client::connect(address);
    let metadata = client.call(9, &MetadataRequest { topics: None, ..Default::default() });
    let topics = metadata.topics.into_iter().map(|topic| {
        let name = topic.name.expect("a name");
        let partitions = topic.partitions.iter().map(|partition| ListOffsetsPartition {
            partition_index: partition.partition_index,
            timestamp: -1,
            ..Default::default()
        });
        let topics = vec![ListOffsetsTopic { name: name.clone(), partitions: partitions.collect() }];
        let answer = client.call(5, &ListOffsetsRequest { replica_id: -1, topics, ..Default::default() });
        let ends = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.offset);
        (name.to_string(), ends.sum())
    });
    topics.collect()
}

#[test]
fn what_was_acknowledged_is_in_the_topic_and_the_figures_are_plausible() {
    let node = Ottla::start();
    let bootstrap = node.bootstrap();
    let words = ["produce", "--bootstrap-server", &bootstrap, "--rate", "2000", "--batch", "2KiB", "--keep"];
    let document = measured(&[&words[..], &SHORT, &["--partitions", "3", "--connections", "2"]].concat());
    let run = &document["runs"][0];
    let produce = &run["produce"];
    let topics = ends(node.address());
    let (_, end) =
        topics.iter().find(|(name, _)| name.starts_with("ottla-bench-produce")).expect("it was kept");
    assert_eq!(produce["records_in_all"], *end, "{run}");
    assert_eq!(run["high_watermark"], *end, "{run}");
    assert_eq!(produce["errors"], serde_json::json!({}), "{run}");
    assert_eq!(number(&produce["records"]), 2_000.0, "{run}");
    let latency = &produce["latency"];
    let figures = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|name| number(&latency[name]));
    assert!(figures[0] > 0.0 && figures.is_sorted(), "{latency}");
    assert_eq!(number(&latency["count"]), 1_000.0, "{latency}");
    assert_eq!(number(&produce["offered_per_second"]), 2_000.0, "{run}");
    // It takes a second at least, however busy this machine is.
    assert!(number(&produce["records_per_second"]) <= 2_000.0, "{run}");
    // What stands beside them.
    assert_eq!(run["durability"]["acknowledged_from"], "disk", "{run}");
    assert!(number(&run["control"]["p50_us"]) > 0.0, "{run}");
    let taken = &run["broker_processes"];
    assert_eq!(taken["processes"], 1, "{run}");
    assert!(number(&taken["rss_anon_mib"]) > 0.1, "{run}");
    assert!(run["timeline"]["produce"].as_array().is_some_and(|points| points.len() >= 5), "{run}");
}

#[test]
fn all_that_was_made_is_removed_and_each_kind_says_what_it_measured() {
    let node = Ottla::start_with(&["group.initial.rebalance.delay.ms=0"]);
    let bootstrap = node.bootstrap();
    let kinds = ["end-to-end", "fetch", "mixed", "topics", "rebalance", "--bootstrap-server", &bootstrap];
    let small = ["--rate", "500", "--fill", "2MiB", "--topics", "20", "--members", "5", "--rounds", "1"];
    let document = measured(&[&kinds[..], &SHORT, &small].concat());
    let runs = document["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 5, "{document}");
    let end_to_end = &runs[0];
    assert_eq!(end_to_end["end_to_end"]["records_in_all"], end_to_end["high_watermark"], "{end_to_end}");
    let p50 = |stream: &str| number(&end_to_end[stream]["latency"]["p50_us"]);
    assert!(p50("end_to_end") > 0.0 && p50("produce") > 0.0, "{end_to_end}");
    assert!(number(&runs[1]["fetch"]["records"]) > 0.0, "{}", runs[1]);
    for stream in ["produce", "end_to_end", "fetch"] {
        assert!(number(&runs[2][stream]["records"]) > 0.0, "{stream}: {}", runs[2]);
        assert_eq!(runs[2][stream]["errors"], serde_json::json!({}), "{stream}: {}", runs[2]);
    }
    assert!(number(&runs[3]["answered_ms"]) <= number(&runs[3]["led_ms"]), "{}", runs[3]);
    assert_eq!(runs[4]["join_ms"].as_array().map(Vec::len), Some(1), "{}", runs[4]);
    let left: Vec<_> =
        ends(node.address()).into_iter().filter(|(name, _)| name.starts_with("ottla-bench")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn alone_it_brings_its_own_node_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let scratch = dir.path().to_str().expect("a plain name");
    let page = dir.path().join("page.html");
    let words = [
        "produce",
        "--rate",
        "500",
        "--dir",
        scratch,
        "--codec",
        "lz4",
        "--key-cardinality",
        "10",
        "--idempotent",
    ];
    let html = ["--html", page.to_str().expect("a plain name")];
    let output = bench(&[&words[..], &SHORT, &html].concat());
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    for wanted in [
        "produce",
        "p99.9",
        "every ack on disk (flush.messages=1)",
        "bare socket",
        "idempotent, 10 keys",
        "lz4",
    ] {
        assert!(text.contains(wanted), "{wanted} is missing in {text}");
    }
    assert!(!text.contains('\x1b') && !error.contains('\x1b'), "no terminal, no plot: {error}");
    let page = std::fs::read_to_string(&page).expect("a page");
    assert!(page.contains("<svg") && page.contains("</html>") && !page.contains("http"), "{page}");
    assert_eq!(entries(dir.path()), ["page.html"]);
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn a_leader_that_is_killed_under_load_is_followed_by_another() {
    let run = &measured(&["failover", "--rounds", "1"])["runs"][0];
    let longest = run["longest_ms"].as_array().expect("one for each round");
    assert_eq!(longest.len(), 1, "{run}");
    assert!(number(&longest[0]) > 0.0 && number(&run["acknowledged"]) > 0.0, "{run}");
    assert_eq!(run["durability"]["acknowledged_from"], "disk", "{run}");
}

#[test]
fn interrupted_it_ends_what_it_started() {
    let dir = tempfile::tempdir().expect("a directory");
    let words = ["bench", "produce", "--duration", "1h", "--dir"];
    let mut child = command().args(words).arg(dir.path()).spawn().expect("ottla runs");
    let is_up = || {
        let state = entries(dir.path()).first().map(|scratch| dir.path().join(scratch).join("cluster.json"));
        let state = state.and_then(|path| std::fs::read_to_string(path).ok());
        // Its port is noted once the node is ready.
        state.is_some_and(|state| !state.contains("\"port\":0"))
    };
    eventually("its node runs", is_up);
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(entries(dir.path()), [""; 0], "the node has ended, and its directory is gone");
}

#[test]
fn two_brokers_are_compared_in_pairs() {
    let (ours, theirs) = (Ottla::start(), Ottla::start_with(&["log.flush.interval.messages=1000"]));
    let (ours, theirs) = (ours.bootstrap(), theirs.bootstrap());
    let words =
        ["produce", "--bootstrap-server", &ours, "--against", &theirs, "--pairs", "2", "--preheat", "200ms"];
    let short = ["--rate", "500", "--duration", "500ms", "--warmup", "0s"];
    let document = measured(&[&words[..], &short].concat());
    assert_eq!(document["runs"].as_array().map(Vec::len), Some(4), "{document}");
    let comparison = &document["comparison"];
    let p99 = comparison["figures"]
        .as_array()
        .expect("figures")
        .iter()
        .find(|figure| figure["figure"] == "produce: p99");
    let p99 = p99.expect("a latency is compared");
    assert_eq!(p99["ours"].as_array().map(Vec::len), Some(2), "{p99}");
    assert!(number(&p99["ratio_least"]) <= number(&p99["ratio"]), "{p99}");
    assert!(number(&p99["ratio"]) <= number(&p99["ratio_most"]), "{p99}");
    let control = comparison["controls"][0].as_str().expect("what the machine took");
    assert!(control.starts_with("produce: bare socket meanwhile: p50 "), "{control}");
    // One acknowledges from the disk, one from memory: that is said.
    assert!(
        comparison["warnings"][0].as_str().is_some_and(|line| line.contains("--durability")),
        "{comparison}"
    );
}

#[test]
fn a_peer_is_started_by_its_command_and_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let scratch = dir.path().to_str().expect("a plain name");
    let ottla = command().get_program().to_owned().into_string().expect("a plain name");
    let peer = format!("{ottla} serve --port {{port}} --data-dir {{dir}}/data");
    let words = ["produce", "--dir", scratch, "--peer-cmd", &peer, "--pairs", "1", "--preheat", "100ms"];
    let short = ["--rate", "200", "--duration", "500ms", "--warmup", "0s"];
    let document = measured(&[&words[..], &short].concat());
    assert_eq!(document["comparison"]["theirs"], "peer", "{document}");
    assert_eq!(document["runs"][1]["produce"]["errors"], serde_json::json!({}), "{document}");
    assert_eq!(entries(dir.path()), [""; 0], "its directory is gone, so it has ended");
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_2_and_a_reason() {
    let cases: [(&[&str], &str); 9] = [
        (&["--rate", "fast"], "1000, or `max`"),
        (&["--acks", "0"], "nothing to time"),
        (&["--size", "1XB"], "KiB"),
        (&["--duration", "0s"], "above 0"),
        (&["--codec", "brotli"], "zstd"),
        (&["--bootstrap-server", "nowhere"], "HOST:PORT"),
        (&["failover", "--bootstrap-server", "127.0.0.1:1"], "nodes of its own"),
        (&["--replication-factor", "3", "--nodes", "1"], "--nodes 3"),
        (&["--durability", "disk", "--topic-config", "flush.messages=7"], "leave out one"),
    ];
    for (words, reason) in cases {
        let output = bench(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert!(error.contains(reason), "{words:?}: {error}");
    }
    let output = bench(&["produce", "--bootstrap-server", "127.0.0.1:1"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no broker answers at 127.0.0.1:1"), "{error}");
}
