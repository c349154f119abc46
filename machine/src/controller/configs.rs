//! Dynamic configurations: what was set for a topic, a broker, all brokers or a group.

use std::collections::{BTreeMap, BTreeSet};

use ottla_protocol::error::ErrorCode;

use super::command::{Answer, ConfigChange, ConfigOp, ConfigRules, Failure};
use super::decide::Decision;
use super::image::{ConfigKind, ConfigResource, Image};
use super::record::Record;

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
    Decision { records, answer: Answer::Configs(answers) }
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
        let message = format!("Error due to duplicate config keys: {}", twice.join(","));
        return Err(Failure::new(ErrorCode::InvalidRequest, message));
    }
    let mut values: BTreeMap<&str, Option<String>> = BTreeMap::new();
    if change.replace {
        let set = image.configs.get(resource).into_iter().flat_map(|set| set.keys());
        values.extend(set.map(|key| (&**key, None)));
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

fn edit_list(
    image: &Image,
    rules: &dyn ConfigRules,
    resource: &ConfigResource,
    key: &str,
    value: &str,
    append: bool,
) -> Result<String, Failure> {
    let Some(mut list) = rules.list(image, resource, key) else {
        let message = format!(
            "Config value {} is not allowed for config key: {key}",
            if append { "append" } else { "subtract" }
        );
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
    match resource.kind {
        ConfigKind::Topic if image.topic_by_name(&resource.name).is_none() => Err(Failure::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("The topic '{}' does not exist.", resource.name),
        )),
        ConfigKind::Broker if !resource.name.is_empty() => match resource.name.parse::<i32>() {
            Ok(id) if image.brokers.keys().any(|known| known.0 == id) => Ok(()),
            Ok(id) => Err(Failure::new(
                ErrorCode::BrokerIdNotRegistered,
                format!("No broker with id {id} is registered."),
            )),
            Err(_) => {
                Err(Failure::new(ErrorCode::InvalidRequest, format!("Invalid broker name {}", resource.name)))
            }
        },
        ConfigKind::Group if resource.name.is_empty() => {
            Err(Failure::new(ErrorCode::InvalidRequest, "Default group resources are not allowed."))
        }
        _ => Ok(()),
    }
}
