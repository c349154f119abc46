//! What one thread of a run counts.

use std::time::{Duration, Instant};

use crate::figures::Count;
use crate::timeline::{Moment, Stream, Timeline};

/// The timeline, which threads share, is told so often.
const TELL_EVERY: Duration = Duration::from_millis(100);
const MOMENTS_MAX: usize = 4_096;

/// Something that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) due: Instant,
    pub(crate) records: u64,
    /// Of values where records are written, of batches where they are read.
    pub(crate) bytes: u64,
}

pub(crate) struct Tally<'a> {
    pub(crate) counts: [Count; 3],
    counted_from: Instant,
    timeline: &'a Timeline,
    moments: Vec<Moment>,
    told: Instant,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(counted_from: Instant, timeline: &'a Timeline) -> Self {
        Self { counts: Default::default(), counted_from, timeline, moments: Vec::new(), told: Instant::now() }
    }

    pub(crate) fn answered(&mut self, stream: Stream, what: Answered, now: Instant) {
        let count = &mut self.counts[stream as usize];
        count.records_in_all += what.records;
        let Some(due) = what.due.checked_duration_since(self.counted_from) else { return };
        let latency = now.saturating_duration_since(what.due);
        count.records += what.records;
        count.requests += 1;
        count.bytes += what.bytes;
        count.latency.record(latency);
        count.last_answer = count.last_answer.max(Some(now));
        self.moments.push(Moment { stream, due, latency, records: what.records });
        if self.moments.len() >= MOMENTS_MAX {
            self.tell(now);
        }
    }

    /// A request left.
    pub(crate) fn sent(&mut self, stream: Stream, due: Instant, now: Instant) {
        if due >= self.counted_from {
            self.counts[stream as usize].late.record(now.saturating_duration_since(due));
        }
    }

    pub(crate) fn failed(&mut self, stream: Stream, why: impl Into<String>, times: u64) {
        if times > 0 {
            *self.counts[stream as usize].errors.entry(why.into()).or_default() += times;
        }
    }

    pub(crate) fn tell_in_time(&mut self, now: Instant) {
        if now.saturating_duration_since(self.told) >= TELL_EVERY {
            self.tell(now);
        }
    }

    fn tell(&mut self, now: Instant) {
        self.timeline.record(&self.moments);
        self.moments.clear();
        self.told = now;
    }

    pub(crate) fn finish(mut self) -> [Count; 3] {
        self.tell(Instant::now());
        self.counts
    }
}
