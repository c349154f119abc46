//! Several brokers behind one list of addresses: which of them leads what, and who decides.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use ottla_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::messages::{DescribeQuorumRequest, ListOffsetsRequest, MetadataRequest};
use serde::Serialize;

use crate::connection::Connection;
use crate::error::{BenchError, name_of};

/// Between two looks at whether a topic is served.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
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
fn topics(connection: &mut Connection, names: &[String]) -> Result<Vec<(String, Vec<Led>)>, BenchError> {
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

/// Waits until every partition of a topic has all its replicas in sync and a leader that serves reads: a broker may answer the creation
/// before it leads. The leaders' addresses, by partition.
///
/// # Errors
/// They are not led within `limit`.
pub fn wait_until_served(
    bootstrap: &Bootstrap,
    topic: &str,
    limit: Duration,
) -> Result<Vec<SocketAddr>, BenchError> {
    let mut connection = bootstrap.connect()?;
    let mut leaders = Vec::new();
    let began = Instant::now();
    loop {
        let last = match served(&mut connection, topic, &mut leaders)? {
            Ok(addresses) => return Ok(addresses),
            Err(last) => last,
        };
        if began.elapsed() > limit {
            return Err(BenchError::Patience { what: "a new topic", limit, last: last.to_owned() });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The same of many topics, asked for together.
///
/// # Errors
/// They are not led within `limit`.
pub fn wait_until_all_served(
    bootstrap: &Bootstrap,
    names: &[String],
    limit: Duration,
) -> Result<(), BenchError> {
    let mut connection = bootstrap.connect()?;
    let began = Instant::now();
    loop {
        let last = match all_served(&mut connection, names)? {
            Ok(()) => return Ok(()),
            Err(last) => last,
        };
        if began.elapsed() > limit {
            return Err(BenchError::Patience { what: "new topics", limit, last: last.to_owned() });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn all_served(connection: &mut Connection, names: &[String]) -> Result<Result<(), &'static str>, BenchError> {
    let all = topics(connection, names)?;
    let mut by_leader: BTreeMap<SocketAddr, Vec<ListOffsetsTopic>> = BTreeMap::new();
    for (name, partitions) in all {
        if partitions.is_empty() {
            return Ok(Err("a topic is not known"));
        }
        for (index, led) in (0..).zip(&partitions) {
            let Some(leader) = led.address.filter(|_| led.in_sync == led.replicas) else {
                return Ok(Err("a topic has no leader, or not all replicas are in sync"));
            };
            by_leader.entry(leader).or_default().push(latest_of(&name, std::iter::once(index)));
        }
    }
    for (leader, topics) in by_leader {
        let request = ListOffsetsRequest { replica_id: -1, topics, ..ListOffsetsRequest::default() };
        let answer = Connection::open(leader)?.call(5, &request)?;
        let mut codes =
            answer.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
        if let Some(code) = codes.find(|code| *code != ErrorCode::None.code()) {
            return Ok(Err(name_of(code)));
        }
    }
    Ok(Ok(()))
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

/// The leaders' addresses, or why they are not all known and serving yet.
fn served(
    connection: &mut Connection,
    topic: &str,
    leaders: &mut Vec<(SocketAddr, Connection)>,
) -> Result<Result<Vec<SocketAddr>, &'static str>, BenchError> {
    let led = partitions(connection, topic)?;
    let whole = led.iter().filter(|one| one.in_sync == one.replicas);
    let addresses: Vec<SocketAddr> = whole.filter_map(|one| one.address).collect();
    if led.is_empty() || addresses.len() < led.len() {
        return Ok(Err("it has no leader, or not all replicas are in sync"));
    }
    let mut distinct = addresses.clone();
    distinct.sort_unstable();
    distinct.dedup();
    for leader in distinct {
        let at = match leaders.iter().position(|(known, _)| *known == leader) {
            Some(at) => at,
            None => {
                leaders.push((leader, Connection::open(leader)?));
                leaders.len() - 1
            }
        };
        let its = (0..).zip(&addresses).filter(|(_, address)| **address == leader).map(|(index, _)| index);
        let answer = leaders[at].1.call(5, &latest_offsets(topic, its))?;
        let codes =
            answer.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
        if let Some(code) = codes.into_iter().find(|code| *code != ErrorCode::None.code()) {
            return Ok(Err(name_of(code)));
        }
    }
    Ok(Ok(addresses))
}

/// Only a partition's leader answers it.
fn latest_offsets(topic: &str, partitions: impl Iterator<Item = i32>) -> ListOffsetsRequest {
    let topics = vec![latest_of(topic, partitions)];
    ListOffsetsRequest { replica_id: -1, topics, ..ListOffsetsRequest::default() }
}

fn latest_of(topic: &str, partitions: impl Iterator<Item = i32>) -> ListOffsetsTopic {
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
