//! Many topics made at once.

use std::time::{Duration, Instant};

use ottla_load::admin::{self, TopicShape};
use ottla_load::served;

use super::flow::fresh_name;
use super::report::{Durable, Measured, Report, Watcher, ping_pong};
use super::target::Target;
use super::{Arguments, interrupt};

/// How long they may take until they are served.
const LIMIT: Duration = Duration::from_secs(300);
/// So many are removed in one request.
const REMOVED_AT_ONCE: usize = 1_000;

pub(super) fn measure(arguments: &Arguments, target: &Target) -> anyhow::Result<Report> {
    let prefix = fresh_name("topics");
    let names: Vec<String> = (0..arguments.topics).map(|number| format!("{prefix}-{number}")).collect();
    let shape = TopicShape {
        partitions: 1,
        replication_factor: arguments.replication_factor,
        configs: arguments.topic_configs(),
    };
    let control = ping_pong()?;
    let mut connection = target.connect()?;
    let watcher = Watcher::begin(target);
    let began = Instant::now();
    let milliseconds = || began.elapsed().as_secs_f64() * 1_000.0;
    admin::create(&mut connection, &names, &shape)?;
    let answered_ms = milliseconds();
    let led = served::wait_until_all_served(target.bootstrap(), &names, LIMIT);
    let led_ms = milliseconds();
    let (broker_processes, generator_cpu_seconds) = watcher.end(0);
    if !arguments.keep {
        for some in names.chunks(REMOVED_AT_ONCE) {
            admin::delete_all(&mut connection, some)?;
        }
    }
    led?;
    interrupt::check()?;
    Ok(Report {
        kind: "topics",
        broker: target.name().to_owned(),
        load: format!(
            "{} topics of one partition in one request, replication factor {}",
            arguments.topics, arguments.replication_factor
        ),
        durability: Durable::none(),
        control,
        broker_processes,
        generator_cpu_seconds,
        measured: Measured::Topics { topics: arguments.topics, answered_ms, led_ms },
    })
}
