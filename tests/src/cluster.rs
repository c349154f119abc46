//! A cluster of real processes, as `ottla cluster` brings it up, in a directory of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use ottla_protocol::messages::MetadataRequest;
use ottla_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::messages::metadata_response::MetadataResponsePartition;
use serde_json::Value;

use crate::client::Client;
use crate::process::command;

/// Taken down when it is dropped.
pub struct Cluster {
    dir: tempfile::TempDir,
    nodes: Vec<SocketAddr>,
}

impl Cluster {
    /// Node i (from 1 on) is in rack `ri`. `more` are further arguments of `ottla cluster up`.
    pub fn up(nodes: usize, more: &[&str]) -> Self {
        let mut cluster = Self { dir: tempfile::tempdir().expect("a directory"), nodes: Vec::new() };
        let count = nodes.to_string();
        let mut arguments = vec!["up", &count, "--port", "0", "--detach"];
        arguments.extend(more);
        let said = cluster.run(&arguments);
        assert_eq!(said["pids"].as_array().map(Vec::len), Some(nodes), "{said}");
        assert_eq!(said["dir"].as_str().map(Path::new), Some(cluster.dir.path()), "{said}");
        cluster.nodes = bootstrap(&said);
        cluster
    }

    /// Runs `ottla cluster ARGUMENTS --dir ... --json` and reads its line.
    pub fn run(&self, arguments: &[&str]) -> Value {
        self.run_all(arguments).pop().expect("a line of JSON")
    }

    /// The same for a command that prints a line for each node.
    pub fn run_all(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.lines().map(|line| serde_json::from_str(line).expect("lines of JSON")).collect()
    }

    /// What `ottla cluster ARGUMENTS` says when it refuses.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{arguments:?} is accepted");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut cluster = command();
        cluster.arg("cluster").args(arguments).arg("--json");
        if !arguments.contains(&"--dir") {
            cluster.arg("--dir").arg(self.dir.path());
        }
        cluster.output().expect("ottla runs")
    }

    /// Where a node is reached.
    pub fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node - 1]
    }

    pub fn connect(&self, node: usize) -> Client {
        Client::connect(self.address(node))
    }

    /// A partition as a node's Metadata shows it.
    pub fn partition(&self, node: usize, topic: &str, index: usize) -> MetadataResponsePartition {
        let name = Some(topic.to_owned().into());
        let asked = MetadataRequestTopic { name, ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![asked]), ..Default::default() };
        let mut response = self.connect(node).call(12, &request);
        response.topics.remove(0).partitions.into_iter().nth(index).expect("the topic has that partition")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        command().args(["cluster", "down", "--dir"]).arg(self.dir.path()).output().ok();
    }
}

/// The addresses that a line of `ottla cluster` names.
pub fn bootstrap(said: &Value) -> Vec<SocketAddr> {
    let text = said["bootstrap"].as_str().expect("a line names the addresses");
    text.split(',').map(|address| address.parse().expect("an address")).collect()
}
