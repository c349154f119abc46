//! What came of a run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::latency::{Latency, Summary};

/// What came of one of a run's streams: what was written, what was read.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Acknowledged, or read, in the time that counts.
    pub records: u64,
    pub requests: u64,
    pub seconds: f64,
    pub records_per_second: f64,
    pub mib_per_second: f64,
    /// Records per second that were to be sent; `None` where as many were sent as went through.
    pub offered_per_second: Option<f64>,
    /// From the intended moment where a rate was offered, else from the sending. Of what is read end to end: from the intended moment
    /// of the writing.
    pub latency: Summary,
    /// Quantile and microseconds, for a curve.
    pub curve: Vec<(f64, f64)>,
    /// How late requests left the generator itself, which is part of their latency.
    pub late: Option<Summary>,
    /// All that was acknowledged or read, the warm-up included.
    pub records_in_all: u64,
    /// Requests that were answered with an error or not at all, the warm-up included, by what was said.
    pub errors: BTreeMap<String, u64>,
}

impl Figures {
    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What a run gives.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub produce: Option<Figures>,
    /// What followers read, from its writing on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Figures>,
}

/// What is counted of one stream, by one thread or all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) records: u64,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) records_in_all: u64,
    pub(crate) latency: Latency,
    pub(crate) late: Latency,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Of those that count.
    pub(crate) last_answer: Option<Instant>,
}

impl Count {
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.records_in_all += other.records_in_all;
        self.latency.add(&other.latency);
        self.late.add(&other.late);
        self.last_answer = self.last_answer.max(other.last_answer);
        for (error, times) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += times;
        }
    }

    pub(crate) fn figures(self, elapsed: Duration, offered_per_second: Option<f64>) -> Figures {
        let seconds = elapsed.as_secs_f64();
        Figures {
            records: self.records,
            requests: self.requests,
            seconds,
            records_per_second: to_f64(self.records) / seconds,
            mib_per_second: to_f64(self.bytes) / f64::from(1 << 20) / seconds,
            offered_per_second,
            latency: self.latency.summary(),
            curve: self.latency.curve(),
            late: offered_per_second.map(|_| self.late.summary()),
            records_in_all: self.records_in_all,
            errors: self.errors,
        }
    }
}

/// A count as a figure to print or to divide.
#[allow(clippy::cast_precision_loss, reason = "a figure to print")]
#[must_use]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}
