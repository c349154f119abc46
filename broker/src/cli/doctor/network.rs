//! Whether clients reach every broker by the address that they are told, and whether the cluster is whole.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use ottla_client::{Broker, Cluster, Connection, Metadata};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use ottla_protocol::messages::describe_configs_response::DescribeConfigsResult;
use ottla_protocol::messages::metadata_request::MetadataRequest;

use super::Finding;
use crate::cli::connect::Connect;
use crate::cli::units;

const BROKER: i8 = 4;
/// Less free space than this share, or than these bytes, will soon be none.
const FREE_SHARE_MIN: f64 = 0.05;
const FREE_BYTES_MIN: i64 = 2 << 30;

/// Gives the directories of brokers that run on this machine.
pub(super) fn look(connect: &Connect, findings: &mut Vec<Finding>) -> Vec<PathBuf> {
    let bootstrap = connect.bootstrap();
    let outcome = connect.cluster().and_then(|mut cluster| {
        let metadata = cluster.metadata(None, false)?;
        Ok((cluster, metadata))
    });
    let (mut cluster, metadata) = match outcome {
        Ok(found) => found,
        Err(error) => {
            let fix = "`ottla` starts a node here; --bootstrap-server HOST:PORT says where another is; on another machine its firewall \
                       must let the port in, and `listeners` must name an address that is reached from here (PLAINTEXT://0.0.0.0:9092 \
                       for all)";
            findings.push(Finding::problem("cluster", error.to_string(), fix));
            return Vec::new();
        }
    };
    let brokers = match metadata.brokers.len() {
        1 => "1 broker".to_owned(),
        count => format!("{count} brokers"),
    };
    let id = metadata.cluster_id.clone().unwrap_or_default();
    findings.push(Finding::good("cluster", format!("{id} at {bootstrap}: {brokers}")));
    for broker in &metadata.brokers {
        findings.push(listener(connect, broker, &metadata, bootstrap));
    }
    findings.push(partitions(&metadata));
    space(&mut cluster, &metadata, findings)
}

/// Goes to a broker as a client that has been told of it.
fn listener(connect: &Connect, broker: &Broker, metadata: &Metadata, bootstrap: &str) -> Finding {
    const WHAT: &str = "listener";
    let address = broker.address();
    let advertise = |why: &str| {
        format!(
            "{why}: set advertised.listeners=PLAINTEXT://HOST:PORT of node {} to what its clients must use, and start it again",
            broker.id
        )
    };
    let mut connection = match Connection::open(&address, &connect.options()) {
        Ok(connection) => connection,
        Err(error) => {
            let fix = advertise("clients are sent to an address that does not lead there");
            return Finding::problem(
                WHAT,
                format!("node {} is advertised as {address}: {error}", broker.id),
                fix,
            );
        }
    };
    if let Some(wrong) = somebody_else(&mut connection, broker.id, metadata) {
        return Finding::problem(
            WHAT,
            format!("node {} is advertised as {address}, where {wrong} answers", broker.id),
            advertise("clients are sent to somebody else"),
        );
    }
    if is_loopback(&address) && !bootstrap.split(',').all(is_loopback) {
        return Finding::problem(
            WHAT,
            format!("node {} is advertised as {address}, which every machine takes for itself", broker.id),
            advertise("clients elsewhere never reach it"),
        );
    }
    Finding::good(WHAT, format!("node {} answers at {address}, as advertised", broker.id))
}

/// Who answers in a broker's place: of another cluster, or another node of this one.
fn somebody_else(connection: &mut Connection, id: i32, metadata: &Metadata) -> Option<String> {
    let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    let said = connection.call(4..=12, &request).ok()?;
    let cluster = said.cluster_id.map(|id| id.to_string());
    if cluster.is_some() && cluster != metadata.cluster_id {
        return Some(format!("cluster {}", cluster.unwrap_or_default()));
    }
    // Only the broker itself tells its own settings.
    let resource = DescribeConfigsResource {
        resource_type: BROKER,
        resource_name: id.to_string().into(),
        configuration_keys: Some(vec!["node.id".into()]),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let said = connection.call(1..=4, &request).ok()?;
    another_node(id, said.results.first()?)
}

/// Asked for the settings of node `id`, another node refuses, or names itself.
fn another_node(id: i32, answer: &DescribeConfigsResult) -> Option<String> {
    if answer.error_code == ErrorCode::InvalidRequest.code() {
        return Some(format!(
            "another node ({})",
            answer.error_message.as_deref().unwrap_or("it is not this one")
        ));
    }
    let node = answer.configs.iter().find(|config| config.name == "node.id")?.value.as_deref()?;
    (node != id.to_string()).then(|| format!("node {node}"))
}

fn is_loopback(address: &str) -> bool {
    let addresses = address.trim().to_socket_addrs();
    addresses.is_ok_and(|mut addresses| addresses.all(|address| loopback(address.ip())))
}

fn loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn partitions(metadata: &Metadata) -> Finding {
    let all = || {
        metadata
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
    };
    let (count, topics) = (all().count(), metadata.topics.len());
    let first = |wanted: fn(&ottla_client::Partition) -> bool| {
        let found: Vec<String> = all()
            .filter(|(_, partition)| wanted(partition))
            .map(|(topic, partition)| format!("{}-{}", topic.name, partition.index))
            .collect();
        found
    };
    let offline = first(|partition| partition.leader.is_none());
    let under = first(ottla_client::Partition::is_under_replicated);
    let some = |names: &[String]| match names {
        [] => String::new(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    const WHAT: &str = "partitions";
    if !offline.is_empty() {
        return Finding::problem(
            WHAT,
            format!("no leader: {} of {count}", some(&offline)),
            "start the nodes that hold them: `ottla topic describe` shows which",
        );
    }
    if !under.is_empty() {
        return Finding::warning(
            WHAT,
            format!("under-replicated: {} of {count}", some(&under)),
            "`ottla topic describe` shows which nodes lag or are down; a node that was away catches up by itself",
        );
    }
    Finding::good(WHAT, format!("{count} of {topics} topics: all have leaders and all replicas"))
}

/// As the brokers themselves say.
fn space(cluster: &mut Cluster, metadata: &Metadata, findings: &mut Vec<Finding>) -> Vec<PathBuf> {
    const WHAT: &str = "free space";
    let mut here = Vec::new();
    for broker in &metadata.brokers {
        let Ok(dirs) = cluster.log_dirs(broker.id) else { continue };
        for dir in dirs {
            let place = format!("node {} {}", broker.id, dir.path);
            if dir.error_code != 0 {
                let fix = format!(
                    "the log of node {} says what failed; replace the disk, and start the node again",
                    broker.id
                );
                findings.push(Finding::problem(WHAT, format!("{place} is offline"), fix));
                continue;
            }
            // Where a name leads to this machine, the directory is here: unless there is none of that name.
            let path = PathBuf::from(&dir.path);
            if is_loopback(&broker.address()) && path.is_dir() {
                here.push(path);
            }
            let Some((usable, total)) = dir.usable_bytes.zip(dir.total_bytes) else { continue };
            findings.push(judge_space(WHAT, &place, usable, total));
        }
    }
    here
}

pub(super) fn judge_space(what: &'static str, place: &str, usable: i64, total: i64) -> Finding {
    let share = usable as f64 / total.max(1) as f64;
    let found = format!("{place}: {} of {} free", units::bytes(usable), units::bytes(total));
    let fix = "lower retention.ms or retention.bytes of the largest topics (`ottla topic list`), or give the disk more space: a full disk \
               refuses writes and serves reads";
    if usable < FREE_BYTES_MIN / 4 {
        Finding::problem(what, found, fix)
    } else if usable < FREE_BYTES_MIN || share < FREE_SHARE_MIN {
        Finding::warning(what, found, fix)
    } else {
        Finding::good(what, found)
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;

    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn another_node_is_known_by_its_refusal_or_its_name() {
        let named = |id: &str| DescribeConfigsResult {
            configs: vec![DescribeConfigsResourceResult {
                name: "node.id".into(),
                value: Some(id.to_owned().into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(another_node(2, &named("2")), None);
        assert_eq!(another_node(2, &named("3")).as_deref(), Some("node 3"));
        let refusal = DescribeConfigsResult {
            error_code: ErrorCode::InvalidRequest.code(),
            error_message: Some("Unexpected broker id".into()),
            ..Default::default()
        };
        assert_eq!(another_node(2, &refusal).as_deref(), Some("another node (Unexpected broker id)"));
        // A broker that tells nothing of itself is not accused.
        assert_eq!(another_node(2, &DescribeConfigsResult::default()), None);
    }

    #[test]
    fn little_space_is_told_before_there_is_none() {
        let gib = 1i64 << 30;
        for (usable, total, expected) in [
            (50 * gib, 100 * gib, Verdict::Good),
            (3 * gib, 100 * gib, Verdict::Warning),
            (gib, 2 * gib, Verdict::Warning),
            (gib / 4, 2 * gib, Verdict::Problem),
            (0, 0, Verdict::Problem),
        ] {
            assert_eq!(judge_space("space", "d", usable, total).verdict, expected, "{usable} of {total}");
        }
    }
}
