//! Starting and stopping a node.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use ottla_protocol::messages::ApiVersionsRequest;
use ottla_tests::process::{Ottla, command};

#[test]
fn a_second_process_on_the_same_directory_is_told_so() {
    let node = Ottla::start();
    let output = command()
        .args(["serve", "--port", "0", "--data-dir"])
        .arg(node.data_dir())
        .stdin(Stdio::null())
        .output()
        .expect("ottla runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in use by another process"), "{said}");
    node.connect().call(0, &ApiVersionsRequest::default());
}

#[test]
fn a_taken_port_is_named_together_with_the_way_out() {
    let node = Ottla::start();
    let other = tempfile::tempdir().expect("a directory");
    let output = command()
        .args(["serve", "--port", &node.address().port().to_string(), "--data-dir"])
        .arg(other.path())
        .stdin(Stdio::null())
        .output()
        .expect("ottla runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&node.address().port().to_string()) && said.contains("--port"), "{said}");
}

#[test]
fn a_node_is_reached_by_ipv4_and_ipv6() {
    let node = Ottla::start();
    let mut v6 = node.address();
    v6.set_ip(std::net::Ipv6Addr::LOCALHOST.into());
    for address in [node.address(), v6] {
        let response = ottla_tests::client::Client::connect(address).call(0, &ApiVersionsRequest::default());
        assert_eq!(response.error_code, 0);
    }
}

#[test]
fn a_node_starts_again_after_a_stop_and_after_a_kill() {
    let mut node = Ottla::start();
    for round in 0..3 {
        assert_eq!(node.connect().call(0, &ApiVersionsRequest::default()).error_code, 0);
        if round % 2 == 0 {
            assert!(node.stop().success());
            assert!(node.data_dir().join("clean-shutdown").exists());
        } else {
            node.kill();
            assert!(!node.data_dir().join("clean-shutdown").exists());
        }
        node.restart();
    }
}

fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let mut serve = command();
    serve.args(["serve", "--port", "0", "--data-dir"]).arg(dir.path()).args(arguments).stdin(Stdio::null());
    serve.envs(variables.iter().copied());
    let output = serve.output().expect("ottla runs");
    assert!(!output.status.success(), "{arguments:?} {variables:?} is accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn settings_that_are_wrong_or_only_look_like_protection_are_refused() {
    type Variables = &'static [(&'static str, &'static str)];
    let cases: [(&[&str], Variables, &str); 7] = [
        (&["--set", "log.retention.hour=1"], &[], "did you mean log.retention.hours?"),
        (&["--set", "num.partitions=many"], &[], "num.partitions"),
        (&["--set", "num.partitions"], &[], "NAME=VALUE"),
        (&["--set", "ssl.keystore.location=/k"], &[], "ssl.keystore.location is refused"),
        (&["--set", "listeners=9092"], &[], "NAME://host:port"),
        (&["--config", "/no/such/file"], &[], "/no/such/file"),
        (&[], &[("KAFKA_AUTHORIZER_CLASS_NAME", "StandardAuthorizer")], "authorizer.class.name is refused"),
    ];
    for (arguments, variables, says) in cases {
        let said = refused(arguments, variables);
        assert!(said.contains(says), "{arguments:?} {variables:?}: {said}");
    }
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("server.properties");
    std::fs::write(&file, "node.id=1\nlog.dirs=/nowhere\n").expect("written");
    for (variable, flag, id) in [(None, None, 1), (Some("2"), None, 2), (Some("2"), Some("node.id=3"), 3)] {
        let data = tempfile::tempdir().expect("a directory");
        let mut serve = command();
        serve.args(["serve", "--port", "0", "--config"]).arg(&file).arg("--data-dir").arg(data.path());
        serve.stdin(Stdio::null()).stdout(Stdio::piped()).env("KAFKA_UNKNOWN_PORT_9092_TCP", "x");
        if let Some(variable) = variable {
            serve.env("KAFKA_NODE_ID", variable);
        }
        if let Some(flag) = flag {
            serve.args(["--set", flag]);
        }
        let mut child = serve.spawn().expect("ottla runs");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut line).expect("readable");
        child.kill().expect("running");
        child.wait().expect("ends");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("a ready line");
        assert_eq!(ready["node_id"], id, "{line}");
    }
}

#[test]
fn a_directory_belongs_to_one_node_id() {
    let mut node = Ottla::start_with(&["node.id=5"]);
    assert!(node.stop().success());
    let output = command()
        .args(["serve", "--port", "0", "--set", "node.id=6", "--data-dir"])
        .arg(node.data_dir())
        .output()
        .expect("ottla runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("belongs to node.id 5"), "{said}");
}
