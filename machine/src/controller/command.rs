//! What may be asked of the controller, and what it answers.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch, ProducerId, TopicId, Uuid};
use serde::{Deserialize, Serialize};

use super::image::{ConfigKind, ConfigResource, Endpoint, Image, PartitionState};

/// Why something is refused, in Kafka's code and in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster: its id, and the features that are on.
    FoundCluster {
        cluster_id: Uuid,
        features: Vec<(Arc<str>, i16)>,
    },
    RegisterBroker(Registration),
    /// A broker has applied the image up to its registration and its logs are open: it may lead and be in sync.
    UnfenceBroker {
        id: NodeId,
        epoch: BrokerEpoch,
    },
    /// A broker's session is over, or its connections are refused.
    FenceBroker {
        id: NodeId,
        epoch: BrokerEpoch,
    },
    /// A broker shuts down in order: its leaders move to others, and it leaves the in-sync sets in which others remain. What nobody
    /// else can take stays; the command may be repeated.
    ShutDownBroker {
        id: NodeId,
        epoch: BrokerEpoch,
    },
    /// A broker is gone for good.
    UnregisterBroker {
        id: NodeId,
    },
    /// A leader wants other in-sync sets for partitions that it leads (KIP-497). Answered in the request's order.
    AlterPartitions {
        broker: NodeId,
        epoch: BrokerEpoch,
        changes: Vec<IsrChange>,
    },
    /// Somebody wants leaders elected (KIP-460). `None`: for every partition, and only those that changed are in the answer.
    ElectLeaders {
        kind: ElectionKind,
        partitions: Option<Vec<(String, i32)>>,
    },
    /// Somebody wants other replicas for partitions (KIP-455).
    AlterReassignments {
        changes: Vec<Reassignment>,
        /// Whether the number of replicas may change (KIP-860).
        may_change_factor: bool,
    },
    /// Periodic, where `auto.leader.rebalance.enable` is on: leadership goes back to the preferred replicas that can take it.
    BalanceLeaders,
    /// Finalizes other levels of features (KIP-584): name, level, and Kafka's kind of update (1 upgrade, 2 safe downgrade, 3 unsafe
    /// downgrade). All or none.
    UpdateFeatures {
        changes: Vec<(String, i16, i8)>,
        validate_only: bool,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub id: NodeId,
    pub directory: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<Arc<str>>,
    /// The cluster that its directory belongs to; zero: a fresh one.
    pub cluster_id: Uuid,
    /// The epoch of its last registration that its directory knows; -1: none.
    pub previous_epoch: BrokerEpoch,
    /// What its logs are known to hold still.
    pub proof: LogProof,
    /// Partitions whose durable bytes are missing or corrupt, whatever the proof says.
    pub damaged: Vec<(TopicId, i32)>,
    /// Whether it begins fenced; a lone node needs no second step and registers unfenced.
    pub fenced: bool,
}

/// What a registering broker can prove of its logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogProof {
    /// Every byte that it wrote: a clean stop, or a crash under a kernel that kept running.
    Complete,
    /// Every byte that it flushed: a crash of the machine. Vouches for topics whose every acknowledged record was flushed.
    Flushed,
    /// Nothing: a fresh or wiped directory.
    Nothing,
}

/// The in-sync set that a leader wants for a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrChange {
    pub topic: TopicId,
    pub index: i32,
    /// Of the leadership in which it was judged.
    pub leader_epoch: LeaderEpoch,
    /// Of the state on which it was judged.
    pub partition_epoch: PartitionEpoch,
    /// With the broker epoch in which each was seen caught up; -1: not told (KIP-903).
    pub isr: Vec<(NodeId, BrokerEpoch)>,
}

/// How leaders are elected on demand (KIP-460), with Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(i8)]
pub enum ElectionKind {
    /// The first replica, if it is in sync.
    Preferred = 0,
    /// Any active replica, where there is no leader.
    Unclean = 1,
}

/// Other replicas for one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassignment {
    pub topic: String,
    pub index: i32,
    /// `None`: back to what it had before the reassignment under way.
    pub replicas: Option<Vec<NodeId>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
    /// Both were given.
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPartitions {
    pub topic: String,
    /// In all.
    pub count: i32,
    /// Of the new ones, in order; `None`: the controller places.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// Changes of one resource's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    pub resource: Result<ConfigResource, Failure>,
    pub ops: Vec<(String, ConfigOp)>,
    /// What is not named goes back to its default (the old AlterConfigs).
    pub replace: bool,
}

/// One change of one key (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigOp {
    Set(Option<String>),
    Delete,
    Append(Option<String>),
    Subtract(Option<String>),
    Unknown(i8),
}

/// The controller's answer, given once its records are committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Registered(BrokerEpoch),
    /// In the order of the request.
    Topics(Vec<Result<TopicAnswer, Failure>>),
    Configs(Vec<Result<(), Failure>>),
    /// Of AlterPartitions: the state in force, in the order of the request.
    Partitions(Vec<Result<PartitionState, Failure>>),
    /// Of ElectLeaders.
    Elections(Vec<(String, i32, Result<(), Failure>)>),
    /// Of AlterReassignments, in the order of the request.
    Reassigned(Vec<Result<(), Failure>>),
    ProducerIds {
        first: ProducerId,
        count: i64,
    },
    /// Nothing was decided, or nobody knows whether it was.
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `min.insync.replicas` of a topic, not yet bounded by its replicas.
    fn min_insync_replicas(&self, image: &Image, topic: &str) -> usize;
    /// `unclean.leader.election.enable` of a topic.
    fn unclean_election(&self, image: &Image, topic: &str) -> bool;
    /// Whether every acknowledged record of a topic was flushed (`flush.messages` = 1).
    fn is_flushed(&self, image: &Image, topic: &str) -> bool;
    /// The levels that this program has of a feature; `None`: it has none of that name.
    fn feature_levels(&self, name: &str) -> Option<RangeInclusive<i16>>;
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
