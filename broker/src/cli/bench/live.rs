//! What a terminal shows while something runs.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use ottla_load::Watch;
use ottla_load::timeline::Stream;

use super::chart::{self, Style};

const SHOW_EVERY: Duration = Duration::from_millis(200);
const HEIGHT: usize = 10;
/// Wider ones are no better to read.
const WIDTH_MAX: usize = 110;
const WIDTH: usize = 80;

/// The plot of one run, on standard error; nothing where that is no terminal.
pub(super) struct Live {
    on: bool,
    colour: bool,
    name: String,
    duration: Duration,
    shown: Option<Instant>,
    lines: usize,
}

impl Live {
    pub(super) fn begin(name: &str, duration: Duration) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            on: stderr().is_terminal() && !dumb,
            colour: !no_color,
            name: name.to_owned(),
            duration,
            shown: None,
            lines: 0,
        }
    }

    pub(super) fn show(&mut self, watch: &Watch) {
        let now = Instant::now();
        if !self.on || self.shown.is_some_and(|shown| now - shown < SHOW_EVERY) {
            return;
        }
        self.shown = Some(now);
        let width = rustix::termios::tcgetwinsize(stderr()).map_or(WIDTH, |size| usize::from(size.ws_col));
        let style =
            Style { width: width.saturating_sub(1).min(WIDTH_MAX), height: HEIGHT, colour: self.colour };
        let lines = self.lines(watch, now, style);
        self.replace(&lines);
    }

    fn lines(&self, watch: &Watch, now: Instant, style: Style) -> Vec<String> {
        let Some(from) = watch.counted_from() else { return vec![format!("{}: connecting", self.name)] };
        let Some(counted) = now.checked_duration_since(from) else {
            return vec![format!("{}: warming up, {:.0} s", self.name, (from - now).as_secs_f64())];
        };
        // The most telling of what runs: from end to end, if anything is read.
        let streams = [Stream::EndToEnd, Stream::Produce, Stream::Fetch];
        let points = streams.map(|stream| (stream, watch.timeline.points(stream)));
        let Some((stream, points)) = points.into_iter().find(|(_, points)| !points.is_empty()) else {
            return vec![format!("{}: no answer yet", self.name)];
        };
        let recent = points.iter().rev().skip(1).take(10).map(|point| point.records);
        let (count, records) = recent.fold((0_u32, 0), |(count, sum), records| (count + 1, sum + records));
        let rate = ottla_load::figures::to_f64(records)
            / (f64::from(count.max(1)) * watch.timeline.every().as_secs_f64());
        let mut lines = vec![format!(
            "{}, {}: {:.0} of {:.0} s, {} records/s",
            self.name,
            stream.name(),
            counted.as_secs_f64().min(self.duration.as_secs_f64()),
            self.duration.as_secs_f64(),
            super::table::number(rate.round())
        )];
        lines.extend(chart::draw(&points, self.duration.as_secs_f64(), style));
        lines
    }

    /// Each line over the old one: clearing first would flicker.
    fn replace(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.lines > 0 {
            let _ = write!(text, "\x1b[{}A", self.lines);
        }
        for line in lines {
            let _ = writeln!(text, "{line}\x1b[K");
        }
        text.push_str("\x1b[J");
        self.lines = lines.len();
        let _ = stderr().write_all(text.as_bytes());
    }

    /// The plot makes room for the table.
    pub(super) fn end(&mut self) {
        if self.on {
            self.replace(&[]);
        }
    }
}
