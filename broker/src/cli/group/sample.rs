//! A group and its logs at one moment, and what two moments tell.

use std::collections::BTreeMap;
use std::time::Instant;

use ottla_client::{At, Cluster, Group, TopicPartition};

use crate::cli::units;

/// How far back the rate of what comes in is taken from the logs' own timestamps.
const INFLOW_SECONDS: i64 = 60;
/// Samples that are nearer to each other tell no rate of what comes in.
const APART_SECONDS_MIN: f64 = 3.0;

/// What was seen at one moment.
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) group: Group,
    /// Every partition that the group has an offset in or a member for.
    pub(super) partitions: BTreeMap<TopicPartition, Point>,
}

/// One partition at that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub(super) committed: Option<i64>,
    /// `None`: the partition has no leader, or is gone.
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
    /// Where the log ended a minute ago; `None` if nobody knows.
    pub(super) end_before: Option<i64>,
    /// When the next record to be read was written, in milliseconds since 1970.
    pub(super) waiting_since: Option<i64>,
}

impl Point {
    /// Records between the group and the end; what retention has deleted can't be read any more. Without a commit: all there are.
    pub(super) fn lag(&self) -> Option<i64> {
        let (start, end) = (self.start?, self.end?);
        Some((end - self.committed.unwrap_or(start).max(start)).max(0))
    }

    /// Records that were deleted before the group read them.
    pub(super) fn lost(&self) -> i64 {
        match (self.committed, self.start) {
            (Some(committed), Some(start)) => (start - committed).max(0),
            _ => 0,
        }
    }
}

impl Sample {
    pub(super) fn take(cluster: &mut Cluster, group: Group) -> anyhow::Result<Self> {
        let committed = cluster.committed(&group.id)?;
        let mut partitions: BTreeMap<TopicPartition, Point> = committed
            .into_iter()
            .map(|(partition, committed)| {
                (partition, Point { committed: Some(committed.offset), ..Point::default() })
            })
            .collect();
        for member in &group.members {
            for partition in &member.partitions {
                partitions.entry(partition.clone()).or_default();
            }
        }
        let names: Vec<TopicPartition> = partitions.keys().cloned().collect();
        let before = units::now_ms() - INFLOW_SECONDS * 1000;
        let starts = cluster.offsets(At::Earliest, &names)?;
        let ends = cluster.offsets(At::Latest, &names)?;
        let befores = cluster.offsets(At::Time(before), &names)?;
        let mut next = BTreeMap::new();
        for (name, point) in &mut partitions {
            let of = |found: &BTreeMap<TopicPartition, ottla_client::Result<ottla_client::Found>>| {
                found.get(name).and_then(|found| found.as_ref().ok()).map(|found| found.offset)
            };
            point.start = of(&starts);
            point.end = of(&ends);
            point.end_before =
                of(&befores).map(|offset| if offset < 0 { point.end.unwrap_or(0) } else { offset });
            if let (Some(lag), Some(start)) = (point.lag().filter(|lag| *lag > 0), point.start) {
                debug_assert!(lag > 0, "filtered");
                next.insert(name.clone(), point.committed.unwrap_or(start).max(start));
            }
        }
        for (name, timestamp) in cluster.timestamps_at(&next)? {
            if let Some(point) = partitions.get_mut(&name) {
                point.waiting_since = Some(timestamp);
            }
        }
        Ok(Self { at: Instant::now(), group, partitions })
    }
}

/// What became of a partition between two samples.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trend {
    pub(super) lag: i64,
    /// How old the next record to be read is.
    pub(super) lag_seconds: Option<f64>,
    /// Records a second: between the samples, or in the last minute where they are too near to each other.
    pub(super) rate_in: Option<f64>,
    /// Between the samples.
    pub(super) rate_out: Option<f64>,
    /// Seconds until there is no lag, if both rates stay; `None`: never, or not known.
    pub(super) empty_in: Option<f64>,
}

impl Trend {
    /// `seconds`: between the samples; 0: there is only one.
    pub(super) fn of(first: Option<&Point>, last: &Point, seconds: f64, now_ms: i64) -> Option<Self> {
        let lag = last.lag()?;
        let between = |from: Option<i64>, to: Option<i64>| {
            Some((to? - from?).max(0) as f64 / seconds).filter(|_| seconds > 0.0)
        };
        let of_minute = last
            .end_before
            .zip(last.end)
            .map(|(before, end)| (end - before).max(0) as f64 / INFLOW_SECONDS as f64);
        let of_samples = between(first.and_then(|first| first.end), last.end);
        let rate_in =
            if seconds < APART_SECONDS_MIN { of_minute.or(of_samples) } else { of_samples.or(of_minute) };
        let rate_out = between(first.and_then(|first| first.committed), last.committed);
        Some(Self {
            lag,
            lag_seconds: if lag == 0 {
                Some(0.0)
            } else {
                last.waiting_since.map(|since| (now_ms - since).max(0) as f64 / 1000.0)
            },
            rate_in,
            rate_out,
            empty_in: empty_in(lag, rate_in, rate_out),
        })
    }
}

pub(super) fn empty_in(lag: i64, rate_in: Option<f64>, rate_out: Option<f64>) -> Option<f64> {
    if lag == 0 {
        return Some(0.0);
    }
    let gain = rate_out? - rate_in?;
    (gain > 0.0).then(|| lag as f64 / gain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_counted_in_what_can_still_be_read() {
        let point = Point { committed: Some(5), start: Some(10), end: Some(30), ..Point::default() };
        assert_eq!((point.lag(), point.lost()), (Some(20), 5));
        let fresh = Point { committed: None, ..point };
        assert_eq!((fresh.lag(), fresh.lost()), (Some(20), 0));
        let ahead = Point { committed: Some(40), ..point };
        assert_eq!(ahead.lag(), Some(0));
        assert_eq!(Point { end: None, ..point }.lag(), None);
    }

    #[test]
    fn rates_come_from_two_moments_and_the_logs_own_times() {
        let first = Point { committed: Some(100), start: Some(0), end: Some(1_000), ..Point::default() };
        let last = Point {
            committed: Some(300),
            end: Some(1_000),
            end_before: Some(400),
            waiting_since: Some(5_000),
            ..first
        };
        let trend = Trend::of(Some(&first), &last, 10.0, 9_000).expect("a lag");
        assert_eq!((trend.lag, trend.lag_seconds), (700, Some(4.0)));
        // Nothing came between them, though 600 records did before, within the last minute.
        assert_eq!((trend.rate_in, trend.rate_out), (Some(0.0), Some(20.0)));
        assert_eq!(trend.empty_in, Some(35.0));
        let near = Trend::of(Some(&first), &last, 0.5, 9_000).expect("a lag");
        assert_eq!((near.rate_in, near.rate_out), (Some(10.0), Some(400.0)));
        // One moment has no rate out, and so no end in sight.
        let alone = Trend::of(None, &last, 0.0, 9_000).expect("a lag");
        assert_eq!((alone.rate_out, alone.empty_in), (None, None));
        // It reads slower than it is written: never.
        assert_eq!(empty_in(5, Some(2.0), Some(1.0)), None);
        assert_eq!(empty_in(0, Some(2.0), Some(1.0)), Some(0.0));
    }
}
