//! Topics made and removed.

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use ottla_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use ottla_protocol::messages::{CreateTopicsRequest, DeleteTopicsRequest, FetchRequest};

use crate::connection::Connection;
use crate::error::BenchError;

/// How long a broker may take to make or remove topics, in milliseconds.
const TIMEOUT_MS: i32 = 60_000;

/// What a topic is made with.
#[derive(Clone, Debug)]
pub struct TopicShape {
    pub partitions: i32,
    pub replication_factor: i16,
    pub configs: Vec<(String, String)>,
}

/// Makes topics of one shape in one request.
///
/// # Errors
/// The first topic that was refused.
pub fn create(connection: &mut Connection, names: &[String], shape: &TopicShape) -> Result<(), BenchError> {
    let request = creation(names, shape);
    for topic in connection.call(7, &request)?.topics {
        if topic.error_code != ErrorCode::None.code() {
            let what = format!("CreateTopics of {}", topic.name);
            return Err(BenchError::refused(what, topic.error_code, topic.error_message.as_deref()));
        }
    }
    Ok(())
}

/// The request that makes topics of one shape.
#[must_use]
pub fn creation(names: &[String], shape: &TopicShape) -> CreateTopicsRequest {
    let configs: Vec<_> = shape
        .configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig {
            name: name.as_str().into(),
            value: Some(value.as_str().into()),
        })
        .collect();
    let topics = names
        .iter()
        .map(|name| CreatableTopic {
            name: name.as_str().into(),
            num_partitions: shape.partitions,
            replication_factor: shape.replication_factor,
            configs: configs.clone(),
            ..CreatableTopic::default()
        })
        .collect();
    CreateTopicsRequest { topics, timeout_ms: TIMEOUT_MS, ..CreateTopicsRequest::default() }
}

/// # Errors
/// The topic can't be removed.
pub fn delete(connection: &mut Connection, name: &str) -> Result<(), BenchError> {
    delete_all(connection, &[name.to_owned()])
}

/// # Errors
/// The first topic that can't be removed.
pub fn delete_all(connection: &mut Connection, names: &[String]) -> Result<(), BenchError> {
    let request = DeleteTopicsRequest {
        topic_names: names.iter().map(|name| name.as_str().into()).collect(),
        timeout_ms: TIMEOUT_MS,
        ..DeleteTopicsRequest::default()
    };
    for topic in connection.call(5, &request)?.responses {
        if topic.error_code != ErrorCode::None.code() {
            let name = topic.name.unwrap_or_default();
            return Err(BenchError::refused(format!("DeleteTopics of {name}"), topic.error_code, None));
        }
    }
    Ok(())
}

/// A fetch of what stands at a partition's start.
#[must_use]
pub fn fetch_from_start(topic: &str, partition: i32, max_wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition { partition, partition_max_bytes: 4_096, ..FetchPartition::default() };
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 4_096,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic: topic.into(),
            partitions: vec![partition],
            ..FetchTopic::default()
        }],
        ..FetchRequest::default()
    }
}

/// The records that a fetch brought, or the error that it met.
///
/// # Errors
/// The connection ended.
pub fn fetch_first(
    connection: &mut Connection,
    topic: &str,
) -> Result<Result<Option<Bytes>, &'static str>, BenchError> {
    let answer = connection.call(11, &fetch_from_start(topic, 0, 100))?;
    let partition = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
    Ok(match partition {
        Some(partition) if partition.error_code != ErrorCode::None.code() => {
            Err(crate::error::name_of(partition.error_code))
        }
        Some(partition) => Ok(partition.records.filter(|records| !records.is_empty())),
        None => Err(crate::error::name_of(answer.error_code)),
    })
}
