//! Topics: their names, their making, growing and end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId};

use super::command::{Answer, ConfigRules, Failure, NewPartitions, NewTopic, TopicAnswer, TopicRef};
use super::decide::Decision;
use super::image::{Broker, ConfigKind, ConfigResource, Image, Nodes, PartitionState};
use super::placement::{check_manual, place};
use super::record::Record;
use crate::env::Env;

/// Kafka's longest topic name, in characters.
const NAME_MAX: usize = 249;
/// Kafka's name of the metadata log; here no topic may have it either.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// Partitions that one request may make, as in Kafka.
const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

/// Whether a topic may have this name.
///
/// # Errors
/// INVALID_TOPIC_EXCEPTION, with the reason.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let refused = |message: String| Err(Failure::new(ErrorCode::InvalidTopicException, message));
    match name {
        "" => refused("Topic name is invalid: the empty string is not allowed".into()),
        "." | ".." => refused(format!("Topic name is invalid: '{name}' is not allowed")),
        _ if name.len() > NAME_MAX => refused(format!(
            "Topic name is invalid: the length of '{name}' is longer than the max allowed length {NAME_MAX}"
        )),
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) => {
            refused(format!(
                "Topic name is invalid: '{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
            ))
        }
        _ => Ok(()),
    }
}

/// Names that differ only in these two would share a metric's name.
fn metric_name(name: &str) -> String {
    name.replace('.', "_")
}

pub(super) fn index_of(index: usize) -> PartitionIndex {
    PartitionIndex(i32::try_from(index).expect("a topic has fewer than 2^31 partitions"))
}

/// A partition as it begins: in sync are those of its replicas that are active. `None`: none is.
fn new_partition(image: &Image, replicas: Nodes) -> Option<PartitionState> {
    let is_active = |id: &NodeId| image.broker(*id).is_some_and(Broker::is_active);
    let isr: Nodes = replicas.iter().copied().filter(is_active).collect();
    Some(PartitionState {
        leader: *isr.first()?,
        isr,
        replicas,
        adding: Nodes::new(),
        removing: Nodes::new(),
        elr: Nodes::new(),
        last_known_elr: Nodes::new(),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
    })
}

/// The error of a partition without an active replica.
fn no_active(is_manual: bool) -> ErrorCode {
    if is_manual { ErrorCode::InvalidReplicaAssignment } else { ErrorCode::InvalidReplicationFactor }
}

/// New partitions with these replicas, from this index on.
fn new_partitions(
    image: &Image,
    topic: TopicId,
    first: usize,
    placed: Vec<Nodes>,
    inactive: ErrorCode,
) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::with_capacity(placed.len());
    for (index, replicas) in (first..).zip(placed) {
        let Some(state) = new_partition(image, replicas) else {
            let message = format!(
                "All brokers that partition {index} would have are fenced or in controlled shutdown."
            );
            return Err(Failure::new(inactive, message));
        };
        records.push(Record::Partition { topic, index: index_of(index), state });
    }
    Ok(records)
}

pub(super) fn create(
    env: &mut Env<'_>,
    rules: &dyn ConfigRules,
    topics: &[NewTopic],
    validate_only: bool,
) -> Decision {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in topics {
        *seen.entry(&topic.name).or_default() += 1;
    }
    let mut metric_names: BTreeMap<String, String> = BTreeMap::new();
    if topics.iter().any(|topic| topic.name.contains(['.', '_'])) {
        metric_names = env
            .image
            .topic_ids
            .keys()
            .filter(|name| name.contains(['.', '_']))
            .map(|name| (metric_name(name), name.to_string()))
            .collect();
    }
    let (mut records, mut answers, mut made) = (Vec::new(), Vec::new(), 0);
    for topic in topics {
        let answer = if seen[&*topic.name] > 1 {
            Err(Failure::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
        } else {
            create_one(env, rules, topic, &mut metric_names, &mut made).map(|(answer, new)| {
                records.extend(new);
                answer
            })
        };
        answers.push(answer);
    }
    if validate_only {
        records.clear();
    }
    Decision { records, answer: Answer::Topics(answers) }
}

fn create_one(
    env: &mut Env<'_>,
    rules: &dyn ConfigRules,
    topic: &NewTopic,
    metric_names: &mut BTreeMap<String, String>,
    made: &mut usize,
) -> Result<(TopicAnswer, Vec<Record>), Failure> {
    if topic.name == METADATA_TOPIC {
        let message = format!("The topic {METADATA_TOPIC} belongs to the controllers and cannot be created.");
        return Err(Failure::new(ErrorCode::InvalidRequest, message));
    }
    check_name(&topic.name)?;
    if env.image.topic_ids.contains_key(&*topic.name) {
        let message = format!("Topic '{}' already exists.", topic.name);
        return Err(Failure::new(ErrorCode::TopicAlreadyExists, message));
    }
    if let Some(other) = metric_names.get(&metric_name(&topic.name))
        && *other != topic.name
    {
        let message = format!("Topic '{}' collides with existing topic: {other}", topic.name);
        return Err(Failure::new(ErrorCode::InvalidTopicException, message));
    }
    let configs = configs_of(env.image, rules, topic)?;
    let placed = replicas_of(env, rules, topic, *made)?;
    *made += placed.len();
    let name: Arc<str> = topic.name.as_str().into();
    let resource = ConfigResource { kind: ConfigKind::Topic, name: Arc::clone(&name) };
    if topic.name.contains(['.', '_']) {
        metric_names.insert(metric_name(&topic.name), topic.name.clone());
    }
    let id = env.fresh_uuid();
    let mut records = vec![Record::Topic { id, name: Arc::clone(&name) }];
    let factor = placed.first().map_or(0, |replicas| replicas.len());
    let partitions = i32::try_from(placed.len()).expect("at most 10,000 a request");
    records.extend(new_partitions(env.image, id, 0, placed, no_active(!topic.assignments.is_empty()))?);
    for (key, value) in configs {
        records.push(Record::Config {
            resource: resource.clone(),
            key: key.into(),
            value: Some(value.into()),
        });
    }
    let replication_factor = i16::try_from(factor).unwrap_or(i16::MAX);
    Ok((TopicAnswer { id, name, partitions, replication_factor }, records))
}

/// The settings that a new topic is asked to have; of a key that is given twice the last counts, as in Kafka.
fn configs_of<'a>(
    image: &Image,
    rules: &dyn ConfigRules,
    topic: &'a NewTopic,
) -> Result<BTreeMap<&'a str, &'a str>, Failure> {
    let mut configs = BTreeMap::new();
    for (key, value) in &topic.configs {
        let Some(value) = value else {
            let message = format!("Null value not supported for topic configs: {key}");
            return Err(Failure::new(ErrorCode::InvalidConfig, message));
        };
        rules.check(ConfigKind::Topic, key, value)?;
        configs.insert(key.as_str(), value.as_str());
    }
    rules.check_together(image, ConfigKind::Topic, &configs)?;
    Ok(configs)
}

fn replicas_of(
    env: &mut Env<'_>,
    rules: &dyn ConfigRules,
    topic: &NewTopic,
    made: usize,
) -> Result<Vec<Nodes>, Failure> {
    let refused = |code, message: &str| Err(Failure::new(code, message));
    if !topic.assignments.is_empty() {
        if topic.replication_factor != -1 {
            return refused(
                ErrorCode::InvalidRequest,
                "A manual partition assignment was specified, but replication factor was not set to -1.",
            );
        }
        if topic.partitions != -1 {
            return refused(
                ErrorCode::InvalidRequest,
                "A manual partition assignment was specified, but numPartitions was not set to -1.",
            );
        }
        if topic.has_duplicate_assignment {
            return refused(
                ErrorCode::InvalidReplicaAssignment,
                "Found multiple manual partition assignments for one partition",
            );
        }
        let mut factor = None;
        let mut placed = Vec::new();
        for (at, (index, replicas)) in topic.assignments.iter().enumerate() {
            check_manual(env.image, replicas, factor)?;
            if i32::try_from(at) != Ok(*index) {
                return refused(
                    ErrorCode::InvalidReplicaAssignment,
                    "partitions should be a consecutive 0-based integer sequence",
                );
            }
            factor = Some(replicas.len());
            placed.push(replicas.iter().copied().collect());
        }
        return Ok(placed);
    }
    if topic.replication_factor < -1 || topic.replication_factor == 0 {
        return refused(
            ErrorCode::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        );
    }
    if topic.partitions < -1 || topic.partitions == 0 {
        return refused(
            ErrorCode::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        );
    }
    let count = if topic.partitions == -1 { rules.partitions(env.image) } else { topic.partitions };
    let factor = match topic.replication_factor {
        -1 => rules.replication_factor(env.image),
        factor => factor,
    };
    let count = usize::try_from(count).unwrap_or(0);
    if made.saturating_add(count) > PARTITIONS_PER_REQUEST_MAX {
        return refused(ErrorCode::PolicyViolation, "Excessively large number of partitions per request.");
    }
    place(env, count, factor)
}

pub(super) fn delete(image: &Image, rules: &dyn ConfigRules, topics: &[TopicRef]) -> Decision {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<_> = topics.iter().filter(|topic| !seen.insert(*topic)).collect();
    let (mut records, mut answers, mut gone) = (Vec::new(), Vec::new(), BTreeSet::new());
    for topic in topics {
        let found = match topic {
            TopicRef::Both => Err(Failure::new(
                ErrorCode::InvalidRequest,
                "A topic is named by its name or by its id, not by both.",
            )),
            topic if twice.contains(topic) => {
                Err(Failure::new(ErrorCode::InvalidRequest, "Duplicate topic in the request."))
            }
            TopicRef::Id(id) if id.is_zero() => {
                Err(Failure::new(ErrorCode::InvalidRequest, "Neither a topic's name nor its id was given."))
            }
            TopicRef::Name(name) => {
                image.topic_by_name(name).ok_or_else(|| ErrorCode::UnknownTopicOrPartition.into())
            }
            TopicRef::Id(id) => image.topic(*id).ok_or_else(|| ErrorCode::UnknownTopicId.into()),
        };
        let answer = found.and_then(|topic| {
            if !rules.may_delete_topics() {
                return Err(Failure::new(ErrorCode::TopicDeletionDisabled, "Topic deletion is disabled."));
            }
            // By name and by id in one request: the second finds it gone.
            if !gone.insert(topic.id) {
                return Err(ErrorCode::UnknownTopicOrPartition.into());
            }
            records.push(Record::TopicRemoved { id: topic.id });
            Ok(TopicAnswer {
                id: topic.id,
                name: Arc::clone(&topic.name),
                partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
                replication_factor: 0,
            })
        });
        answers.push(answer);
    }
    Decision { records, answer: Answer::Topics(answers) }
}

pub(super) fn create_partitions(
    env: &mut Env<'_>,
    topics: &[NewPartitions],
    validate_only: bool,
) -> Decision {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in topics {
        *seen.entry(&topic.topic).or_default() += 1;
    }
    let (mut records, mut answers) = (Vec::new(), Vec::new());
    for topic in topics {
        let answer = if seen[&*topic.topic] > 1 {
            Err(Failure::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
        } else {
            grow(env, topic).map(|(answer, new)| {
                records.extend(new);
                answer
            })
        };
        answers.push(answer);
    }
    if validate_only {
        records.clear();
    }
    Decision { records, answer: Answer::Topics(answers) }
}

fn grow(env: &mut Env<'_>, wanted: &NewPartitions) -> Result<(TopicAnswer, Vec<Record>), Failure> {
    let Some(topic) = env.image.topic_by_name(&wanted.topic).cloned() else {
        return Err(ErrorCode::UnknownTopicOrPartition.into());
    };
    let have = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    let refused = |code, message: String| Err(Failure::new(code, message));
    if wanted.count == have {
        return refused(ErrorCode::InvalidPartitions, format!("Topic already has {have} partition(s)."));
    }
    if wanted.count < have {
        return refused(
            ErrorCode::InvalidPartitions,
            format!(
                "The topic {} currently has {have} partition(s); {} would not be an increase.",
                wanted.topic, wanted.count
            ),
        );
    }
    let more = usize::try_from(wanted.count - have).unwrap_or(0);
    if more > PARTITIONS_PER_REQUEST_MAX {
        return refused(
            ErrorCode::PolicyViolation,
            "Excessively large number of partitions per request.".into(),
        );
    }
    let factor = topic.partitions.front().map_or(1, |partition| partition.target().len());
    let placed: Vec<Nodes> = match &wanted.assignments {
        Some(assignments) => {
            if assignments.len() != more {
                return refused(
                    ErrorCode::InvalidReplicaAssignment,
                    format!(
                        "Attempted to add {more} additional partition(s), but only {} assignment(s) were specified.",
                        assignments.len()
                    ),
                );
            }
            for replicas in assignments {
                check_manual(env.image, replicas, Some(factor))?;
            }
            assignments.iter().map(|replicas| replicas.iter().copied().collect()).collect()
        }
        None => place(env, more, i16::try_from(factor).unwrap_or(i16::MAX))?,
    };
    let inactive = no_active(wanted.assignments.is_some());
    let records = new_partitions(env.image, topic.id, topic.partitions.len(), placed, inactive)?;
    let answer = TopicAnswer {
        id: topic.id,
        name: Arc::clone(&topic.name),
        partitions: wanted.count,
        replication_factor: i16::try_from(factor).unwrap_or(i16::MAX),
    };
    Ok((answer, records))
}
