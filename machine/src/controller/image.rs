//! The cluster's metadata as one immutable value: persistent maps, so that a copy costs nothing and a change its own size.
//!
//! Only [`Image::apply`] changes it, with the records of `record.rs`; every node that applied the same entries holds an equal image.

use std::sync::Arc;

pub use imbl::ordmap::DiffItem;
use imbl::{OrdMap, Vector};
use ottla_protocol::types::{
    BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId, Uuid,
};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A list of brokers; the usual replication factors need no allocation.
pub type Nodes = SmallVec<[NodeId; 4]>;

/// The metadata of the cluster at one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// How many entries made this image. An entry names the version that it was decided on and counts on no other.
    pub version: u64,
    /// Zero until the first entry names it.
    pub cluster_id: Uuid,
    pub brokers: OrdMap<NodeId, Broker>,
    pub topics: OrdMap<TopicId, Arc<Topic>>,
    pub topic_ids: OrdMap<Arc<str>, TopicId>,
    /// The dynamic configurations: what was set, never what is a default.
    pub configs: OrdMap<ConfigResource, OrdMap<Arc<str>, Arc<str>>>,
    /// The first producer id that no block holds yet.
    pub next_producer_id: i64,
    /// The epoch that the next registration of a broker gets; never 0, which no peer may claim.
    pub next_broker_epoch: i64,
    /// The finalized features (KIP-584): name and level.
    pub features: OrdMap<Arc<str>, i16>,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: NodeId,
    /// This incarnation of its process.
    pub epoch: BrokerEpoch,
    /// The id of its data directory.
    pub directory: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<Arc<str>>,
    /// Not (or no longer) fit to lead or to be in sync (KIP-631).
    pub fenced: bool,
    /// Its latest incarnation that was unfenced; -1: none was. A broker knows it before it is unfenced: a directory that does not is
    /// an older copy.
    pub last_served: BrokerEpoch,
    /// In a controlled shutdown: gets no leadership and joins no in-sync set (KIP-841).
    pub shutting_down: bool,
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The listener's name: `PLAINTEXT`, `INTERNAL`, ...
    pub listener: Arc<str>,
    pub host: Arc<str>,
    pub port: u16,
    /// Kafka's number of the security protocol: 0 = PLAINTEXT, 1 = SSL, 2 = SASL_PLAINTEXT, 3 = SASL_SSL.
    pub security_protocol: i16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub id: TopicId,
    pub name: Arc<str>,
    /// By index; never sparse. The vector's chunks have room for 64 elements however few there are: small ones keep topics cheap.
    pub partitions: Vector<Arc<PartitionState>>,
}

/// Who holds and who leads one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// In order of preference. During a reassignment: those of its target, then those that leave with it.
    pub replicas: Nodes,
    /// Of a reassignment under way: the replicas that were none before it (KIP-455).
    pub adding: Nodes,
    /// Of a reassignment under way: the replicas that are none once it is complete.
    pub removing: Nodes,
    /// In sync.
    pub isr: Nodes,
    /// Eligible to lead although not in sync (KIP-966).
    pub elr: Nodes,
    /// Who led last when neither an in-sync nor an eligible replica is left (KIP-966).
    pub last_known_elr: Nodes,
    /// [`NodeId::NONE`] while nobody may lead.
    pub leader: NodeId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
}

/// What a configuration belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigResource {
    pub kind: ConfigKind,
    /// A topic's name, a broker's id in decimal (empty: the default of all brokers), a group's id, a subscription's name.
    pub name: Arc<str>,
}

/// The kinds of resources that have configurations, with Kafka's numbers (`ConfigResource.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(i8)]
pub enum ConfigKind {
    Topic = 2,
    Broker = 4,
    BrokerLogger = 8,
    ClientMetrics = 16,
    Group = 32,
}

impl ConfigKind {
    pub const ALL: [Self; 5] =
        [Self::Topic, Self::Broker, Self::BrokerLogger, Self::ClientMetrics, Self::Group];

    #[must_use]
    pub fn from_code(code: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    #[must_use]
    pub const fn code(self) -> i8 {
        self as i8
    }
}

impl ConfigResource {
    #[must_use]
    pub fn new(kind: ConfigKind, name: &str) -> Self {
        Self { kind, name: name.into() }
    }

    #[must_use]
    pub fn topic(name: &str) -> Self {
        Self::new(ConfigKind::Topic, name)
    }

    /// One broker, or with `None` the default of all brokers.
    #[must_use]
    pub fn broker(id: Option<NodeId>) -> Self {
        Self::new(ConfigKind::Broker, &id.map(|id| id.to_string()).unwrap_or_default())
    }

    #[must_use]
    pub fn group(id: &str) -> Self {
        Self::new(ConfigKind::Group, id)
    }
}

impl Image {
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    #[must_use]
    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    #[must_use]
    pub fn partition(&self, id: TopicId, index: PartitionIndex) -> Option<&PartitionState> {
        self.topic(id)?.partition(index)
    }

    #[must_use]
    pub fn broker(&self, id: NodeId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// Brokers that may lead and be in sync.
    pub fn active_brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|broker| broker.is_active())
    }

    /// Brokers that answer clients: those that may lead, and those that shut down in order and may still lead what nobody else can.
    pub fn serving_brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    /// What was set for a resource; `None` where nothing was.
    #[must_use]
    pub fn config(&self, resource: &ConfigResource, key: &str) -> Option<&Arc<str>> {
        self.configs.get(resource)?.get(key)
    }

    /// What was set for one topic.
    #[must_use]
    pub fn topic_config(&self, topic: &str, key: &str) -> Option<&Arc<str>> {
        self.config(&ConfigResource::topic(topic), key)
    }

    /// Whether anything was set for a topic: all those for which nothing was go by the same.
    #[must_use]
    pub fn topic_has_configs(&self, topic: &str) -> bool {
        self.configs.get(&ConfigResource::topic(topic)).is_some_and(|set| !set.is_empty())
    }

    /// What was set for one broker itself, else for the default of all.
    #[must_use]
    pub fn broker_config(&self, id: NodeId, key: &str) -> Option<&Arc<str>> {
        self.config(&ConfigResource::broker(Some(id)), key)
            .or_else(|| self.config(&ConfigResource::broker(None), key))
    }

    /// The finalized level of a feature, 0 where it is off.
    #[must_use]
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }
}

impl Topic {
    #[must_use]
    pub fn partition(&self, index: PartitionIndex) -> Option<&PartitionState> {
        self.partitions.get(usize::try_from(index.0).ok()?).map(|state| &**state)
    }

    /// Kafka's own topics, which clients may read but not write: `__consumer_offsets` and its kin.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        is_internal_name(&self.name)
    }
}

/// Whether a topic of this name belongs to the cluster itself.
#[must_use]
pub fn is_internal_name(name: &str) -> bool {
    matches!(name, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

impl Broker {
    /// Fit to lead and to be in sync.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.shutting_down
    }

    #[must_use]
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| &*endpoint.listener == listener)
    }
}

impl PartitionState {
    #[must_use]
    pub fn has_leader(&self) -> bool {
        self.leader != NodeId::NONE
    }

    /// Whether its replicas are on the way to others.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas that it is to have: those of its target while it is reassigned, else those it has.
    #[must_use]
    pub fn target(&self) -> Nodes {
        self.replicas.iter().copied().filter(|id| !self.removing.contains(id)).collect()
    }
}
