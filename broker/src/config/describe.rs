//! Settings as DescribeConfigs shows them.

use ottla_machine::controller::image::{ConfigResource, Image};
use ottla_protocol::types::NodeId;

use super::setting::{Kind, Setting};
use super::topic::{ValueSource, broker_value, effective};
use super::{Config, broker_setting, broker_settings, group_settings, topic_settings};

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: &'static str,
    /// `None` for secrets, and where there is no value.
    pub value: Option<String>,
    pub source: ValueSource,
    pub kind: Kind,
    pub read_only: bool,
    pub sensitive: bool,
    /// Every value that was set, the one in force first: name, value, source.
    pub synonyms: Vec<(&'static str, Option<String>, ValueSource)>,
    pub documentation: String,
}

/// All settings of a topic.
#[must_use]
pub fn topic(config: &Config, image: &Image, node: NodeId, topic: &str) -> Vec<Described> {
    topic_settings()
        .iter()
        .map(|row| {
            let setting = &row.setting;
            let (value, source) = effective(config, image, node, Some(topic), setting.name);
            let mut synonyms = Vec::new();
            if let Some(value) = image.topic_config(topic, setting.name) {
                synonyms.push((setting.name, Some(setting.shown(value)), ValueSource::DynamicTopic));
            }
            let brokers = row.synonyms.iter();
            let brokers: Vec<_> =
                brokers.flat_map(|(name, _)| broker_synonyms(config, image, Some(node), name)).collect();
            // As in Kafka: while nothing is set, the default of a setting in another unit is not shown.
            let primary = row.synonyms.first().map(|(name, _)| *name);
            let told = |(name, _, source): &(&str, _, ValueSource)| {
                *source != ValueSource::Default || Some(*name) == primary
            };
            if brokers.iter().any(told) {
                synonyms.extend(brokers);
            }
            describe(setting, value, source, false, synonyms)
        })
        .collect()
}

/// What Kafka's tools set for the time of a reassignment: as in Kafka, it is not shown where it is not set.
const ONLY_WHERE_SET: [&str; 3] = [
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

/// All settings of one broker, or with `None` what was set for all of them.
#[must_use]
pub fn broker(config: &Config, image: &Image, node: Option<NodeId>) -> Vec<Described> {
    let Some(id) = node else {
        let resource = ConfigResource::broker(None);
        let set = image.configs.get(&resource).into_iter().flat_map(|set| set.iter());
        return set
            .filter_map(|(key, value)| {
                let setting = broker_setting(key)?;
                let value = Some(value.to_string());
                let source = ValueSource::DynamicDefaultBroker;
                Some(describe(setting, value.clone(), source, false, vec![(setting.name, value, source)]))
            })
            .collect();
    };
    broker_settings()
        .iter()
        .filter(|setting| {
            !ONLY_WHERE_SET.contains(&setting.name) || broker_value(config, image, id, setting.name).is_some()
        })
        .map(|setting| {
            let set = broker_value(config, image, id, setting.name);
            let (value, source) = match set {
                Some((value, source)) => (Some(value), source),
                None => (setting.default.map(str::to_owned), ValueSource::Default),
            };
            let synonyms = broker_synonyms(config, image, Some(id), setting.name);
            if setting.name == "broker.id" {
                let value = Some(id.to_string());
                let own = (setting.name, value.clone(), ValueSource::StaticBroker);
                return describe(setting, value, ValueSource::StaticBroker, true, vec![own]);
            }
            describe(setting, value, source, !setting.dynamic, synonyms)
        })
        .collect()
}

/// All settings of a group.
#[must_use]
pub fn group(config: &Config, image: &Image, node: NodeId, group: &str) -> Vec<Described> {
    let resource = ConfigResource::group(group);
    group_settings()
        .iter()
        .map(|row| {
            let setting = &row.setting;
            let own = image.config(&resource, setting.name).map(|value| setting.shown(value));
            let brokers = row.synonym.and_then(|name| broker_value(config, image, node, name));
            let (value, source) = match (&own, brokers) {
                (Some(value), _) => (Some(value.clone()), ValueSource::DynamicGroup),
                (None, Some((value, source))) => (Some(value), source),
                (None, None) => (setting.default.map(str::to_owned), ValueSource::Default),
            };
            let mut synonyms: Vec<_> =
                own.map(|value| (setting.name, Some(value), ValueSource::DynamicGroup)).into_iter().collect();
            match row.synonym {
                Some(name) => synonyms.extend(broker_synonyms(config, image, Some(node), name)),
                None => {
                    synonyms.push((setting.name, setting.default.map(str::to_owned), ValueSource::Default));
                }
            }
            describe(setting, value, source, false, synonyms)
        })
        .collect()
}

fn describe(
    setting: &'static Setting,
    value: Option<String>,
    source: ValueSource,
    read_only: bool,
    mut synonyms: Vec<(&'static str, Option<String>, ValueSource)>,
) -> Described {
    let sensitive = setting.kind == Kind::Password;
    if sensitive {
        synonyms.iter_mut().for_each(|synonym| synonym.1 = None);
    }
    Described {
        name: setting.name,
        value: value.filter(|_| !sensitive).map(|value| setting.shown(&value)),
        source,
        kind: setting.kind,
        read_only,
        sensitive,
        synonyms,
        documentation: setting.documentation(),
    }
}

fn broker_synonyms(
    config: &Config,
    image: &Image,
    node: Option<NodeId>,
    name: &'static str,
) -> Vec<(&'static str, Option<String>, ValueSource)> {
    let Some(setting) = broker_setting(name) else { return Vec::new() };
    let value = |value: &str| Some(setting.shown(value));
    let mut synonyms = Vec::new();
    if let Some(set) = image.config(&ConfigResource::broker(node), name) {
        synonyms.push((name, value(set), ValueSource::DynamicBroker));
    }
    if let Some(set) = image.config(&ConfigResource::broker(None), name) {
        synonyms.push((name, value(set), ValueSource::DynamicDefaultBroker));
    }
    if let Some(set) = config.static_value(name) {
        synonyms.push((name, value(set), ValueSource::StaticBroker));
    }
    if let Some(default) = setting.default {
        synonyms.push((name, value(default), ValueSource::Default));
    }
    synonyms
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ottla_machine::controller::record::Record;

    use super::*;

    /// A broker's setting `name` is `value` in its file, and dynamically for it, and for all brokers.
    fn world(file: &[(&str, &str)], records: &[(ConfigResource, &str, &str)]) -> (Config, Image) {
        let (mut config, mut image) = (Config::default(), Image::default());
        for (name, value) in file {
            config.set(name, value);
        }
        for (resource, key, value) in records {
            let record = Record::Config {
                resource: resource.clone(),
                key: Arc::from(*key),
                value: Some(Arc::from(*value)),
            };
            image.apply(&record).expect("a configuration always applies");
        }
        (config, image)
    }

    #[test]
    fn a_value_is_shown_with_its_source_and_everything_it_hides() {
        use ValueSource::*;
        let node = NodeId(1);
        let (own, all) = (ConfigResource::broker(Some(node)), ConfigResource::broker(None));
        let topic_set = ConfigResource::topic("t");
        type Line<'a> = (&'a str, ValueSource, &'a [(&'a str, &'a str, ValueSource)]);
        type Case<'a> =
            (&'a [(&'a str, &'a str)], &'a [(ConfigResource, &'a str, &'a str)], &'a str, Line<'a>);
        let set_everywhere = [
            (topic_set.clone(), "retention.ms", " 5 "),
            (own.clone(), "log.retention.ms", "6"),
            (all.clone(), "log.retention.ms", "7"),
        ];
        let cases: [Case<'_>; 6] = [
            (&[], &[], "retention.ms", ("604800000", Default, &[])),
            (
                &[],
                &set_everywhere[..1],
                "retention.ms",
                ("5", DynamicTopic, &[("retention.ms", "5", DynamicTopic)]),
            ),
            (
                &[("log.retention.hours", "24")],
                &[],
                "retention.ms",
                (
                    "86400000",
                    StaticBroker,
                    &[("log.retention.hours", "24", StaticBroker), ("log.retention.hours", "168", Default)],
                ),
            ),
            (
                &[],
                &set_everywhere,
                "retention.ms",
                (
                    "5",
                    DynamicTopic,
                    &[
                        ("retention.ms", "5", DynamicTopic),
                        ("log.retention.ms", "6", DynamicBroker),
                        ("log.retention.ms", "7", DynamicDefaultBroker),
                        ("log.retention.hours", "168", Default),
                    ],
                ),
            ),
            (&[], &[], "flush.messages", ("1", Default, &[("log.flush.interval.messages", "1", Default)])),
            (&[], &[], "preallocate", ("false", Default, &[("log.preallocate", "false", Default)])),
        ];
        for (file, records, name, (value, source, synonyms)) in cases {
            let (config, image) = world(file, records);
            let lines = topic(&config, &image, node, "t");
            let line = lines.iter().find(|line| line.name == name).expect("the table has it");
            let shown: Vec<_> = line
                .synonyms
                .iter()
                .map(|(name, value, source)| (*name, value.as_deref().unwrap_or_default(), *source))
                .collect();
            assert_eq!((line.value.as_deref(), line.source), (Some(value), source), "{name}");
            assert_eq!(shown, synonyms, "{name}");
            assert_ne!(line.documentation, "", "{name}");
        }
    }

    #[test]
    fn a_groups_value_hides_the_brokers() {
        let name = "consumer.session.timeout.ms";
        let (config, image) = world(
            &[("group.consumer.session.timeout.ms", "50000")],
            &[(ConfigResource::group("g"), name, "46000")],
        );
        let line = |id: &str| {
            let lines = group(&config, &image, NodeId(1), id);
            let line = lines.into_iter().find(|line| line.name == name).expect("the table has it");
            (line.value.expect("a value"), line.source, line.synonyms.len())
        };
        assert_eq!(line("g"), ("46000".to_owned(), ValueSource::DynamicGroup, 3));
        assert_eq!(line("other"), ("50000".to_owned(), ValueSource::StaticBroker, 2));
    }
}
