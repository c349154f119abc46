//! The tables as the controller's machine asks for them.

use std::sync::Arc;

use ottla_machine::controller::command::{ConfigRules, Failure};
use ottla_machine::controller::image::{ConfigKind, ConfigResource, Image};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::NodeId;

use super::setting::{Effect, Kind};
use super::topic::{broker_value, effective};
use super::{Config, broker_setting, topic_setting};

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
}

impl ConfigRules for Rules {
    fn partitions(&self, image: &Image) -> i32 {
        i32::try_from(self.number(image, "num.partitions")).unwrap_or(1)
    }

    fn replication_factor(&self, image: &Image) -> i16 {
        i16::try_from(self.number(image, "default.replication.factor")).unwrap_or(1)
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
                        "Tiered storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.",
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
            ConfigKind::Group | ConfigKind::ClientMetrics | ConfigKind::BrokerLogger => Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!("Unsupported in this version: configuration {key} of this kind of resource"),
            )),
        }
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
