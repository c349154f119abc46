//! `ottla consume`: prints records.

mod commits;
pub(super) mod format;
mod line;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};

use clap::Args;
use ottla_client::{Cluster, Consumer, Error, Fetched, Isolation, TopicPartition};
use ottla_protocol::record::Record;
use regex::bytes::Regex;

use super::connect::Connect;
use super::interrupt;
use super::output::Output;
use super::place::{self, Place};
use super::progress::Progress;
use super::units;
use commits::Commits;
use format::Format;
use line::{Line, Look};

#[derive(Args)]
#[command(after_help = super::exit::CODES)]
pub(super) struct Arguments {
    /// What to read.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Where to begin; with --group, where the group has committed nothing.
    #[arg(long, short = 'o', value_name = "PLACE", default_value = "beginning", allow_hyphen_values = true, help = format!("Where to begin: {}; with --group only where the group has committed nothing", place::HELP))]
    from: Place,
    /// End where the log ends now, instead of waiting for more.
    #[arg(long, short = 'e')]
    exit: bool,
    /// End after so many records.
    #[arg(long, short = 'c', value_name = "N")]
    count: Option<u64>,
    /// Only these partitions.
    #[arg(long, short = 'p', value_name = "N", value_delimiter = ',', conflicts_with = "group")]
    partition: Vec<i32>,
    /// Only records whose key or value matches this regular expression.
    #[arg(long, short = 'g', value_name = "REGEX")]
    grep: Option<Regex>,
    /// Read as a member of this consumer group, and commit how far that came.
    #[arg(long, short = 'G', value_name = "GROUP")]
    group: Option<String>,
    /// Print by kcat's format.
    #[arg(long, short = 'f', help = format!("Print each record by a format as kcat's: {}", format::HELP))]
    format: Option<Format>,
    /// Leave out records of open and aborted transactions.
    #[arg(long)]
    read_committed: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    interrupt::listen()?;
    if arguments.count == Some(0) {
        return Ok(());
    }
    let mut cluster = arguments.connect.cluster()?;
    let partitions = wanted(arguments, &mut cluster)?;
    let isolation = if arguments.read_committed { Isolation::Committed } else { Isolation::Uncommitted };
    let mut reading = Reading {
        ends: if arguments.exit { Some(Place::End.find(&mut cluster, &partitions)?) } else { None },
        consumer: Consumer::new(cluster, isolation),
        done: BTreeMap::new(),
        printed: 0,
        bytes: 0,
        left: arguments.count,
        look: look(arguments),
        grep: arguments.grep.clone(),
    };
    let mut commits = match &arguments.group {
        None => {
            let start = arguments.from.find(reading.consumer.cluster(), &partitions)?;
            reading.assign(start);
            None
        }
        Some(group) => {
            Some(Commits::join(arguments.connect.cluster()?, group, &arguments.topics, arguments.from)?)
        }
    };
    let outcome = reading.follow(commits.as_mut());
    if let Some(commits) = &mut commits {
        // Also after an error: what was printed was printed.
        commits.finish(&reading.done)?;
    }
    outcome
}

/// The partitions to read, all of which exist.
fn wanted(arguments: &Arguments, cluster: &mut Cluster) -> anyhow::Result<Vec<TopicPartition>> {
    let mut wanted = Vec::new();
    for name in &arguments.topics {
        let topic = cluster.topic(name)?;
        if arguments.partition.is_empty() {
            wanted.extend(topic.by_name());
        }
        for partition in &arguments.partition {
            if topic.partition(*partition).is_none() {
                let count = topic.partitions.len();
                return Err(Error::NoPartition { topic: name.clone(), partition: *partition, count }.into());
            }
            wanted.push(TopicPartition::new(name.clone(), *partition));
        }
    }
    wanted.sort();
    wanted.dedup();
    Ok(wanted)
}

fn look(arguments: &Arguments) -> Look {
    match &arguments.format {
        Some(format) => Look::Format(format.clone()),
        None if arguments.output.is_json() => Look::Json,
        None if io::stdout().is_terminal() => Look::Eyes { named: arguments.topics.len() > 1 },
        None => Look::Bare,
    }
}

struct Reading {
    consumer: Consumer,
    /// Where each partition ends for us; `None`: nowhere.
    ends: Option<BTreeMap<TopicPartition, i64>>,
    /// Behind the last record that was dealt with, by partition.
    done: BTreeMap<TopicPartition, i64>,
    printed: u64,
    bytes: u64,
    left: Option<u64>,
    look: Look,
    grep: Option<Regex>,
}

impl Reading {
    fn assign(&mut self, positions: BTreeMap<TopicPartition, i64>) {
        self.done.retain(|partition, _| positions.contains_key(partition));
        self.consumer.assign(positions);
        self.leave_ended();
    }

    /// What has ended is read no longer.
    fn leave_ended(&mut self) {
        let Some(ends) = &self.ends else { return };
        let positions = self.consumer.positions().clone();
        for (partition, position) in positions {
            if ends.get(&partition).is_some_and(|end| position >= *end) {
                self.consumer.drop_partition(&partition);
            }
        }
    }

    fn follow(&mut self, mut commits: Option<&mut Commits>) -> anyhow::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
        let mut progress = Progress::new(!io::stdout().is_terminal());
        let mut meter = units::Meter::new();
        while !interrupt::came() {
            if let Some(commits) = &mut commits
                && let Some(positions) = commits.tick(&self.done, &mut self.consumer)?
            {
                self.assign(positions);
            }
            if self.ends.is_some()
                && self.consumer.positions().is_empty()
                && commits.as_ref().is_none_or(|commits| commits.is_settled())
            {
                break;
            }
            let fetched = self.consumer.poll()?;
            for notice in self.consumer.take_notices() {
                progress.clear();
                eprintln!("ottla: {notice}");
            }
            for fetched in &fetched {
                self.print(fetched, &mut out)?;
                if self.left == Some(0) {
                    out.flush()?;
                    return Ok(());
                }
            }
            out.flush()?;
            self.leave_ended();
            progress.show(|| {
                let rate = meter.rate(self.printed);
                format!(
                    "{} records, {}, {}",
                    units::count(i64::try_from(self.printed).unwrap_or(i64::MAX)),
                    units::bytes(i64::try_from(self.bytes).unwrap_or(i64::MAX)),
                    units::rate(rate)
                )
            });
        }
        Ok(())
    }

    fn print(&mut self, fetched: &Fetched, out: &mut impl Write) -> anyhow::Result<()> {
        let end =
            self.ends.as_ref().and_then(|ends| ends.get(&fetched.partition).copied()).unwrap_or(i64::MAX);
        let mut next = fetched.next.min(end);
        let (look, grep) = (&self.look, &self.grep);
        let (printed, bytes, left) = (&mut self.printed, &mut self.bytes, &mut self.left);
        fetched.each(|record, timestamp_type| {
            if record.offset.0 >= end {
                return Ok(false);
            }
            if grep.as_ref().is_some_and(|grep| !matches(grep, record)) {
                return Ok(true);
            }
            let (topic, partition) = (fetched.partition.topic.as_str(), fetched.partition.partition);
            look.write(out, &Line { topic, partition, timestamp_type, record })
                .map_err(anyhow::Error::from)?;
            *printed += 1;
            *bytes += (record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64;
            if let Some(left) = left {
                *left -= 1;
                if *left == 0 {
                    next = record.offset.0 + 1;
                    return Ok(false);
                }
            }
            Ok::<bool, anyhow::Error>(true)
        })?;
        self.done.insert(fetched.partition.clone(), next);
        Ok(())
    }
}

fn matches(grep: &Regex, record: &Record<'_>) -> bool {
    [record.key, record.value].into_iter().flatten().any(|field| grep.is_match(field))
}
