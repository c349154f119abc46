//! Dynamic configurations: what was set for a topic, a broker, all brokers or a group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_protocol::error::ErrorCode;

use super::command::{Answer, ConfigChange, ConfigOp, ConfigRules, Failure};
use super::decide::Decision;
use super::image::{ConfigKind, ConfigResource, Image, PartitionState};
use super::leadership::{Fitness, change_partitions};
use super::record::Record;
use super::topics::check_name;

/// `min.insync.replicas`: the only setting that controller and leaders must see alike.
const MINIMUM: &str = "min.insync.replicas";

/// What the founder's file says of `min.insync.replicas` becomes the cluster's: were it lower at a leader than at the controller, the
/// watermark would move past replicas that the controller takes for eligible (KIP-966; Kafka writes the same record).
pub(super) fn common_minimum(rules: &dyn ConfigRules, image: &Image) -> Record {
    let minimum = rules.min_insync_replicas(image, "");
    Record::Config {
        resource: ConfigResource::broker(None),
        key: MINIMUM.into(),
        value: Some(minimum.to_string().into()),
    }
}

/// One broker may not have a minimum of its own, and the cluster may not be without one.
fn check_minimum(resource: &ConfigResource, values: &BTreeMap<&str, Option<String>>) -> Result<(), Failure> {
    let message = match values.get(MINIMUM).filter(|_| resource.kind == ConfigKind::Broker) {
        Some(Some(_)) if !resource.name.is_empty() => {
            "Broker-level min.insync.replicas cannot be set: it must be one for all brokers. Set the default of all brokers."
        }
        Some(None) if resource.name.is_empty() => {
            "The min.insync.replicas of all brokers cannot be removed; set it to another value."
        }
        _ => return Ok(()),
    };
    Err(Failure::new(ErrorCode::InvalidConfig, message))
}

pub(super) fn alter(
    image: &Image,
    rules: &dyn ConfigRules,
    changes: &[ConfigChange],
    validate_only: bool,
) -> Decision {
    let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for change in changes {
        if let Ok(resource) = &change.resource
            && !seen.insert(resource)
        {
            twice.insert(resource);
        }
    }
    let (mut records, mut answers) = (Vec::new(), Vec::new());
    for change in changes {
        let answer = change.resource.clone().and_then(|resource| {
            if twice.contains(&resource) {
                let message = "Each resource must appear at most once.";
                return Err(Failure::new(ErrorCode::InvalidRequest, message));
            }
            alter_one(image, rules, &resource, change)
        });
        answers.push(answer.map(|new| records.extend(new)));
    }
    if validate_only {
        records.clear();
    }
    let consequences = consequences(image, rules, &records);
    records.extend(consequences);
    Decision { records, answer: Answer::Configs(answers) }
}

/// What other minima of in-sync sets and other rules of election do to partitions: a lower minimum ends the eligibility of replicas
/// that are not in sync (the watermark now moves without them, KIP-966); a higher one makes nobody eligible.
fn consequences(image: &Image, rules: &dyn ConfigRules, records: &[Record]) -> Vec<Record> {
    let concerns_leaders = |record: &Record| {
        matches!(record, Record::Config { key, .. }
            if matches!(&**key, MINIMUM | "unclean.leader.election.enable"))
    };
    if !records.iter().any(concerns_leaders) {
        return Vec::new();
    }
    let mut after = image.clone();
    for record in records {
        after.apply(record).expect("a configuration contradicts no image");
    }
    let is_unsettled = |state: &PartitionState| !state.elr.is_empty() || !state.has_leader();
    change_partitions(&after, rules, &Fitness::of(image), is_unsettled, |_, _, _| {})
}

fn alter_one(
    image: &Image,
    rules: &dyn ConfigRules,
    resource: &ConfigResource,
    change: &ConfigChange,
) -> Result<Vec<Record>, Failure> {
    check_resource(image, resource)?;
    let mut keys = BTreeSet::new();
    let twice: Vec<_> =
        change.ops.iter().map(|(key, _)| key.as_str()).filter(|key| !keys.insert(*key)).collect();
    if !twice.is_empty() {
        let message = format!("Duplicate config keys: {}", twice.join(","));
        return Err(Failure::new(ErrorCode::InvalidRequest, message));
    }
    let mut values: BTreeMap<&str, Option<String>> = BTreeMap::new();
    if change.replace {
        let set = image.configs.get(resource).into_iter().flat_map(|set| set.keys());
        let has_default = |key: &&Arc<str>| *resource != ConfigResource::broker(None) || &***key != MINIMUM;
        values.extend(set.filter(has_default).map(|key| (&**key, None)));
    }
    for (key, op) in &change.ops {
        let value = match op {
            ConfigOp::Delete => None,
            ConfigOp::Set(Some(value)) => Some(value.clone()),
            ConfigOp::Append(Some(value)) => Some(edit_list(image, rules, resource, key, value, true)?),
            ConfigOp::Subtract(Some(value)) => Some(edit_list(image, rules, resource, key, value, false)?),
            ConfigOp::Set(None) | ConfigOp::Append(None) | ConfigOp::Subtract(None) => {
                let message = format!("Null value not supported for: {key}");
                return Err(Failure::new(ErrorCode::InvalidRequest, message));
            }
            ConfigOp::Unknown(code) => {
                let message = format!("Unknown operation type {code} for config {key}");
                return Err(Failure::new(ErrorCode::InvalidRequest, message));
            }
        };
        if let Some(value) = &value {
            rules.check(resource.kind, key, value)?;
        }
        values.insert(key, value);
    }
    check_minimum(resource, &values)?;
    check_together(image, rules, resource, &values)?;
    let changed = values
        .into_iter()
        .filter(|(key, value)| image.config(resource, key).map(|set| &**set) != value.as_deref());
    Ok(changed
        .map(|(key, value)| Record::Config {
            resource: resource.clone(),
            key: key.into(),
            value: value.map(Into::into),
        })
        .collect())
}

/// Judges what will be set once the change is made.
fn check_together(
    image: &Image,
    rules: &dyn ConfigRules,
    resource: &ConfigResource,
    changed: &BTreeMap<&str, Option<String>>,
) -> Result<(), Failure> {
    let before = image.configs.get(resource).into_iter().flat_map(|set| set.iter());
    let mut set: BTreeMap<&str, &str> = before.map(|(key, value)| (&**key, &**value)).collect();
    for (key, value) in changed {
        match value {
            Some(value) => set.insert(key, value),
            None => set.remove(key),
        };
    }
    rules.check_together(image, resource.kind, &set)
}

fn edit_list(
    image: &Image,
    rules: &dyn ConfigRules,
    resource: &ConfigResource,
    key: &str,
    value: &str,
    append: bool,
) -> Result<String, Failure> {
    let Some(mut list) = rules.list(image, resource, key) else {
        let operation = if append { "APPEND" } else { "SUBTRACT" };
        let message = format!("Can't {operation} to key {key}: its type is not LIST.");
        return Err(Failure::new(ErrorCode::InvalidConfig, message));
    };
    for item in value.split(',').map(str::trim) {
        match (append, list.iter().position(|have| have == item)) {
            (true, None) => list.push(item.to_owned()),
            (false, Some(at)) => {
                list.remove(at);
            }
            _ => {}
        }
    }
    Ok(list.join(","))
}

fn check_resource(image: &Image, resource: &ConfigResource) -> Result<(), Failure> {
    let refused = |message: String| Err(Failure::new(ErrorCode::InvalidRequest, message));
    match resource.kind {
        ConfigKind::Topic if resource.name.is_empty() => {
            refused("There are no defaults of all topics; set the brokers' settings instead.".into())
        }
        ConfigKind::Topic if image.topic_by_name(&resource.name).is_none() => {
            check_name(&resource.name)?;
            let message = format!("The topic '{}' does not exist.", resource.name);
            Err(Failure::new(ErrorCode::UnknownTopicOrPartition, message))
        }
        ConfigKind::Broker if !resource.name.is_empty() => match resource.name.parse::<i32>() {
            Ok(id) if image.brokers.keys().any(|known| known.0 == id) => Ok(()),
            Ok(id) => refused(format!("No broker with id {id} is registered.")),
            Err(_) => refused(format!("Node id must be an integer, but it is: {}", resource.name)),
        },
        ConfigKind::Group if resource.name.is_empty() => {
            refused("There are no defaults of all groups; set the brokers' settings instead.".into())
        }
        ConfigKind::ClientMetrics => {
            refused("Subscriptions to clients' metrics are not part of this version.".into())
        }
        ConfigKind::BrokerLogger => {
            refused("Log levels are not set over the protocol in this version; set RUST_LOG.".into())
        }
        _ => Ok(()),
    }
}
