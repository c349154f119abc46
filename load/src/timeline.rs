//! What happened when: latencies by the interval in which their requests were due. Looked at while a run goes on, and drawn afterwards.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A run's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Produce,
    EndToEnd,
    Fetch,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Produce, Self::EndToEnd, Self::Fetch];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::EndToEnd => "end to end",
            Self::Fetch => "fetch",
        }
    }
}

/// One thing that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) stream: Stream,
    /// Since the time that counts began.
    pub(crate) due: Duration,
    pub(crate) latency: Duration,
    pub(crate) records: u64,
}

/// Two digits of microseconds are enough for a curve.
#[derive(Debug)]
struct Interval {
    records: u64,
    microseconds: Histogram<u64>,
}

impl Interval {
    fn new() -> Self {
        let microseconds = Histogram::new_with_bounds(1, 60_000_000, 2).expect("bounds that are valid");
        Self { records: 0, microseconds }
    }
}

/// What is told of an interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Where it begins, in seconds.
    pub second: f64,
    pub records: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// The intervals of a run, by stream.
#[derive(Debug)]
pub struct Timeline {
    every: Duration,
    intervals: Mutex<[Vec<Option<Interval>>; 3]>,
}

impl Timeline {
    /// Cut so that a curve has about a hundred points.
    #[must_use]
    pub fn over(duration: Duration) -> Self {
        Self { every: (duration / 100).max(Duration::from_millis(50)), intervals: Mutex::default() }
    }

    /// How long an interval is.
    #[must_use]
    pub fn every(&self) -> Duration {
        self.every
    }

    fn lock(&self) -> MutexGuard<'_, [Vec<Option<Interval>>; 3]> {
        self.intervals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, moments: &[Moment]) {
        let mut streams = self.lock();
        for moment in moments {
            let at = usize::try_from(moment.due.as_nanos() / self.every.as_nanos()).unwrap_or(usize::MAX);
            let intervals = &mut streams[moment.stream as usize];
            // Nobody runs for that long.
            if at >= 1 << 20 {
                continue;
            }
            if intervals.len() <= at {
                intervals.resize_with(at + 1, || None);
            }
            let interval = intervals[at].get_or_insert_with(Interval::new);
            interval.records += moment.records;
            let microseconds = u64::try_from(moment.latency.as_micros()).unwrap_or(u64::MAX);
            interval.microseconds.saturating_record(microseconds.max(1));
        }
    }

    /// The points of a stream, in order; none for intervals in which nothing was due.
    #[must_use]
    pub fn points(&self, stream: Stream) -> Vec<Point> {
        let streams = self.lock();
        let mut points = Vec::new();
        let mut second = 0.0;
        for interval in &streams[stream as usize] {
            if let Some(interval) = interval {
                let at = |quantile| interval.microseconds.value_at_quantile(quantile);
                points.push(Point {
                    second,
                    records: interval.records,
                    p50_us: at(0.5),
                    p99_us: at(0.99),
                    max_us: interval.microseconds.max(),
                });
            }
            second += self.every.as_secs_f64();
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_stands_where_its_request_was_due() {
        let timeline = Timeline::over(Duration::from_secs(10));
        let moment = |due_ms, latency_ms| Moment {
            stream: Stream::Fetch,
            due: Duration::from_millis(due_ms),
            latency: Duration::from_millis(latency_ms),
            records: 2,
        };
        timeline.record(&[moment(250, 700), moment(20, 1), moment(299, 300)]);
        assert!(timeline.points(Stream::Produce).is_empty());
        let points = timeline.points(Stream::Fetch);
        let told: Vec<_> = points.iter().map(|point| (point.records, point.max_us / 10_000)).collect();
        assert_eq!(told, [(2, 0), (4, 70)]);
        assert!((points[1].second - 0.2).abs() < 1e-9, "{points:?}");
    }
}
