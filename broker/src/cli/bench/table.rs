//! Tables at the end.

use std::fmt::Write as _;

use ottla_load::latency::Summary;

use super::compare::Comparison;
use super::report::{Measured, Report, Unit, median};

/// One measurement.
pub(super) fn of_report(report: &Report) -> String {
    let mut text = String::new();
    let broker = if report.broker == "ottla" { String::new() } else { format!(" on {}", report.broker) };
    let _ = writeln!(text, "\n{}{broker}: {}", report.kind, report.load);
    let durability = report.durability.words();
    if !durability.is_empty() {
        let _ = writeln!(text, "{durability}");
    }
    text.push('\n');
    let header = ["", "offered/s", "reached/s", "MiB/s", "p50", "p90", "p99", "p99.9", "max", "errors"];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for (name, figures) in report.streams() {
        let offered = figures.offered_per_second.map_or_else(|| "max".to_owned(), number);
        let mut line = vec![name.to_owned(), offered, number(figures.records_per_second)];
        line.push(number(figures.mib_per_second));
        line.extend(percentiles(&figures.latency));
        line.push(number(ottla_load::figures::to_f64(figures.failed())));
        lines.push(line);
    }
    match &report.measured {
        Measured::Flow(_) => {}
        Measured::Topics { answered_ms, led_ms, .. } => {
            lines = vec![vec![String::new(), "after".into()]];
            lines.push(vec!["answered".into(), milliseconds(*answered_ms)]);
            lines.push(vec!["all led".into(), milliseconds(*led_ms)]);
        }
        Measured::Rebalance { first_ms, join_ms, leave_ms, .. } => {
            lines = vec![["", "median", "longest"].map(str::to_owned).to_vec()];
            lines.push(vec!["all at once".into(), milliseconds(*first_ms)]);
            lines.push(spread("one more comes", join_ms));
            lines.push(spread("one goes", leave_ms));
        }
        Measured::Failover { longest_ms, .. } => {
            lines = vec![["", "median", "longest"].map(str::to_owned).to_vec()];
            lines.push(spread("nothing acknowledged for", longest_ms));
        }
    }
    if matches!(report.measured, Measured::Flow(_)) {
        let mut line = vec!["bare socket".to_owned(), String::new(), String::new(), String::new()];
        line.extend(percentiles(&report.control));
        lines.push(line);
    } else {
        let control = &report.control;
        lines.push(vec!["bare socket, p50; p99".into(), us(control.p50_us), us(control.p99_us)]);
    }
    text.push_str(&aligned(&lines));
    text.push('\n');
    for line in notes(report) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// What stands below a table.
pub(super) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    match &report.broker_processes {
        Some(taken) => {
            let per_million = taken
                .cpu_seconds_per_million_records
                .map(|cpu| format!(" ({} s per million records)", digits(cpu)))
                .unwrap_or_default();
            let disk = taken
                .disk_read_mib
                .filter(|mib| *mib >= 1.0)
                .map(|mib| format!(", {} MiB read from the disk", number(mib)))
                .unwrap_or_default();
            let processes = if taken.processes > 1 {
                format!(" of {} processes", taken.processes)
            } else {
                String::new()
            };
            notes.push(format!(
                "broker{processes}: CPU {} s{per_million}, memory {} MiB{disk}; generator: CPU {} s",
                digits(taken.cpu_seconds),
                digits(taken.rss_anon_mib),
                digits(report.generator_cpu_seconds)
            ));
        }
        None if matches!(report.measured, Measured::Failover { .. }) => {}
        None => notes
            .push("broker: CPU and memory unknown, its processes are not to be seen from here".to_owned()),
    }
    for (name, figures) in report.streams() {
        for (error, times) in &figures.errors {
            notes.push(format!("{name}: {times} request(s) failed: {error}"));
        }
        if let Some(late) =
            figures.late.filter(|late| late.count > 0 && late.p99_us * 2.0 > figures.latency.p99_us)
        {
            notes.push(format!(
                "{name}: the generator itself was late (p99 {}): this machine is too busy, or the rate too high, for these latencies \
                 to be the broker's alone",
                us(late.p99_us)
            ));
        }
        if let Some(offered) =
            figures.offered_per_second.filter(|offered| figures.records_per_second < offered * 0.95)
        {
            notes.push(format!(
                "{name}: {} of {} records/s were reached: latencies grow for as long as it runs",
                number(figures.records_per_second),
                number(offered)
            ));
        }
    }
    if let Measured::Failover { acknowledged, refused, .. } = &report.measured {
        notes.push(format!("{acknowledged} records acknowledged, {refused} request(s) refused meanwhile"));
    }
    notes
}

/// Two brokers.
pub(super) fn of_comparison(comparison: &Comparison) -> String {
    let mut lines =
        vec![["", &comparison.ours, &comparison.theirs, "ratio", "spread", ""].map(str::to_owned).to_vec()];
    for figure in &comparison.figures {
        let (value, unit) = (|value: f64| in_unit(value, figure.unit), suffix(figure.unit));
        lines.push(vec![
            format!("{}{unit}", figure.figure),
            value(median(&figure.ours)),
            value(median(&figure.theirs)),
            ratio(figure.ratio),
            format!("{} .. {}", ratio(figure.ratio_least), ratio(figure.ratio_most)),
            figure.verdict().to_owned(),
        ]);
    }
    let mut text = format!(
        "\nmedians of {} interleaved pairs; ratio: {} / {}\n",
        comparison.pairs, comparison.ours, comparison.theirs
    );
    for line in comparison.durability.iter().chain(&comparison.controls).chain(&comparison.warnings) {
        let _ = writeln!(text, "{line}");
    }
    let _ = write!(text, "\n{}", aligned(&lines));
    text
}

fn spread(what: &str, samples: &[f64]) -> Vec<String> {
    let longest = samples.iter().copied().fold(0.0, f64::max);
    vec![what.to_owned(), milliseconds(median(samples)), milliseconds(longest)]
}

fn percentiles(latency: &Summary) -> Vec<String> {
    let all = [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us];
    if latency.count == 0 { vec!["-".to_owned(); all.len()] } else { all.map(us).to_vec() }
}

/// The first column to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (at, cell) in line.iter().enumerate() {
            let width = widths[at];
            let _ = if at == 0 { write!(row, "{cell:<width$}") } else { write!(row, "  {cell:>width$}") };
        }
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

fn suffix(unit: Unit) -> &'static str {
    match unit {
        Unit::Milliseconds => ", ms",
        Unit::Seconds => ", s",
        Unit::Mib => ", MiB",
        Unit::MibPerSecond => ", MiB/s",
        Unit::PerSecond => "",
    }
}

fn in_unit(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond => number(value),
        _ => digits(value),
    }
}

pub(super) fn us(microseconds: f64) -> String {
    milliseconds(microseconds / 1_000.0)
}

fn milliseconds(ms: f64) -> String {
    if ms >= 10_000.0 { format!("{} s", digits(ms / 1_000.0)) } else { format!("{} ms", digits(ms)) }
}

/// Three digits, as far as they mean anything.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "-".to_owned(),
        size if size >= 100.0 => number(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A ratio: around one the third digit behind the point tells which is more.
pub(super) fn ratio(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.3}") } else { digits(value) }
}

/// Whole, with commas; small ones with a digit behind the point.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    if value.abs() < 100.0 && value.fract().abs() > 1e-9 {
        return format!("{value:.1}");
    }
    let whole = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        let left = whole.len() - at;
        if at > 0 && left.is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_to_be_read() {
        let written: Vec<String> = [0.0, 9.75, 100.0, 1_234_567.4, -1_000.0].map(number).to_vec();
        assert_eq!(written, ["0", "9.8", "100", "1,234,567", "-1,000"]);
        let written: Vec<String> = [0.0421, 1.0, 12.34, 5_678.9, f64::NAN].map(digits).to_vec();
        assert_eq!(written, ["0.042", "1.00", "12.3", "5,679", "-"]);
        assert_eq!([0.9996, 1.0, 12.34].map(ratio), ["1.000", "1.000", "12.3"]);
        assert_eq!((us(1_500.0), milliseconds(12_000.0)), ("1.50 ms".to_owned(), "12.0 s".to_owned()));
    }

    #[test]
    fn columns_are_aligned() {
        let lines = [
            vec!["a".to_owned(), "bb".to_owned()],
            vec!["ccc".to_owned(), "d".to_owned()],
            vec!["e".to_owned()],
        ];
        assert_eq!(aligned(&lines), "a    bb\nccc   d\ne\n");
    }
}
