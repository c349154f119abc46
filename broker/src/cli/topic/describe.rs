//! `ottla topic describe`.

use std::collections::BTreeMap;

use clap::Args;
use ottla_client::{At, Cluster, ConfigEntry, Partition, Resource, Topic, TopicPartition};
use serde_json::{Value, json};

use super::list::{Health, bytes};
use crate::cli::connect::Connect;
use crate::cli::output::{Output, Tone, say};
use crate::cli::table::{Cell, Table};
use crate::cli::units;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Show every setting, not only those that differ from the default.
    #[arg(long)]
    settings: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

/// A topic with all that was found out about it.
struct Described {
    topic: Topic,
    start: BTreeMap<TopicPartition, i64>,
    end: BTreeMap<TopicPartition, i64>,
    bytes: BTreeMap<TopicPartition, i64>,
    configs: Vec<ConfigEntry>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cluster = arguments.connect.cluster()?;
    let mut described = Vec::new();
    for name in &arguments.topics {
        described.push(Described::of(&mut cluster, name, arguments.settings)?);
    }
    if arguments.output.is_json() {
        let list: Vec<Value> = described.iter().map(Described::to_json).collect();
        return Ok(say(&Value::from(list).to_string())?);
    }
    let texts: Vec<String> = described.iter().map(Described::to_text).collect();
    Ok(say(&texts.join("\n"))?)
}

impl Described {
    fn of(cluster: &mut Cluster, name: &str, all_settings: bool) -> anyhow::Result<Self> {
        let topic = cluster.topic(name)?;
        let partitions: Vec<TopicPartition> = topic.by_name().collect();
        let mut offsets = |at| -> anyhow::Result<BTreeMap<TopicPartition, i64>> {
            let found = cluster.offsets(at, &partitions)?.into_iter();
            Ok(found.filter_map(|(partition, found)| Some((partition, found.ok()?.offset))).collect())
        };
        let (start, end) = (offsets(At::Earliest)?, offsets(At::Latest)?);
        let mut configs = cluster.configs(&Resource::Topic(name.to_owned()), None)?;
        configs.retain(|config| all_settings || !config.is_default);
        configs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { bytes: bytes(cluster), topic, start, end, configs })
    }

    fn name(&self, partition: &Partition) -> TopicPartition {
        TopicPartition::new(self.topic.name.clone(), partition.index)
    }

    fn to_json(&self) -> Value {
        let partitions = self.topic.partitions.iter().map(|partition| {
            let name = self.name(partition);
            json!({
                "partition": partition.index,
                "leader": partition.leader,
                "leader_epoch": partition.leader_epoch,
                "replicas": partition.replicas,
                "isr": partition.isr,
                "offline_replicas": partition.offline,
                "start": self.start.get(&name),
                "end": self.end.get(&name),
                "bytes": self.bytes.get(&name),
            })
        });
        let configs = self
            .configs
            .iter()
            .map(|config| json!({ "name": config.name, "value": config.value, "source": config.source }));
        let health = Health::of(&self.topic);
        json!({
            "topic": self.topic.name,
            "id": self.topic.id.to_string(),
            "internal": self.topic.is_internal,
            "replication_factor": self.topic.replication_factor(),
            "offline": health.offline,
            "under_replicated": health.under_replicated,
            "partitions": partitions.collect::<Vec<_>>(),
            "settings": configs.collect::<Vec<_>>(),
        })
    }

    fn to_text(&self) -> String {
        let topic = &self.topic;
        let mut text = format!(
            "{}  id {}  {} partition{}  {} replica{}\n\n",
            Tone::Bold.paint(&topic.name),
            topic.id,
            topic.partitions.len(),
            if topic.partitions.len() == 1 { "" } else { "s" },
            topic.replication_factor(),
            if topic.replication_factor() == 1 { "" } else { "s" },
        );
        let ids = |ids: &[i32]| {
            if ids.is_empty() {
                "none".to_owned()
            } else {
                ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
        };
        let mut table = Table::new(&[
            ">PARTITION",
            ">LEADER",
            "REPLICAS",
            "IN SYNC",
            ">START",
            ">END",
            ">RECORDS",
            ">SIZE",
            "STATE",
        ]);
        for partition in &topic.partitions {
            let name = self.name(partition);
            let (start, end) = (self.start.get(&name).copied(), self.end.get(&name).copied());
            let records = start.zip(end).map(|(start, end)| end - start);
            let number =
                |found: Option<i64>, show: fn(i64) -> String| found.map_or_else(|| "-".to_owned(), show);
            table.row([
                partition.index.into(),
                partition.leader.map_or_else(|| Cell::new("none", Tone::Bad), Into::into),
                ids(&partition.replicas).into(),
                ids(&partition.isr).into(),
                number(start, |offset| offset.to_string()).into(),
                number(end, |offset| offset.to_string()).into(),
                number(records, units::count).into(),
                number(self.bytes.get(&name).copied(), units::bytes).into(),
                state(partition),
            ]);
        }
        text.push_str(&table.to_text());
        if !self.configs.is_empty() {
            let mut table = Table::new(&["SETTING", "VALUE", "SET FOR"]);
            for config in &self.configs {
                let value = config.value.clone().unwrap_or_else(|| "(hidden)".to_owned());
                table.row([config.name.clone().into(), value.into(), config.source.into()]);
            }
            text.push('\n');
            text.push_str(&table.to_text());
        }
        text
    }
}

fn state(partition: &Partition) -> Cell {
    let missing: Vec<String> = partition
        .replicas
        .iter()
        .filter(|replica| !partition.isr.contains(replica))
        .map(ToString::to_string)
        .collect();
    match (partition.leader, missing.is_empty()) {
        (None, _) => Cell::new("no leader: nobody can read or write", Tone::Bad),
        (Some(_), true) => Cell::new("ok", Tone::Good),
        (Some(_), false) => Cell::new(format!("out of sync: {}", missing.join(",")), Tone::Warning),
    }
}
