//! What a run sends and reads.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::payload::Content;

/// One run against one topic.
#[derive(Clone, Debug)]
pub struct Plan {
    pub topic: String,
    /// Where each partition is led; at least one.
    pub leaders: Vec<SocketAddr>,
    pub writers: Option<Writers>,
    /// Who reads what is written, from where the log ends when the run begins.
    pub followers: Option<Followers>,
    /// Who reads what was there before.
    pub readers: Option<Readers>,
    /// What is sent at first is not counted.
    pub warmup: Duration,
    pub span: Span,
    /// Threads that serve the connections; a partition belongs to one of them.
    pub threads: usize,
}

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    Elapsed(Duration),
    /// So many records were acknowledged (rounded up to whole batches).
    Records(u64),
}

/// How fast requests leave.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// An open loop: so many records per second, whether or not answers come. A latency counts from the moment at which its request
    /// should have left, so a broker that stalls is charged for everything that waited (no coordinated omission).
    Rate(f64),
    /// A closed loop: each connection keeps so many requests in flight. A latency counts from the sending.
    InFlight(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Writers {
    /// Partitions are spread over them, or they over partitions, whichever are more.
    pub connections: usize,
    pub content: Content,
    /// -1 waits for all replicas in sync, 1 for the leader alone.
    pub acks: i16,
    /// Each connection is a producer with an id, whose batches have sequence numbers.
    pub idempotent: bool,
    pub pace: Pace,
}

/// They ask for all that is new in their partitions, and are answered as soon as there is any: a connection for each thread that writes.
#[derive(Clone, Debug)]
pub struct Followers {
    pub max_bytes: i32,
    /// Where each partition ended before the run.
    pub from: Vec<i64>,
}

/// They read what is there, over and over, partition after partition.
#[derive(Clone, Debug)]
pub struct Readers {
    pub connections: usize,
    /// Of one request.
    pub max_bytes: i32,
    pub pace: Pace,
    /// Where each partition ended before the run: nothing beyond is read.
    pub ends: Vec<i64>,
    /// The records that one request is expected to bring; the next begins behind them.
    pub records_per_request: i64,
    /// Each record is read once, and then the run is over.
    pub once: bool,
}

impl Readers {
    /// They ask for whole batches of what a topic was filled with: as many as `fetch_bytes` hold, one at least. `None` if that is more
    /// than one request can ask for.
    #[must_use]
    pub fn of_whole_batches(filled_with: &Content, fetch_bytes: usize, ends: Vec<i64>) -> Option<Self> {
        let batch_bytes = filled_with.batches().iter().map(|batch| batch.bytes().len()).max().unwrap_or(1);
        let batches = (fetch_bytes / batch_bytes).max(1);
        Some(Self {
            connections: 1,
            max_bytes: i32::try_from(batches * batch_bytes).ok()?,
            pace: Pace::InFlight(1),
            ends,
            records_per_request: i64::try_from(batches * filled_with.shape.records).ok()?,
            once: false,
        })
    }
}

/// Milliseconds since 1970, for records.
#[must_use]
pub fn now_ms() -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::BatchShape;

    #[test]
    fn a_request_asks_for_whole_batches() {
        let content = Content::plain(BatchShape::filling(1_024, 16_384), 0);
        let batch = content.batches()[0].bytes().len();
        let asked = |fetch_bytes| {
            let readers = Readers::of_whole_batches(&content, fetch_bytes, vec![100]).expect("few bytes");
            (usize::try_from(readers.max_bytes).expect("some"), readers.records_per_request)
        };
        assert_eq!(asked(1), (batch, 16));
        assert_eq!(asked(batch * 4 - 1), (batch * 3, 48));
        assert!(Readers::of_whole_batches(&content, 3 << 30, vec![100]).is_none());
    }
}
