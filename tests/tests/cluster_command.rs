//! `ottla cluster`, as a user runs it.

use std::net::SocketAddr;

use ottla_protocol::messages::{ApiVersionsRequest, DescribeConfigsRequest, describe_configs_request};
use ottla_tests::client::Client;
use ottla_tests::cluster::{Cluster, bootstrap};

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
fn its_nodes_advertise_the_address_that_up_prints_unless_told_otherwise() {
    let cluster = Cluster::up(1, &[]);
    let address = cluster.address(1);
    cluster.run(&["stop", "1"]);
    cluster.run(&["start", "1"]);
    assert_eq!(advertised(address), (Some(format!("PLAINTEXT://{address}")), STATIC_BROKER));

    let cluster = Cluster::up(1, &["--set", "advertised.listeners=PLAINTEXT://elsewhere:9"]);
    assert_eq!(advertised(cluster.address(1)), (Some("PLAINTEXT://elsewhere:9".to_owned()), STATIC_BROKER));
}
