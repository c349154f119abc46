//! `ottla topic`: lists, makes, describes, changes and deletes topics.

mod describe;
mod list;

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use ottla_client::{Cluster, ConfigChange, NewTopic, Resource};
use serde_json::json;

use super::connect::Connect;
use super::exit::Said;
use super::output::{Output, harmless, say};

#[derive(Subcommand)]
#[command(after_help = super::exit::CODES)]
pub(super) enum Arguments {
    /// Show all topics, what they hold, and whether they are well.
    List(list::Arguments),
    /// Make a topic.
    Create(Create),
    /// Show a topic's partitions: who leads, who is in sync, where they begin and end; and its settings.
    Describe(describe::Arguments),
    /// Change a topic's settings, or give it more partitions.
    Alter(Alter),
    /// Delete topics with all of their records.
    Delete(Delete),
}

#[derive(Args)]
pub(super) struct Create {
    topic: String,
    /// How many partitions [default: the cluster's num.partitions].
    #[arg(long, short = 'p', value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many replicas of each [default: the cluster's default.replication.factor].
    #[arg(long, short = 'r', value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A setting of the topic, such as retention.ms=3600000; may be given several times.
    #[arg(long = "set", short = 's', visible_alias = "config", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// If the topic is there, take it as it is.
    #[arg(long)]
    if_not_exists: bool,
    /// Only ask whether it could be made.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(super) struct Alter {
    topic: String,
    /// How many partitions it is to have; never fewer than it has.
    #[arg(long, short = 'p', value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Set a setting of the topic.
    #[arg(long = "set", short = 's', value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Take a setting back to its default.
    #[arg(long = "unset", short = 'u', value_name = "NAME")]
    unset: Vec<String>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(super) struct Delete {
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Do not ask.
    #[arg(long, short = 'y')]
    yes: bool,
    /// A topic that is not there is no error.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match arguments {
        Arguments::List(list) => list::run(list),
        Arguments::Create(create) => make(create),
        Arguments::Describe(describe) => describe::run(describe),
        Arguments::Alter(alter) => change(alter),
        Arguments::Delete(delete) => remove(delete),
    }
}

/// `NAME=VALUE`.
fn pair(flag: &str, given: &str) -> anyhow::Result<(String, String)> {
    let (name, value) =
        given.split_once('=').with_context(|| format!("{flag} {given}: give it as NAME=VALUE"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn make(create: &Create) -> anyhow::Result<()> {
    let configs = create.set.iter().map(|set| pair("--set", set)).collect::<anyhow::Result<_>>()?;
    let wanted = NewTopic {
        name: create.topic.clone(),
        partitions: create.partitions.unwrap_or(-1),
        replication_factor: create.replication_factor.unwrap_or(-1),
        configs,
    };
    let mut cluster = create.connect.cluster()?;
    let outcomes = cluster.create_topics(&[wanted], create.dry_run)?;
    let (_, outcome) = outcomes.into_iter().next().context("the broker did not say what became of it")?;
    let mut created = !create.dry_run;
    match outcome {
        Err(error)
            if create.if_not_exists
                && error.code() == Some(ottla_protocol::error::ErrorCode::TopicAlreadyExists) =>
        {
            created = false;
        }
        outcome => outcome?,
    }
    if create.dry_run {
        let answer = json!({ "topic": create.topic, "created": false, "possible": true });
        return Ok(say_either(create.output, &answer, &format!("topic {} could be made", create.topic))?);
    }
    let topic = cluster.topic_or_create(&create.topic, true)?;
    let (partitions, factor) = (topic.partitions.len(), topic.replication_factor());
    let answer = json!({
        "topic": topic.name, "created": created, "id": topic.id.to_string(), "partitions": partitions, "replication_factor": factor,
    });
    let partitions =
        if partitions == 1 { "1 partition".to_owned() } else { format!("{partitions} partitions") };
    let replicas = if factor == 1 { "1 replica".to_owned() } else { format!("{factor} replicas") };
    let text = format!(
        "topic {} {} {partitions} of {replicas}",
        topic.name,
        if created { "is made:" } else { "was there:" }
    );
    Ok(say_either(create.output, &answer, &text)?)
}

fn say_either(output: Output, answer: &serde_json::Value, text: &str) -> io::Result<()> {
    say(&if output.is_json() { answer.to_string() } else { text.to_owned() })
}

fn change(alter: &Alter) -> anyhow::Result<()> {
    let mut changes = Vec::new();
    for set in &alter.set {
        let (name, value) = pair("--set", set)?;
        changes.push(ConfigChange { name, value: Some(value) });
    }
    changes.extend(alter.unset.iter().map(|name| ConfigChange { name: name.clone(), value: None }));
    if changes.is_empty() && alter.partitions.is_none() {
        bail!("nothing to change: give --set NAME=VALUE, --unset NAME or --partitions N");
    }
    let mut cluster = alter.connect.cluster()?;
    let topic = cluster.topic(&alter.topic)?;
    if !changes.is_empty() {
        cluster.alter_configs(&Resource::Topic(alter.topic.clone()), &changes)?;
    }
    if let Some(count) = alter.partitions {
        let has = topic.partitions.len();
        if usize::try_from(count).is_ok_and(|count| count < has) {
            bail!("topic {} has {has} partitions: there can't be fewer, records would be lost", alter.topic);
        }
        cluster.create_partitions(&alter.topic, count)?;
    }
    let set: serde_json::Map<String, serde_json::Value> =
        changes.iter().map(|change| (change.name.clone(), json!(change.value))).collect();
    let answer = json!({ "topic": alter.topic, "set": set, "partitions": alter.partitions });
    let mut text: Vec<String> = changes
        .iter()
        .map(|change| match &change.value {
            Some(value) => format!("topic {}: {} is {value}", alter.topic, change.name),
            None => format!("topic {}: {} has its default again", alter.topic, change.name),
        })
        .collect();
    if let Some(count) = alter.partitions {
        text.push(format!(
            "topic {}: {count} partitions; records of a key may now go to another one than before",
            alter.topic
        ));
    }
    Ok(say_either(alter.output, &answer, &text.join("\n"))?)
}

fn remove(delete: &Delete) -> anyhow::Result<()> {
    let mut cluster = delete.connect.cluster()?;
    let names = existing(&mut cluster, delete)?;
    if !delete.yes && !names.is_empty() && !confirmed(&names)? {
        return Err(Said.into());
    }
    let mut answers = Vec::new();
    let mut failed = false;
    if !names.is_empty() {
        for (name, outcome) in cluster.delete_topics(&names)? {
            let error = outcome.err().map(|error| error.to_string());
            failed |= error.is_some();
            answers.push((name, error));
        }
    }
    if delete.output.is_json() {
        let list: Vec<_> = answers
            .iter()
            .map(|(name, error)| json!({ "topic": name, "deleted": error.is_none(), "error": error }))
            .collect();
        say(&json!(list).to_string())?;
    } else {
        for (name, error) in &answers {
            match error {
                None => say(&format!("topic {name} is deleted"))?,
                Some(error) => eprintln!("ottla: {}", harmless(error)),
            }
        }
    }
    if failed { Err(Said.into()) } else { Ok(()) }
}

/// The named ones, all of which are there: nothing is deleted by a command that is half wrong.
fn existing(cluster: &mut Cluster, delete: &Delete) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in &delete.topics {
        match cluster.topic(name) {
            Ok(_) => names.push(name.clone()),
            Err(ottla_client::Error::NoTopic(_)) if delete.if_exists => {}
            Err(error) => return Err(error.into()),
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Deleted records do not come back: a person is asked, a script must say so.
fn confirmed(names: &[String]) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("deleting {} is for ever: --yes says that it is meant", names.join(", "));
    }
    eprint!("delete {} with all records, for ever? [y/N] ", names.join(", "));
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
