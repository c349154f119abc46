//! The facts that the metadata log carries, and what each does to the image. `docs/metadata-records.md` describes their bytes.

use std::sync::Arc;

use imbl::OrdMap;
use ottla_protocol::types::{BrokerEpoch, NodeId, PartitionIndex, TopicId, Uuid};

pub use super::codec::{DecodeError, Entry, decode_entry, decode_snapshot, encode_entry, encode_snapshot};
use super::image::{Broker, ConfigKind, ConfigResource, Image, PartitionState, Topic};
use crate::sabotage::{Bug, is_on};

/// One fact about the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The cluster got its id.
    Cluster { cluster_id: Uuid },
    /// A feature is finalized at this level; level 0 turns it off.
    Feature { name: Arc<str>, level: i16 },
    /// A broker registered: a new incarnation, all of it.
    Broker(Broker),
    /// A registered broker was fenced or unfenced, or began to shut down.
    BrokerState { id: NodeId, epoch: BrokerEpoch, fenced: bool, shutting_down: bool },
    /// A broker's registration is gone.
    BrokerRemoved { id: NodeId, epoch: BrokerEpoch },
    /// No broker epoch below this one is given again.
    BrokerEpochs { next: i64 },
    /// A topic exists; its partitions follow.
    Topic { id: TopicId, name: Arc<str> },
    /// A partition's state, all of it: a new one (the next index), or a changed one.
    Partition { topic: TopicId, index: PartitionIndex, state: PartitionState },
    /// A topic is gone, and with it its partitions and configurations.
    TopicRemoved { id: TopicId },
    /// A configuration was set, or with `None` taken back.
    Config { resource: ConfigResource, key: Arc<str>, value: Option<Arc<str>> },
    /// No producer id below this one is given again.
    ProducerIds { next: i64 },
}

/// A record that contradicts the image: the log and this program disagree, and the node must stop.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApplyError {
    #[error("a metadata record names topic {0}, which does not exist")]
    UnknownTopic(TopicId),
    #[error("a metadata record makes topic {0} ({1}), which exists")]
    TopicExists(TopicId, Arc<str>),
    #[error("a metadata record makes partition {index} of topic {topic}, which has {count} partitions")]
    PartitionOutOfOrder { topic: TopicId, index: PartitionIndex, count: usize },
    #[error("a metadata record names broker {0} at epoch {1}, which is not registered")]
    UnknownBroker(NodeId, BrokerEpoch),
}

/// What became of an entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The image is one version further.
    Yes,
    /// It was decided on another version (a deposed controller's late entry): nothing changed, on every node alike.
    Stale,
}

impl Image {
    /// Applies a committed entry if it was decided on this very version.
    ///
    /// # Errors
    /// A record that contradicts the image; the image is then unusable and the node must stop.
    pub fn apply_entry(&mut self, entry: &Entry) -> Result<Applied, ApplyError> {
        if entry.base_version != self.version && !is_on(Bug::CountOnAnyVersion) {
            return Ok(Applied::Stale);
        }
        for record in &entry.records {
            self.apply(record)?;
        }
        self.version += 1;
        Ok(Applied::Yes)
    }

    /// Applies one record. The version is the entry's business.
    ///
    /// # Errors
    /// A record that contradicts the image.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::Cluster { cluster_id } => self.cluster_id = *cluster_id,
            Record::Feature { name, level: 0 } => {
                self.features.remove(name);
            }
            Record::Feature { name, level } => {
                self.features.insert(name.clone(), *level);
            }
            Record::Broker(broker) => {
                self.next_broker_epoch = self.next_broker_epoch.max(broker.epoch.0 + 1);
                self.brokers.insert(broker.id, broker.clone());
            }
            Record::BrokerState { id, epoch, fenced, shutting_down } => {
                let broker = self
                    .brokers
                    .get_mut(id)
                    .filter(|broker| broker.epoch == *epoch)
                    .ok_or(ApplyError::UnknownBroker(*id, *epoch))?;
                broker.fenced = *fenced;
                if !fenced {
                    broker.last_served = *epoch;
                }
                broker.shutting_down = *shutting_down;
            }
            Record::BrokerRemoved { id, epoch } => {
                let broker = self.brokers.remove(id);
                if broker.is_none_or(|broker| broker.epoch != *epoch) {
                    return Err(ApplyError::UnknownBroker(*id, *epoch));
                }
            }
            Record::BrokerEpochs { next } => self.next_broker_epoch = self.next_broker_epoch.max(*next),
            Record::Topic { id, name } => self.apply_topic(*id, name)?,
            Record::Partition { topic, index, state } => self.apply_partition(*topic, *index, state)?,
            Record::TopicRemoved { id } => {
                let topic = self.topics.remove(id).ok_or(ApplyError::UnknownTopic(*id))?;
                self.topic_ids.remove(&topic.name);
                self.configs.remove(&ConfigResource { kind: ConfigKind::Topic, name: topic.name.clone() });
            }
            Record::Config { resource, key, value } => self.apply_config(resource, key, value.as_ref()),
            Record::ProducerIds { next } => self.next_producer_id = self.next_producer_id.max(*next),
        }
        Ok(())
    }

    fn apply_topic(&mut self, id: TopicId, name: &Arc<str>) -> Result<(), ApplyError> {
        if self.topics.contains_key(&id) || self.topic_ids.contains_key(name) {
            return Err(ApplyError::TopicExists(id, name.clone()));
        }
        let topic = Topic { id, name: name.clone(), partitions: imbl::Vector::new() };
        self.topics.insert(id, Arc::new(topic));
        self.topic_ids.insert(name.clone(), id);
        Ok(())
    }

    fn apply_partition(
        &mut self,
        topic: TopicId,
        index: PartitionIndex,
        state: &PartitionState,
    ) -> Result<(), ApplyError> {
        let held = self.topics.get_mut(&topic).ok_or(ApplyError::UnknownTopic(topic))?;
        let partitions = &mut Arc::make_mut(held).partitions;
        let count = partitions.len();
        match usize::try_from(index.0) {
            Ok(at) if at < count => {
                partitions.set(at, Arc::new(state.clone()));
            }
            Ok(at) if at == count => partitions.push_back(Arc::new(state.clone())),
            _ => return Err(ApplyError::PartitionOutOfOrder { topic, index, count }),
        }
        Ok(())
    }

    fn apply_config(&mut self, resource: &ConfigResource, key: &Arc<str>, value: Option<&Arc<str>>) {
        let mut settings: OrdMap<Arc<str>, Arc<str>> =
            self.configs.get(resource).cloned().unwrap_or_default();
        match value {
            Some(value) => settings.insert(key.clone(), value.clone()),
            None => settings.remove(key),
        };
        if settings.is_empty() {
            self.configs.remove(resource);
        } else {
            self.configs.insert(resource.clone(), settings);
        }
    }

    /// Records that make an empty image equal to this one (but for its version, which a snapshot carries beside them).
    pub fn to_records(&self) -> impl Iterator<Item = Record> {
        let ids = [
            Record::Cluster { cluster_id: self.cluster_id },
            Record::ProducerIds { next: self.next_producer_id },
            Record::BrokerEpochs { next: self.next_broker_epoch },
        ];
        let ids = ids.into_iter().filter(|record| {
            !(is_on(Bug::SnapshotForgetsProducerIds) && matches!(record, Record::ProducerIds { .. }))
        });
        let features =
            self.features.iter().map(|(name, level)| Record::Feature { name: name.clone(), level: *level });
        let brokers = self.brokers.values().cloned().map(Record::Broker);
        let topics = self.topics.values().flat_map(|topic| {
            let head = Record::Topic { id: topic.id, name: topic.name.clone() };
            let partitions = (0..).zip(topic.partitions.iter()).map(|(index, state)| Record::Partition {
                topic: topic.id,
                index: PartitionIndex(index),
                state: PartitionState::clone(state),
            });
            std::iter::once(head).chain(partitions)
        });
        let configs = self.configs.iter().flat_map(|(resource, settings)| {
            settings.iter().map(|(key, value)| Record::Config {
                resource: resource.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            })
        });
        ids.chain(features).chain(brokers).chain(topics).chain(configs)
    }
}
