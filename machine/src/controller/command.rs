//! What may be asked of the controller, and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, NodeId, ProducerId, TopicId, Uuid};

use super::image::{ConfigKind, ConfigResource, Endpoint, Image};

/// Why something is refused, in Kafka's code and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: ErrorCode,
    pub message: String,
}

impl Failure {
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, code.meaning())
    }
}

/// What the controller is asked to decide.
#[derive(Clone, Debug)]
pub enum Command {
    /// The first entry of a cluster: its id, and the features that are on.
    FoundCluster {
        cluster_id: Uuid,
        features: Vec<(Arc<str>, i16)>,
    },
    RegisterBroker(Registration),
    /// A broker begins its controlled shutdown.
    ShutDownBroker {
        id: NodeId,
        epoch: BrokerEpoch,
    },
    CreateTopics {
        topics: Vec<NewTopic>,
        validate_only: bool,
    },
    DeleteTopics {
        topics: Vec<TopicRef>,
    },
    CreatePartitions {
        topics: Vec<NewPartitions>,
        validate_only: bool,
    },
    AlterConfigs {
        changes: Vec<ConfigChange>,
        validate_only: bool,
    },
    /// Reserves a block of producer ids for one broker (KIP-730).
    AllocateProducerIds {
        count: i64,
    },
}

/// A broker's process that wants to be part of the cluster.
#[derive(Clone, Debug)]
pub struct Registration {
    pub id: NodeId,
    pub directory: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    pub name: String,
    /// -1: the broker's default.
    pub partitions: i32,
    /// -1: the broker's default.
    pub replication_factor: i16,
    /// By partition index; empty: the controller places.
    pub assignments: BTreeMap<i32, Vec<NodeId>>,
    /// The same partition twice in the request.
    pub has_duplicate_assignment: bool,
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic by name or by id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
    /// Both were given.
    Both,
}

#[derive(Clone, Debug)]
pub struct NewPartitions {
    pub topic: String,
    /// In all.
    pub count: i32,
    /// Of the new ones, in order; `None`: the controller places.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// Changes of one resource's configuration.
#[derive(Clone, Debug)]
pub struct ConfigChange {
    pub resource: Result<ConfigResource, Failure>,
    pub ops: Vec<(String, ConfigOp)>,
    /// What is not named goes back to its default (the old AlterConfigs).
    pub replace: bool,
}

/// One change of one key (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOp {
    Set(Option<String>),
    Delete,
    Append(Option<String>),
    Subtract(Option<String>),
    Unknown(i8),
}

/// The controller's answer, given once its records are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Registered(BrokerEpoch),
    /// In the order of the request.
    Topics(Vec<Result<TopicAnswer, Failure>>),
    Configs(Vec<Result<(), Failure>>),
    ProducerIds {
        first: ProducerId,
        count: i64,
    },
    /// Nothing was decided, or nobody knows whether it was.
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicAnswer {
    pub id: TopicId,
    pub name: Arc<str>,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// What the controller must know of configurations; the table of them is the broker's.
pub trait ConfigRules: Send + Sync {
    /// `num.partitions`.
    fn partitions(&self, image: &Image) -> i32;
    /// `default.replication.factor`.
    fn replication_factor(&self, image: &Image) -> i16;
    /// `delete.topic.enable`.
    fn may_delete_topics(&self) -> bool;
    /// Whether the resource may have this key at this value.
    ///
    /// # Errors
    /// INVALID_CONFIG or INVALID_REQUEST, in words.
    fn check(&self, kind: ConfigKind, key: &str, value: &str) -> Result<(), Failure>;
    /// Whether all that is set for a resource goes together.
    ///
    /// # Errors
    /// INVALID_CONFIG, in words.
    fn check_together(
        &self,
        image: &Image,
        kind: ConfigKind,
        set: &BTreeMap<&str, &str>,
    ) -> Result<(), Failure>;
    /// The value in force, where it is a list: what APPEND and SUBTRACT work on. `None`: not a list.
    fn list(&self, image: &Image, resource: &ConfigResource, key: &str) -> Option<Vec<String>>;
}
