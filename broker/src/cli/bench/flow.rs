//! Records that are written and read: produce, fetch, end to end, mixed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ottla_load::admin::{self, TopicShape};
use ottla_load::bootstrap;
use ottla_load::figures::Outcome;
use ottla_load::payload::{BatchShape, Content};
use ottla_load::plan::{Followers, Pace, Plan, Readers, Span, Writers, now_ms};
use ottla_load::timeline::Stream;
use ottla_load::{Watch, run, served};

use super::live::Live;
use super::quantities::Speed;
use super::report::{Durable, Flow, Measured, Report, Watcher, ping_pong};
use super::target::Target;
use super::{Arguments, From, Kind, interrupt, table};

/// How long a new topic may take until it is served.
const NEW_TOPIC_LIMIT: Duration = Duration::from_secs(60);
/// Whether the run goes on is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// One follower's request brings at most so much.
const FOLLOW_BYTES: i32 = 4 << 20;

/// A topic of the measurement's own, removed at its end.
pub(super) struct Topic<'a> {
    pub(super) name: String,
    target: &'a Target,
    keep: bool,
}

impl<'a> Topic<'a> {
    pub(super) fn make(arguments: &Arguments, target: &'a Target, kind: &str) -> anyhow::Result<Self> {
        let name = fresh_name(kind);
        let shape = TopicShape {
            partitions: arguments.partitions,
            replication_factor: arguments.replication_factor,
            configs: arguments.topic_configs(),
        };
        admin::create(&mut target.connect()?, std::slice::from_ref(&name), &shape)?;
        Ok(Self { name, target, keep: arguments.keep })
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        if !self.keep
            && let Ok(mut connection) = self.target.connect()
            && let Err(error) = admin::delete(&mut connection, &self.name)
        {
            eprintln!("ottla: the topic {} stays: {error}", self.name);
        }
    }
}

/// A name that no other run has.
pub(super) fn fresh_name(kind: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    format!("ottla-bench-{kind}-{}-{:x}-{number}", std::process::id(), now_ms())
}

pub(super) fn measure(arguments: &Arguments, kind: Kind, target: &Target) -> anyhow::Result<Report> {
    let name = match kind {
        Kind::Fetch => "fetch",
        Kind::EndToEnd => "end-to-end",
        Kind::Mixed => "mixed",
        _ => "produce",
    };
    let topic = Topic::make(arguments, target, name)?;
    let control = ping_pong()?;
    let mut plan = plan(arguments, kind, target, &topic.name)?;
    let durability = Durable::of(target, &topic.name);
    if kind == Kind::Fetch && arguments.from == From::Disk {
        let processes =
            target.processes().context("--from disk: the broker's processes are not on this machine")?;
        let evicted = processes.evict(&topic.name);
        evicted.context("--from disk: the broker's files can't be opened")?;
    }
    let (outcome, watch, watcher) = watched(&mut plan, arguments, target, name)?;
    let counted = outcome.produce.as_ref().or(outcome.fetch.as_ref()).map_or(0, |figures| figures.records);
    let (broker_processes, generator_cpu_seconds) = watcher.end(counted);
    let high_watermark = match plan.writers {
        Some(_) => Some(bootstrap::ends(&plan.leaders, &topic.name)?.iter().sum()),
        None => None,
    };
    let streams = Stream::ALL.into_iter().map(|stream| (stream.name(), watch.timeline.points(stream)));
    let timeline = streams.filter(|(_, points)| !points.is_empty()).collect();
    Ok(Report {
        kind: name,
        broker: target.name().to_owned(),
        load: words(arguments, kind, &plan),
        durability,
        control,
        broker_processes,
        generator_cpu_seconds,
        measured: Measured::Flow(Flow { outcome, high_watermark, timeline }),
    })
}

/// Load that is not counted, so that a comparison finds no broker cold.
pub(super) fn preheat(arguments: &Arguments, target: &Target) -> anyhow::Result<()> {
    let topic = Topic::make(arguments, target, "preheat")?;
    let mut plan = Plan {
        leaders: served::wait_until_served(target.bootstrap(), &topic.name, NEW_TOPIC_LIMIT)?,
        topic: topic.name.clone(),
        writers: Some(writers(arguments, 16 << 10, Pace::InFlight(usize::from(arguments.in_flight)))),
        followers: None,
        readers: None,
        warmup: Duration::ZERO,
        span: Span::Elapsed(arguments.preheat),
        threads: usize::from(arguments.threads),
    };
    watched(&mut plan, arguments, target, "preheat").map(drop)
}

/// Runs a plan while somebody looks at it.
fn watched(
    plan: &mut Plan,
    arguments: &Arguments,
    target: &Target,
    name: &'static str,
) -> anyhow::Result<(Outcome, Watch, Watcher)> {
    let duration = match plan.span {
        Span::Elapsed(duration) => duration,
        Span::Records(_) => arguments.duration,
    };
    let watch = Watch::over(duration);
    let mut watcher = Watcher::begin(target);
    let mut live = Live::begin(&format!("{name} on {}", target.name()), duration);
    let outcome = thread::scope(|scope| {
        let running = scope.spawn(|| run(plan, &watch));
        let mut counts = false;
        while !running.is_finished() {
            if !counts && watch.counted_from().is_some_and(|from| from <= Instant::now()) {
                watcher.count_from_now();
                counts = true;
            }
            if interrupt::came() {
                watch.stop.store(true, Ordering::Relaxed);
            }
            watcher.look();
            live.show(&watch);
            thread::sleep(LOOK_EVERY);
        }
        running.join().expect("the generator does not panic")
    });
    live.end();
    interrupt::check()?;
    Ok((outcome?, watch, watcher))
}

fn plan(arguments: &Arguments, kind: Kind, target: &Target, topic: &str) -> anyhow::Result<Plan> {
    let leaders = served::wait_until_served(target.bootstrap(), topic, NEW_TOPIC_LIMIT)?;
    let in_flight = usize::from(arguments.in_flight);
    let pace = |default: f64| match arguments.rate {
        None => Pace::Rate(default),
        Some(Speed::PerSecond(rate)) => Pace::Rate(rate),
        Some(Speed::Max) => Pace::InFlight(in_flight),
    };
    let mut plan = Plan {
        topic: topic.to_owned(),
        leaders,
        writers: None,
        followers: None,
        readers: None,
        warmup: arguments.warmup,
        span: Span::Elapsed(arguments.duration),
        threads: usize::from(arguments.threads),
    };
    match kind {
        Kind::EndToEnd => plan.writers = Some(writers(arguments, arguments.size, pace(1_000.0))),
        Kind::Mixed | Kind::Produce => plan.writers = Some(writers(arguments, 4 << 10, pace(10_000.0))),
        _ => {}
    }
    if matches!(kind, Kind::Fetch | Kind::Mixed) {
        let rate = if kind == Kind::Fetch { pace(100_000.0) } else { Pace::InFlight(1) };
        let readers = fill(arguments, &plan, rate, kind == Kind::Fetch && arguments.from == From::Disk)?;
        if readers.once {
            // Each byte comes from the disk once; nothing is read beforehand.
            plan.warmup = Duration::ZERO;
        }
        plan.readers = Some(readers);
    }
    if matches!(kind, Kind::EndToEnd | Kind::Mixed) {
        let from = bootstrap::ends(&plan.leaders, topic)?;
        plan.followers = Some(Followers { max_bytes: FOLLOW_BYTES, from });
    }
    Ok(plan)
}

fn writers(arguments: &Arguments, batch_bytes: usize, pace: Pace) -> Writers {
    let shape = BatchShape::filling(arguments.size, arguments.batch.unwrap_or(batch_bytes));
    Writers {
        connections: usize::from(arguments.connections),
        content: Content {
            shape,
            codec: arguments.codec,
            keys: arguments.key_cardinality,
            timestamp_ms: now_ms(),
        },
        acks: arguments.acks,
        idempotent: arguments.idempotent,
        pace,
    }
}

/// Writes what is to be read.
fn fill(arguments: &Arguments, plan: &Plan, pace: Pace, once: bool) -> anyhow::Result<Readers> {
    let writers = writers(arguments, 16 << 10, Pace::InFlight(usize::from(arguments.in_flight)));
    let records = (arguments.fill / arguments.size).max(1);
    let filling = Plan {
        writers: Some(writers),
        followers: None,
        readers: None,
        warmup: Duration::ZERO,
        span: Span::Records(u64::try_from(records).unwrap_or(u64::MAX)),
        ..plan.clone()
    };
    let watch = Watch::over(arguments.duration);
    let outcome = run(&filling, &watch)?;
    let failed = outcome.produce.as_ref().map(|figures| &figures.errors).filter(|errors| !errors.is_empty());
    anyhow::ensure!(failed.is_none(), "the topic could not be filled: {failed:?}");
    let ends = bootstrap::ends(&plan.leaders, &plan.topic)?;
    let readers = Readers::of_whole_batches(&writers.content, arguments.fetch_bytes, ends);
    let readers = readers.context("--fetch-bytes is too much")?;
    Ok(Readers { connections: usize::from(arguments.connections), pace, once, ..readers })
}

/// What is asked of the broker.
fn words(arguments: &Arguments, kind: Kind, plan: &Plan) -> String {
    let rate = |pace: Pace| match pace {
        Pace::Rate(rate) => format!("{} records/s", table::number(rate)),
        Pace::InFlight(in_flight) => format!("as fast as it goes, {in_flight} in flight each"),
    };
    let mut words = Vec::new();
    if let Some(writers) = &plan.writers {
        let shape = writers.content.shape;
        words.push(format!(
            "{} of {} B, {} to a batch",
            rate(writers.pace),
            shape.value_bytes,
            shape.records
        ));
        words.push(format!(
            "acks={}",
            if writers.acks == -1 { "all".to_owned() } else { writers.acks.to_string() }
        ));
        if writers.idempotent {
            words.push("idempotent".to_owned());
        }
        if writers.content.keys > 0 {
            let batches = writers.content.batches().len();
            words.push(format!("{} keys", writers.content.distinct_keys(batches)));
        }
    }
    if let Some(readers) = &plan.readers {
        let from = if readers.once { "disk" } else { "cache" };
        let read = format!(
            "{} records to a fetch, {} B values, from {from}",
            readers.records_per_request, arguments.size
        );
        words.push(if kind == Kind::Mixed {
            format!("readers from the start: {read}")
        } else {
            format!("{}, {read}", rate(readers.pace))
        });
    }
    if arguments.codec.bits() != 0 {
        words.push(format!("{:?}", arguments.codec).to_lowercase());
    }
    words.push(counted(arguments.partitions, "partition"));
    words.push(counted(i32::from(arguments.connections), "connection"));
    if arguments.replication_factor > 1 {
        words.push(format!("replication factor {}", arguments.replication_factor));
    }
    words.join(", ")
}

fn counted(count: i32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
