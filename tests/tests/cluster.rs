//! `ottla cluster`, as a user runs it.

use std::net::SocketAddr;
use std::path::Path;

use ottla_protocol::messages::{ApiVersionsRequest, DescribeConfigsRequest, describe_configs_request};
use ottla_tests::client::Client;
use ottla_tests::process::command;
use serde_json::Value;

/// A cluster in a directory of its own, taken down when it is dropped.
struct Cluster {
    dir: tempfile::TempDir,
}

impl Cluster {
    fn up(more: &[&str]) -> (Self, SocketAddr) {
        let cluster = Self { dir: tempfile::tempdir().expect("a directory") };
        let mut arguments = vec!["up", "1", "--port", "0", "--detach"];
        arguments.extend(more);
        let said = cluster.run(&arguments);
        assert_eq!(said["pids"].as_array().map(Vec::len), Some(1), "{said}");
        assert_eq!(said["dir"].as_str().map(Path::new), Some(cluster.dir.path()), "{said}");
        (cluster, bootstrap(&said))
    }

    /// Runs `ottla cluster ARGUMENTS --dir ... --json` and reads its line.
    fn run(&self, arguments: &[&str]) -> Value {
        let mut cluster = command();
        cluster.arg("cluster").args(arguments).arg("--json").arg("--dir").arg(self.dir.path());
        let output = cluster.output().expect("ottla runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("a line of JSON")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        command().args(["cluster", "down", "--dir"]).arg(self.dir.path()).status().ok();
    }
}

fn bootstrap(said: &Value) -> SocketAddr {
    said["bootstrap"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

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
    let (cluster, address) = Cluster::up(&[]);
    for way in ["kill", "stop"] {
        assert_eq!(cluster.run(&["status"])["nodes"][0]["alive"], true);
        Client::connect(address).call(0, &ApiVersionsRequest::default());
        cluster.run(&[way, "1"]);
        assert_eq!(cluster.run(&["status"])["nodes"][0]["alive"], false, "after {way}");
        assert_eq!(bootstrap(&cluster.run(&["start", "1"])), address);
    }
    cluster.run(&["down"]);
    assert_eq!(cluster.run(&["status"])["nodes"][0]["alive"], false);
}

#[test]
fn its_nodes_advertise_the_address_that_up_prints_unless_told_otherwise() {
    let (cluster, address) = Cluster::up(&[]);
    cluster.run(&["stop", "1"]);
    cluster.run(&["start", "1"]);
    assert_eq!(advertised(address), (Some(format!("PLAINTEXT://{address}")), STATIC_BROKER));

    let (_cluster, address) = Cluster::up(&["--set", "advertised.listeners=PLAINTEXT://elsewhere:9"]);
    assert_eq!(advertised(address), (Some("PLAINTEXT://elsewhere:9".to_owned()), STATIC_BROKER));
}
