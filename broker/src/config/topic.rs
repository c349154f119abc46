//! A topic's configuration in force: its own, else the brokers', else the table's.

use ottla_machine::controller::image::Image;
use ottla_protocol::batch::TimestampType;
use ottla_protocol::compression::Compression;
use ottla_protocol::types::NodeId;
use ottla_storage::{FillFor, LogOptions};

use super::{Config, topic_setting};

/// Where a value comes from, numbered as in DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueSource {
    DynamicTopic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
    DynamicGroup = 8,
}

/// What a partition's log, its appends and its cleaning go by.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub delete: bool,
    pub compact: bool,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    pub index_interval_bytes: u32,
    pub max_message_bytes: usize,
    pub timestamps: TimestampType,
    pub before_max_ms: i64,
    pub after_max_ms: i64,
    /// 1: the high watermark counts flushed bytes.
    pub flush_messages: i64,
    pub flush_ms: i64,
    /// `None`: as the producer sent it.
    pub compression: Option<Compression>,
    pub compression_level: Option<i32>,
    pub min_insync_replicas: usize,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub delete_retention_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
}

impl TopicConfig {
    /// Resolves the configuration of one topic, as this node sees it.
    #[must_use]
    pub fn resolve(config: &Config, image: &Image, node: NodeId, topic: &str) -> Self {
        let text = |name: &str| effective(config, image, node, Some(topic), name).0.unwrap_or_default();
        let number = |name: &str| {
            text(name).trim().parse::<i64>().unwrap_or_else(|_| panic!("{name} was checked when set"))
        };
        let policy = text("cleanup.policy");
        let has = |what: &str| policy.split(',').any(|item| item.trim() == what);
        let codec = text("compression.type");
        let compression = if codec == "producer" { None } else { Compression::from_name(&codec) };
        let level = match compression {
            Some(Compression::Gzip) => {
                i32::try_from(number("compression.gzip.level")).ok().filter(|level| *level >= 0)
            }
            Some(Compression::Zstd) => i32::try_from(number("compression.zstd.level")).ok(),
            _ => None,
        };
        Self {
            delete: has("delete"),
            compact: has("compact"),
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            segment_bytes: u64::try_from(number("segment.bytes")).unwrap_or(u64::MAX),
            segment_ms: number("segment.ms"),
            segment_jitter_ms: number("segment.jitter.ms"),
            index_interval_bytes: u32::try_from(number("index.interval.bytes")).unwrap_or(u32::MAX),
            max_message_bytes: usize::try_from(number("max.message.bytes")).unwrap_or(usize::MAX),
            timestamps: if text("message.timestamp.type") == "LogAppendTime" {
                TimestampType::LogAppendTime
            } else {
                TimestampType::CreateTime
            },
            before_max_ms: number("message.timestamp.before.max.ms"),
            after_max_ms: number("message.timestamp.after.max.ms"),
            flush_messages: number("flush.messages"),
            flush_ms: number("flush.ms"),
            compression,
            compression_level: level,
            min_insync_replicas: usize::try_from(number("min.insync.replicas")).unwrap_or(usize::MAX),
            min_compaction_lag_ms: number("min.compaction.lag.ms"),
            max_compaction_lag_ms: number("max.compaction.lag.ms"),
            delete_retention_ms: number("delete.retention.ms"),
            min_cleanable_dirty_ratio: text("min.cleanable.dirty.ratio").trim().parse().unwrap_or(0.5),
        }
    }

    #[must_use]
    pub fn log_options(&self) -> LogOptions {
        LogOptions {
            segment_bytes: self.segment_bytes,
            segment_ms: self.segment_ms,
            segment_jitter_ms: 0,
            index_interval_bytes: self.index_interval_bytes,
            fill_for: if self.is_flushed_before_ack() { FillFor::Syncs } else { FillFor::Memory },
        }
    }

    /// Acknowledged means on disk.
    #[must_use]
    pub fn is_flushed_before_ack(&self) -> bool {
        self.flush_messages == 1
    }
}

/// A topic setting's value in force and where it comes from; with `None` for the topic, the one that a new topic would have.
#[must_use]
pub fn effective(
    config: &Config,
    image: &Image,
    node: NodeId,
    topic: Option<&str>,
    name: &str,
) -> (Option<String>, ValueSource) {
    let own = topic.and_then(|topic| image.topic_config(topic, name));
    if let Some(value) = own {
        return (Some(value.to_string()), ValueSource::DynamicTopic);
    }
    let Some(setting) = topic_setting(name) else { return (None, ValueSource::Default) };
    for (synonym, factor) in setting.synonyms {
        if let Some((value, source)) = broker_value(config, image, node, synonym) {
            return (Some(scaled(&value, *factor)), source);
        }
    }
    (setting.setting.default.map(str::to_owned), ValueSource::Default)
}

/// What was set of a broker's setting: for this broker, for all brokers, or in its own file; never a default.
#[must_use]
pub fn broker_value(
    config: &Config,
    image: &Image,
    node: NodeId,
    name: &str,
) -> Option<(String, ValueSource)> {
    use ottla_machine::controller::image::ConfigResource;
    if let Some(value) = image.config(&ConfigResource::broker(Some(node)), name) {
        return Some((value.to_string(), ValueSource::DynamicBroker));
    }
    if let Some(value) = image.config(&ConfigResource::broker(None), name) {
        return Some((value.to_string(), ValueSource::DynamicDefaultBroker));
    }
    config.static_value(name).map(|value| (value.to_owned(), ValueSource::StaticBroker))
}

fn scaled(value: &str, factor: i64) -> String {
    match value.trim().parse::<i64>() {
        // -1 means "for ever" in every unit.
        Ok(number) if factor != 1 && number >= 0 => number.saturating_mul(factor).to_string(),
        _ => value.to_owned(),
    }
}
