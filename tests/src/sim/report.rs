//! What a run did, in numbers.

use std::collections::BTreeMap;
use std::fmt;

use super::plan::Fault;

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub virtual_us: u64,
    pub events: u64,
    pub acknowledged: u64,
    pub consumed: u64,
    pub refusals: u64,
    pub damaged_reads: u64,
    pub elections: u64,
    pub leader_changes: u64,
    pub faults: BTreeMap<Fault, u64>,
    pub converged: bool,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        self.virtual_us += other.virtual_us;
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.consumed += other.consumed;
        self.refusals += other.refusals;
        self.damaged_reads += other.damaged_reads;
        self.elections += other.elections;
        self.leader_changes += other.leader_changes;
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.virtual_us as f64 / 3.6e9;
        writeln!(
            f,
            "{hours:.2} cluster-hours, {} records acknowledged, {} consumed, {} refusals, {} messages, {} leader changes, {} elections",
            self.acknowledged, self.consumed, self.refusals, self.events, self.leader_changes, self.elections
        )?;
        let faults: Vec<String> =
            self.faults.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
        write!(f, "faults: {}", faults.join(", "))
    }
}

/// The brokers' own log lines, beside the trace.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr);
    // Somebody may have asked for them already.
    let _ = logs.try_init();
}
