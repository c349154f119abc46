//! The command line. `ottla` alone serves.

mod banner;
#[cfg(target_os = "linux")]
mod bench;
mod cluster;
mod config;
mod connect;
mod consume;
mod data_dir;
mod doctor;
mod exit;
mod group;
mod interrupt;
mod logging;
mod manual;
mod output;
mod place;
mod produce;
mod progress;
mod quorum;
mod serve;
mod table;
mod topic;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An event broker that Kafka clients use unchanged.
///
/// Without a command it serves: on localhost:9092, with its data in the user's data directory.
#[derive(Parser)]
#[command(name = "ottla", version, args_conflicts_with_subcommands = true, after_help = exit::CODES)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Arguments,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node until it is told to stop.
    Serve(serve::Arguments),
    /// Run nodes as child processes, and stop, kill and start them.
    #[command(subcommand)]
    Cluster(cluster::Arguments),
    /// Show who votes on the metadata, and replace a voter whose disk is lost.
    #[command(subcommand)]
    Quorum(quorum::Arguments),
    /// Measure a broker: latency, throughput, CPU and memory; alone, or beside another.
    #[cfg(target_os = "linux")]
    Bench(bench::Arguments),
    /// List, make, describe, change and delete topics.
    #[command(subcommand)]
    Topic(topic::Arguments),
    /// Write lines as records.
    Produce(produce::Arguments),
    /// Print records.
    Consume(consume::Arguments),
    /// Show consumer groups and how far behind they are, set where they go on.
    #[command(subcommand)]
    Group(group::Arguments),
    /// Show what is set, and check a server.properties.
    #[command(subcommand)]
    Config(config::Arguments),
    /// Look for what keeps a cluster from being used: listeners, limits, disk, clock, space; each with its fix.
    Doctor(doctor::Arguments),
    /// Print completions for a shell.
    Completions(manual::Completions),
    /// Write manual pages.
    Man(manual::Man),
}

/// Parses the process's arguments and does what they say.
#[must_use]
pub fn run() -> ExitCode {
    let line = CommandLine::parse();
    let outcome = match line.command {
        Some(Command::Serve(serve)) => serve::run(serve),
        Some(Command::Cluster(cluster)) => cluster::run(cluster),
        Some(Command::Quorum(quorum)) => quorum::run(&quorum),
        #[cfg(target_os = "linux")]
        Some(Command::Bench(bench)) => bench::run(bench),
        Some(Command::Topic(topic)) => topic::run(&topic),
        Some(Command::Produce(produce)) => produce::run(&produce),
        Some(Command::Consume(consume)) => consume::run(&consume),
        Some(Command::Group(group)) => group::run(&group),
        Some(Command::Config(config)) => config::run(&config),
        Some(Command::Doctor(doctor)) => doctor::run(&doctor),
        Some(Command::Completions(completions)) => manual::completions(&completions),
        Some(Command::Man(man)) => manual::pages(&man),
        None => serve::run(line.serve),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
