//! Tests of a whole log: against a model, on both disks, and through crashes.

#![allow(clippy::print_stdout)] // The counts are the report of a long run.

mod batches;
mod compaction;
mod crash;
mod damage;
mod faults;
mod model;
mod times;

fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The seeds of a test's executions: `usual` many, times what `OTTLA_FUZZ_FACTOR` says, from another place for each
/// `OTTLA_FUZZ_SEED`.
pub(crate) fn fuzz_seeds(usual: u64) -> std::ops::Range<u64> {
    let first = variable("OTTLA_FUZZ_SEED", 0) << 40;
    let runs = usual * variable("OTTLA_FUZZ_FACTOR", 1);
    println!("{runs} executions");
    first..first + runs
}
