//! The disk under the data directory: how long a sync takes, how much is free, what it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{statfs, statvfs};

use super::network::judge_space;
use super::{Finding, Progress};

const SYNCS: usize = 100;
/// A slow disk is known for slow after fewer.
const SYNCING_MAX: Duration = Duration::from_secs(3);
const BLOCK: usize = 4096;
const SLOW_MS: f64 = 10.0;
const VERY_SLOW_MS: f64 = 100.0;
const INODES_MIN: u64 = 10_000;
/// `f_type` of statfs(2).
const TMPFS: u64 = 0x0102_1994;
const NFS: u64 = 0x6969;
const OVERLAY: u64 = 0x794c_7630;

/// `space_is_known`: a broker has told already how much is free there.
pub(super) fn look(dir: &Path, space_is_known: bool, progress: &mut Progress, findings: &mut Vec<Finding>) {
    // A node that was never started has no directory yet.
    let there =
        dir.ancestors().find(|dir| dir.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    if let Some(finding) = kind(&there) {
        findings.push(finding);
    }
    progress.show(|| format!("syncing {SYNCS} times in {}", there.display()));
    findings.push(match time_syncs(&there) {
        Ok(times) => judge_syncs(&there, &times),
        Err(error) => Finding::problem(
            "disk sync",
            format!("can't write in {}: {error}", there.display()),
            "give the user that runs the node this directory (chown), or another with --data-dir",
        ),
    });
    if let Ok(space) = statvfs(&there) {
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(space.f_frsize)).unwrap_or(i64::MAX);
        if !space_is_known {
            let (free, total) = (bytes(space.f_bavail), bytes(space.f_blocks));
            findings.push(judge_space("free space", &there.display().to_string(), free, total));
        }
        // Some file systems have no fixed number of them, and say 0.
        if space.f_files > 0 && space.f_favail < INODES_MIN {
            findings.push(Finding::warning(
                "inodes",
                format!("{}: {} files can be made", there.display(), space.f_favail),
                "remove small files from this file system, or make one with more inodes",
            ));
        }
    }
}

fn kind(dir: &Path) -> Option<Finding> {
    let kind = u64::try_from(statfs(dir).ok()?.f_type).ok()?;
    let place = dir.display();
    match kind {
        TMPFS => Some(Finding::warning(
            "disk",
            format!("{place} is in memory (tmpfs)"),
            "nothing there survives a restart of the machine: choose another with --data-dir",
        )),
        NFS => Some(Finding::warning(
            "disk",
            format!("{place} is on NFS"),
            "the far machine decides what a sync means: keep logs on a local disk",
        )),
        OVERLAY => Some(Finding::warning(
            "disk",
            format!("{place} is in a container's own layer (overlayfs)"),
            "it goes when the container goes: mount a volume there",
        )),
        _ => None,
    }
}

/// Milliseconds of each 4 KiB append with its sync, sorted.
fn time_syncs(dir: &Path) -> io::Result<Vec<f64>> {
    let path = dir.join(format!(".ottla-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let outcome = append_and_sync(file);
    fs::remove_file(&path)?;
    let mut times = outcome?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn append_and_sync(mut file: File) -> io::Result<Vec<f64>> {
    let block = [0x5a; BLOCK];
    let began = Instant::now();
    let mut times = Vec::with_capacity(SYNCS);
    while times.len() < SYNCS && (times.len() < 3 || began.elapsed() < SYNCING_MAX) {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

fn judge_syncs(dir: &Path, sorted: &[f64]) -> Finding {
    let at = |share: f64| {
        let index = (sorted.len() as f64 * share).ceil() as usize;
        sorted[index.clamp(1, sorted.len()) - 1]
    };
    let (median, late) = (at(0.5), at(0.99));
    let found = format!(
        "{}: 4 KiB and a sync take {median:.2} ms (p50), {late:.2} ms (p99) of {}",
        dir.display(),
        sorted.len()
    );
    let fix = "with flush.messages=1, the default, acks=all waits this long at least: use a local SSD, or flush.messages=9223372036854775807 \
               for topics whose last moments may be lost in a power cut";
    if median > VERY_SLOW_MS {
        Finding::problem("disk sync", found, fix)
    } else if median > SLOW_MS || late > VERY_SLOW_MS {
        Finding::warning("disk sync", found, fix)
    } else {
        Finding::good("disk sync", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn syncs_are_judged_by_their_middle_and_by_the_late_ones() {
        let fast: Vec<f64> = vec![0.2; 100];
        let mut late = fast.clone();
        late[98..].fill(300.0);
        for (times, expected) in [
            (fast, Verdict::Good),
            (late, Verdict::Warning),
            (vec![12.0; 100], Verdict::Warning),
            (vec![250.0; 3], Verdict::Problem),
        ] {
            assert_eq!(judge_syncs(Path::new("/d"), &times).verdict, expected, "{times:?}");
        }
    }

    #[test]
    fn a_directory_is_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let times = time_syncs(dir.path()).expect("writable");
        assert!(!times.is_empty() && times.is_sorted());
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
