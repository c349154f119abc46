//! What a run did, in numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::plan::Fault;

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub virtual_us: u64,
    /// What the event loop did, and how many of that were pieces of streams that arrived.
    pub events: u64,
    pub messages: u64,
    pub acknowledged: u64,
    pub consumed: u64,
    pub refusals: u64,
    pub elections: u64,
    pub leader_changes: u64,
    pub faults: BTreeMap<Fault, u64>,
    /// Commits of groups that were acknowledged, and shares that their members got.
    pub commits: u64,
    pub assignments: u64,
    pub converged: bool,
    /// Of the virtual time, what passed in runs that acknowledged too little for it.
    pub sparse_us: u64,
    /// How leaders, replicas, in-sync and eligible sets and brokers stood, each once.
    pub states: BTreeSet<u32>,
}

/// A working hour holds at least so many acknowledged records.
const RECORDS_PER_HOUR: u64 = 5_000;

impl Stats {
    pub fn add(&mut self, other: &Self) {
        self.virtual_us += other.virtual_us;
        let wanted = u128::from(other.virtual_us) * u128::from(RECORDS_PER_HOUR) / 3_600_000_000;
        if u128::from(other.acknowledged) < wanted {
            self.sparse_us += other.virtual_us;
        }
        self.states.extend(&other.states);
        self.events += other.events;
        self.messages += other.messages;
        self.commits += other.commits;
        self.assignments += other.assignments;
        self.acknowledged += other.acknowledged;
        self.consumed += other.consumed;
        self.refusals += other.refusals;
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
            "{hours:.2} cluster-hours ({:.2} of them in runs with fewer than {RECORDS_PER_HOUR} records an hour), {} records acknowledged, \
             {} consumed, {} commits and {} assignments of groups, {} refusals, {} leader changes, {} elections, {} events, {} messages, {} states seen",
            self.sparse_us as f64 / 3.6e9,
            self.acknowledged,
            self.consumed,
            self.commits,
            self.assignments,
            self.refusals,
            self.leader_changes,
            self.elections,
            self.events,
            self.messages,
            self.states.len()
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
