//! `ottla bench`: measures a broker, its own or any that speaks Kafka's protocol, alone or beside another.

mod chart;
mod compare;

mod failover;
mod flow;
mod html;
mod live;
mod quantities;
mod rebalance;
mod report;
mod table;
mod target;
mod topics;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, ValueEnum};
use ottla_load::bootstrap::Bootstrap;
use ottla_protocol::compression::Compression;
use serde_json::json;

use super::interrupt;
use super::output::Output;
use quantities::Speed;
use report::Report;
use target::Target;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Append: requests at a steady rate, from the intended sending to the acknowledgement.
    Produce,
    /// Read what is there, from the page cache or from the disk.
    Fetch,
    /// From the intended sending of a record to its arrival at a consumer.
    EndToEnd,
    /// All three at once: writers, consumers that follow, and consumers that read from the start.
    Mixed,
    /// Make many topics.
    Topics,
    /// A group of many members; one more comes, and goes.
    Rebalance,
    /// Kill the leader of a partition under load: for how long nothing is acknowledged. On nodes of its own alone.
    Failover,
}

/// Where what is fetched comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum From {
    Cache,
    Disk,
}

/// What happens to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGTERM: it hands over what it leads.
    Stop,
    /// SIGSTOP: it hangs.
    Pause,
}

/// When a record counts as acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Durability {
    /// When it is on the disk (`flush.messages=1`).
    Disk,
    /// When it is in memory (`flush.messages=9223372036854775807`, Kafka's default).
    Memory,
}

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// What to measure [default: produce end-to-end fetch].
    #[arg(value_enum, value_name = "KIND")]
    kinds: Vec<Kind>,

    /// Measure brokers that run already. Without it: a node of its own, in a scratch directory that is removed afterwards.
    #[arg(long, value_name = "HOST:PORT,...", help_heading = "Broker")]
    bootstrap_server: Option<Bootstrap>,
    /// Measure this broker too, in turn with the other, and print the ratios.
    #[arg(long, value_name = "HOST:PORT,...", help_heading = "Broker", conflicts_with = "peer_cmd")]
    against: Option<Bootstrap>,
    /// The same with a broker that this command starts: `{port}` and `{dir}` in it stand for a free port and a scratch directory.
    #[arg(long, value_name = "COMMAND", help_heading = "Broker")]
    peer_cmd: Option<String>,
    /// Pairs of runs, where two brokers are compared.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Broker")]
    pairs: u32,
    /// Load before the first pair, where two brokers are compared: a JVM that is cold costs several times more.
    #[arg(long, default_value = "20s", value_parser = quantities::duration, help_heading = "Broker")]
    preheat: Duration,
    /// Nodes of its own [default: 1, or as many as copies are wanted; 3 for failover].
    #[arg(long, help_heading = "Broker", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,
    /// Sets one property on nodes of its own.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = quantities::pair, help_heading = "Broker")]
    set: Vec<(String, String)>,
    /// Where nodes of its own keep their data while it runs [default: the directory for temporary files].
    #[arg(long, value_name = "DIR", help_heading = "Broker")]
    dir: Option<PathBuf>,

    /// Records per second, or `max` for as many as go through [default: 10,000; 1,000 end to end; 100,000 fetched].
    #[arg(long, value_parser = quantities::speed, help_heading = "Load")]
    rate: Option<Speed>,
    /// Bytes of a record's value.
    #[arg(long, default_value = "1KiB", value_parser = quantities::bytes, help_heading = "Load")]
    size: usize,
    /// Bytes of a batch: as many records as fit, one at least [default: 4KiB; one record end to end; 16KiB for what is fetched].
    #[arg(long, value_parser = quantities::bytes, help_heading = "Load")]
    batch: Option<usize>,
    /// `all` or `1`.
    #[arg(long, default_value = "all", value_parser = quantities::acks, help_heading = "Load")]
    acks: i16,
    /// none, gzip, snappy, lz4 or zstd: batches are packed once, before they are sent.
    #[arg(long, default_value = "none", value_parser = quantities::codec, help_heading = "Load")]
    codec: Compression,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=100_000), help_heading = "Load")]
    partitions: i32,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i16).range(1..), help_heading = "Load")]
    replication_factor: i16,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Load")]
    connections: u16,
    /// What counts, such as 10s.
    #[arg(long, default_value = "10s", value_parser = quantities::duration, help_heading = "Load")]
    duration: Duration,
    /// Load before that.
    #[arg(long, default_value = "2s", value_parser = quantities::duration_or_none, help_heading = "Load")]
    warmup: Duration,
    /// Each connection is an idempotent producer.
    #[arg(long, help_heading = "Load")]
    idempotent: bool,
    /// Distinct keys of the records; 0 for none.
    #[arg(long, default_value_t = 0, value_name = "KEYS", help_heading = "Load")]
    key_cardinality: usize,
    /// Requests that each connection keeps in flight, with `--rate max`.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Load")]
    in_flight: u16,
    /// Threads of the load generator: a few that sleep are woken sooner on a busy machine than one that has all to do.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64), help_heading = "Load")]
    threads: u16,
    /// When records count as acknowledged [default: as the broker has it].
    #[arg(long, value_enum, help_heading = "Load")]
    durability: Option<Durability>,
    /// A setting of the topics that are made; may be given several times.
    #[arg(long = "topic-config", value_name = "NAME=VALUE", value_parser = quantities::pair, help_heading = "Load")]
    topic_configs: Vec<(String, String)>,
    /// Leave the topics that were made.
    #[arg(long, help_heading = "Load")]
    keep: bool,

    /// Where what is fetched comes from; `disk` needs a broker on this machine whose files may be opened.
    #[arg(long, value_enum, default_value = "cache", help_heading = "Kinds")]
    from: From,
    /// What is written before it is fetched.
    #[arg(long, default_value = "256MiB", value_parser = quantities::bytes, help_heading = "Kinds")]
    fill: usize,
    /// What one fetch asks for.
    #[arg(long, default_value = "64KiB", value_parser = quantities::bytes, help_heading = "Kinds")]
    fetch_bytes: usize,
    /// Topics that are made, each of one partition.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Kinds")]
    topics: u32,
    /// Members of the group.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=5_000), help_heading = "Kinds")]
    members: u16,
    /// How often one more member comes and goes, or a leader is killed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Kinds")]
    rounds: u16,
    /// What happens to the leader.
    #[arg(long, value_enum, default_value = "kill", help_heading = "Kinds")]
    fault: Fault,

    #[command(flatten)]
    output: Output,
    /// Writes a page with the plots, too.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    html: Option<PathBuf>,
}

impl Arguments {
    fn kinds(&self) -> Vec<Kind> {
        if self.kinds.is_empty() {
            vec![Kind::Produce, Kind::EndToEnd, Kind::Fetch]
        } else {
            self.kinds.clone()
        }
    }

    fn nodes(&self) -> u16 {
        let copies = u16::try_from(self.replication_factor).unwrap_or(1);
        let least = if self.kinds().contains(&Kind::Failover) { 3 } else { 1 };
        self.nodes.unwrap_or(copies.max(least))
    }

    /// What the topics are made with.
    fn topic_configs(&self) -> Vec<(String, String)> {
        let mut configs = self.topic_configs.clone();
        if let Some(durability) = self.durability {
            let every = match durability {
                Durability::Disk => "1".to_owned(),
                Durability::Memory => i64::MAX.to_string(),
            };
            configs.push(("flush.messages".to_owned(), every));
        }
        configs
    }

    fn compares(&self) -> bool {
        self.against.is_some() || self.peer_cmd.is_some()
    }

    /// What the parser can't see in one argument alone.
    fn contradiction(&self) -> Option<String> {
        let kinds = self.kinds();
        let given = self.bootstrap_server.is_some();
        if given && (self.nodes.is_some() || !self.set.is_empty() || self.dir.is_some()) {
            return Some(
                "--nodes, --set and --dir are for nodes of its own: leave out --bootstrap-server".to_owned(),
            );
        }
        if kinds.contains(&Kind::Failover) && (given || self.compares()) {
            let what = "failover kills nodes, so it works on nodes of its own alone";
            return Some(format!("{what}: leave out --bootstrap-server, --against and --peer-cmd"));
        }
        let nodes = self.nodes();
        if !given && i32::from(nodes) < i32::from(self.replication_factor) {
            return Some(format!(
                "--replication-factor {} on {nodes} node(s): give --nodes {0} or more, or a smaller factor",
                self.replication_factor
            ));
        }
        if kinds.contains(&Kind::Failover) && nodes < 3 {
            return Some(format!("failover with --nodes {nodes}: two of three nodes must remain to lead on"));
        }
        if self.durability.is_some() && self.topic_configs.iter().any(|(name, _)| name == "flush.messages") {
            return Some("--durability sets flush.messages: leave out one of them".to_owned());
        }
        if self.size == 0 || self.fetch_bytes == 0 || self.batch == Some(0) {
            return Some("--size, --batch and --fetch-bytes are at least 1".to_owned());
        }
        None
    }
}

/// Measures, tells, and cleans up.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(contradiction) = arguments.contradiction() {
        // As the parser's own errors: exit code 2.
        super::CommandLine::command().error(clap::error::ErrorKind::ValueValidation, contradiction).exit();
    }
    interrupt::listen()?;
    let result = measure(&arguments);
    if interrupt::came() {
        // All that was started has ended: it was dropped with what measured it.
        std::process::exit(interrupt::EXIT_CODE);
    }
    result
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let ours = Target::ours(arguments)?;
    if !arguments.compares() {
        let mut reports = Vec::new();
        for kind in arguments.kinds() {
            reports.push(one(arguments, kind, &ours)?);
            if !arguments.output.is_json() {
                say(&table::of_report(reports.last().context("it was just made")?))?;
            }
        }
        return finish(arguments, &reports, None);
    }
    let theirs = Target::theirs(arguments)?;
    let (reports, comparison) = compare::run(arguments, &ours, &theirs)?;
    if !arguments.output.is_json() {
        say(&table::of_comparison(&comparison))?;
    }
    finish(arguments, &reports, Some(&comparison))
}

/// One kind on one broker.
fn one(arguments: &Arguments, kind: Kind, target: &Target) -> anyhow::Result<Report> {
    let report = match kind {
        Kind::Produce | Kind::Fetch | Kind::EndToEnd | Kind::Mixed => flow::measure(arguments, kind, target),
        Kind::Topics => topics::measure(arguments, target),
        Kind::Rebalance => rebalance::measure(arguments, target),
        Kind::Failover => failover::measure(arguments, target),
    };
    interrupt::check()?;
    let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    report.with_context(|| format!("{name} on {}", target.name()))
}

fn finish(
    arguments: &Arguments,
    reports: &[Report],
    comparison: Option<&compare::Comparison>,
) -> anyhow::Result<()> {
    if let Some(path) = &arguments.html {
        let page = html::page(reports, comparison);
        std::fs::write(path, page).with_context(|| format!("can't write {}", path.display()))?;
        eprintln!("the plots are in {}", path.display());
    }
    if arguments.output.is_json() {
        let document = json!({
            "ottla": env!("CARGO_PKG_VERSION"),
            "machine": report::machine(),
            "runs": reports,
            "comparison": comparison,
        });
        say(&format!("{document}\n"))?;
    }
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
