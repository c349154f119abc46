//! `ottla group`: consumer groups, how far they have come, and how far behind they are.

mod describe;
mod diagnosis;
mod lag;
mod reset;
mod sample;

use clap::{Args, Subcommand};
use ottla_client::{Cluster, Group};
use serde_json::{Value, json};

use super::connect::Connect;
use super::exit::Said;
use super::output::{Output, Tone, harmless, say};
use super::table::{Cell, Table};

#[derive(Subcommand)]
#[command(after_help = super::exit::CODES)]
pub(super) enum Arguments {
    /// Show all groups.
    List(List),
    /// Show a group's members and what each reads.
    Describe(describe::Arguments),
    /// Show how far behind a group is, how fast it reads, when it will have caught up, and why not.
    Lag(lag::Arguments),
    /// Set where a group without members goes on; shows what would change unless told to --execute.
    Reset(reset::Arguments),
    /// Forget groups without members, with their offsets.
    Delete(Delete),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(super) struct Delete {
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match arguments {
        Arguments::List(list) => show_all(list),
        Arguments::Describe(describe) => describe::run(describe),
        Arguments::Lag(lag) => lag::run(lag),
        Arguments::Reset(reset) => reset::run(reset),
        Arguments::Delete(delete) => remove(delete),
    }
}

fn show_all(list: &List) -> anyhow::Result<()> {
    let mut cluster = list.connect.cluster()?;
    let mut rows = Vec::new();
    for group in cluster.groups()? {
        let members = cluster.group(&group.id)?.map(|group| group.members.len());
        rows.push((group, members));
    }
    if list.output.is_json() {
        let groups = rows.iter().map(|(group, members)| {
            json!({
                "group": group.id, "state": group.state, "type": group.kind, "protocol": group.protocol_type,
                "coordinator": group.coordinator, "members": members,
            })
        });
        return Ok(say(&Value::from(groups.collect::<Vec<_>>()).to_string())?);
    }
    if rows.is_empty() {
        return Ok(say("no groups")?);
    }
    let mut table = Table::new(&["GROUP", "STATE", ">MEMBERS", "TYPE", ">COORDINATOR"]);
    for (group, members) in rows {
        let members = members.map_or_else(|| "-".to_owned(), |members| members.to_string());
        table.row([
            group.id.into(),
            state(&group.state),
            members.into(),
            group.kind.into(),
            group.coordinator.into(),
        ]);
    }
    Ok(say(&table.to_text())?)
}

fn state(name: &str) -> Cell {
    let tone = match name {
        "Stable" => Tone::Good,
        "Dead" => Tone::Bad,
        _ => Tone::Warning,
    };
    Cell::new(name, tone)
}

/// A group that must be there.
fn existing(cluster: &mut Cluster, name: &str) -> anyhow::Result<Group> {
    match cluster.group(name)? {
        Some(group) => Ok(group),
        None => anyhow::bail!("there is no group {name}; `ottla group list` shows which there are"),
    }
}

fn remove(delete: &Delete) -> anyhow::Result<()> {
    let mut cluster = delete.connect.cluster()?;
    let outcomes = cluster.delete_groups(&delete.groups)?;
    let failed = outcomes.iter().any(|(_, outcome)| outcome.is_err());
    if delete.output.is_json() {
        let list = outcomes.iter().map(|(name, outcome)| {
            let error = outcome.as_ref().err().map(ToString::to_string);
            json!({ "group": name, "deleted": error.is_none(), "error": error })
        });
        say(&Value::from(list.collect::<Vec<_>>()).to_string())?;
        return if failed { Err(Said.into()) } else { Ok(()) };
    }
    let mut last = None;
    for (name, outcome) in outcomes {
        match outcome {
            Ok(()) => say(&format!("group {name} is forgotten"))?,
            Err(error) => {
                if let Some(before) = last.replace(error) {
                    eprintln!("ottla: {}", harmless(&before.to_string()));
                }
            }
        }
    }
    last.map_or(Ok(()), |error| Err(error.into()))
}
