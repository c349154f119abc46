//! What this machine lets a node have: open files, maps.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::Finding;

/// As many as `max.connections` by default.
const FILES_WANTED: u64 = 20_000;
const FILES_MIN: u64 = 4_096;
/// Linux's own default.
const MAPS_WANTED: u64 = 65_530;
const RAISE: &str = "`LimitNOFILE=65536` in its systemd unit, `--ulimit nofile=65536` for a container, or `ulimit -n 65536` before it starts";

pub(super) fn look(findings: &mut Vec<Finding>) {
    let mut nodes: Vec<Files> = running_nodes().iter().filter_map(|process| Files::of(process)).collect();
    // The one that has used up most of what it may have.
    nodes.sort_by(|a, b| (a.open * b.limit).cmp(&(b.open * a.limit)));
    let count = nodes.len();
    findings.push(match nodes.pop() {
        Some(node) if count == 1 => judge_files("the node that runs here", Some(node.open), node.limit),
        Some(node) => {
            let who = format!("of {count} nodes that run here, process {}", node.pid);
            judge_files(&who, Some(node.open), node.limit)
        }
        None => {
            // A node raises its own soft limit to the hard one.
            let limit = getrlimit(Resource::Nofile).maximum;
            judge_files("a node started from here", None, limit.unwrap_or(u64::MAX))
        }
    });
    if let Some(maps) = number_in("/proc/sys/vm/max_map_count") {
        findings.push(if maps < MAPS_WANTED {
            let fix = format!("sysctl -w vm.max_map_count={MAPS_WANTED}, and the same in /etc/sysctl.d");
            Finding::warning("maps", format!("vm.max_map_count is {maps}"), fix)
        } else {
            Finding::good("maps", format!("vm.max_map_count is {maps}"))
        });
    }
}

fn number_in(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Processes of this program that serve, as far as /proc shows them.
fn running_nodes() -> Vec<PathBuf> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<PathBuf> = processes
        .flatten()
        .filter(|process| process.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .map(|process| process.path())
        .filter(|path| serves(path))
        .collect();
    found.sort();
    found
}

fn arguments_of(process: &Path) -> Vec<String> {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn serves(process: &Path) -> bool {
    let is_ottla = fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "ottla");
    let arguments = arguments_of(process);
    // Without a command it serves, too.
    is_ottla
        && arguments
            .get(1)
            .is_none_or(|first| first.is_empty() || first == "serve" || first.starts_with("--"))
}

/// The descriptors of one process.
struct Files {
    pid: String,
    open: u64,
    limit: u64,
}

impl Files {
    fn of(process: &Path) -> Option<Self> {
        let limits = fs::read_to_string(process.join("limits")).ok()?;
        let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
        let limit = line.split_whitespace().nth(3)?;
        // Far from overflowing when it is multiplied.
        let limit = if limit == "unlimited" { u32::MAX.into() } else { limit.parse::<u32>().ok()?.into() };
        let open = fs::read_dir(process.join("fd")).ok()?.count().min(1 << 30) as u64;
        Some(Self { pid: process.file_name()?.to_string_lossy().into_owned(), open, limit })
    }
}

fn judge_files(who: &str, open: Option<u64>, limit: u64) -> Finding {
    let may = if limit >= u32::MAX.into() { "any number of".to_owned() } else { limit.to_string() };
    let found = match open {
        Some(open) => format!("{who} has {open} files open and may have {may}"),
        None => format!("{who} may open {may} files"),
    };
    if open.is_some_and(|open| open > limit / 10 * 9) || limit < FILES_MIN {
        Finding::problem(
            "open files",
            found,
            format!("each connection and each open segment takes one: {RAISE}"),
        )
    } else if limit < FILES_WANTED {
        Finding::warning("open files", found, format!("20,000 connections are possible otherwise: {RAISE}"))
    } else {
        Finding::good("open files", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_limit_is_judged_by_what_a_node_needs_and_by_what_is_left() {
        let cases = [
            (None, 1_024, Verdict::Problem),
            (None, 10_000, Verdict::Warning),
            (None, 20_000, Verdict::Good),
            (Some(19_000), 20_000, Verdict::Problem),
            (Some(57), 1 << 20, Verdict::Good),
            (Some(57), u64::MAX, Verdict::Good),
        ];
        for (open, limit, expected) in cases {
            let finding = judge_files("x", open, limit);
            assert_eq!(finding.verdict, expected, "{finding:?}");
            assert_eq!(finding.fix.is_some(), expected != Verdict::Good);
        }
    }
}
