//! Runs the simulator over many seeds, or over one with its whole trace.
//!
//! `sim --seeds N [--from S] [--seconds T] [--pace calm|dense]`, `sim --seed S --trace`. `--seconds` is the wall's. With the feature `sabotage`: `sim --bugs --seeds N` plants each bug of
//! `ottla_machine::sabotage` in turn, and each must be caught within N seeds.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ottla_tests::sim;
use ottla_tests::sim::plan::Pace;
use ottla_tests::sim::report::Stats;

struct Args {
    seeds: u64,
    from: Option<u64>,
    seconds: Option<u64>,
    trace: bool,
    pace: Option<Pace>,
    bugs: bool,
}

fn parse() -> Result<Args, String> {
    let mut args = Args { seeds: 20, from: None, seconds: None, trace: false, pace: None, bugs: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64, String> {
            let text = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            text.parse().map_err(|_| format!("{word} {text}: not a number"))
        };
        match word.as_str() {
            "--seeds" => args.seeds = number()?,
            "--from" => args.from = Some(number()?),
            "--seconds" => args.seconds = Some(number()?),
            "--seed" => (args.from, args.seeds) = (Some(number()?), 1),
            "--pace" => {
                args.pace = match words.next().as_deref() {
                    Some("calm") => Some(Pace::Calm),
                    Some("dense") => Some(Pace::Dense),
                    _ => return Err("--pace is calm or dense".to_owned()),
                }
            }
            "--trace" => args.trace = true,
            "--bugs" => args.bugs = true,
            _ => {
                return Err(format!(
                    "{word} is not known: --seeds N, --from S, --seconds T, --seed S, --trace, --pace calm|dense"
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let from = args.from.unwrap_or(now % 1_000_000_000 * 1_000);
    println!("seeds from {from} on");
    if args.bugs {
        return try_bugs(from, args.seeds);
    }
    let began = Instant::now();
    let (mut total, mut runs, mut failures) = (Stats::default(), 0_u64, 0_u64);
    let seeds =
        (from..).filter(|seed| args.seeds == 1 || args.pace.is_none_or(|pace| Pace::of(*seed) == pace));
    for seed in seeds.take(usize::try_from(args.seeds).unwrap_or(usize::MAX)) {
        if args.seconds.is_some_and(|limit| began.elapsed().as_secs() >= limit) {
            break;
        }
        let outcome = std::panic::catch_unwind(|| sim::run(seed, args.trace));
        runs += 1;
        match outcome {
            Ok(outcome) => {
                total.add(&outcome.stats);
                if args.seeds == 1 {
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
        println!("  again: just sim --seed {seed} --trace");
    }
    println!("{runs} seeds in {:.1} s: {total}", began.elapsed().as_secs_f64());
    if failures > 0 {
        println!("{failures} of them FAIL");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

#[cfg(not(feature = "sabotage"))]
fn try_bugs(_from: u64, _seeds: u64) -> ExitCode {
    println!("this build has no bugs to plant: build it with --features sabotage");
    ExitCode::FAILURE
}

/// Plants each bug, and runs seeds until one shows it.
#[cfg(feature = "sabotage")]
fn try_bugs(from: u64, seeds: u64) -> ExitCode {
    use ottla_machine::sabotage::{Bug, plant};

    let mut missed = 0_u32;
    std::panic::set_hook(Box::new(|_| {}));
    for bug in Bug::ALL {
        plant(Some(bug));
        let began = Instant::now();
        let caught = (0..seeds).find_map(|count| {
            let by = match std::panic::catch_unwind(|| sim::run(from + count, false)) {
                Ok(outcome) => outcome.violation?.check,
                Err(_) => "an assertion",
            };
            Some((count + 1, by))
        });
        let took = began.elapsed().as_secs_f64();
        match caught {
            Some((count, by)) => println!("{bug:?}: caught within {count} seeds, by \"{by}\" ({took:.1} s)"),
            None => {
                missed += 1;
                println!("{bug:?}: NOT CAUGHT within {seeds} seeds ({took:.1} s)");
            }
        }
    }
    plant(None);
    if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
