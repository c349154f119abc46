//! Whether the machine's clock is kept right. Retention, searches by time and the timestamps of records go by it.

use std::process::{Command, Stdio};

use super::Finding;

const WHAT: &str = "clock";
const FIX: &str =
    "`timedatectl set-ntp true`, or install chrony: retention and searches by time go by the clock";
/// Since then there is this program.
const EARLIEST_MS: i64 = 1_767_225_600_000;
const OFF_SECONDS_MAX: f64 = 0.5;

pub(super) fn look(findings: &mut Vec<Finding>) {
    let now = crate::cli::units::now_ms();
    if now < EARLIEST_MS {
        let found = format!("it is {} here", crate::cli::units::time(now));
        findings.push(Finding::problem(
            WHAT,
            found,
            format!("the clock is behind this program's own age: {FIX}"),
        ));
        return;
    }
    findings.push(judge(
        asked("chronyc", &["-c", "tracking"]).as_deref(),
        asked("timedatectl", &["show"]).as_deref(),
        now,
    ));
}

/// What a program says; `None` if it is not there, or fails.
fn asked(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn judge(chrony: Option<&str>, timedatectl: Option<&str>, now_ms: i64) -> Finding {
    let time = crate::cli::units::time(now_ms);
    // The fifth field of chrony's report is how far the clock is off, in seconds.
    if let Some(off) = chrony.and_then(|line| line.trim().split(',').nth(4)?.parse::<f64>().ok()) {
        let found = format!("{time}, {:.3} s off (chrony)", off.abs());
        return if off.abs() > OFF_SECONDS_MAX {
            Finding::warning(WHAT, found, FIX)
        } else {
            Finding::good(WHAT, found)
        };
    }
    let synchronised = timedatectl.and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("NTPSynchronized=")).map(|word| word == "yes")
    });
    match synchronised {
        Some(true) => Finding::good(WHAT, format!("{time}, synchronised (timedatectl)")),
        Some(false) => Finding::warning(WHAT, format!("{time}, not synchronised (timedatectl)"), FIX),
        None => Finding::unknown(
            WHAT,
            format!("{time}; neither chrony nor timedatectl says whether it is kept right"),
            Some("in a container the host's clock counts: look there".to_owned()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn whoever_keeps_the_clock_is_asked() {
        let chrony = |off: &str| {
            format!("C0000201,ntp,3,1764084601.1,{off},0.0,0.0,1.0,0.1,0.1,0.0,0.0,64.0,Normal\n")
        };
        let cases = [
            (Some(chrony("0.000012")), None, Verdict::Good),
            (Some(chrony("-3.5")), Some("NTPSynchronized=yes\n"), Verdict::Warning),
            (None, Some("Timezone=UTC\nNTPSynchronized=yes\n"), Verdict::Good),
            (None, Some("NTPSynchronized=no\n"), Verdict::Warning),
            (None, None, Verdict::Unknown),
        ];
        for (chrony, timedatectl, expected) in cases {
            let finding = judge(chrony.as_deref(), timedatectl, 1_764_084_601_123);
            assert_eq!(finding.verdict, expected, "{finding:?}");
        }
    }
}
