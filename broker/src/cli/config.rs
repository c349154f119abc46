//! `ottla config`: what is set, and what a file for Kafka would do here.

mod check;
mod show;

use clap::Subcommand;

#[derive(Subcommand)]
#[command(after_help = super::exit::CODES)]
pub(super) enum Arguments {
    /// Show what is set for a running broker or a topic.
    Show(show::Arguments),
    /// Say of each line of a server.properties whether it is honoured, has no effect, or is refused (exit code 1).
    Check(check::Arguments),
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match arguments {
        Arguments::Show(show) => show::run(show),
        Arguments::Check(check) => check::run(check),
    }
}
