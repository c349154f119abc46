//! Several brokers behind one list of addresses: which of them leads what, and who decides.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use ottla_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::messages::{DescribeQuorumRequest, ListOffsetsRequest, MetadataRequest};
use serde::Serialize;

use crate::connection::Connection;
use crate::error::BenchError;

const METADATA_TOPIC: &str = "__cluster_metadata";
const LATEST: i64 = -1;

/// The addresses that a client is told, as in `a:9092,b:9092`.
#[derive(Clone, Debug)]
pub struct Bootstrap(pub Vec<SocketAddr>);

impl FromStr for Bootstrap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|one| resolved(one.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl Bootstrap {
    /// A connection to the first that takes one.
    ///
    /// # Errors
    /// None does.
    pub fn connect(&self) -> io::Result<Connection> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in &self.0 {
            match Connection::open(*address) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The address that a name stands for; of several, one that an older broker listens on too.
fn resolved(one: &str) -> Result<SocketAddr, String> {
    let addresses = one.to_socket_addrs().map_err(|error| format!("`{one}`: give HOST:PORT ({error})"))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let chosen = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    chosen.copied().ok_or_else(|| format!("`{one}` has no address"))
}

/// The addresses of all brokers, as one of them tells.
///
/// # Errors
/// The connection ended.
pub fn brokers(connection: &mut Connection) -> Result<Vec<SocketAddr>, BenchError> {
    let request = MetadataRequest { topics: Some(Vec::new()), ..MetadataRequest::default() };
    let metadata = connection.call(9, &request)?;
    let addresses = metadata.brokers.iter().filter_map(|broker| {
        let port = u16::try_from(broker.port).ok()?;
        (&*broker.host, port).to_socket_addrs().ok()?.find(SocketAddr::is_ipv4)
    });
    Ok(addresses.collect())
}

/// One partition as metadata tell of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Led {
    /// -1 for none.
    pub leader: i32,
    pub leader_epoch: i32,
    #[serde(skip)]
    pub address: Option<SocketAddr>,
    pub in_sync: usize,
    pub replicas: usize,
}

/// A topic's partitions in order; empty if there is no such topic.
///
/// # Errors
/// The connection ended.
pub fn partitions(connection: &mut Connection, topic: &str) -> Result<Vec<Led>, BenchError> {
    let mut found = topics(connection, &[topic.to_owned()])?;
    Ok(found.pop().map(|(_, partitions)| partitions).unwrap_or_default())
}

/// The same of several topics, each with its name.
pub(crate) fn topics(
    connection: &mut Connection,
    names: &[String],
) -> Result<Vec<(String, Vec<Led>)>, BenchError> {
    let named = |name: &String| MetadataRequestTopic {
        name: Some(name.as_str().into()),
        ..MetadataRequestTopic::default()
    };
    let request = MetadataRequest {
        topics: Some(names.iter().map(named).collect()),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    let metadata = connection.call(9, &request)?;
    let addresses: BTreeMap<i32, SocketAddr> = metadata
        .brokers
        .iter()
        .filter_map(|broker| {
            let port = u16::try_from(broker.port).ok()?;
            let mut addresses = (&*broker.host, port).to_socket_addrs().ok()?;
            Some((broker.node_id, addresses.find(SocketAddr::is_ipv4)?))
        })
        .collect();
    let topics = metadata.topics.into_iter().map(|topic| {
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|partition| partition.partition_index);
        let led = partitions.into_iter().map(|partition| Led {
            leader: partition.leader_id,
            leader_epoch: partition.leader_epoch,
            address: addresses.get(&partition.leader_id).copied(),
            in_sync: partition.isr_nodes.len(),
            replicas: partition.replica_nodes.len(),
        });
        (topic.name.unwrap_or_default().to_string(), led.collect())
    });
    Ok(topics.collect())
}

/// The node that decides, or -1 if this one knows none.
///
/// # Errors
/// The connection ended.
pub fn controller(connection: &mut Connection) -> Result<i32, BenchError> {
    let partitions = vec![PartitionData { partition_index: 0 }];
    let topics = vec![TopicData { topic_name: METADATA_TOPIC.into(), partitions }];
    let answer = connection.call(0, &DescribeQuorumRequest { topics })?;
    let partition = answer.topics.iter().flat_map(|topic| &topic.partitions).next();
    Ok(partition.map_or(-1, |partition| partition.leader_id))
}

/// Where each partition ends for readers: its high watermark.
///
/// # Errors
/// A leader does not answer, or no longer leads.
pub fn ends(leaders: &[SocketAddr], topic: &str) -> Result<Vec<i64>, BenchError> {
    let mut ends = vec![0; leaders.len()];
    let mut distinct = leaders.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    for leader in distinct {
        let its = (0..).zip(leaders).filter(|(_, address)| **address == leader).map(|(index, _)| index);
        let answer = Connection::open(leader)?.call(5, &latest_offsets(topic, its))?;
        for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code != ErrorCode::None.code() {
                let what = format!("ListOffsets of {topic}-{}", partition.partition_index);
                return Err(BenchError::refused(what, partition.error_code, None));
            }
            if let Some(end) = usize::try_from(partition.partition_index).ok().and_then(|at| ends.get_mut(at))
            {
                *end = partition.offset;
            }
        }
    }
    Ok(ends)
}

/// Only a partition's leader answers it.
fn latest_offsets(topic: &str, partitions: impl Iterator<Item = i32>) -> ListOffsetsRequest {
    let topics = vec![latest_of(topic, partitions)];
    ListOffsetsRequest { replica_id: -1, topics, ..ListOffsetsRequest::default() }
}

pub(crate) fn latest_of(topic: &str, partitions: impl Iterator<Item = i32>) -> ListOffsetsTopic {
    let partitions = partitions.map(|partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: LATEST,
        ..ListOffsetsPartition::default()
    });
    ListOffsetsTopic { name: topic.into(), partitions: partitions.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_a_list() {
        let read = |text: &str| text.parse::<Bootstrap>().map(|bootstrap| bootstrap.0.len());
        assert_eq!(read("127.0.0.1:9092, 127.0.0.1:19092"), Ok(2));
        assert!(read("127.0.0.1:9092,").is_err());
    }
}
