//! Latencies in a histogram of high dynamic range: three digits, from a nanosecond to a minute.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer ones are counted as this long.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Latency {
    nanoseconds: Histogram<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).expect("a minute");
        Self { nanoseconds: Histogram::new_with_bounds(1, longest, 3).expect("bounds that are valid") }
    }
}

impl Latency {
    pub fn record(&mut self, latency: Duration) {
        self.nanoseconds.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Takes in what another thread counted.
    pub fn add(&mut self, other: &Self) {
        self.nanoseconds.add(&other.nanoseconds).expect("histograms of the same bounds");
    }

    /// Quantiles, ever closer to one, and their microseconds.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let steps = self.nanoseconds.iter_quantiles(4);
        let mut curve: Vec<(f64, f64)> = Vec::new();
        for step in steps {
            let point = (step.quantile_iterated_to(), microseconds(step.value_iterated_to()));
            if curve.last().is_none_or(|last| last.0 < point.0) {
                curve.push(point);
            }
        }
        curve
    }

    #[must_use]
    pub fn summary(&self) -> Summary {
        let at = |quantile| microseconds(self.nanoseconds.value_at_quantile(quantile));
        Summary {
            count: self.nanoseconds.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: microseconds(self.nanoseconds.max()),
        }
    }
}

/// What is told of a histogram, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// Rounded to tenths: the third digit is all that the histogram keeps.
fn microseconds(nanoseconds: u64) -> f64 {
    (Duration::from_nanos(nanoseconds).as_secs_f64() * 1e7).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut low = Latency::default();
        let mut high = Latency::default();
        (1..=990).for_each(|_| low.record(Duration::from_micros(100)));
        (1..=10).for_each(|_| high.record(Duration::from_secs(100)));
        low.add(&high);
        let summary = low.summary();
        assert_eq!(summary.count, 1_000);
        assert!((summary.p50_us - 100.0).abs() < 0.2 && (summary.p99_us - 100.0).abs() < 0.2, "{summary:?}");
        assert!(summary.p999_us > 59e6 && summary.max_us > 59e6, "{summary:?}");
    }
}
