//! What a cluster says of its brokers and topics.

use std::fmt;

use ottla_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use ottla_protocol::types::Uuid;

/// A partition by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: String,
    pub partition: i32,
}

impl TopicPartition {
    #[must_use]
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A broker as it is advertised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

impl Broker {
    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The cluster at one moment, as one broker sees it.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pub cluster_id: Option<String>,
    pub controller: Option<i32>,
    /// By rising id.
    pub brokers: Vec<Broker>,
    /// By name.
    pub topics: Vec<Topic>,
}

#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
    pub is_internal: bool,
    /// 0, or why nothing more is known.
    pub error_code: i16,
    /// By rising index.
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug)]
pub struct Partition {
    pub index: i32,
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    pub offline: Vec<i32>,
}

impl Partition {
    #[must_use]
    pub fn is_under_replicated(&self) -> bool {
        self.isr.len() < self.replicas.len()
    }
}

impl Metadata {
    pub(crate) fn of(answer: MetadataResponse) -> Self {
        let mut brokers: Vec<Broker> = answer
            .brokers
            .into_iter()
            .map(|broker| Broker {
                id: broker.node_id,
                host: broker.host.to_string(),
                port: broker.port,
                rack: broker.rack.map(|rack| rack.to_string()),
            })
            .collect();
        brokers.sort_by_key(|broker| broker.id);
        let mut topics: Vec<Topic> = answer.topics.into_iter().map(Topic::of).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            cluster_id: answer.cluster_id.map(|id| id.to_string()),
            controller: Some(answer.controller_id).filter(|id| *id >= 0),
            brokers,
            topics,
        }
    }

    /// The topic of that name, known or not.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.binary_search_by(|topic| topic.name.as_str().cmp(name)).ok().map(|at| &self.topics[at])
    }

    /// Who leads a partition.
    #[must_use]
    pub fn leader(&self, of: &TopicPartition) -> Option<i32> {
        self.topic(&of.topic)?.partition(of.partition)?.leader
    }
}

impl Topic {
    fn of(topic: MetadataResponseTopic) -> Self {
        let mut partitions: Vec<Partition> = topic
            .partitions
            .into_iter()
            .map(|partition| Partition {
                index: partition.partition_index,
                leader: Some(partition.leader_id).filter(|id| *id >= 0),
                leader_epoch: partition.leader_epoch,
                replicas: partition.replica_nodes,
                isr: partition.isr_nodes,
                offline: partition.offline_replicas,
            })
            .collect();
        partitions.sort_by_key(|partition| partition.index);
        Self {
            name: topic.name.unwrap_or_default().to_string(),
            id: topic.topic_id,
            is_internal: topic.is_internal,
            error_code: topic.error_code,
            partitions,
        }
    }

    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions
            .binary_search_by_key(&index, |partition| partition.index)
            .ok()
            .map(|at| &self.partitions[at])
    }

    /// All of its partitions by name.
    pub fn by_name(&self) -> impl Iterator<Item = TopicPartition> {
        self.partitions.iter().map(|partition| TopicPartition::new(self.name.clone(), partition.index))
    }

    /// The largest number of replicas that one of its partitions has.
    #[must_use]
    pub fn replication_factor(&self) -> usize {
        self.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0)
    }
}
