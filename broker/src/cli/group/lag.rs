//! `ottla group lag`: how far behind, how fast, until when, and why.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use ottla_client::{Cluster, TopicPartition};
use serde_json::{Value, json};

use super::describe::head;
use super::diagnosis::{Seen, causes, is_between_commits};
use super::existing;
use super::sample::{Sample, Trend, empty_in};
use crate::cli::connect::Connect;
use crate::cli::interrupt;
use crate::cli::output::{Output, Tone, say};
use crate::cli::progress::Progress;
use crate::cli::table::{Cell, Table};
use crate::cli::units;

/// `--watch` looks this often, and compares to what it saw this long ago at most.
const WATCH_EVERY: Duration = Duration::from_secs(2);
const WATCH_WINDOW: Duration = Duration::from_secs(30);
/// Most clients commit every five seconds: less tells nothing of whether they do.
const STOPPED_AFTER: Duration = Duration::from_secs(15);
const PARTITIONS_SHOWN_MAX: usize = 50;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    group: String,
    /// Again and again, until Ctrl-C.
    #[arg(long, short = 'w')]
    watch: bool,
    /// How many seconds to look before telling the rate at which the group reads; 0: tell no rate.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = over)]
    over: f64,
    /// Show partitions without lag too, and all of those with one.
    #[arg(long, short = 'a')]
    all: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

fn over(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("it takes seconds between 0 and 3600".to_owned()),
    }
}

/// What was seen, the oldest first, and since when each commit stands still.
struct Watched {
    samples: VecDeque<Sample>,
    still: BTreeMap<TopicPartition, (i64, Instant)>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cluster = arguments.connect.cluster()?;
    let mut watched = Watched { samples: VecDeque::new(), still: BTreeMap::new() };
    watched.look(&mut cluster, &arguments.group)?;
    if arguments.watch {
        return watch(arguments, &mut cluster, &mut watched);
    }
    if arguments.over > 0.0 && !watched.is_idle() {
        let mut progress = Progress::new(true);
        let until = Instant::now() + Duration::from_secs_f64(arguments.over);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            progress.show(|| format!("looking how fast it reads, {:.0} s more", left.as_secs_f64().ceil()));
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        progress.clear();
        watched.look(&mut cluster, &arguments.group)?;
    }
    let report = watched.report()?;
    Ok(say(&if arguments.output.is_json() {
        report.to_json().to_string()
    } else {
        report.to_text(arguments.all, PARTITIONS_SHOWN_MAX)
    })?)
}

fn watch(arguments: &Arguments, cluster: &mut Cluster, watched: &mut Watched) -> anyhow::Result<()> {
    interrupt::listen()?;
    let on_screen = io::stdout().is_terminal() && !arguments.output.is_json();
    if on_screen {
        write!(io::stdout(), "\x1b[2J")?;
    }
    loop {
        let report = watched.report()?;
        if arguments.output.is_json() {
            say(&report.to_json().to_string())?;
        } else if on_screen {
            let mut out = io::stdout().lock();
            // Home, then each line over the old one: clearing first would flicker.
            let text = report.to_text(arguments.all, rows_on_screen());
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
            out.flush()?;
        } else {
            say(&format!("{}\n\n", report.to_text(arguments.all, PARTITIONS_SHOWN_MAX)))?;
        }
        let until = Instant::now() + WATCH_EVERY;
        while Instant::now() < until {
            if interrupt::came() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        watched.look(cluster, &arguments.group)?;
    }
}

impl Watched {
    fn look(&mut self, cluster: &mut Cluster, group: &str) -> anyhow::Result<()> {
        let group = existing(cluster, group)?;
        let sample = Sample::take(cluster, group)?;
        for (at, point) in &sample.partitions {
            let Some(committed) = point.committed else { continue };
            let still = self.still.entry(at.clone()).or_insert((committed, sample.at));
            if still.0 != committed || point.lag() == Some(0) {
                *still = (committed, sample.at);
            }
        }
        self.samples.push_back(sample);
        while self.samples.len() > 2 && self.samples[1].at.elapsed() >= WATCH_WINDOW {
            self.samples.pop_front();
        }
        Ok(())
    }

    /// There is nothing whose rate could be looked at.
    fn is_idle(&self) -> bool {
        self.samples.back().is_none_or(|sample| sample.partitions.is_empty())
    }

    fn report(&self) -> anyhow::Result<Report<'_>> {
        let (first, last) = self.samples.front().zip(self.samples.back()).context("nothing was seen")?;
        let seconds = (last.at - first.at).as_secs_f64();
        let now = units::now_ms();
        let trends = last
            .partitions
            .iter()
            .map(|(at, point)| (at.clone(), Trend::of(first.partitions.get(at), point, seconds, now)))
            .collect();
        Ok(Report { watched: self, last, seconds, trends })
    }
}

struct Report<'a> {
    watched: &'a Watched,
    last: &'a Sample,
    seconds: f64,
    trends: BTreeMap<TopicPartition, Option<Trend>>,
}

struct Total {
    lag: i64,
    lag_seconds: Option<f64>,
    rate_in: Option<f64>,
    rate_out: Option<f64>,
    empty_in: Option<f64>,
}

impl Report<'_> {
    fn total(&self) -> Total {
        let known = || self.trends.values().flatten();
        let sum = |of: fn(&Trend) -> Option<f64>| {
            let rates: Vec<f64> = known().filter_map(of).collect();
            (!rates.is_empty()).then(|| rates.iter().sum::<f64>())
        };
        let (rate_in, rate_out) = (sum(|trend| trend.rate_in), sum(|trend| trend.rate_out));
        let lag = known().map(|trend| trend.lag).sum();
        // All partitions must be through: the last one counts.
        let each: Option<Vec<f64>> = known().map(|trend| trend.empty_in).collect();
        let empty_in = match each {
            Some(each) => each.into_iter().max_by(f64::total_cmp),
            None => empty_in(lag, rate_in, rate_out).filter(|_| false),
        };
        Total {
            lag,
            lag_seconds: known().filter_map(|trend| trend.lag_seconds).max_by(f64::total_cmp),
            rate_in,
            rate_out,
            empty_in,
        }
    }

    fn causes(&self) -> Vec<String> {
        let seen = self
            .last
            .partitions
            .iter()
            .map(|(at, point)| {
                let still = self.watched.still.get(at).map(|(_, since)| self.last.at - *since);
                let still_for =
                    still.filter(|still| *still >= STOPPED_AFTER).map(|still| still.as_secs_f64());
                (at.clone(), Seen { point, trend: self.trends[at].as_ref(), still_for })
            })
            .collect();
        causes(&self.last.group, &seen, self.seconds)
    }

    fn to_json(&self) -> Value {
        let round = |value: Option<f64>| value.map(|value| (value * 1000.0).round() / 1000.0);
        let partitions = self.last.partitions.iter().map(|(at, point)| {
            let trend = self.trends[at].as_ref();
            let member = self.last.group.members.iter().find(|member| member.partitions.contains(at));
            json!({
                "topic": at.topic, "partition": at.partition,
                "committed": point.committed, "start": point.start, "end": point.end, "lost": point.lost(),
                "lag": trend.map(|trend| trend.lag),
                "lag_seconds": round(trend.and_then(|trend| trend.lag_seconds)),
                "rate_in": round(trend.and_then(|trend| trend.rate_in)),
                "rate_out": round(trend.and_then(|trend| trend.rate_out)),
                "empty_in_seconds": round(trend.and_then(|trend| trend.empty_in)),
                "member": member.map(|member| &member.id), "client_id": member.map(|member| &member.client_id),
            })
        });
        let total = self.total();
        json!({
            "group": self.last.group.id, "state": self.last.group.state, "members": self.last.group.members.len(),
            "lag": total.lag, "lag_seconds": round(total.lag_seconds),
            "rate_in": round(total.rate_in), "rate_out": round(total.rate_out),
            "empty_in_seconds": round(total.empty_in), "looked_seconds": round(Some(self.seconds)),
            "causes": self.causes(),
            "partitions": partitions.collect::<Vec<_>>(),
        })
    }

    fn to_text(&self, all: bool, shown_max: usize) -> String {
        let mut text = head(&self.last.group);
        text.push('\n');
        if self.last.partitions.is_empty() {
            text.push_str("the group has committed nothing and reads nothing\n");
            return text;
        }
        let mut rows: Vec<(&TopicPartition, Option<&Trend>)> =
            self.trends.iter().map(|(at, trend)| (at, trend.as_ref())).collect();
        if !all {
            rows.retain(|(_, trend)| trend.is_none_or(|trend| trend.lag > 0));
        }
        // The worst first, as far as there is room.
        rows.sort_by_key(|(_, trend)| std::cmp::Reverse(trend.map_or(i64::MAX, |trend| trend.lag)));
        let left_out = if all { 0 } else { rows.len().saturating_sub(shown_max) };
        rows.truncate(rows.len() - left_out);
        rows.sort_by_key(|(at, _)| *at);
        let mut table = Table::new(&[
            "PARTITION",
            ">COMMITTED",
            ">END",
            ">LAG",
            ">BEHIND BY",
            ">IN",
            ">OUT",
            "EMPTY IN",
            "MEMBER",
        ]);
        for (at, trend) in &rows {
            self.add(&mut table, at, *trend);
        }
        let total = self.total();
        table.row([
            Cell::new("all", Tone::Bold),
            "".into(),
            "".into(),
            Cell::new(units::count(total.lag), Tone::Bold),
            shown(total.lag_seconds, units::duration).into(),
            shown(total.rate_in, units::rate).into(),
            shown(total.rate_out, units::rate).into(),
            self.until(total.lag, total.rate_out, total.empty_in),
            "".into(),
        ]);
        text.push_str(&table.to_text());
        if left_out > 0 {
            text.push_str(&format!("and {left_out} more partitions with less lag: --all shows them\n"));
        }
        let causes = self.causes();
        if !causes.is_empty() {
            text.push('\n');
        }
        for cause in causes {
            text.push_str(&format!("{} {cause}\n", Tone::Warning.paint("why:")));
        }
        text
    }

    fn add(&self, table: &mut Table, at: &TopicPartition, trend: Option<&Trend>) {
        let point = &self.last.partitions[at];
        let number = |offset: Option<i64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        let member = self.last.group.members.iter().find(|member| member.partitions.contains(at));
        let member = match member {
            Some(member) => format!("{} {}", member.client_id, member.host).into(),
            None => Cell::new("nobody", Tone::Warning),
        };
        let lag = match trend {
            None => Cell::new("?", Tone::Bad),
            Some(trend) if trend.lag > 0 => Cell::new(units::count(trend.lag), Tone::Bold),
            Some(_) => 0.into(),
        };
        table.row([
            at.into(),
            number(point.committed).into(),
            number(point.end).into(),
            lag,
            shown(trend.and_then(|trend| trend.lag_seconds), units::duration).into(),
            shown(trend.and_then(|trend| trend.rate_in), units::rate).into(),
            shown(trend.and_then(|trend| trend.rate_out), units::rate).into(),
            trend.map_or_else(|| "-".into(), |trend| self.until(trend.lag, trend.rate_out, trend.empty_in)),
            member,
        ]);
    }

    fn until(&self, lag: i64, rate_out: Option<f64>, empty_in: Option<f64>) -> Cell {
        match (lag, rate_out, empty_in) {
            (0, _, _) => Cell::new("now", Tone::Good),
            (_, _, Some(seconds)) => units::duration(seconds).into(),
            // Not looked long enough for a rate.
            (_, None, None) => "-".into(),
            (_, Some(rate), None) if is_between_commits(&self.last.group, rate, self.seconds) => "-".into(),
            (_, Some(_), None) => Cell::new("never", Tone::Bad),
        }
    }
}

/// So many partitions leave room for the rest: what scrolls away can't be written over.
fn rows_on_screen() -> usize {
    const LINES_BESIDE: usize = 12;
    let height = terminal_size::terminal_size().map_or(24, |(_, height)| usize::from(height.0));
    height.saturating_sub(LINES_BESIDE).max(3)
}

fn shown(value: Option<f64>, show: fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}
