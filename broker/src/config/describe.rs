//! Settings as DescribeConfigs shows them.

use ottla_machine::controller::image::{ConfigResource, Image};
use ottla_protocol::types::NodeId;

use super::setting::{Kind, Setting};
use super::topic::{ValueSource, broker_value, effective, scaled};
use super::{Config, broker_setting, broker_settings, topic_settings};

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
                synonyms.push((setting.name, Some(value.to_string()), ValueSource::DynamicTopic));
            }
            for (name, factor) in row.synonyms {
                synonyms.extend(broker_synonyms(config, image, Some(node), name, *factor));
            }
            describe(setting, value, source, false, synonyms)
        })
        .collect()
}

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
        .map(|setting| {
            let set = broker_value(config, image, id, setting.name);
            let (value, source) = match set {
                Some((value, source)) => (Some(value), source),
                None => (setting.default.map(str::to_owned), ValueSource::Default),
            };
            let synonyms = broker_synonyms(config, image, Some(id), setting.name, 1);
            describe(setting, value, source, !setting.dynamic, synonyms)
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
        value: value.filter(|_| !sensitive),
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
    factor: i64,
) -> Vec<(&'static str, Option<String>, ValueSource)> {
    let value = |value: &str| Some(scaled(value, factor));
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
    if let Some(default) = broker_setting(name).and_then(|setting| setting.default) {
        synonyms.push((name, value(default), ValueSource::Default));
    }
    synonyms
}
