//! Latency over time, drawn with characters: a logarithmic axis, for a stall is a thousand times the median.

use ottla_load::timeline::Point;

use super::table::us;

/// What a mark stands for, the more important last: it covers the others.
const MARKS: [(char, &str, &str); 3] =
    [('^', "max", "\x1b[31m"), ('o', "p99", "\x1b[33m"), ('*', "p50", "\x1b[32m")];
const PLAIN: &str = "\x1b[0m";
/// Room for the axis.
const AXIS: usize = 10;

/// How a chart is to look.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) colour: bool,
}

/// Lines of a chart over `seconds`; none where nothing was measured yet.
pub(super) fn draw(points: &[Point], seconds: f64, style: Style) -> Vec<String> {
    let (width, height) = (style.width.saturating_sub(AXIS).max(10), style.height.max(3));
    let values = points.iter().flat_map(|point| [point.p50_us, point.max_us]).filter(|value| *value > 0);
    let Some((least, most)) = values.fold(None, |range: Option<(u64, u64)>, value| {
        Some(range.map_or((value, value), |(least, most)| (least.min(value), most.max(value))))
    }) else {
        return Vec::new();
    };
    let scale = Scale::over(least, most, height);
    let mut cells = vec![vec![None; width]; height];
    for point in points {
        let column = column_of(point.second / seconds, width);
        for (mark, value) in [point.max_us, point.p99_us, point.p50_us].into_iter().enumerate() {
            cells[scale.row(value)][column] = Some(mark);
        }
    }
    let mut lines = Vec::with_capacity(height + 2);
    for (row, cells) in cells.iter().enumerate() {
        let label = if row % 2 == 0 { us(scale.value(row)) } else { String::new() };
        let mut line = format!("{label:>width$} |", width = AXIS - 2);
        for cell in cells {
            match cell {
                Some(mark) if style.colour => {
                    line.push_str(&format!("{}{}{PLAIN}", MARKS[*mark].2, MARKS[*mark].0));
                }
                Some(mark) => line.push(MARKS[*mark].0),
                None => line.push(' '),
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    let end = format!("{seconds:.0} s");
    lines.push(format!("{:>axis$} +{}", "", "-".repeat(width), axis = AXIS - 2));
    let legend: Vec<String> = MARKS.iter().rev().map(|(mark, name, _)| format!("{mark} {name}")).collect();
    let legend = legend.join("  ");
    let gap = width.saturating_sub(legend.len() + end.len() + 2);
    lines.push(format!("{:>AXIS$}0 {legend}{:gap$}{end}", "", ""));
    lines
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place on a screen"
)]
fn column_of(share: f64, width: usize) -> usize {
    ((share * width as f64).max(0.0) as usize).min(width - 1)
}

/// Rows, the topmost for the largest.
struct Scale {
    log_least: f64,
    log_most: f64,
    rows: usize,
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place on a screen"
)]
impl Scale {
    fn over(least: u64, most: u64, rows: usize) -> Self {
        let log_least = (least.max(1) as f64).log10();
        // A little room, for a flat line too.
        Self {
            log_least: log_least - 0.05,
            log_most: (most.max(1) as f64).log10().max(log_least) + 0.05,
            rows,
        }
    }

    fn row(&self, value: u64) -> usize {
        let share = ((value.max(1) as f64).log10() - self.log_least) / (self.log_most - self.log_least);
        let from_below = (share * self.rows as f64).clamp(0.0, self.rows as f64 - 1.0) as usize;
        self.rows - 1 - from_below
    }

    /// What the middle of a row stands for, in microseconds.
    fn value(&self, row: usize) -> f64 {
        let share = (self.rows - row) as f64 - 0.5;
        10_f64.powf(self.log_least + share / self.rows as f64 * (self.log_most - self.log_least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: f64, p50_us: u64, max_us: u64) -> Point {
        Point { second, records: 1, p50_us, p99_us: max_us, max_us }
    }

    #[test]
    fn a_stall_stands_above_all_else() {
        let points: Vec<Point> = (0_u32..100)
            .map(|at| point(f64::from(at) / 10.0, 200, if at == 50 { 400_000 } else { 300 }))
            .collect();
        let style = Style { width: 60, height: 8, colour: false };
        let lines = draw(&points, 10.0, style);
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[0].matches('o').count(), 1, "{lines:#?}");
        let at = lines[0].find('o').expect("the stall") - AXIS;
        assert!((24..=26).contains(&at), "in the middle of the time: {lines:#?}");
        assert!(lines[7].matches('*').count() > 40, "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{lines:#?}");
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let points = [point(0.0, 200, 300)];
        let drawn = |colour| draw(&points, 1.0, Style { width: 40, height: 4, colour }).concat();
        assert!(!drawn(false).contains('\x1b') && drawn(true).contains("\x1b[32m*"));
        assert!(draw(&[], 1.0, Style { width: 40, height: 4, colour: false }).is_empty());
    }
}
