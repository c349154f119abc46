//! Runs the simulator over many seeds, or over one with its whole trace.
//!
//! `sim --seeds N [--from S] [--seconds T]`, `sim --seed S --trace`.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ottla_tests::sim;
use ottla_tests::sim::report::Stats;

struct Args {
    seeds: u64,
    from: Option<u64>,
    seconds: Option<u64>,
    trace: bool,
}

fn parse() -> Result<Args, String> {
    let mut args = Args { seeds: 20, from: None, seconds: None, trace: false };
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
            "--trace" => args.trace = true,
            _ => {
                return Err(format!(
                    "{word} is not known: --seeds N, --from S, --seconds T, --seed S, --trace"
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
    let began = Instant::now();
    let (mut total, mut runs, mut failures) = (Stats::default(), 0_u64, 0_u64);
    for seed in from..from.saturating_add(args.seeds) {
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
