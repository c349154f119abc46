//! CreateTopics (key 19). v5 answers with what was made (KIP-525), v7 with the topic's id.

use std::sync::Arc;

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, Failure, NewTopic, TopicAnswer};
use ottla_machine::controller::image::Image;
use ottla_protocol::messages::CreateTopicsRequest;
use ottla_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use ottla_protocol::types::{NodeId, Uuid};

use super::decided::decided;
use super::duplicates::answered_once;
use super::{Reply, RequestContext};
use crate::config::describe;
use crate::node::Node;

pub fn handle(cx: &mut RequestContext<'_>, request: CreateTopicsRequest) -> Reply<CreateTopicsResponse> {
    let names: Vec<ByteString> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let topics = request
        .topics
        .iter()
        .map(|topic| NewTopic {
            name: topic.name.to_string(),
            partitions: topic.num_partitions,
            replication_factor: topic.replication_factor,
            assignments: topic
                .assignments
                .iter()
                .map(|placed| {
                    (placed.partition_index, placed.broker_ids.iter().copied().map(NodeId).collect())
                })
                .collect(),
            has_duplicate_assignment: {
                let mut indexes: Vec<_> =
                    topic.assignments.iter().map(|placed| placed.partition_index).collect();
                indexes.sort_unstable();
                indexes.windows(2).any(|pair| pair[0] == pair[1])
            },
            configs: topic
                .configs
                .iter()
                .map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)))
                .collect(),
        })
        .collect();
    let node = Arc::clone(cx.node);
    let validate_only = request.validate_only;
    let command = Command::CreateTopics { topics, validate_only };
    decided(cx, request.timeout_ms, command, move |answer| {
        let mut shown = Shown::new(&node);
        let results: Vec<_> = match answer {
            Answer::Topics(answers) => names
                .iter()
                .zip(answers)
                .map(|(name, answer)| (name, result(&mut shown, name, &answer, validate_only)))
                .collect(),
            Answer::Failed(failure) => names
                .iter()
                .map(|name| (name, result(&mut shown, name, &Err(failure.clone()), false)))
                .collect(),
            other => panic!("CreateTopics was answered with {other:?}"),
        };
        CreateTopicsResponse { topics: answered_once(results), ..Default::default() }
    })
}

/// The configurations of new topics as they are shown; those of topics that set nothing of their own are looked up once.
struct Shown<'a> {
    node: &'a Node,
    image: Arc<Image>,
    shared: Option<Vec<CreatableTopicConfigs>>,
}

impl<'a> Shown<'a> {
    fn new(node: &'a Node) -> Self {
        Self { node, image: node.image.load_full(), shared: None }
    }

    fn of(&mut self, topic: &str) -> Vec<CreatableTopicConfigs> {
        let look_up = || {
            describe::topic(&self.node.config, &self.image, self.node.id, topic)
                .into_iter()
                .map(|line| CreatableTopicConfigs {
                    name: ByteString::from_static(line.name),
                    value: line.value.map(Into::into),
                    read_only: line.read_only,
                    config_source: line.source as i8,
                    is_sensitive: line.sensitive,
                })
                .collect()
        };
        match self.image.topic_has_configs(topic) {
            true => look_up(),
            false => self.shared.get_or_insert_with(look_up).clone(),
        }
    }
}

fn result(
    shown: &mut Shown<'_>,
    name: &ByteString,
    answer: &Result<TopicAnswer, Failure>,
    validate_only: bool,
) -> CreatableTopicResult {
    match answer {
        Ok(made) => CreatableTopicResult {
            name: name.clone(),
            topic_id: if validate_only { Uuid::ZERO } else { made.id },
            num_partitions: made.partitions,
            replication_factor: made.replication_factor,
            error_message: None,
            configs: Some(shown.of(name)),
            ..CreatableTopicResult::default()
        },
        Err(failure) => CreatableTopicResult {
            name: name.clone(),
            error_code: failure.code.code(),
            error_message: Some(failure.message.as_str().into()),
            num_partitions: -1,
            replication_factor: -1,
            configs: Some(Vec::new()),
            ..CreatableTopicResult::default()
        },
    }
}
