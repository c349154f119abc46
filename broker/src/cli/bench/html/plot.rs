//! Plots as SVG: latency over time, and latency by percentile.

use std::fmt::Write as _;

use ottla_load::timeline::Point;

use super::super::table::us;
use super::escaped;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;
/// Classes of the page's style sheet.
const INKS: [&str; 3] = ["a", "b", "c"];

/// One line of a plot: where across, from 0 to 1, and how many microseconds.
struct Curve<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// Where across something is written.
struct Mark {
    at: f64,
    text: String,
}

/// p50, p99 and the largest latency by the time at which requests were due.
pub(super) fn over_time(title: &str, points: &[Point]) -> String {
    let Some(last) = points.last() else { return String::new() };
    let seconds = last.second.max(0.001);
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a minute")]
    let curve = |name, of: fn(&Point) -> u64| Curve {
        name,
        points: points.iter().map(|point| (point.second / seconds, of(point) as f64)).collect(),
    };
    let curves = [
        curve("p50", |point| point.p50_us),
        curve("p99", |point| point.p99_us),
        curve("max", |point| point.max_us),
    ];
    let marks = [0.0, 0.25, 0.5, 0.75, 1.0].map(|at| Mark { at, text: format!("{:.1} s", seconds * at) });
    plot(title, &curves, &marks)
}

/// Latency by percentile; each nine has the same room.
pub(super) fn percentiles(title: &str, streams: &[(&str, &[(f64, f64)])]) -> String {
    let rarest = streams.iter().flat_map(|(_, curve)| *curve).map(|(quantile, _)| 1.0 - quantile);
    let rarest = rarest.filter(|rest| *rest > 1e-7).fold(0.1, f64::min);
    let nines = |quantile: f64| -(1.0 - quantile).max(rarest).log10();
    let most = nines(1.0);
    let curves: Vec<Curve<'_>> = streams
        .iter()
        .map(|(name, curve)| Curve {
            name,
            points: curve.iter().map(|(quantile, us)| (nines(*quantile) / most, *us)).collect(),
        })
        .collect();
    let marks =
        [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
            .into_iter()
            .filter(|(quantile, _)| *quantile < 1.0 - rarest * 0.999 || nines(*quantile) < most)
            .map(|(quantile, text)| Mark { at: nines(quantile) / most, text: text.to_owned() });
    plot(title, &curves, &marks.collect::<Vec<_>>())
}

fn plot(title: &str, curves: &[Curve<'_>], marks: &[Mark]) -> String {
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|(_, us)| us.max(1.0));
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(1.0, f64::max));
    if values().next().is_none() {
        return String::new();
    }
    let (low, high) = (least.log10() - 0.05, most.log10() + 0.05);
    let x = |at: f64| LEFT + at.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
    let y = |us: f64| HEIGHT - BOTTOM - (us.max(1.0).log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{0}</title><text class=\"title\" x=\"{LEFT}\" y=\"18\">{0}</text>",
        escaped(title)
    );
    for value in steps(low, high) {
        let at = y(value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            us(value)
        );
    }
    for mark in marks {
        let anchor = if mark.at > 0.97 { "end" } else { "middle" };
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            x(mark.at),
            HEIGHT - 12.0,
            escaped(&mark.text)
        );
    }
    for (number, curve) in curves.iter().enumerate() {
        let ink = INKS[number % INKS.len()];
        let points: Vec<String> =
            curve.points.iter().map(|(at, us)| format!("{:.1},{:.1}", x(*at), y(*us))).collect();
        let _ = write!(
            svg,
            "<polyline class=\"curve {ink}\" style=\"fill:none\" points=\"{}\"/>",
            points.join(" ")
        );
        let right = WIDTH - RIGHT - 90.0 * to_f64(curves.len() - number);
        let _ = write!(
            svg,
            "<circle class=\"dot {ink}\" cx=\"{:.1}\" cy=\"14\" r=\"4\"/><text x=\"{:.1}\" y=\"18\">{}</text>",
            right,
            right + 9.0,
            escaped(curve.name)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// 1, 2, 5, 10, ... between two powers of ten: few enough to read.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let all = |factors: &'static [f64]| {
        (0..8).flat_map(move |power| factors.iter().map(move |factor| factor * 10_f64.powi(power)))
    };
    let within = |value: &f64| (low..=high).contains(&value.log10());
    let fine: Vec<f64> = all(&[1.0, 2.0, 5.0]).filter(within).collect();
    if fine.len() <= 8 { fine } else { all(&[1.0]).filter(within).collect() }
}

#[allow(clippy::cast_precision_loss, reason = "three curves")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_is_drawn_above_and_all_within_the_plot() {
        let point = |second, p50_us, max_us| Point { second, records: 1, p50_us, p99_us: max_us, max_us };
        let svg = over_time("t", &[point(0.0, 100, 200), point(1.0, 100, 90_000)]);
        let lines: Vec<Vec<(f64, f64)>> = svg
            .split("points=\"")
            .skip(1)
            .map(|rest| {
                let points = rest.split('"').next().expect("an attribute").split(' ');
                points
                    .map(|point| {
                        let (x, y) = point.split_once(',').expect("a point");
                        (x.parse().expect("a number"), y.parse().expect("a number"))
                    })
                    .collect()
            })
            .collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[2][1].1 < lines[0][1].1, "the stall is above the median: {lines:?}");
        for (x, y) in lines.into_iter().flatten() {
            assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{x} {y}");
        }
    }

    #[test]
    fn nothing_measured_is_no_plot() {
        assert_eq!(over_time("t", &[]), "");
        assert_eq!(percentiles("t", &[("a", &[])]), "");
    }
}
