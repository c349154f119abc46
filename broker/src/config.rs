//! The settings of a node and of its topics: one table each, from which parsing, DescribeConfigs and validation come.

mod broker_settings;
pub mod describe;
mod group_settings;
#[cfg(test)]
mod hostile;
pub mod properties;
pub mod quorum;
pub mod rules;
pub mod setting;
pub mod topic;
mod topic_settings;

use std::collections::{BTreeMap, BTreeSet};

use broker_settings::BROKER_SETTINGS;
use group_settings::GROUP_SETTINGS;
use setting::{Effect, GroupSetting, Setting, TopicSetting};
use topic_settings::TOPIC_SETTINGS;

pub use topic::TopicConfig;

/// Why a node does not start with these settings.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("{origin}: there is no setting {name}{}", nearest.map_or(String::new(), |near| format!("; did you mean {near}?")))]
    Unknown { origin: String, name: String, nearest: Option<&'static str> },
    #[error("{origin}: {message}")]
    Invalid { origin: String, message: String },
    #[error(
        "{origin}: {name} is refused: this version has no TLS, no authentication and no authorisation, and a node must not look protected when it is not"
    )]
    Refused { origin: String, name: String },
}

/// What was set for this node, before it started, and the table's defaults for the rest.
#[derive(Clone, Debug, Default)]
pub struct Config {
    set: BTreeMap<&'static str, String>,
}

/// One source of settings, the weakest first.
#[derive(Debug)]
pub struct Source {
    /// For messages: `server.properties`, `environment`, `--set`.
    pub origin: String,
    pub pairs: Vec<(String, String)>,
}

#[must_use]
pub fn broker_settings() -> &'static [Setting] {
    &BROKER_SETTINGS
}

#[must_use]
pub fn topic_settings() -> &'static [TopicSetting] {
    TOPIC_SETTINGS
}

#[must_use]
pub fn group_settings() -> &'static [GroupSetting] {
    GROUP_SETTINGS
}

#[must_use]
pub fn group_setting(name: &str) -> Option<&'static GroupSetting> {
    GROUP_SETTINGS.binary_search_by(|group| group.setting.name.cmp(name)).ok().map(|at| &GROUP_SETTINGS[at])
}

#[must_use]
pub fn broker_setting(name: &str) -> Option<&'static Setting> {
    BROKER_SETTINGS.binary_search_by(|setting| setting.name.cmp(name)).ok().map(|at| &BROKER_SETTINGS[at])
}

#[must_use]
pub fn topic_setting(name: &str) -> Option<&'static TopicSetting> {
    TOPIC_SETTINGS.binary_search_by(|topic| topic.setting.name.cmp(name)).ok().map(|at| &TOPIC_SETTINGS[at])
}

/// The value of `replica.selector.class` that sends consumers to followers in their own rack (KIP-392).
pub const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// A Java class name is taken by its meaning: of these we have the same.
const CLASSES_MET: [(&str, &str); 1] = [("replica.selector.class", RACK_AWARE)];

/// What becomes of one setting in a file, or wherever else a node's own settings come from.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It does what it says.
    Acts(&'static Setting),
    /// It would have no effect, but says what is done anyway.
    Default(&'static Setting),
    /// As if it was not there.
    Unset(&'static Setting),
    NotYet(&'static Setting),
    JvmOnly(&'static Setting),
    Invalid(String),
    /// It would only look like protection.
    Refused,
    Unknown {
        nearest: Option<&'static str>,
    },
}

/// Judges one setting for itself.
#[must_use]
pub fn verdict(name: &str, value: &str) -> Verdict {
    let Some(setting) = broker_setting(name) else {
        // Listener prefixes carry settings of security, and those only.
        if name.starts_with("listener.name.") {
            return Verdict::Refused;
        }
        return Verdict::Unknown { nearest: nearest(name) };
    };
    if value.is_empty() && setting.default.is_none() {
        return Verdict::Unset(setting);
    }
    if let Err(message) = setting.check(value) {
        return Verdict::Invalid(message);
    }
    let met = CLASSES_MET.iter().find(|(name, _)| *name == setting.name);
    if met.map_or(setting.effect == Effect::JvmOnly, |(_, class)| value != *class) {
        return Verdict::JvmOnly(setting);
    }
    match setting.effect {
        Effect::Refused if !value.is_empty() => Verdict::Refused,
        Effect::NotYet if Some(value.trim()) != setting.default && !value.is_empty() => {
            Verdict::NotYet(setting)
        }
        Effect::NotYet | Effect::Refused => Verdict::Default(setting),
        Effect::Acts | Effect::JvmOnly => Verdict::Acts(setting),
    }
}

impl Config {
    /// Takes settings from `sources`, later ones over earlier ones. Also returns remarks for the operator.
    ///
    /// # Errors
    /// An unknown name, an impossible value, or a setting that would only look like protection.
    pub fn load(sources: &[Source]) -> Result<(Self, Vec<String>), ConfigError> {
        let (mut config, mut remarks) = (Self::default(), Vec::new());
        let mut idle: BTreeSet<&str> = BTreeSet::new();
        for Source { origin, pairs } in sources {
            for (name, value) in pairs {
                let origin = || origin.clone();
                let setting = match verdict(name, value) {
                    Verdict::Unknown { nearest } => {
                        return Err(ConfigError::Unknown { origin: origin(), name: name.clone(), nearest });
                    }
                    Verdict::Invalid(message) => {
                        return Err(ConfigError::Invalid { origin: origin(), message });
                    }
                    Verdict::Refused => {
                        return Err(ConfigError::Refused { origin: origin(), name: name.clone() });
                    }
                    Verdict::Unset(setting) => {
                        // Also what a weaker source set.
                        config.set.remove(setting.name);
                        continue;
                    }
                    Verdict::JvmOnly(setting) => {
                        remarks.push(format!("{name} concerns a Java virtual machine and has no effect"));
                        setting
                    }
                    Verdict::NotYet(setting) => {
                        idle.insert(setting.name);
                        setting
                    }
                    Verdict::Acts(setting) | Verdict::Default(setting) => setting,
                };
                config.set.insert(setting.name, value.clone());
            }
        }
        if let Some(id) = config.set.get("broker.id").cloned() {
            config.set.entry("node.id").or_insert(id);
        }
        config.check_protocols()?;
        config.quorum()?;
        if !idle.is_empty() {
            let names: Vec<&str> = idle.into_iter().collect();
            remarks.push(format!("set, but without effect in this version: {}", names.join(", ")));
        }
        Ok((config, remarks))
    }

    /// Only PLAINTEXT is spoken.
    fn check_protocols(&self) -> Result<(), ConfigError> {
        let refused =
            |name: &str| Err(ConfigError::Refused { origin: "settings".into(), name: name.to_owned() });
        if self.text("security.inter.broker.protocol").is_some_and(|protocol| protocol != "PLAINTEXT") {
            return refused("security.inter.broker.protocol");
        }
        let map: BTreeMap<&str, &str> = self
            .set
            .get("listener.security.protocol.map")
            .map_or("", String::as_str)
            .split(',')
            .filter_map(|pair| pair.trim().split_once(':'))
            .collect();
        for listener in self.text("listeners").unwrap_or_default().split(',') {
            let name = listener.trim().split("://").next().unwrap_or_default();
            let protocol = map.get(name).copied().unwrap_or(name);
            if matches!(protocol, "SSL" | "SASL_PLAINTEXT" | "SASL_SSL") {
                return refused(listener);
            }
        }
        Ok(())
    }

    /// Sets one value by a program rather than a person.
    pub fn set(&mut self, name: &str, value: &str) {
        let setting = broker_setting(name).expect("a program names settings that exist");
        self.set.insert(setting.name, value.to_owned());
    }

    /// What was set for this node itself.
    #[must_use]
    pub fn static_value(&self, name: &str) -> Option<&str> {
        self.set.get(name).map(String::as_str)
    }

    /// What is in force, as far as the node's own settings and the table say.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.static_value(name).or_else(|| broker_setting(name).and_then(|setting| setting.default))
    }

    /// A number. A name that the table lacks, or without a value, is a mistake of the program.
    #[must_use]
    pub fn number(&self, name: &str) -> i64 {
        let text = self.text(name).unwrap_or_default();
        text.trim().parse().unwrap_or_else(|_| panic!("{name} has no number: {text:?}"))
    }

    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
    }
}

/// The known name that is fewest edits away, if few are.
fn nearest(name: &str) -> Option<&'static str> {
    BROKER_SETTINGS
        .iter()
        .map(|setting| (edits(name, setting.name), setting.name))
        .min()
        .filter(|(edits, _)| *edits <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            let best = change.min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Result<(Config, Vec<String>), ConfigError> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(&[Source { origin: "--set".into(), pairs }])
    }

    #[test]
    fn the_tables_are_sorted_and_their_defaults_valid() {
        assert!(BROKER_SETTINGS.is_sorted_by_key(|setting| setting.name));
        assert!(TOPIC_SETTINGS.is_sorted_by_key(|topic| topic.setting.name));
        assert!(GROUP_SETTINGS.is_sorted_by_key(|group| group.setting.name));
        let topics = TOPIC_SETTINGS.iter().map(|topic| &topic.setting);
        let groups = GROUP_SETTINGS.iter().map(|group| &group.setting);
        for setting in BROKER_SETTINGS.iter().chain(topics).chain(groups) {
            if let Some(default) = setting.default {
                assert_eq!(setting.check(default), Ok(()), "{}", setting.name);
            }
        }
        for topic in TOPIC_SETTINGS {
            for (name, _) in topic.synonyms {
                assert!(broker_setting(name).is_some(), "{name}");
            }
        }
        for group in GROUP_SETTINGS {
            for name in [group.synonym, group.at_least, group.at_most].into_iter().flatten() {
                assert!(broker_setting(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn every_setting_is_described_in_words_of_its_own() {
        let topics = TOPIC_SETTINGS.iter().map(|topic| &topic.setting);
        let groups = GROUP_SETTINGS.iter().map(|group| &group.setting);
        let mut described: BTreeMap<&str, &str> = BTreeMap::new();
        for setting in BROKER_SETTINGS.iter().chain(topics).chain(groups) {
            let name = setting.name;
            assert!(setting.doc.ends_with('.'), "{name}: {:?}", setting.doc);
            assert!(setting.documentation().starts_with(setting.doc), "{name}");
            if let Some(other) = described.insert(setting.doc, name) {
                panic!("{name} and {other} are both described as: {}", setting.doc);
            }
        }
    }

    #[test]
    fn a_description_says_when_its_setting_does_nothing() {
        for (name, ends) in [
            ("num.partitions", "does not say."),
            ("num.io.threads", "Has no effect in this version."),
            ("metric.reporters", "has no effect here."),
            ("ssl.keystore.location", "this version has no security."),
        ] {
            let text = broker_setting(name).expect("a setting").documentation();
            assert!(text.ends_with(ends), "{name}: {text}");
        }
    }

    #[test]
    fn a_misspelt_name_is_refused_with_the_nearest_known_one() {
        let error = load(&[("log.retention.hour", "5")]).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "--set: there is no setting log.retention.hour; did you mean log.retention.hours?"
        );
        let error = load(&[("completely.else.where", "5")]).expect_err("unknown");
        assert_eq!(error.to_string(), "--set: there is no setting completely.else.where");
    }

    #[test]
    fn what_only_looks_like_protection_is_refused() {
        for (name, value) in [
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("ssl.keystore.location", "/k"),
            ("sasl.enabled.mechanisms", "PLAIN"),
            ("listeners", "SASL_SSL://:9092"),
            ("listener.name.a.sasl.jaas.config", "x"),
        ] {
            assert!(matches!(load(&[(name, value)]), Err(ConfigError::Refused { .. })), "{name}");
        }
    }

    #[test]
    fn settings_that_do_not_act_are_named_in_one_remark() {
        let pairs = [("num.io.threads", "9"), ("num.replica.fetchers", "3"), ("log.cleaner.threads", "1")];
        let (_, remarks) = load(&pairs).expect("accepted");
        assert_eq!(remarks.len(), 1, "{remarks:?}");
        assert!(remarks[0].ends_with("num.io.threads, num.replica.fetchers"), "{remarks:?}");
    }

    #[test]
    fn an_empty_value_unsets_what_has_no_default_and_is_no_number() {
        let source = |value: &str| Source {
            origin: "file".into(),
            pairs: vec![("log.roll.ms".into(), value.into()), ("num.partitions".into(), "3".into())],
        };
        let (config, _) = Config::load(&[source("5"), source("")]).expect("valid");
        assert_eq!(config.static_value("log.roll.ms"), None);
        let image = ottla_machine::controller::image::Image::default();
        let topic = TopicConfig::resolve(&config, &image, ottla_protocol::types::NodeId(1), "t");
        assert_eq!(topic.segment_ms, 168 * 3_600_000);
        assert!(matches!(load(&[("num.partitions", "")]), Err(ConfigError::Invalid { .. })));
    }

    #[test]
    fn later_sources_win_and_java_names_are_remarked_upon() {
        let source = |origin: &str, value: &str| Source {
            origin: origin.into(),
            pairs: vec![("num.partitions".into(), value.into())],
        };
        let (config, _) = Config::load(&[source("file", "3"), source("environment", "4")]).expect("valid");
        assert_eq!(config.number("num.partitions"), 4);
        let (_, remarks) = load(&[("metric.reporters", "a.B")]).expect("accepted");
        assert_eq!(remarks.len(), 1);
        let rack_aware = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
        assert_eq!(
            load(&[("replica.selector.class", rack_aware)]).expect("accepted").1,
            Vec::<String>::new()
        );
    }
}
