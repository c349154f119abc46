//! The page: one file that needs nothing else.

mod plot;

use std::fmt::{Display, Write as _};

use super::compare::Comparison;
use super::report::{self, Measured, Report};
use super::table;

const STYLE: &str = include_str!("html/page.css");

/// A page of all that was measured.
pub(super) fn page(reports: &[Report], comparison: Option<&Comparison>) -> String {
    let mut body = String::new();
    let machine = report::machine();
    let said = |name: &str| machine[name].as_str().unwrap_or("unknown").to_owned();
    let _ = write!(
        body,
        "<h1>ottla bench</h1><p class=\"note\">ottla {}, {}, {} cores, Linux {}</p>",
        env!("CARGO_PKG_VERSION"),
        escaped(said("cpu")),
        machine["cores"],
        escaped(said("kernel"))
    );
    if let Some(comparison) = comparison {
        body.push_str(&of_comparison(comparison));
    }
    for report in reports {
        body.push_str(&of_report(report));
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>ottla bench</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
}

fn of_report(report: &Report) -> String {
    let mut html = format!(
        "<section><h2>{}</h2><p>{}</p>",
        escaped(format!("{} on {}", report.kind, report.broker)),
        escaped(&report.load)
    );
    let durability = report.durability.words();
    if !durability.is_empty() {
        let _ = write!(html, "<p class=\"note\">{}</p>", escaped(durability));
    }
    let rows = report
        .rows()
        .into_iter()
        .map(|row| [row.figure, format!("{} {}", table::digits(row.value), unit(row.unit))]);
    let mut rows: Vec<[String; 2]> = rows.collect();
    rows.push(["control, bare socket: p50".into(), table::us(report.control.p50_us)]);
    rows.push(["control, bare socket: p99".into(), table::us(report.control.p99_us)]);
    if let Measured::Flow(flow) = &report.measured {
        for (name, points) in &flow.timeline {
            let title = format!("{name}: latency over time");
            html.push_str(&plot::over_time(&title, points));
        }
        let curves: Vec<(&str, &[(f64, f64)])> =
            report.streams().iter().map(|(name, figures)| (*name, &figures.curve[..])).collect();
        html.push_str(&plot::percentiles("latency by percentile", &curves));
    }
    html.push_str(&table_of(&["", "value"], &rows));
    for note in table::notes(report) {
        let _ = write!(html, "<p class=\"note\">{}</p>", escaped(note));
    }
    html.push_str("</section>");
    html
}

fn of_comparison(comparison: &Comparison) -> String {
    let mut html = format!(
        "<section><h2>{}</h2><p class=\"note\">medians of {} interleaved pairs; the ratio's spread is that of the pairs</p>",
        escaped(format!("{} beside {}", comparison.ours, comparison.theirs)),
        comparison.pairs
    );
    for line in comparison.durability.iter().chain(&comparison.controls).chain(&comparison.warnings) {
        let _ = write!(html, "<p class=\"note\">{}</p>", escaped(line));
    }
    let rows = comparison.figures.iter().map(|figure| {
        let value =
            |samples: &[f64]| format!("{} {}", table::digits(report::median(samples)), unit(figure.unit));
        [
            figure.figure.clone(),
            value(&figure.ours),
            value(&figure.theirs),
            table::ratio(figure.ratio),
            format!("{} .. {}", table::ratio(figure.ratio_least), table::ratio(figure.ratio_most)),
            figure.verdict().to_owned(),
        ]
    });
    let rows: Vec<[String; 6]> = rows.collect();
    html.push_str(&table_of(&["", &comparison.ours, &comparison.theirs, "ratio", "spread", ""], &rows));
    html.push_str("</section>");
    html
}

fn unit(unit: report::Unit) -> &'static str {
    match unit {
        report::Unit::Milliseconds => "ms",
        report::Unit::Seconds => "s",
        report::Unit::PerSecond => "/s",
        report::Unit::MibPerSecond => "MiB/s",
        report::Unit::Mib => "MiB",
    }
}

fn table_of<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let mut html = String::from("<div class=\"wide\"><table><tr>");
    for cell in header {
        let _ = write!(html, "<th>{}</th>", escaped(cell));
    }
    html.push_str("</tr>");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<td>{}</td>", escaped(cell));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>");
    html
}

/// Text that means nothing to a browser.
fn escaped(text: impl Display) -> String {
    let mut escaped = String::new();
    for c in text.to_string().chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_says_is_text_on_the_page() {
        assert_eq!(escaped("<script>\"&'"), "&lt;script&gt;&quot;&amp;&#39;");
    }
}
