//! A stand-in for the crate `base2histogram` 0.2.3, in which openraft counts its own batch sizes.
//!
//! The original computes, at first use, the tables of all sixteen bucket widths, of which openraft needs one: 26 MB that stay in
//! memory and about 10 ms, more than all the rest of a node takes at its start. This one has no tables: a bucket for each power of
//! two, split in four. It offers what openraft calls and nothing else.

use std::fmt;
use std::marker::PhantomData;

/// Sub-buckets of a power of two: values are known to a quarter of their size.
const SPLIT: usize = 4;
const BUCKETS: usize = 64 * SPLIT;

/// Counts of values by their size.
pub struct Histogram<T = ()> {
    /// Empty until the first value comes.
    counts: Vec<u64>,
    slots: PhantomData<T>,
}

/// Values below which certain shares of all values lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl<T> Histogram<T> {
    #[must_use]
    pub fn new() -> Self {
        Self { counts: Vec::new(), slots: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(value)] += 1;
    }

    pub fn record_n(&mut self, value: u64, count: u64) {
        for _ in 0..count.min(1) {
            self.record(value);
        }
        if count > 1 {
            self.counts[bucket(value)] += count - 1;
        }
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The lower end of the bucket below which `share` of all values lie; 0 while there are none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let wanted = (self.total() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return lower_end(index);
            }
        }
        0
    }

    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "n={samples} p50={p50} p90={p90} p99={p99} p99.9={p99_9}")
    }
}

fn bucket(value: u64) -> usize {
    let Some(power) = value.checked_ilog2() else { return 0 };
    let rest = value - (1 << power);
    // `rest` is below 2^power: its share of the bucket in quarters.
    let quarter = if power >= 2 { rest >> (power - 2) } else { (rest << 2) >> power };
    (power as usize * SPLIT + quarter as usize).min(BUCKETS - 1)
}

fn lower_end(index: usize) -> u64 {
    let (power, quarter) = (index / SPLIT, (index % SPLIT) as u64);
    let base = 1u64 << power;
    if power >= 2 { base + (quarter << (power - 2)) } else { base + ((quarter << power) >> 2) }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Histogram<T> {
    fn clone(&self) -> Self {
        Self { counts: self.counts.clone(), slots: PhantomData }
    }
}

impl<T> PartialEq for Histogram<T> {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl<T> Eq for Histogram<T> {}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.percentile_stats().fmt(f)
    }
}

/// Several histograms, one line each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "the original's name")]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.0 {
            writeln!(f, "{name}: {stats:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_a_bucket_that_begins_at_or_below_it() {
        for power in 0..64 {
            for value in [1u64 << power, (1 << power) + (1 << power) / 2, u64::MAX >> (63 - power)] {
                let start = lower_end(bucket(value));
                assert!(start <= value && value - start <= value / 4 + 1, "{value} in a bucket from {start}");
            }
        }
        assert_eq!(bucket(0), 0);
    }

    #[test]
    fn percentiles_are_known_to_a_quarter() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        (1..=1_000).for_each(|value| histogram.record(value));
        histogram.record_n(5, 0);
        let stats = histogram.percentile_stats();
        assert_eq!(stats.samples, 1_000);
        assert!((384..=500).contains(&stats.p50), "{}", stats.p50);
        assert!((768..=990).contains(&stats.p99), "{}", stats.p99);
    }
}
