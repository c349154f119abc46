//! The first start, without a format step.

use std::time::Duration;

use ottla_tests::process::command;
use ottla_tests::servers::Servers;
use ottla_tests::topic::{create, wait_placed};
use serde_json::Value;

/// The id of the cluster that all of them say they belong to.
fn one_cluster(ready: &[Value]) -> String {
    let ids: Vec<&str> = ready.iter().filter_map(|line| line["cluster_id"].as_str()).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0] && id.len() == 22), "{ready:?}");
    ids[0].to_owned()
}

#[test]
fn nodes_that_start_at_different_moments_found_one_cluster_once_all_are_there() {
    let mut cluster = Servers::planned();
    cluster.launch(&[3]);
    cluster.launch(&[1]);
    assert_eq!(cluster.wait_one(1, Duration::from_millis(300)), None, "two of three found nothing");
    cluster.launch(&[2]);
    let id = one_cluster(&cluster.wait_ready(&[1, 2, 3]));

    // The same cluster after all of them were away.
    cluster.kill(&[1, 2, 3]);
    cluster.launch(&[2, 3, 1]);
    assert_eq!(one_cluster(&cluster.wait_ready(&[1, 2, 3])), id);
}

#[test]
fn a_founder_that_is_killed_in_the_middle_founds_one_cluster_in_the_end() {
    for delay_ms in [10, 40, 90] {
        let mut cluster = Servers::planned();
        cluster.launch(&[1, 2, 3]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        cluster.kill(&[1]);
        cluster.launch(&[1]);
        one_cluster(&cluster.wait_ready(&[1, 2, 3]));
        create(&cluster, 2, "t", &[], &[]);
        wait_placed(&cluster, 1, "t", "in sync everywhere", |placed| placed.isr == [1, 2, 3]);
    }
}

#[test]
fn a_cluster_is_founded_under_the_id_it_is_given_and_starts_under_no_other() {
    let mut cluster = Servers::planned();
    cluster.set_variable("CLUSTER_ID", "5L6g3nShT-eMCtK--X86sw");
    cluster.launch(&[1, 2, 3]);
    assert_eq!(one_cluster(&cluster.wait_ready(&[1, 2, 3])), "5L6g3nShT-eMCtK--X86sw");

    cluster.kill(&[3]);
    cluster.set_variable("CLUSTER_ID", "AAAAAAAAAAAAAAAAAAAAAQ");
    cluster.launch(&[3]);
    assert!(!cluster.wait_end(3).success());
    let log = cluster.log(3);
    assert!(
        log.contains("5L6g3nShT-eMCtK--X86sw") && log.contains("CLUSTER_ID=AAAAAAAAAAAAAAAAAAAAAQ"),
        "{log}"
    );
    cluster.set_variable("CLUSTER_ID", "5L6g3nShT-eMCtK--X86sw");
    cluster.restart(&[3]);
}

/// As they come with Kafka, with what its documentation has people set for three nodes in combined mode.
const PROPERTIES: &str = "\
process.roles=broker,controller
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
num.partitions=3
num.recovery.threads.per.data.dir=2
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
";

#[test]
fn three_property_files_as_kafka_users_write_them_are_a_cluster() {
    let mut cluster = Servers::planned();
    for id in [1, 2, 3] {
        let own =
            cluster.settings(id).into_iter().filter(|setting| !setting.starts_with("controller.listener"));
        let port = cluster.address(id).port();
        let file = format!(
            "# Node {id} of three.\n{PROPERTIES}{}\nadvertised.listeners=PLAINTEXT://localhost:{port}\nlog.dirs={}\n",
            own.collect::<Vec<_>>().join("\n"),
            cluster.data_dir(id).display()
        );
        let path = cluster.data_dir(id).with_extension("properties");
        std::fs::write(&path, file).expect("written");
        let mut serve = command();
        serve.arg("serve").arg("--config").arg(path);
        cluster.spawn(id, serve);
    }
    one_cluster(&cluster.wait_ready(&[1, 2, 3]));
    create(&cluster, 3, "t", &[], &[]);
    wait_placed(&cluster, 1, "t", "in sync everywhere", |placed| placed.isr == [1, 2, 3]);
}
