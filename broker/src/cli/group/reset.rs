//! `ottla group reset`.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::Args;
use ottla_client::{At, Cluster, TopicPartition};
use serde_json::{Value, json};

use crate::cli::connect::Connect;
use crate::cli::output::{Output, say};
use crate::cli::place::{self, Place};
use crate::cli::table::Table;
use crate::cli::units;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    group: String,
    /// A topic, or some of its partitions as TOPIC:0,1 [default: all that the group has offsets of].
    #[arg(long, short = 't', value_name = "TOPIC[:PARTITIONS]")]
    topic: Vec<String>,
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, required_unless_present = "shift", help = format!("Where the group is to go on: {}", place::HELP))]
    to: Option<Place>,
    /// Move by so many records from where the group is; negative numbers go back.
    #[arg(long, value_name = "N", allow_hyphen_values = true, conflicts_with = "to")]
    shift: Option<i64>,
    /// Do it; otherwise it is only shown.
    #[arg(long, short = 'x')]
    execute: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cluster = arguments.connect.cluster()?;
    let committed: BTreeMap<TopicPartition, i64> = cluster
        .committed(&arguments.group)?
        .into_iter()
        .map(|(partition, committed)| (partition, committed.offset))
        .collect();
    let partitions = chosen(arguments, &mut cluster, &committed)?;
    let starts = cluster.offsets_of_all(At::Earliest, &partitions)?;
    let ends = cluster.offsets_of_all(At::Latest, &partitions)?;
    let wanted = match (arguments.to, arguments.shift) {
        (Some(place), _) => place.find(&mut cluster, &partitions)?,
        (None, shift) => partitions
            .iter()
            .map(|partition| {
                let from = committed.get(partition).copied().unwrap_or(starts[partition].offset);
                (partition.clone(), from.saturating_add(shift.unwrap_or_default()))
            })
            .collect(),
    };
    // An offset that is not there would leave the choice to each consumer's auto.offset.reset.
    let wanted: BTreeMap<TopicPartition, i64> = wanted
        .into_iter()
        .map(|(partition, offset)| {
            let (start, end) = (starts[&partition].offset, ends[&partition].offset);
            let offset = offset.clamp(start, end.max(start));
            (partition, offset)
        })
        .collect();
    let group = cluster.group(&arguments.group)?;
    let members = group.map_or(0, |group| group.members.len());
    if members > 0 && arguments.execute {
        bail!(
            "group {} has {members} member{}, which would go on from where they are: stop them first (`ottla group describe {0}` shows \
             them)",
            arguments.group,
            if members == 1 { "" } else { "s" }
        );
    }
    if arguments.execute {
        cluster.set_committed(&arguments.group, &wanted)?;
    }
    if arguments.output.is_json() {
        let list = wanted.iter().map(|(at, offset)| {
            json!({
                "topic": at.topic, "partition": at.partition, "before": committed.get(at), "offset": offset,
                "lag": ends[at].offset - offset,
            })
        });
        let answer = json!({
            "group": arguments.group, "executed": arguments.execute, "members": members,
            "partitions": list.collect::<Vec<Value>>(),
        });
        return Ok(say(&answer.to_string())?);
    }
    let mut table = Table::new(&[
        "PARTITION",
        ">BEFORE",
        if arguments.execute { ">NOW" } else { ">WOULD BE" },
        ">TO READ",
    ]);
    for (at, offset) in &wanted {
        let before = committed.get(at).map_or_else(|| "-".to_owned(), ToString::to_string);
        table.row([at.into(), before.into(), offset.into(), units::count(ends[at].offset - offset).into()]);
    }
    say(&table.to_text())?;
    if !arguments.execute {
        eprintln!("nothing is changed: --execute does it");
        if members > 0 {
            eprintln!("the group has {members} members, which must be stopped before");
        }
    }
    Ok(())
}

fn chosen(
    arguments: &Arguments,
    cluster: &mut Cluster,
    committed: &BTreeMap<TopicPartition, i64>,
) -> anyhow::Result<Vec<TopicPartition>> {
    if arguments.topic.is_empty() {
        if committed.is_empty() {
            bail!(
                "group {} has no offsets: say of which topic it is to get some, with --topic",
                arguments.group
            );
        }
        return Ok(committed.keys().cloned().collect());
    }
    let mut chosen = Vec::new();
    for given in &arguments.topic {
        let (name, indexes) = match given.split_once(':') {
            None => (given.as_str(), None),
            Some((name, indexes)) => (name, Some(indexes)),
        };
        let topic = cluster.topic(name)?;
        let Some(indexes) = indexes else {
            chosen.extend(topic.by_name());
            continue;
        };
        for index in indexes.split(',') {
            let Ok(index) = index.trim().parse::<i32>() else {
                bail!("--topic {given}: give partitions as {name}:0,1");
            };
            if topic.partition(index).is_none() {
                let count = topic.partitions.len();
                return Err(ottla_client::Error::NoPartition {
                    topic: name.to_owned(),
                    partition: index,
                    count,
                }
                .into());
            }
            chosen.push(TopicPartition::new(name, index));
        }
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}
