//! `ottla doctor`: what usually stands between a cluster and those who want to use it, each with its fix.

mod clock;
mod disk;
mod machine;
mod network;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::connect::Connect;
use super::exit::Said;
use super::output::{Output, Tone, say};
use super::progress::Progress;
use super::table::{Cell, Table};

#[derive(Args)]
#[command(after_help = super::exit::CODES)]
pub(super) struct Arguments {
    /// Where a node of this machine keeps its data, or will [default: that of the broker, if it runs here, else the user's data directory].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Look at this machine only, not at a cluster.
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It can't be told.
    Unknown,
    /// It works, but not well or not for long.
    Warning,
    Problem,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::Good => Tone::Good,
            Self::Unknown => Tone::Dim,
            Self::Warning => Tone::Warning,
            Self::Problem => Tone::Bad,
        }
    }
}

/// What was looked at, what was found, and what to do about it.
#[derive(Debug)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    fix: Option<String>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, found: found.into(), fix: None }
    }

    fn unknown(what: &'static str, found: impl Into<String>, fix: Option<String>) -> Self {
        Self { what, verdict: Verdict::Unknown, found: found.into(), fix }
    }

    fn warning(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    fn problem(what: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Problem, found: found.into(), fix: Some(fix.into()) }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut progress = Progress::new(true);
    let mut findings = Vec::new();
    let mut here = Vec::new();
    if !arguments.local {
        progress.show(|| format!("asking {}", arguments.connect.bootstrap()));
        here = network::look(&arguments.connect, &mut findings);
    }
    machine::look(&mut findings);
    match arguments.data_dir.clone().or_else(|| here.first().cloned()).or_else(super::data_dir::of_user) {
        Some(dir) => disk::look(&dir, here.contains(&dir), &mut progress, &mut findings),
        None => {
            let fix = Some("--data-dir DIR says where it is".to_owned());
            findings.push(Finding::unknown("disk", "no data directory is known", fix));
        }
    }
    clock::look(&mut findings);
    progress.clear();
    let problems = findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count();
    say(&if arguments.output.is_json() { to_json(&findings).to_string() } else { to_text(&findings) })?;
    if problems > 0 { Err(Said.into()) } else { Ok(()) }
}

fn to_json(findings: &[Finding]) -> Value {
    let list = findings.iter().map(|finding| {
        let word = finding.verdict.word().to_lowercase();
        json!({ "check": finding.what, "result": word, "found": finding.found, "fix": finding.fix })
    });
    Value::from(list.collect::<Vec<_>>())
}

fn to_text(findings: &[Finding]) -> String {
    let mut table = Table::new(&["CHECK", "RESULT", "FOUND"]);
    for finding in findings {
        table.row([
            finding.what.into(),
            Cell::new(finding.verdict.word(), finding.verdict.tone()),
            finding.found.clone().into(),
        ]);
    }
    let mut text = table.to_text();
    let mut fixes: Vec<(&str, &str)> =
        findings.iter().filter_map(|finding| Some((finding.what, finding.fix.as_deref()?))).collect();
    fixes.dedup();
    if !fixes.is_empty() {
        text.push_str("\nwhat to do\n");
    }
    for (what, fix) in fixes {
        text.push_str(&format!("  {what:<12} {fix}\n"));
    }
    text
}
