//! Quotas, metrics, and what concerns Kafka's own machinery.

use crate::config::setting::Effect::*;
use crate::config::setting::Kind::*;
use crate::config::setting::Setting;
use crate::config::setting::Valid::*;

#[rustfmt::skip]
pub(super) const METERING: &[Setting] = &[
    Setting { name: "alter.log.dirs.replication.quota.window.num", kind: Int, default: Some("11"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How many samples the limit on moving replicas between data directories looks back over." },
    Setting { name: "alter.log.dirs.replication.quota.window.size.seconds", kind: Int, default: Some("1"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How long each sample of the limit on moving replicas between data directories lasts, in seconds." },
    Setting { name: "background.threads", kind: Int, default: Some("10"), valid: Between(1, i64::MAX), effect: JvmOnly, dynamic: true,
        doc: "Threads that Kafka keeps for work in the background, such as deleting files." },
    Setting { name: "client.quota.callback.class", kind: Class, default: None, valid: Any, effect: JvmOnly, dynamic: false,
        doc: "A class that decides which quota a client falls under." },
    Setting { name: "config.providers", kind: List, default: Some(""), valid: Any, effect: JvmOnly, dynamic: true,
        doc: "Names of classes that fetch values of settings from elsewhere, such as a vault." },
    Setting { name: "controller.quota.window.num", kind: Int, default: Some("11"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How many samples the quota on changes of topics and partitions looks back over." },
    Setting { name: "controller.quota.window.size.seconds", kind: Int, default: Some("1"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How long each sample of the quota on changes of topics and partitions lasts, in seconds." },
    Setting { name: "delete.records.purgatory.purge.interval.requests", kind: Int, default: Some("1"), valid: Any, effect: NotYet, dynamic: false,
        doc: "How many answered DeleteRecords requests Kafka leaves in its waiting room before it clears them out." },
    Setting { name: "fetch.purgatory.purge.interval.requests", kind: Int, default: Some("1000"), valid: Any, effect: NotYet, dynamic: false,
        doc: "How many answered fetches Kafka leaves in its waiting room before it clears them out." },
    Setting { name: "kafka.metrics.polling.interval.secs", kind: Int, default: Some("10"), valid: Between(1, i64::MAX), effect: JvmOnly, dynamic: false,
        doc: "How often `kafka.metrics.reporters` are fed, in seconds." },
    Setting { name: "kafka.metrics.reporters", kind: List, default: Some(""), valid: Any, effect: JvmOnly, dynamic: false,
        doc: "Classes that report Kafka's older (Yammer) metrics." },
    Setting { name: "metric.reporters", kind: List, default: Some("org.apache.kafka.common.metrics.JmxReporter"), valid: Any, effect: JvmOnly, dynamic: true,
        doc: "Classes that report metrics, such as over JMX." },
    Setting { name: "metrics.num.samples", kind: Int, default: Some("2"), valid: Between(1, i64::MAX), effect: JvmOnly, dynamic: false,
        doc: "How many samples a metric is computed from." },
    Setting { name: "metrics.recording.level", kind: Text, default: Some("INFO"), valid: Any, effect: JvmOnly, dynamic: false,
        doc: "How much detail metrics have: `INFO`, `DEBUG` or `TRACE`." },
    Setting { name: "metrics.sample.window.ms", kind: Long, default: Some("30000"), valid: Between(1, i64::MAX), effect: JvmOnly, dynamic: false,
        doc: "How long each sample of a metric lasts, in milliseconds." },
    Setting { name: "producer.purgatory.purge.interval.requests", kind: Int, default: Some("1000"), valid: Any, effect: NotYet, dynamic: false,
        doc: "How many answered produce requests Kafka leaves in its waiting room before it clears them out." },
    Setting { name: "quota.window.num", kind: Int, default: Some("11"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How many samples the quotas of clients look back over." },
    Setting { name: "quota.window.size.seconds", kind: Int, default: Some("1"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How long each sample of the quotas of clients lasts, in seconds." },
    Setting { name: "replication.quota.window.num", kind: Int, default: Some("11"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How many samples the throttles of replication look back over." },
    Setting { name: "replication.quota.window.size.seconds", kind: Int, default: Some("1"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "How long each sample of the throttles of replication lasts, in seconds." },
    Setting { name: "share.fetch.purgatory.purge.interval.requests", kind: Int, default: Some("1000"), valid: Any, effect: NotYet, dynamic: false,
        doc: "How many answered fetches of share groups Kafka leaves in its waiting room before it clears them out." },
    Setting { name: "telemetry.max.bytes", kind: Int, default: Some("1048576"), valid: Between(1, i64::MAX), effect: NotYet, dynamic: false,
        doc: "The largest push of a client's own metrics that a broker takes, in bytes as they come (KIP-714)." },
];
