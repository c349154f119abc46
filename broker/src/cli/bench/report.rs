//! What is told of one measurement.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use ottla_load::control::{self, Pace};
use ottla_load::figures::{Figures, Outcome, to_f64};
use ottla_load::latency::Summary;
use ottla_load::processes::{Processes, Usage};
use ottla_load::timeline::Point;
use ottla_protocol::messages::DescribeConfigsRequest;
use ottla_protocol::messages::describe_configs_request::DescribeConfigsResource;
use serde::Serialize;

use super::target::Target;

const RESOURCE_TOPIC: i8 = 2;
const FLUSH_MESSAGES: &str = "flush.messages";
/// How often a broker's memory is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const MIB: f64 = 1_048_576.0;

/// One kind, measured on one broker.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) kind: &'static str,
    pub(super) broker: String,
    /// What was asked of it, in words.
    pub(super) load: String,
    pub(super) durability: Durable,
    /// A bare round trip over loopback, measured just before.
    pub(super) control: Summary,
    /// Of the broker's own processes; `None` where they are not on this machine, or not to be seen.
    pub(super) broker_processes: Option<Taken>,
    pub(super) generator_cpu_seconds: f64,
    #[serde(flatten)]
    pub(super) measured: Measured,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Measured {
    Flow(Flow),
    Topics { topics: u32, answered_ms: f64, led_ms: f64 },
    Rebalance { members: u16, heartbeat_ms: f64, first_ms: f64, join_ms: Vec<f64>, leave_ms: Vec<f64> },
    Failover { fault: &'static str, longest_ms: Vec<f64>, acknowledged: u64, refused: u64 },
}

/// Records that were written and read.
#[derive(Debug, Serialize)]
pub(super) struct Flow {
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    /// The sum of the partitions' high watermarks afterwards; `None` where nothing was written while it was measured.
    pub(super) high_watermark: Option<i64>,
    /// Latencies by the time at which their requests were due.
    pub(super) timeline: BTreeMap<&'static str, Vec<Point>>,
}

/// What the broker's processes took while it counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Taken {
    pub(super) processes: usize,
    pub(super) cpu_seconds: f64,
    /// Of what was written, or else read.
    pub(super) cpu_seconds_per_million_records: Option<f64>,
    pub(super) rss_anon_mib: f64,
    pub(super) disk_read_mib: Option<f64>,
}

impl Taken {
    pub(super) fn between(before: Usage, after: Usage, processes: usize, peak: u64, records: u64) -> Self {
        let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
        let read = after.disk_read_bytes.zip(before.disk_read_bytes);
        Self {
            processes,
            cpu_seconds,
            cpu_seconds_per_million_records: (records > 0).then(|| cpu_seconds / to_f64(records) * 1e6),
            rss_anon_mib: to_f64(peak.max(after.rss_anon_bytes)) / MIB,
            disk_read_mib: read.map(|(after, before)| to_f64(after.saturating_sub(before)) / MIB),
        }
    }
}

/// When a topic's records count as acknowledged, as its broker says.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Durable {
    pub(super) flush_messages: Option<String>,
    pub(super) acknowledged_from: &'static str,
}

impl Durable {
    pub(super) fn of(target: &Target, topic: &str) -> Self {
        let flush_messages = flush_messages(target, topic);
        let acknowledged_from = match flush_messages.as_deref() {
            Some("1") => "disk",
            Some(_) => "memory",
            None => "unknown",
        };
        Self { flush_messages, acknowledged_from }
    }

    /// Where it does not matter.
    pub(super) fn none() -> Self {
        Self { flush_messages: None, acknowledged_from: "not asked" }
    }

    pub(super) fn words(&self) -> String {
        match &self.flush_messages {
            Some(every) if every == "1" => "every ack on disk (flush.messages=1)".to_owned(),
            Some(every) => format!("acks from memory (flush.messages={every})"),
            None if self.acknowledged_from == "unknown" => {
                "durability unknown: the broker does not say flush.messages".to_owned()
            }
            None => String::new(),
        }
    }
}

fn flush_messages(target: &Target, topic: &str) -> Option<String> {
    let resource = DescribeConfigsResource {
        resource_type: RESOURCE_TOPIC,
        resource_name: topic.into(),
        configuration_keys: Some(vec![FLUSH_MESSAGES.into()]),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let answer = target.connect().ok()?.call(1, &request).ok()?;
    let configs = answer.results.into_iter().flat_map(|result| result.configs);
    configs
        .filter(|config| &*config.name == FLUSH_MESSAGES)
        .find_map(|config| Some(config.value?.to_string()))
}

/// How good more of a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Lower,
    Higher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "1/s")]
    PerSecond,
    #[serde(rename = "MiB/s")]
    MibPerSecond,
    #[serde(rename = "MiB")]
    Mib,
}

/// One figure that can be compared.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) figure: String,
    pub(super) value: f64,
    pub(super) unit: Unit,
    pub(super) better: Better,
}

impl Report {
    /// The streams of a flow, each with its name.
    pub(super) fn streams(&self) -> Vec<(&'static str, &Figures)> {
        let Measured::Flow(flow) = &self.measured else { return Vec::new() };
        let streams = [
            ("produce", &flow.outcome.produce),
            ("end to end", &flow.outcome.end_to_end),
            ("fetch", &flow.outcome.fetch),
        ];
        streams.into_iter().filter_map(|(name, figures)| Some((name, figures.as_ref()?))).collect()
    }

    /// Its figures, one by one.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |figure: String, value, unit, better| rows.push(Row { figure, value, unit, better });
        let kind = self.kind;
        for (name, figures) in self.streams() {
            let name = if name == kind { name.to_owned() } else { format!("{kind}, {name}") };
            let speed = figures.records_per_second;
            row(format!("{name}: records/s reached"), speed, Unit::PerSecond, Better::Higher);
            row(format!("{name}: throughput"), figures.mib_per_second, Unit::MibPerSecond, Better::Higher);
            let latency = &figures.latency;
            let percentiles = [
                ("p50", latency.p50_us),
                ("p90", latency.p90_us),
                ("p99", latency.p99_us),
                ("p99.9", latency.p999_us),
                ("max", latency.max_us),
            ];
            for (percentile, us) in percentiles {
                row(format!("{name}: {percentile}"), us / 1e3, Unit::Milliseconds, Better::Lower);
            }
        }
        let mut ms =
            |what: &str, value| row(format!("{kind}: {what}"), value, Unit::Milliseconds, Better::Lower);
        match &self.measured {
            Measured::Flow(_) => {}
            Measured::Topics { answered_ms, led_ms, .. } => {
                ms("answered", *answered_ms);
                ms("all led", *led_ms);
            }
            Measured::Rebalance { first_ms, join_ms, leave_ms, .. } => {
                ms("first, all at once", *first_ms);
                ms("one more comes, median", median(join_ms));
                ms("one goes, median", median(leave_ms));
            }
            Measured::Failover { longest_ms, .. } => {
                ms("nothing acknowledged, median", median(longest_ms));
                ms("nothing acknowledged, longest", longest_ms.iter().copied().fold(0.0, f64::max));
            }
        }
        if let Some(taken) = &self.broker_processes {
            if let Some(cpu) = taken.cpu_seconds_per_million_records {
                row(format!("{kind}: broker CPU per million records"), cpu, Unit::Seconds, Better::Lower);
            } else {
                row(format!("{kind}: broker CPU"), taken.cpu_seconds, Unit::Seconds, Better::Lower);
            }
            row(format!("{kind}: broker memory"), taken.rss_anon_mib, Unit::Mib, Better::Lower);
        }
        rows
    }
}

/// Looks at a broker's processes while something runs.
pub(super) struct Watcher {
    processes: Option<Processes>,
    before: Option<Usage>,
    generator_before: f64,
    peak: u64,
    looked: Instant,
}

impl Watcher {
    pub(super) fn begin(target: &Target) -> Self {
        let processes = target.processes();
        let mut watcher =
            Self { processes, before: None, generator_before: 0.0, peak: 0, looked: Instant::now() };
        watcher.count_from_now();
        watcher
    }

    /// What was taken before does not count.
    pub(super) fn count_from_now(&mut self) {
        self.before = self.processes.as_ref().and_then(Processes::usage);
        self.generator_before = own_cpu_seconds();
        self.peak = 0;
    }

    /// Asks for the memory, if the last time is long enough ago: whoever asks disturbs.
    pub(super) fn look(&mut self) {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            let bytes = self.processes.as_ref().and_then(Processes::rss_anon_bytes);
            self.peak = self.peak.max(bytes.unwrap_or(0));
        }
    }

    /// What the broker took, and what the generator.
    pub(super) fn end(self, records: u64) -> (Option<Taken>, f64) {
        let after = self.processes.as_ref().and_then(Processes::usage);
        let count = self.processes.as_ref().map_or(0, |processes| processes.pids().len());
        let taken = self
            .before
            .zip(after)
            .map(|(before, after)| Taken::between(before, after, count, self.peak, records));
        (taken, own_cpu_seconds() - self.generator_before)
    }
}

fn own_cpu_seconds() -> f64 {
    Processes::own().usage().map_or(0.0, |usage| usage.cpu_seconds)
}

/// The control that stands beside every figure.
pub(super) fn ping_pong() -> anyhow::Result<Summary> {
    Ok(control::ping_pong(Pace { pings_per_second: 1_000.0, duration: Duration::from_millis(500) })?)
}

pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// The machine, in words that name no host.
pub(super) fn machine() -> serde_json::Value {
    let line_of = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let load = fs::read_to_string("/proc/loadavg").ok();
    serde_json::json!({
        "cpu": line_of("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map(std::num::NonZero::get).ok(),
        "memory": line_of("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|release| release.trim().to_owned()),
        "load_average": load.and_then(|load| load.split(' ').next()?.parse::<f64>().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }
}
