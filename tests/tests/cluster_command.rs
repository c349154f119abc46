//! `ottla cluster`, as a user runs it.

use std::net::SocketAddr;

use ottla_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use ottla_protocol::messages::{ApiVersionsRequest, DescribeConfigsRequest, describe_configs_request};
use ottla_tests::client::Client;
use ottla_tests::cluster::{Cluster, bootstrap};
use ottla_tests::process::eventually;
use serde_json::{Value, json};

/// Value and source of `advertised.listeners` of broker 1.
fn advertised(address: SocketAddr) -> (Option<String>, i8) {
    let resource = describe_configs_request::DescribeConfigsResource {
        resource_type: 4,
        resource_name: "1".into(),
        configuration_keys: Some(vec!["advertised.listeners".into()]),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let mut response = Client::connect(address).call(4, &request);
    let config = response.results.remove(0).configs.remove(0);
    (config.value.map(|value| value.to_string()), config.config_source)
}

const STATIC_BROKER: i8 = 4;

#[test]
fn a_cluster_is_brought_up_killed_stopped_started_on_its_port_and_taken_down() {
    let cluster = Cluster::up(1, &[]);
    let address = cluster.address(1);
    for way in ["kill", "stop"] {
        assert_eq!(cluster.run(&["status"])["nodes"][0]["alive"], true);
        Client::connect(address).call(0, &ApiVersionsRequest::default());
        cluster.run(&[way, "1"]);
        assert_eq!(cluster.run(&["status"])["nodes"][0]["alive"], false, "after {way}");
        assert_eq!(bootstrap(&cluster.run(&["start", "1"])), [address]);
    }
    cluster.run(&["down"]);
    assert_eq!(cluster.run(&["status"])["nodes"][0]["alive"], false);
}

#[test]
fn nodes_are_paused_and_killed_several_at_once_and_status_says_what_is_lacking() {
    let cluster = Cluster::up(3, &[]);
    topic(&cluster, "t");
    eventually("all is well", || {
        let status = cluster.run(&["status"]);
        status["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["in_sync"] == 1))
            && [&status["under_replicated"], &status["under_min_isr"], &status["offline"]]
                .iter()
                .all(|lacking| lacking.as_array().is_some_and(Vec::is_empty))
    });
    let status = cluster.run(&["status"]);
    assert_eq!((&status["topics"], &status["partitions"]), (&json!(1), &json!(1)), "{status}");
    assert_eq!(status["nodes"][1]["roles"], json!(["broker", "controller"]), "{status}");

    cluster.run(&["pause", "2"]);
    assert_eq!(cluster.run(&["status"])["nodes"][1]["state"], "paused");
    eventually("node 2 is fenced", || {
        let status = cluster.run(&["status"]);
        status["nodes"][1]["fenced"] == true && status["nodes"][1]["in_sync"] == 0
    });
    cluster.run(&["resume", "2"]);
    eventually("node 2 is back", || cluster.run(&["status"])["under_replicated"] == json!([]));

    cluster.run_all(&["kill", "1", "2", "3"]);
    let status = cluster.run(&["status"]);
    assert_eq!((&status["controller"], &status["error"]), (&Value::Null, &json!("no node runs")), "{status}");
    // One that can do nothing alone is not waited for.
    assert_eq!(cluster.run(&["start", "3"])["ready"], false);
    assert!(cluster.run_all(&["start", "1", "2"]).iter().all(|said| said["ready"] == true));
    eventually("all is well", || cluster.run(&["status"])["under_replicated"] == json!([]));

    // A paused node hears that it is to stop.
    cluster.run(&["pause", "1"]);
    cluster.run(&["down"]);
    assert!(
        cluster.run(&["status"])["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .all(|node| node["alive"] == false)
    );
}

#[test]
fn what_cannot_be_is_refused_with_the_way_out() {
    let cluster = Cluster::up(3, &[]);
    let port = cluster.address(1).port().to_string();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let there = elsewhere.path().to_str().expect("a path of letters");
    let cases: &[(&[&str], &str)] = &[
        (&["up", "12"], "1 to 9 nodes, not 12"),
        (&["up", "3"], "runs in"),
        (
            &["up", "3", "--port", &port, "--dir", there],
            "is taken by another process: choose others with --port",
        ),
        (&["up", "3", "--port", "64000", "--dir", there], "past 65535"),
        (&["kill", "7"], "there is no node 7: the cluster has nodes 1 to 3"),
        (&["start", "1"], "node 1 runs already"),
        (&["status", "--dir", there], "there is no cluster in"),
    ];
    for (arguments, says) in cases {
        let said = cluster.refused(arguments);
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    cluster.run(&["down"]);
    let said = cluster.refused(&["up", "2"]);
    assert!(said.contains("has 3 nodes"), "{said}");
    assert!(cluster.refused(&["pause", "1"]).contains("node 1 does not run"));
    // It comes up where it was.
    let addresses = bootstrap(&cluster.run(&["up", "3", "--detach"]));
    assert_eq!(addresses, [1, 2, 3].map(|node| cluster.address(node)));
    assert_eq!(cluster.run(&["down", "--wipe"])["wiped"], true);
    assert!(cluster.refused(&["status"]).contains("there is no cluster in"));
}

fn topic(cluster: &Cluster, name: &str) {
    let topic = CreatableTopic {
        name: name.to_owned().into(),
        num_partitions: 1,
        replication_factor: 3,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    let response = cluster.connect(1).call(7, &request);
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
}

#[test]
fn its_nodes_advertise_the_address_that_up_prints_unless_told_otherwise() {
    let cluster = Cluster::up(1, &[]);
    let address = cluster.address(1);
    cluster.run(&["stop", "1"]);
    cluster.run(&["start", "1"]);
    assert_eq!(advertised(address), (Some(format!("PLAINTEXT://{address}")), STATIC_BROKER));

    let cluster = Cluster::up(1, &["--set", "advertised.listeners=PLAINTEXT://elsewhere:9"]);
    assert_eq!(advertised(cluster.address(1)), (Some("PLAINTEXT://elsewhere:9".to_owned()), STATIC_BROKER));
}
