//! `load`: the generator on the command line. Every command prints one line of JSON.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use ottla_load::admin::{self, TopicShape};
use ottla_load::bootstrap::{self, Bootstrap};
use ottla_load::first_record::{self, Wish};
use ottla_load::gap::{self, Steady};
use ottla_load::payload::{BatchShape, Content};
use ottla_load::plan::{Pace, Plan, Span, Writers, now_ms};
use ottla_load::{Watch, control};
use serde_json::json;

/// How long a new topic may take until it is served.
const NEW_TOPIC_LIMIT: Duration = Duration::from_secs(60);

/// A cheap load generator for anything that speaks Kafka's protocol.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produces to a topic, as fast as it goes or at a rate.
    Produce(Produce),
    /// Makes many topics in one request.
    Topics(Topics),
    /// Waits for a broker that starts until it has acknowledged a record.
    First(First),
    /// Removes a topic.
    Remove(Topic),
    /// Tells which node decides, and how a topic's partitions are led.
    Leaders(Topic),
    /// Produces steadily to one partition, and tells the longest time without an acknowledgement. Ends after its standard input did and
    /// acknowledgements go on.
    Gap(GapOf),
    /// Measures the machine without a broker.
    Control(Control),
}

#[derive(Args)]
struct Broker {
    /// Where the brokers listen.
    #[arg(long, value_name = "HOST:PORT,...", default_value = "127.0.0.1:9092")]
    bootstrap_server: Bootstrap,
    /// A setting of the topics that are made; may be given several times.
    #[arg(long = "topic-config", value_name = "NAME=VALUE", value_parser = pair)]
    topic_configs: Vec<(String, String)>,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    #[arg(long, default_value_t = 1)]
    replication_factor: i16,
}

impl Broker {
    fn shape(&self) -> TopicShape {
        TopicShape {
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.topic_configs.clone(),
        }
    }
}

#[derive(Args)]
struct Produce {
    #[command(flatten)]
    broker: Broker,
    #[arg(long)]
    topic: String,
    /// The topic is there already; else it is made.
    #[arg(long)]
    existing: bool,
    /// Removes the topic at the end.
    #[arg(long)]
    delete: bool,
    /// Records per second, in an open loop. Without it: as many as the broker takes.
    #[arg(long)]
    rate: Option<f64>,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// Bytes of a batch: as many records as fit, one at least.
    #[arg(long, default_value_t = 16_384)]
    batch: usize,
    #[arg(long, default_value = "all", value_parser = acks)]
    acks: i16,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests that each connection keeps in flight, where no rate is given.
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    /// Seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Threads of the generator.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Seconds before that in which answers are not counted.
    #[arg(long, default_value_t = 0.0)]
    warmup: f64,
    /// So many records instead of a duration; without a rate only.
    #[arg(long, conflicts_with = "rate")]
    records: Option<u64>,
}

#[derive(Args)]
struct Topics {
    #[command(flatten)]
    broker: Broker,
    #[arg(long, default_value_t = 1_000)]
    count: usize,
    /// Names are this and a number.
    #[arg(long)]
    prefix: String,
    /// Waits until every partition is led, too.
    #[arg(long)]
    led: bool,
}

#[derive(Args)]
struct Topic {
    #[command(flatten)]
    broker: Broker,
    #[arg(long)]
    topic: String,
}

#[derive(Args)]
struct GapOf {
    #[command(flatten)]
    broker: Broker,
    /// A topic that is there already.
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 0)]
    partition: i32,
    /// Records per second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// Seconds after which it gives up.
    #[arg(long, default_value_t = 120.0)]
    limit: f64,
}

#[derive(Args)]
struct First {
    #[command(flatten)]
    broker: Broker,
    #[arg(long)]
    topic: String,
    /// The topic is there already and holds records, the first of which is fetched too.
    #[arg(long)]
    existing: bool,
    /// Makes the topic and writes no record.
    #[arg(long)]
    no_record: bool,
    /// Begins when a line comes on standard input.
    #[arg(long)]
    hold: bool,
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// Seconds after which it gives up.
    #[arg(long, default_value_t = 120.0)]
    limit: f64,
}

#[derive(Args)]
struct Control {
    /// Where the file is written whose syncs are timed.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Seconds for each of the two.
    #[arg(long, default_value_t = 2.0)]
    duration: f64,
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        other => Err(format!("{other}: `all` or `1` (nothing answers acks=0, so there is nothing to time)")),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text}: give it as NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Produce(arguments) => produce(arguments),
        Command::Topics(arguments) => topics(&arguments),
        Command::First(arguments) => first(arguments),
        Command::Remove(arguments) => {
            admin::delete(&mut arguments.broker.bootstrap_server.connect()?, &arguments.topic)?;
            print(&json!({}))
        }
        Command::Leaders(arguments) => leaders(&arguments),
        Command::Gap(arguments) => gap(arguments),
        Command::Control(arguments) => {
            let duration = Duration::try_from_secs_f64(arguments.duration)?;
            let pace = control::Pace { pings_per_second: arguments.rate, duration };
            print(&control::measure(&arguments.dir, pace)?)
        }
    }
}

fn produce(arguments: Produce) -> anyhow::Result<()> {
    let bootstrap = &arguments.broker.bootstrap_server;
    let mut admin = bootstrap.connect()?;
    if !arguments.existing {
        admin::create(&mut admin, std::slice::from_ref(&arguments.topic), &arguments.broker.shape())?;
    }
    let duration = Duration::try_from_secs_f64(arguments.duration)?;
    let pace = match arguments.rate {
        Some(rate) => {
            anyhow::ensure!(rate > 0.0, "--rate {rate}: give a number above 0");
            Pace::Rate(rate)
        }
        None => Pace::InFlight(arguments.in_flight.max(1)),
    };
    let shape = BatchShape::filling(arguments.size, arguments.batch);
    let plan = Plan {
        leaders: bootstrap::wait_until_served(bootstrap, &arguments.topic, NEW_TOPIC_LIMIT)?,
        topic: arguments.topic.clone(),
        writers: Some(Writers {
            connections: arguments.connections.max(1),
            content: Content::plain(shape, now_ms()),
            acks: arguments.acks,
            idempotent: false,
            pace,
        }),
        followers: None,
        readers: None,
        warmup: Duration::try_from_secs_f64(arguments.warmup)?,
        span: arguments.records.map_or(Span::Elapsed(duration), Span::Records),
        threads: arguments.threads,
    };
    let outcome = ottla_load::run(&plan, &Watch::over(duration))?;
    let figures = outcome.produce.context("nothing was produced")?;
    anyhow::ensure!(figures.errors.is_empty(), "records were not taken: {:?}", figures.errors);
    if arguments.delete {
        admin::delete(&mut admin, &arguments.topic)?;
    }
    print(&figures)
}

fn topics(arguments: &Topics) -> anyhow::Result<()> {
    let names: Vec<String> =
        (0..arguments.count).map(|number| format!("{}{number}", arguments.prefix)).collect();
    let bootstrap = &arguments.broker.bootstrap_server;
    let mut connection = bootstrap.connect()?;
    let began = Instant::now();
    let milliseconds = || began.elapsed().as_secs_f64() * 1_000.0;
    admin::create(&mut connection, &names, &arguments.broker.shape())?;
    let answered_ms = milliseconds();
    if arguments.led {
        for name in &names {
            bootstrap::wait_until_served(bootstrap, name, NEW_TOPIC_LIMIT)?;
        }
    }
    let led_ms = arguments.led.then(milliseconds);
    print(&json!({ "topics": names.len(), "answered_ms": answered_ms, "led_ms": led_ms }))
}

fn leaders(arguments: &Topic) -> anyhow::Result<()> {
    let mut connection = arguments.broker.bootstrap_server.connect()?;
    let controller = bootstrap::controller(&mut connection)?;
    let partitions = bootstrap::partitions(&mut connection, &arguments.topic)?;
    print(&json!({ "controller": controller, "partitions": partitions }))
}

fn gap(arguments: GapOf) -> anyhow::Result<()> {
    let steady = Steady {
        bootstrap: arguments.broker.bootstrap_server,
        topic: arguments.topic,
        partition: arguments.partition,
        records_per_second: arguments.rate,
        value_bytes: arguments.size,
        limit: Duration::try_from_secs_f64(arguments.limit)?,
    };
    let ending = std::sync::Arc::new(AtomicBool::new(false));
    let at_end = std::sync::Arc::clone(&ending);
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        at_end.store(true, Ordering::Release);
    });
    // Who ends a broker waits for this line.
    let gap = gap::measure(&steady, &ending, || drop(writeln!(io::stdout(), "steady")))?;
    print(&gap)
}

fn first(arguments: First) -> anyhow::Result<()> {
    let wish = Wish {
        create: (!arguments.existing).then(|| arguments.broker.shape()),
        bootstrap: arguments.broker.bootstrap_server,
        record: !arguments.no_record,
        fetch: arguments.existing,
        topic: arguments.topic,
        value_bytes: arguments.size,
        limit: Duration::try_from_secs_f64(arguments.limit)?,
    };
    // Who starts the broker waits for this line, so that the start of this process is no part of what is measured.
    writeln!(io::stdout(), "waiting")?;
    if arguments.hold {
        io::stdin().read_line(&mut String::new())?;
    }
    print(&first_record::wait(&wish)?)
}

fn print(figures: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout();
    serde_json::to_writer(&mut out, figures)?;
    writeln!(out)?;
    Ok(())
}
