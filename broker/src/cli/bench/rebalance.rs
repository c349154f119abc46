//! A group of many members.

use std::time::Duration;

use ottla_load::rebalance::{self, Company};

use super::flow::{Topic, fresh_name};
use super::report::{Durable, Measured, Report, Watcher, ping_pong};
use super::target::Target;
use super::{Arguments, interrupt};

/// How long a group may take to settle.
const LIMIT: Duration = Duration::from_secs(120);
/// All members together send about so many heartbeats a second at most.
const HEARTBEATS_PER_SECOND: u32 = 2_000;
const HEARTBEAT_LEAST: Duration = Duration::from_millis(20);

pub(super) fn measure(arguments: &Arguments, target: &Target) -> anyhow::Result<Report> {
    let topic = Topic::make(arguments, target, "rebalance")?;
    let control = ping_pong()?;
    let members = u32::from(arguments.members);
    let heartbeat = (Duration::from_secs(1) / HEARTBEATS_PER_SECOND * members).max(HEARTBEAT_LEAST);
    let company = Company {
        bootstrap: target.bootstrap().clone(),
        group: fresh_name("group"),
        topic: topic.name.clone(),
        members: usize::from(arguments.members),
        rounds: usize::from(arguments.rounds),
        heartbeat,
        limit: LIMIT,
    };
    let watcher = Watcher::begin(target);
    let rebalances = rebalance::measure(&company, interrupt::flag())?;
    let (broker_processes, generator_cpu_seconds) = watcher.end(0);
    let heartbeat_ms = heartbeat.as_secs_f64() * 1_000.0;
    Ok(Report {
        kind: "rebalance",
        broker: target.name().to_owned(),
        load: format!(
            "{} members of a classic group, a heartbeat each {heartbeat_ms:.0} ms; one more comes and goes {} times",
            arguments.members, arguments.rounds
        ),
        durability: Durable::none(),
        control,
        broker_processes,
        generator_cpu_seconds,
        measured: Measured::Rebalance {
            members: arguments.members,
            heartbeat_ms,
            first_ms: rebalances.first_ms,
            join_ms: rebalances.join_ms,
            leave_ms: rebalances.leave_ms,
        },
    })
}
