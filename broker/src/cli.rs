//! The command line. `ottla` alone serves.

mod banner;
#[cfg(target_os = "linux")]
mod bench;
mod client;
mod cluster;
mod data_dir;
mod logging;
mod quorum;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An event broker that Kafka clients use unchanged.
///
/// Without a command it serves: on localhost:9092, with its data in the user's data directory.
#[derive(Parser)]
#[command(name = "ottla", version, args_conflicts_with_subcommands = true)]
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
}

/// Parses the process's arguments and does what they say.
#[must_use]
pub fn run() -> ExitCode {
    let line = CommandLine::parse();
    let outcome = match line.command {
        Some(Command::Serve(serve)) => serve::run(serve),
        Some(Command::Cluster(cluster)) => cluster::run(cluster),
        Some(Command::Quorum(quorum)) => quorum::run(quorum),
        #[cfg(target_os = "linux")]
        Some(Command::Bench(bench)) => bench::run(bench),
        None => serve::run(line.serve),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ottla: {error:#}");
            ExitCode::FAILURE
        }
    }
}
