//! `ottla topic list`.

use std::collections::BTreeMap;

use clap::Args;
use ottla_client::{At, Cluster, Topic, TopicPartition};
use serde_json::json;

use crate::cli::connect::Connect;
use crate::cli::output::{Output, Tone, say};
use crate::cli::table::{Cell, Table};
use crate::cli::units;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// Also the cluster's own topics.
    #[arg(long, short = 'a')]
    all: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cluster = arguments.connect.cluster()?;
    let metadata = cluster.metadata(None, false)?;
    let (hidden, topics): (Vec<Topic>, Vec<Topic>) =
        metadata.topics.into_iter().partition(|topic| topic.is_internal && !arguments.all);
    let partitions: Vec<TopicPartition> = topics.iter().flat_map(Topic::by_name).collect();
    let records = records(&mut cluster, &partitions)?;
    let bytes = bytes(&mut cluster);
    if arguments.output.is_json() {
        let list: Vec<_> = topics
            .iter()
            .map(|topic| {
                let health = Health::of(topic);
                json!({
                    "topic": topic.name,
                    "id": topic.id.to_string(),
                    "internal": topic.is_internal,
                    "partitions": topic.partitions.len(),
                    "replication_factor": topic.replication_factor(),
                    "records": sum(topic, &records),
                    "bytes": sum(topic, &bytes),
                    "offline": health.offline,
                    "under_replicated": health.under_replicated,
                })
            })
            .collect();
        return Ok(say(&json!(list).to_string())?);
    }
    let mut table = Table::new(&["TOPIC", ">PARTITIONS", ">REPLICAS", ">RECORDS", ">SIZE", "STATE"]);
    for topic in &topics {
        let number = |found: Option<i64>, show: fn(i64) -> String| found.map_or_else(|| "-".to_owned(), show);
        table.row([
            topic.name.clone().into(),
            topic.partitions.len().into(),
            topic.replication_factor().into(),
            number(sum(topic, &records), units::count).into(),
            number(sum(topic, &bytes), units::bytes).into(),
            Health::of(topic).cell(),
        ]);
    }
    if table.is_empty() {
        say("no topics; `ottla topic create NAME` makes one")?;
    } else {
        say(&table.to_text())?;
    }
    if !hidden.is_empty() && !topics.is_empty() {
        eprintln!("{} of the cluster's own not shown: --all shows them", hidden.len());
    }
    Ok(())
}

/// A sum over a topic's partitions; `None` unless all are known.
fn sum(topic: &Topic, of: &BTreeMap<TopicPartition, i64>) -> Option<i64> {
    topic.by_name().map(|partition| of.get(&partition).copied()).sum()
}

/// From the beginning to the end of each log: after compaction there are fewer.
fn records(
    cluster: &mut Cluster,
    partitions: &[TopicPartition],
) -> ottla_client::Result<BTreeMap<TopicPartition, i64>> {
    let (start, end) = (cluster.offsets(At::Earliest, partitions)?, cluster.offsets(At::Latest, partitions)?);
    Ok(end
        .into_iter()
        .filter_map(|(partition, end)| {
            let start = start.get(&partition)?.as_ref().ok()?.offset;
            Some((partition, end.ok()?.offset - start))
        })
        .collect())
}

/// The largest replica of each partition, as far as brokers say.
pub(super) fn bytes(cluster: &mut Cluster) -> BTreeMap<TopicPartition, i64> {
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id).collect();
    let mut largest = BTreeMap::new();
    for id in ids {
        for dir in cluster.log_dirs(id).unwrap_or_default() {
            for (partition, bytes) in dir.partitions {
                let known = largest.entry(partition).or_insert(bytes);
                *known = bytes.max(*known);
            }
        }
    }
    largest
}

/// What is wrong with a topic.
pub(super) struct Health {
    pub(super) offline: usize,
    pub(super) under_replicated: usize,
}

impl Health {
    pub(super) fn of(topic: &Topic) -> Self {
        let offline = topic.partitions.iter().filter(|partition| partition.leader.is_none());
        let under = topic.partitions.iter().filter(|partition| partition.is_under_replicated());
        Self { offline: offline.count(), under_replicated: under.count() }
    }

    pub(super) fn cell(&self) -> Cell {
        match (self.offline, self.under_replicated) {
            (0, 0) => Cell::new("ok", Tone::Good),
            (0, under) => Cell::new(format!("{under} under-replicated"), Tone::Warning),
            (offline, _) => Cell::new(format!("{offline} without a leader"), Tone::Bad),
        }
    }
}
