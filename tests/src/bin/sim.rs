//! Runs the simulator over many seeds, or over one with its whole trace.
//!
//! `sim --seeds N [--from S] [--seconds T] [--pace calm|dense]`, `sim --seed S --trace`; with `--raft` in the slower tier, where Raft is real. `--seconds` is the
//! wall's. With the feature `sabotage`: `sim --bugs` plants each bug of `ottla_machine::sabotage` in turn, and each must be caught within as many seeds as stand
//! there (`--seeds N`: within N); `--soon N` only those that must be caught within N; `--some K` K of them, others every day; `--bug NAME` one.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ottla_tests::sim;
use ottla_tests::sim::Tier;
use ottla_tests::sim::plan::Pace;
use ottla_tests::sim::report::Stats;

struct Args {
    seeds: Option<u64>,
    from: Option<u64>,
    seconds: Option<u64>,
    trace: bool,
    pace: Option<Pace>,
    bugs: bool,
    /// Of the bugs, the one of this name, or so many.
    only: Option<String>,
    some: Option<usize>,
    /// Of the bugs, those that must be caught within so many seeds.
    soon: Option<u64>,
    tier: Tier,
}

fn parse() -> Result<Args, String> {
    let mut args = Args {
        seeds: None,
        from: None,
        seconds: None,
        trace: false,
        pace: None,
        bugs: false,
        only: None,
        some: None,
        soon: None,
        tier: Tier::StandIn,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            text.parse().map_err(|_| format!("{word} {text}: not a number"))
        };
        match word.as_str() {
            "--seeds" => args.seeds = Some(number()?),
            "--from" => args.from = Some(number()?),
            "--seconds" => args.seconds = Some(number()?),
            "--seed" => (args.from, args.seeds) = (Some(number()?), Some(1)),
            "--pace" => {
                args.pace = match words.next().as_deref() {
                    Some("calm") => Some(Pace::Calm),
                    Some("dense") => Some(Pace::Dense),
                    _ => return Err("--pace is calm or dense".to_owned()),
                }
            }
            "--trace" => args.trace = true,
            "--bugs" => args.bugs = true,
            "--bug" => (args.bugs, args.only) = (true, words.next()),
            "--some" => args.some = usize::try_from(number()?).ok().filter(|some| *some > 0),
            "--soon" => args.soon = Some(number()?),
            "--raft" => args.tier = Tier::Raft,
            _ => {
                return Err(format!(
                    "{word} is not known: --seeds N, --from S, --seconds T, --seed S, --trace, --pace calm|dense, --raft"
                ));
            }
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(message) => {
            println!("{message}");
            return ExitCode::FAILURE;
        }
    };
    if args.trace {
        sim::report::log_to_stderr();
    }
    if args.bugs {
        return try_bugs(&args);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let from = args.from.unwrap_or(now % 1_000_000_000 * 1_000);
    println!("seeds from {from} on");
    let began = Instant::now();
    let (mut total, mut runs, mut failures) = (Stats::default(), 0_u64, 0_u64);
    let count = args.seeds.unwrap_or(20);
    let seeds = (from..).filter(|seed| count == 1 || args.pace.is_none_or(|pace| Pace::of(*seed) == pace));
    for seed in seeds.take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if args.seconds.is_some_and(|limit| began.elapsed().as_secs() >= limit) {
            break;
        }
        let outcome = std::panic::catch_unwind(|| sim::run_in(args.tier, seed, args.trace));
        runs += 1;
        match outcome {
            Ok(outcome) => {
                total.add(&outcome.stats);
                if count == 1 {
                    println!("trace hash {:016x}", outcome.hash);
                }
                let Some(violation) = outcome.violation else { continue };
                failures += 1;
                if !args.trace {
                    outcome.trace.iter().rev().take(40).rev().for_each(|line| println!("  {line}"));
                }
                println!("seed {seed} FAILS: {}: {}", violation.check, violation.what);
            }
            Err(_) => {
                failures += 1;
                println!("seed {seed} FAILS: a panic, above");
            }
        }
        let raft = if args.tier == Tier::Raft { " --raft" } else { "" };
        println!("  again: just sim --seed {seed} --trace{raft}");
    }
    println!("{runs} seeds in {:.1} s: {total}", began.elapsed().as_secs_f64());
    if failures > 0 {
        println!("{failures} of them FAIL");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(not(feature = "sabotage"))]
fn try_bugs(_args: &Args) -> ExitCode {
    println!("this build has no bugs to plant: build it with --features sabotage");
    ExitCode::FAILURE
}

/// So many seeds are tried for a bug that has not been found yet.
#[cfg(feature = "sabotage")]
const HARD: u64 = 200;

/// Plants each bug, and runs seeds until one shows it.
#[cfg(feature = "sabotage")]
fn try_bugs(args: &Args) -> ExitCode {
    use ottla_machine::sabotage::{Bug, plant};

    let mut bugs: Vec<Bug> = Bug::ALL.to_vec();
    if let Some(name) = &args.only {
        bugs.retain(|bug| format!("{bug:?}") == *name);
    }
    if let Some(soon) = args.soon {
        bugs.retain(|bug| bug.seeds().is_some_and(|seeds| seeds <= soon));
    }
    if bugs.is_empty() {
        println!("no such bug");
        return ExitCode::FAILURE;
    }
    if let Some(count) = args.some {
        // Others every day, and all of them in turn.
        let day = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
        let at = usize::try_from(day).unwrap_or(0) * count % bugs.len();
        bugs.rotate_left(at);
        bugs.truncate(count);
    }
    let from = args.from.unwrap_or(1);
    println!("planted bugs, each to be caught by seeds from {from} on: {bugs:?}");
    let mut missed = 0_u32;
    // A panic is a find like any other.
    std::panic::set_hook(Box::new(|_| {}));
    for bug in bugs {
        plant(Some(bug));
        let began = Instant::now();
        let seeds = args.seeds.or(bug.seeds()).unwrap_or(HARD);
        let caught = (0..seeds).find_map(|count| {
            let by = match std::panic::catch_unwind(|| sim::run_in(args.tier, from + count, false)) {
                Ok(outcome) => outcome.violation?.check,
                Err(_) => "an assertion",
            };
            Some((count + 1, by))
        });
        let took = began.elapsed().as_secs_f64();
        match caught {
            Some((count, by)) => {
                println!("{bug:?}: caught by seed {count} of {seeds}, by \"{by}\" ({took:.1} s)");
            }
            None => {
                missed += 1;
                println!("{bug:?}: NOT CAUGHT within {seeds} seeds ({took:.1} s)");
            }
        }
    }
    plant(None);
    if missed > 0 {
        println!("{missed} of them NOT CAUGHT");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
