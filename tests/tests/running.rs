//! Starting and stopping a node.

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
