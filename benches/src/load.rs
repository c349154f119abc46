//! What is sent, by how many, and what came of it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::connection::Connection;
use crate::latency::{Latency, Summary};
use crate::produce_frame::{BatchShape, ProduceFrame};

/// Who sends what where. Connection `i` writes to partition `i` modulo the number of partitions, at that partition's leader.
#[derive(Clone, Debug)]
pub struct Load {
    pub topic: String,
    /// Where each partition is led; at least one.
    pub leaders: Vec<SocketAddr>,
    pub connections: usize,
    pub shape: BatchShape,
    /// -1 waits for all replicas in sync, 1 for the leader alone.
    pub acks: i16,
}

impl Load {
    /// One connection after the other, each to the leader of its partition.
    pub(crate) fn connect(&self) -> io::Result<Vec<Connection>> {
        let leaders = self.leaders.iter().cycle();
        leaders.take(self.connections).map(|leader| Connection::open(*leader)).collect()
    }

    pub(crate) fn frame_of(&self, connection: usize) -> ProduceFrame {
        let partition = i32::try_from(connection % self.leaders.len()).unwrap_or(i32::MAX);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        ProduceFrame::encode(&self.topic, partition, self.shape, self.acks, now_ms)
    }
}

/// What one connection counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) batches: u64,
    pub(crate) latency: Latency,
}

/// What came of a load. An answer that refuses records ends a measurement, so there is no count of errors.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub records: u64,
    pub seconds: f64,
    pub records_per_second: f64,
    pub mib_per_second: f64,
    /// Records per second that were to be sent; `None` where as many were sent as went through.
    pub offered_per_second: Option<f64>,
    /// From the intended moment where a rate was offered, else from the sending.
    pub latency: Summary,
}

impl Outcome {
    pub(crate) fn of(
        counts: &[Count],
        load: &Load,
        elapsed: Duration,
        offered_per_second: Option<f64>,
    ) -> Self {
        let mut latency = Latency::default();
        counts.iter().for_each(|count| latency.add(&count.latency));
        let batches: u64 = counts.iter().map(|count| count.batches).sum();
        let records = batches * u64::try_from(load.shape.records).unwrap_or(u64::MAX);
        let bytes = records * u64::try_from(load.shape.value_bytes).unwrap_or(u64::MAX);
        let seconds = elapsed.as_secs_f64();
        Self {
            records,
            seconds,
            records_per_second: to_f64(records) / seconds,
            mib_per_second: to_f64(bytes) / f64::from(1 << 20) / seconds,
            offered_per_second,
            latency: latency.summary(),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure to print")]
fn to_f64(count: u64) -> f64 {
    count as f64
}
