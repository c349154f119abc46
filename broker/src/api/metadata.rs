//! Metadata (key 3): which topics there are, who leads them, where the brokers are.
//!
//! v0: an empty list means all topics; v1 and later: null does. v5 names the replicas whose brokers are not there; v0 leaves them out. v4 says whether unknown topics may be made. v10 brings topic ids, v12
//! asking by them. v8 to v10 show what the client may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, NewTopic};
use ottla_machine::controller::image::{Image, PartitionState, Topic};
use ottla_machine::controller::topics::check_name;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::MetadataRequest;
use ottla_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use ottla_protocol::types::{NodeId, Uuid};

use super::{Reply, RequestContext, internal_topics};

/// No authorizer: every operation that a topic, or the cluster, knows (KIP-430), as bits.
pub(super) const TOPIC_OPERATIONS: i32 = 3576;
pub(super) const CLUSTER_OPERATIONS: i32 = 8096;
/// Not asked for.
pub(super) const NO_OPERATIONS: i32 = i32::MIN;

pub fn handle(cx: &mut RequestContext<'_>, request: MetadataRequest) -> Reply<MetadataResponse> {
    let image = cx.node.image.load_full();
    let missing = topics_to_make(cx, &image, &request);
    if missing.is_empty() {
        return Reply::Now(Frozen::of(cx).respond(&image, &request, &BTreeMap::new()));
    }
    // The answer names the new topics with their leaders, so that the client need not ask again.
    let slot = cx.defer();
    let frozen = Frozen::of(cx);
    let node = Arc::clone(cx.node);
    let names: Vec<String> = missing.iter().map(|topic| topic.name.clone()).collect();
    let command = Command::CreateTopics { topics: missing, validate_only: false };
    cx.node.controller.submit(command, move |answer| {
        let refused = match answer {
            Answer::Topics(answers) => {
                let refused = names.into_iter().zip(answers);
                refused.filter_map(|(name, answer)| Some((name, answer.err()?.code))).collect()
            }
            _ => BTreeMap::new(),
        };
        slot.complete(&frozen.respond(&node.image.load_full(), &request, &refused));
    });
    Reply::Later
}

fn topics_to_make(cx: &RequestContext<'_>, image: &Image, request: &MetadataRequest) -> Vec<NewTopic> {
    if !cx.node.config.flag("auto.create.topics.enable")
        || cx.version >= 4 && !request.allow_auto_topic_creation
    {
        return Vec::new();
    }
    let named = request.topics.iter().flatten().filter(|topic| topic.topic_id.is_zero());
    let names = named.filter_map(|topic| topic.name.as_ref());
    let mut missing: Vec<NewTopic> = names
        .filter(|name| image.topic_by_name(name).is_none())
        .filter(|name| check_name(name).is_ok() && internal_topics::is_made_on_demand(name))
        .map(|name| internal_topics::new_topic(&cx.node.config, image, name))
        .collect();
    missing.sort_by(|a, b| a.name.cmp(&b.name));
    missing.dedup_by(|a, b| a.name == b.name);
    missing
}

/// What an answer needs of its request's connection.
struct Frozen {
    version: i16,
    brokers: Vec<MetadataResponseBroker>,
    controller_id: i32,
}

/// The topics that a request is answered about: each once, however often it stands there, and where any is named by its id, only
/// those, as in Kafka.
fn asked_once(topics: &[MetadataRequestTopic]) -> Vec<&MetadataRequestTopic> {
    let by_id = topics.iter().any(|topic| !topic.topic_id.is_zero());
    let mut seen = BTreeSet::new();
    topics
        .iter()
        .filter(|topic| !by_id || !topic.topic_id.is_zero())
        .filter(|topic| seen.insert((topic.topic_id, topic.name.as_deref().filter(|_| !by_id))))
        .collect()
}

impl Frozen {
    fn of(cx: &RequestContext<'_>) -> Self {
        let image = cx.node.image.load();
        let brokers = image
            .serving_brokers()
            .filter_map(|broker| {
                let (host, port) = cx.address_of(broker)?;
                let rack = broker.rack.as_deref().map(ByteString::from);
                Some(MetadataResponseBroker { node_id: broker.id.0, host, port, rack })
            })
            .collect();
        Self { version: cx.version, brokers, controller_id: cx.controller_id(&image).0 }
    }

    /// `refused`: why topics that were to be made were not.
    fn respond(
        &self,
        image: &Image,
        request: &MetadataRequest,
        refused: &BTreeMap<String, ErrorCode>,
    ) -> MetadataResponse {
        let all = match &request.topics {
            None => true,
            Some(topics) => topics.is_empty() && self.version == 0,
        };
        let with_operations = request.include_topic_authorized_operations;
        let topics = if all {
            image
                .topic_ids
                .values()
                .filter_map(|id| image.topic(*id))
                .map(|topic| self.known(image, topic, with_operations))
                .collect()
        } else {
            let refused = |name: &ByteString| refused.get(&**name).copied();
            asked_once(request.topics.as_deref().unwrap_or_default())
                .into_iter()
                .map(|asked| match self.one(image, asked.name.as_ref(), asked.topic_id, with_operations) {
                    mut missing if missing.error_code == ErrorCode::UnknownTopicOrPartition.code() => {
                        let why = asked.name.as_ref().and_then(refused);
                        missing.error_code = why.map_or(missing.error_code, ErrorCode::code);
                        missing
                    }
                    topic => topic,
                })
                .collect()
        };
        MetadataResponse {
            brokers: self.brokers.clone(),
            cluster_id: Some(image.cluster_id.to_string().into()),
            controller_id: self.controller_id,
            topics,
            cluster_authorized_operations: if request.include_cluster_authorized_operations {
                CLUSTER_OPERATIONS
            } else {
                NO_OPERATIONS
            },
            ..MetadataResponse::default()
        }
    }

    fn one(
        &self,
        image: &Image,
        name: Option<&ByteString>,
        id: Uuid,
        with_operations: bool,
    ) -> MetadataResponseTopic {
        let failed = |code: ErrorCode| MetadataResponseTopic {
            error_code: code.code(),
            name: name.cloned().or_else(|| (self.version < 12).then(ByteString::default)),
            topic_id: id,
            topic_authorized_operations: NO_OPERATIONS,
            ..MetadataResponseTopic::default()
        };
        match name {
            // Kafka takes ids from version 12 on only.
            _ if self.version < 12 && (!id.is_zero() || name.is_none()) => failed(ErrorCode::InvalidRequest),
            // An id counts, whatever stands beside it: the Java client leaves an empty name there.
            _ if !id.is_zero() || name.is_none() => match image.topic(id) {
                Some(topic) => self.known(image, topic, with_operations),
                None => MetadataResponseTopic { name: None, ..failed(ErrorCode::UnknownTopicId) },
            },
            None => failed(ErrorCode::InvalidRequest),
            Some(name) => match image.topic_by_name(name) {
                Some(topic) => self.known(image, topic, with_operations),
                None if check_name(name).is_err() => failed(ErrorCode::InvalidTopicException),
                None if with_operations => MetadataResponseTopic {
                    topic_authorized_operations: TOPIC_OPERATIONS,
                    ..failed(ErrorCode::UnknownTopicOrPartition)
                },
                None => failed(ErrorCode::UnknownTopicOrPartition),
            },
        }
    }

    fn known(&self, image: &Image, topic: &Topic, with_operations: bool) -> MetadataResponseTopic {
        let partitions = topic.partitions.iter().enumerate();
        MetadataResponseTopic {
            error_code: 0,
            name: Some(ByteString::from(&*topic.name)),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions: partitions
                .map(|(index, partition)| self.partition(image, index, partition))
                .collect(),
            topic_authorized_operations: if with_operations { TOPIC_OPERATIONS } else { NO_OPERATIONS },
        }
    }

    fn partition(
        &self,
        image: &Image,
        index: usize,
        partition: &PartitionState,
    ) -> MetadataResponsePartition {
        let is_reachable = |id: &NodeId| self.brokers.iter().any(|broker| broker.node_id == id.0);
        // Version 0 is for clients that want nothing but what they can reach.
        let ids = |nodes: &[NodeId]| {
            nodes.iter().filter(|id| self.version > 0 || is_reachable(id)).map(|id| id.0).collect::<Vec<_>>()
        };
        let (replica_nodes, isr_nodes) = (ids(&partition.replicas), ids(&partition.isr));
        let is_whole =
            replica_nodes.len() == partition.replicas.len() && isr_nodes.len() == partition.isr.len();
        let has_leader = is_reachable(&partition.leader);
        let error = match image.broker(partition.leader) {
            _ if has_leader && is_whole => ErrorCode::None,
            _ if has_leader => ErrorCode::ReplicaNotAvailable,
            // It serves, but not where this client came in (KIP-302; the code is as young as version 6).
            Some(leader) if !leader.fenced && self.version >= 6 => ErrorCode::ListenerNotFound,
            _ => ErrorCode::LeaderNotAvailable,
        };
        MetadataResponsePartition {
            error_code: error.code(),
            partition_index: i32::try_from(index).unwrap_or(i32::MAX),
            leader_id: if has_leader { partition.leader.0 } else { NodeId::NONE.0 },
            leader_epoch: partition.leader_epoch.0,
            replica_nodes,
            isr_nodes,
            offline_replicas: offline(image, &partition.replicas),
        }
    }
}

/// The replicas whose brokers are not there.
pub(super) fn offline(image: &Image, replicas: &[NodeId]) -> Vec<i32> {
    let is_offline = |id: &&NodeId| image.broker(**id).is_none_or(|broker| broker.fenced);
    replicas.iter().filter(is_offline).map(|id| id.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_answered_once_and_ids_exclude_names() {
        let id = |byte: u8| Uuid([byte; 16]);
        let by_name =
            |name: &'static str| MetadataRequestTopic { name: Some(name.into()), topic_id: Uuid::ZERO };
        let by_id = |byte: u8| MetadataRequestTopic { name: None, topic_id: id(byte) };
        let named = MetadataRequestTopic { name: Some("a".into()), topic_id: id(1) };
        let cases: [(Vec<MetadataRequestTopic>, usize); 5] = [
            (vec![], 0),
            (vec![by_name("a"), by_name("b"), by_name("a")], 2),
            (vec![by_id(1), by_id(2), by_id(1)], 2),
            (vec![by_name("a"), by_id(1)], 1),
            (vec![named, by_id(1)], 1),
        ];
        for (topics, expected) in cases {
            assert_eq!(asked_once(&topics).len(), expected, "{topics:?}");
        }
    }
}
