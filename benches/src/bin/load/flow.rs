//! Records that are written or read.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use ottla_load::payload::{BatchShape, Content};
use ottla_load::plan::{Followers, Pace, Plan, Readers, Span, Writers, now_ms};
use ottla_load::{Watch, admin, bootstrap, served};

use super::{Broker, NEW_TOPIC_LIMIT, print};

/// What a consumer that follows asks for at most.
const FOLLOW_BYTES: i32 = 4 << 20;

#[derive(Args)]
pub(super) struct Produce {
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
    /// A consumer follows, and what is told is the time from a record's intended sending to its arrival there.
    #[arg(long)]
    follow: bool,
    /// Requests that fail are counted; else they end the measurement.
    #[arg(long)]
    count_errors: bool,
    /// So many records instead of a duration; without a rate only.
    #[arg(long, conflicts_with = "rate")]
    records: Option<u64>,
}

#[derive(Args)]
pub(super) struct Fetch {
    #[command(flatten)]
    broker: Broker,
    /// A topic that was filled with batches of this shape.
    #[arg(long)]
    topic: String,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1_024)]
    size: usize,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 16_384)]
    batch: usize,
    /// Bytes that one request asks for, rounded to whole batches; Kafka's consumers ask for 1 MiB of a partition.
    #[arg(long, default_value_t = 1 << 20)]
    fetch_bytes: usize,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests that each connection keeps in flight: a consumer has one.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that in which answers are not counted.
    #[arg(long, default_value_t = 0.0)]
    warmup: f64,
    /// Threads of the generator.
    #[arg(long, default_value_t = 4)]
    threads: usize,
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        other => Err(format!("{other}: `all` or `1` (nothing answers acks=0, so there is nothing to time)")),
    }
}

/// Writes, and tells what came of it.
pub(super) fn produce(arguments: &Produce) -> anyhow::Result<()> {
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
    let leaders = served::wait_until_served(bootstrap, &arguments.topic, NEW_TOPIC_LIMIT)?;
    let followers = if arguments.follow {
        Some(Followers { max_bytes: FOLLOW_BYTES, from: bootstrap::ends(&leaders, &arguments.topic)? })
    } else {
        None
    };
    let plan = Plan {
        leaders,
        topic: arguments.topic.clone(),
        writers: Some(Writers {
            connections: arguments.connections.max(1),
            content: Content::plain(shape, now_ms()),
            acks: arguments.acks,
            idempotent: false,
            pace,
        }),
        followers,
        readers: None,
        warmup: Duration::try_from_secs_f64(arguments.warmup)?,
        span: arguments.records.map_or(Span::Elapsed(duration), Span::Records),
        threads: arguments.threads,
    };
    let outcome = ottla_load::run(&plan, &Watch::over(duration))?;
    let written = outcome.produce.context("nothing was produced")?;
    let figures = if arguments.follow { outcome.end_to_end.context("nothing was read")? } else { written };
    let errors = &figures.errors;
    anyhow::ensure!(arguments.count_errors || errors.is_empty(), "records were not taken: {errors:?}");
    if arguments.delete {
        admin::delete(&mut admin, &arguments.topic)?;
    }
    print(&figures)
}

/// Reads, and tells what came of it.
pub(super) fn fetch(arguments: &Fetch) -> anyhow::Result<()> {
    let leaders =
        served::wait_until_served(&arguments.broker.bootstrap_server, &arguments.topic, NEW_TOPIC_LIMIT)?;
    let ends = bootstrap::ends(&leaders, &arguments.topic)?;
    anyhow::ensure!(ends.iter().all(|end| *end > 0), "{} has empty partitions: {ends:?}", arguments.topic);
    let content = Content::plain(BatchShape::filling(arguments.size, arguments.batch), now_ms());
    let readers = Readers::of_whole_batches(&content, arguments.fetch_bytes, ends);
    let readers = readers.context("--fetch-bytes is more than a request can ask for")?;
    let duration = Duration::try_from_secs_f64(arguments.duration)?;
    let plan = Plan {
        leaders,
        topic: arguments.topic.clone(),
        writers: None,
        followers: None,
        readers: Some(Readers {
            connections: arguments.connections.max(1),
            pace: Pace::InFlight(arguments.in_flight.max(1)),
            ..readers
        }),
        warmup: Duration::try_from_secs_f64(arguments.warmup)?,
        span: Span::Elapsed(duration),
        threads: arguments.threads,
    };
    let figures = ottla_load::run(&plan, &Watch::over(duration))?.fetch.context("nothing was read")?;
    anyhow::ensure!(figures.errors.is_empty(), "not all was read: {:?}", figures.errors);
    print(&figures)
}
