//! `ottla completions` and `ottla man`: made from the command line itself, so that they never tell anything else.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::CommandLine;
use super::output::say;

#[derive(Args)]
pub(super) struct Completions {
    /// For which shell, whose way of loading them the first lines say.
    shell: Shell,
}

#[derive(Args)]
pub(super) struct Man {
    /// Where the pages go: ottla.1, ottla-topic.1, ottla-topic-list.1, ...
    dir: PathBuf,
}

pub(super) fn completions(arguments: &Completions) -> anyhow::Result<()> {
    // Into memory first: a reader that closes early is no reason to panic.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), "ottla", &mut script);
    let how = match arguments.shell {
        Shell::Bash => "# ottla completions bash > ~/.local/share/bash-completion/completions/ottla\n",
        Shell::Fish => "# ottla completions fish > ~/.config/fish/completions/ottla.fish\n",
        _ => "",
    };
    Ok(say(&format!("{how}{}", String::from_utf8_lossy(&script)))?)
}

pub(super) fn pages(arguments: &Man) -> anyhow::Result<()> {
    let dir = arguments.dir.display();
    fs::create_dir_all(&arguments.dir).with_context(|| format!("can't make {dir}"))?;
    clap_mangen::generate_to(CommandLine::command(), &arguments.dir)
        .with_context(|| format!("can't write into {dir}"))?;
    Ok(say(&format!("written; `man -l {dir}/ottla.1` shows the first"))?)
}
