//! `ottla group describe`.

use std::collections::BTreeMap;

use clap::Args;
use ottla_client::{Group, TopicPartition};
use serde_json::json;

use super::{existing, state};
use crate::cli::connect::Connect;
use crate::cli::output::{Output, say};
use crate::cli::table::Table;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    group: String,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cluster = arguments.connect.cluster()?;
    let group = existing(&mut cluster, &arguments.group)?;
    let committed = cluster.committed(&arguments.group)?;
    if arguments.output.is_json() {
        let members = group.members.iter().map(|member| {
            json!({
                "id": member.id, "instance": member.instance, "client_id": member.client_id, "host": member.host,
                "topics": member.topics,
                "partitions": member.partitions.iter().map(|at| json!({ "topic": at.topic, "partition": at.partition })).collect::<Vec<_>>(),
            })
        });
        let offsets = committed.iter().map(|(at, committed)| {
            json!({ "topic": at.topic, "partition": at.partition, "offset": committed.offset })
        });
        let answer = json!({
            "group": group.id, "state": group.state, "type": group.kind, "assignor": group.assignor,
            "coordinator": group.coordinator,
            "members": members.collect::<Vec<_>>(),
            "committed": offsets.collect::<Vec<_>>(),
        });
        return Ok(say(&answer.to_string())?);
    }
    let mut text = head(&group);
    text.push('\n');
    if group.members.is_empty() {
        text.push_str("no members: nobody reads for this group\n");
    } else {
        let mut table = Table::new(&["MEMBER", "CLIENT", "HOST", ">PARTITIONS", "READS"]);
        for member in &group.members {
            let id = member.instance.clone().unwrap_or_else(|| member.id.clone());
            table.row([
                id.into(),
                member.client_id.clone().into(),
                member.host.clone().into(),
                member.partitions.len().into(),
                by_topic(&member.partitions).into(),
            ]);
        }
        text.push_str(&table.to_text());
    }
    if !committed.is_empty() {
        let topics: BTreeMap<&str, usize> = committed.keys().fold(BTreeMap::new(), |mut topics, at| {
            *topics.entry(at.topic.as_str()).or_default() += 1;
            topics
        });
        let topics = topics.iter().map(|(topic, count)| format!("{topic} ({count})"));
        text.push_str(&format!(
            "\noffsets of {}; `ottla group lag {}` compares them to the logs\n",
            topics.collect::<Vec<_>>().join(", "),
            group.id
        ));
    }
    Ok(say(&text)?)
}

pub(super) fn head(group: &Group) -> String {
    use crate::cli::output::Tone;
    let mut table = Table::new(&["GROUP", "STATE", ">MEMBERS", "TYPE", "ASSIGNOR", ">COORDINATOR"]);
    let assignor = if group.assignor.is_empty() { "-" } else { &group.assignor };
    table.row([
        crate::cli::table::Cell::new(&group.id, Tone::Bold),
        state(&group.state),
        group.members.len().into(),
        group.kind.into(),
        assignor.into(),
        group.coordinator.into(),
    ]);
    table.to_text()
}

/// `orders 0-3,7; payments 0`.
fn by_topic(partitions: &[TopicPartition]) -> String {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    let texts: Vec<String> =
        topics.into_iter().map(|(topic, indexes)| format!("{topic} {}", runs(&indexes))).collect();
    texts.join("; ")
}

/// Rising numbers in short: `0-3,7`.
pub(super) fn runs(indexes: &[i32]) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let texts: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_in_runs() {
        assert_eq!(runs(&[0, 1, 2, 3, 7]), "0-3,7");
        assert_eq!(runs(&[4, 5]), "4,5");
        assert_eq!(runs(&[]), "");
        let at = |topic: &str, index| TopicPartition::new(topic, index);
        assert_eq!(by_topic(&[at("a", 0), at("b", 1), at("b", 2), at("b", 3)]), "a 0; b 1-3");
    }
}
