//! `load`: the generator on the command line. Every command prints one line of JSON.

mod flow;
mod idle;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use ottla_load::admin::{self, TopicShape};
use ottla_load::bootstrap::{self, Bootstrap};
use ottla_load::control;
use ottla_load::first_record::{self, Wish};
use ottla_load::gap::{self, Steady};
use ottla_load::served;
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
    Produce(flow::Produce),
    /// Reads what a topic holds, over and over, as fast as it goes.
    Fetch(flow::Fetch),
    /// Opens connections that do nothing, tells how many, and holds them until its standard input ends.
    Idle(idle::Idle),
    /// Makes many topics in one request.
    Topics(Topics),
    /// Waits for a broker that starts until it has acknowledged a record.
    First(First),
    /// Removes a topic, or those that `topics` made.
    Remove(Remove),
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
struct Remove {
    #[command(flatten)]
    of: Topic,
    /// So many, whose names are that and a number.
    #[arg(long)]
    count: Option<usize>,
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

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text}: give it as NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Produce(arguments) => flow::produce(&arguments),
        Command::Fetch(arguments) => flow::fetch(&arguments),
        Command::Idle(arguments) => idle::hold(&arguments),
        Command::Topics(arguments) => topics(&arguments),
        Command::First(arguments) => first(arguments),
        Command::Remove(arguments) => remove(&arguments),
        Command::Leaders(arguments) => leaders(&arguments),
        Command::Gap(arguments) => gap(arguments),
        Command::Control(arguments) => {
            let duration = Duration::try_from_secs_f64(arguments.duration)?;
            let pace = control::Pace { pings_per_second: arguments.rate, duration };
            print(&control::measure(&arguments.dir, pace)?)
        }
    }
}

fn topics(arguments: &Topics) -> anyhow::Result<()> {
    let names = numbered(&arguments.prefix, arguments.count);
    let bootstrap = &arguments.broker.bootstrap_server;
    let mut connection = bootstrap.connect()?;
    let began = Instant::now();
    let milliseconds = || began.elapsed().as_secs_f64() * 1_000.0;
    admin::create(&mut connection, &names, &arguments.broker.shape())?;
    let answered_ms = milliseconds();
    if arguments.led {
        match &names[..] {
            [one] => drop(served::wait_until_served(bootstrap, one, NEW_TOPIC_LIMIT)?),
            many => served::wait_until_all_served(bootstrap, many, NEW_TOPIC_LIMIT)?,
        }
    }
    let led_ms = arguments.led.then(milliseconds);
    print(&json!({ "topics": names.len(), "answered_ms": answered_ms, "led_ms": led_ms }))
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

fn remove(arguments: &Remove) -> anyhow::Result<()> {
    let Topic { broker, topic } = &arguments.of;
    let names = arguments.count.map_or_else(|| vec![topic.clone()], |count| numbered(topic, count));
    admin::delete_all(&mut broker.bootstrap_server.connect()?, &names)?;
    print(&json!({ "topics": names.len() }))
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
