//! A leader that ends under load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use ottla_load::admin::{self, TopicShape};
use ottla_load::bootstrap;
use ottla_load::gap::{self, Gap, Steady};
use ottla_load::served;

use super::flow::fresh_name;
use super::quantities::Speed;
use super::report::{Durable, Measured, Report, Watcher, ping_pong};
use super::target::{Nodes, Target};
use super::{Arguments, Fault, interrupt};

/// How long a cluster may take to be whole, or to lead again.
const LIMIT: Duration = Duration::from_secs(120);
const RATE: f64 = 500.0;

pub(super) fn measure(arguments: &Arguments, target: &Target) -> anyhow::Result<Report> {
    let nodes = target.nodes().context("failover needs nodes of its own")?;
    let topic = fresh_name("failover");
    let copies = i16::try_from(arguments.nodes().min(3))?;
    let shape = TopicShape { partitions: 1, replication_factor: copies, configs: arguments.topic_configs() };
    admin::create(&mut target.connect()?, std::slice::from_ref(&topic), &shape)?;
    let control = ping_pong()?;
    let durability = Durable::of(target, &topic);
    let watcher = Watcher::begin(target);
    let rate = match arguments.rate {
        Some(Speed::PerSecond(rate)) => rate,
        Some(Speed::Max) | None => RATE,
    };
    let steady = Steady {
        bootstrap: target.bootstrap().clone(),
        topic,
        partition: 0,
        records_per_second: rate,
        value_bytes: arguments.size,
        limit: LIMIT,
    };
    let mut gaps = Vec::new();
    for round in 0..arguments.rounds {
        interrupt::check()?;
        let gap = one_round(nodes, &steady, arguments.fault)?;
        eprintln!("round {}: nothing acknowledged for {:.0} ms", round + 1, gap.longest_ms);
        gaps.push(gap);
    }
    let (_, generator_cpu_seconds) = watcher.end(0);
    let fault = match arguments.fault {
        Fault::Kill => "kill",
        Fault::Stop => "stop",
        Fault::Pause => "pause",
    };
    Ok(Report {
        kind: "failover",
        broker: target.name().to_owned(),
        load: format!(
            "{rate} records/s of {} B, one to a batch, acks=all, {} nodes, {copies} copies; `ottla cluster {fault}` on the leader, {} times",
            arguments.size,
            arguments.nodes(),
            arguments.rounds
        ),
        durability,
        control,
        // Processes that end take their figures with them.
        broker_processes: None,
        generator_cpu_seconds,
        measured: Measured::Failover {
            fault,
            longest_ms: gaps.iter().map(|gap| gap.longest_ms).collect(),
            acknowledged: gaps.iter().map(|gap| gap.acknowledged).sum(),
            refused: gaps.iter().map(|gap| gap.refused).sum(),
        },
    })
}

/// The leader ends once acknowledgements come steadily, and comes back when they do so again.
fn one_round(nodes: &Nodes, steady: &Steady, fault: Fault) -> anyhow::Result<Gap> {
    served::wait_until_served(&steady.bootstrap, &steady.topic, LIMIT)?;
    let led = bootstrap::partitions(&mut steady.bootstrap.connect()?, &steady.topic)?;
    let leader = led.first().context("the topic has no partition")?.leader.to_string();
    let (does, undoes) = match fault {
        Fault::Kill => ("kill", "start"),
        Fault::Stop => ("stop", "start"),
        Fault::Pause => ("pause", "resume"),
    };
    let ending = AtomicBool::new(false);
    let (is_steady, steady_came) = mpsc::channel();
    let gap = thread::scope(|scope| {
        let on_steady = move || {
            let _ = is_steady.send(());
        };
        let measuring = scope.spawn(|| gap::measure(steady, &ending, on_steady));
        // If it never is, the measurement itself says why.
        let done = match steady_came.recv() {
            Ok(()) => nodes.cluster(&[does, &leader]).map(drop),
            Err(_) => Ok(()),
        };
        ending.store(true, Ordering::Release);
        let gap = measuring.join().expect("the generator does not panic");
        done?;
        Ok::<Gap, anyhow::Error>(gap?)
    })?;
    nodes.cluster(&[undoes, &leader])?;
    anyhow::ensure!(gap.recovered, "acknowledgements did not come again within {LIMIT:?}");
    Ok(gap)
}
