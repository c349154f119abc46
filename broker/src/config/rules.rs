//! The tables as the controller's machine asks for them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ottla_machine::controller::command::{ConfigRules, Failure};
use ottla_machine::controller::image::{ConfigKind, ConfigResource, Image};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::NodeId;

use super::setting::{Effect, GroupSetting, Kind};
use super::topic::{broker_value, effective};
use super::{Config, broker_setting, group_setting, topic_setting};
use crate::api::api_versions::levels_of;

/// The rules of this node's tables and settings.
#[derive(Debug)]
pub struct Rules {
    pub config: Arc<Config>,
    pub node: NodeId,
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidConfig, message)
}

impl Rules {
    fn number(&self, image: &Image, name: &str) -> i64 {
        broker_value(&self.config, image, self.node, name)
            .and_then(|(value, _)| value.trim().parse().ok())
            .unwrap_or_else(|| self.config.number(name))
    }

    /// The value in force for a topic.
    fn of_topic(&self, image: &Image, topic: &str, name: &str) -> String {
        let value = effective(&self.config, image, self.node, Some(topic), name).0.unwrap_or_default();
        value.trim().to_owned()
    }

    /// What the broker's own settings let a group ask for.
    fn check_bounds(&self, group: &GroupSetting, value: &str) -> Result<(), Failure> {
        let name = group.setting.name;
        let Ok(number) = value.parse::<i64>() else { return Ok(()) };
        let bound = |setting: Option<&'static str>| Some((setting?, self.config.number(setting?)));
        if let Some((setting, least)) = bound(group.at_least).filter(|(_, least)| number < *least) {
            return Err(invalid(format!("{name} must be greater than or equal to {setting} ({least})")));
        }
        if let Some((setting, most)) = bound(group.at_most).filter(|(_, most)| number > *most) {
            return Err(invalid(format!("{name} must be less than or equal to {setting} ({most})")));
        }
        Ok(())
    }
}

impl ConfigRules for Rules {
    fn partitions(&self, image: &Image) -> i32 {
        i32::try_from(self.number(image, "num.partitions")).unwrap_or(1)
    }

    fn replication_factor(&self, image: &Image) -> i16 {
        i16::try_from(self.number(image, "default.replication.factor")).unwrap_or(1)
    }

    fn min_insync_replicas(&self, image: &Image, topic: &str) -> usize {
        let value = self.of_topic(image, topic, "min.insync.replicas");
        value.parse().unwrap_or(1)
    }

    fn unclean_election(&self, image: &Image, topic: &str) -> bool {
        self.of_topic(image, topic, "unclean.leader.election.enable").eq_ignore_ascii_case("true")
    }

    fn is_flushed(&self, image: &Image, topic: &str) -> bool {
        self.of_topic(image, topic, "flush.messages") == "1"
    }

    fn feature_levels(&self, name: &str) -> Option<RangeInclusive<i16>> {
        levels_of(name)
    }

    fn may_delete_topics(&self) -> bool {
        self.config.flag("delete.topic.enable")
    }

    fn check(&self, kind: ConfigKind, key: &str, value: &str) -> Result<(), Failure> {
        match kind {
            ConfigKind::Topic => {
                let Some(topic) = topic_setting(key) else {
                    return Err(invalid(format!("Unknown topic config name: {key}")));
                };
                topic.setting.check(value).map_err(invalid)?;
                if key == "remote.storage.enable" && value.trim().eq_ignore_ascii_case("true") {
                    return Err(invalid(
                        "Tiered storage is not part of this version: a topic cannot have remote log storage.",
                    ));
                }
                Ok(())
            }
            ConfigKind::Broker => {
                let Some(setting) = broker_setting(key) else {
                    return Err(Failure::new(
                        ErrorCode::InvalidRequest,
                        format!("Unknown broker config name: {key}"),
                    ));
                };
                if !setting.dynamic {
                    return Err(Failure::new(
                        ErrorCode::InvalidRequest,
                        format!("Cannot update these configs dynamically: [{key}]"),
                    ));
                }
                if setting.effect == Effect::Refused {
                    return Err(Failure::new(
                        ErrorCode::InvalidRequest,
                        format!("{key} is refused: security is not part of this version"),
                    ));
                }
                setting.check(value).map_err(|message| Failure::new(ErrorCode::InvalidRequest, message))
            }
            ConfigKind::Group => {
                let Some(group) = group_setting(key) else {
                    return Err(invalid(format!("Unknown group config name: {key}")));
                };
                group.setting.check(value).map_err(invalid)?;
                self.check_bounds(group, value.trim())
            }
            ConfigKind::ClientMetrics | ConfigKind::BrokerLogger => Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!("Unsupported in this version: configuration {key} of this kind of resource"),
            )),
        }
    }

    fn check_together(
        &self,
        image: &Image,
        kind: ConfigKind,
        set: &BTreeMap<&str, &str>,
    ) -> Result<(), Failure> {
        let number = |key: &str| match (set.get(key), kind) {
            (Some(value), _) => value.trim().parse::<i64>().ok(),
            (None, ConfigKind::Topic) => {
                effective(&self.config, image, self.node, None, key).0?.trim().parse().ok()
            }
            (None, _) => self.config.text(group_setting(key)?.synonym?)?.trim().parse().ok(),
        };
        let in_order: &[(&str, &str)] = match kind {
            ConfigKind::Topic => &[("min.compaction.lag.ms", "max.compaction.lag.ms")],
            ConfigKind::Group => &[
                ("consumer.heartbeat.interval.ms", "consumer.session.timeout.ms"),
                ("share.heartbeat.interval.ms", "share.session.timeout.ms"),
                ("streams.heartbeat.interval.ms", "streams.session.timeout.ms"),
            ],
            _ => &[],
        };
        for (less, more) in in_order {
            if let (Some(small), Some(large)) = (number(less), number(more))
                && small > large
            {
                return Err(invalid(format!("{less} ({small}) must not be larger than {more} ({large})")));
            }
        }
        Ok(())
    }

    fn list(&self, image: &Image, resource: &ConfigResource, key: &str) -> Option<Vec<String>> {
        let value = match resource.kind {
            ConfigKind::Topic => {
                topic_setting(key).filter(|topic| topic.setting.kind == Kind::List)?;
                effective(&self.config, image, self.node, Some(&resource.name), key).0
            }
            ConfigKind::Broker => {
                broker_setting(key).filter(|setting| setting.kind == Kind::List)?;
                image
                    .config(resource, key)
                    .map(ToString::to_string)
                    .or_else(|| self.config.text(key).map(str::to_owned))
            }
            _ => return None,
        };
        let value = value.unwrap_or_default();
        Some(value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_judged_by_their_kind_of_resource() {
        use ConfigKind::*;
        let rules = Rules { config: Arc::default(), node: NodeId(1) };
        let cases = [
            (Topic, "retention.ms", "5", None),
            (Topic, "retention.ms", "-2", Some(ErrorCode::InvalidConfig)),
            (Topic, "no.such", "5", Some(ErrorCode::InvalidConfig)),
            (Topic, "cleanup.policy", "compact,delete", None),
            (Topic, "cleanup.policy", "", None),
            (Topic, "cleanup.policy", "burn", Some(ErrorCode::InvalidConfig)),
            (Topic, "leader.replication.throttled.replicas", "0:1,1:2", None),
            (Topic, "leader.replication.throttled.replicas", "*", None),
            (Topic, "leader.replication.throttled.replicas", "0", Some(ErrorCode::InvalidConfig)),
            (Topic, "remote.storage.enable", "true", Some(ErrorCode::InvalidConfig)),
            (Broker, "log.retention.ms", "5", None),
            (Broker, "log.retention.ms", "x", Some(ErrorCode::InvalidRequest)),
            (Broker, "log.dirs", "/x", Some(ErrorCode::InvalidRequest)),
            (Broker, "max.connections", "5", Some(ErrorCode::InvalidRequest)),
            (Broker, "ssl.keystore.location", "/x", Some(ErrorCode::InvalidRequest)),
            (Group, "consumer.session.timeout.ms", "46000", None),
            (Group, "consumer.session.timeout.ms", "1", Some(ErrorCode::InvalidConfig)),
            (Group, "consumer.heartbeat.interval.ms", "60000", Some(ErrorCode::InvalidConfig)),
            (Group, "share.auto.offset.reset", "by_duration:PT5M", None),
            (Group, "share.auto.offset.reset", "yesterday", Some(ErrorCode::InvalidConfig)),
            (Group, "no.such", "1", Some(ErrorCode::InvalidConfig)),
            (ClientMetrics, "interval.ms", "1000", Some(ErrorCode::InvalidRequest)),
        ];
        for (kind, key, value, expected) in cases {
            let got = rules.check(kind, key, value).err().map(|failure| failure.code);
            assert_eq!(got, expected, "{kind:?} {key}={value}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_together() {
        let rules = Rules { config: Arc::default(), node: NodeId(1) };
        let cases: [(ConfigKind, &[(&str, &str)], bool); 5] = [
            (ConfigKind::Topic, &[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")], false),
            (ConfigKind::Topic, &[("min.compaction.lag.ms", "10")], true),
            (ConfigKind::Topic, &[("max.compaction.lag.ms", "1")], true),
            (ConfigKind::Group, &[("share.heartbeat.interval.ms", "50000")], false),
            (ConfigKind::Broker, &[], true),
        ];
        for (kind, set, valid) in cases {
            let together = rules.check_together(&Image::default(), kind, &set.iter().copied().collect());
            assert_eq!(together.is_ok(), valid, "{kind:?} {set:?}");
        }
    }
}
