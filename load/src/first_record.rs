//! How long a broker, or several, take from their start until they serve: asked again and again, from before they are there.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::ProduceRequest;
use ottla_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use serde::Serialize;

use crate::admin::{self, TopicShape};
use crate::bootstrap::Bootstrap;
use crate::clock::{monotonic_ns, sleep_precisely};
use crate::connection::Connection;
use crate::error::{BenchError, name_of};
use crate::produce_frame::PRODUCE_VERSION;

/// Between two attempts. A refused connection costs some 20 microseconds, so this takes little from the broker that starts.
const PAUSE: Duration = Duration::from_millis(1);

/// What is waited for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// One after the other is tried: the one that leads takes the record.
    pub bootstrap: Bootstrap,
    pub topic: String,
    /// The topic is new and is made first.
    pub create: Option<TopicShape>,
    /// A record is written.
    pub record: bool,
    /// The topic holds records; the first of them is fetched too.
    pub fetch: bool,
    pub value_bytes: usize,
    pub limit: Duration,
}

/// Moments of the machine's monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Moments {
    /// A connection was accepted.
    pub connected_ns: u64,
    /// The topic was made.
    pub created_ns: Option<u64>,
    /// A record was acknowledged (acks=all).
    pub acknowledged_ns: Option<u64>,
    /// A record was fetched.
    pub fetched_ns: Option<u64>,
}

/// Waits until all of the wish has come true.
///
/// # Errors
/// It took longer than its limit, or an answer can't be read.
pub fn wait(wish: &Wish) -> Result<Moments, BenchError> {
    thread::scope(|scope| {
        let fetcher = wish.fetch.then(|| {
            scope.spawn(|| {
                let mut attempts = Attempts::new("the first record fetched", wish);
                attempts.until(|connection| {
                    let fetched = admin::fetch_first(connection, &wish.topic)?;
                    Ok(fetched.and_then(|records| records.map(drop).ok_or("no records")))
                })
            })
        });
        let mut moments = write_first(wish)?;
        if let Some(fetcher) = fetcher {
            moments.fetched_ns = Some(fetcher.join().expect("it does not panic")?);
        }
        Ok(moments)
    })
}

fn write_first(wish: &Wish) -> Result<Moments, BenchError> {
    let mut moments = Moments::default();
    let mut attempts = Attempts::new("the first record acknowledged", wish);
    moments.connected_ns = attempts.until(|_| Ok(Ok(())))?;
    if let Some(shape) = &wish.create {
        let request = admin::creation(std::slice::from_ref(&wish.topic), shape);
        moments.created_ns = Some(attempts.until(|connection| {
            let answer = connection.call(7, &request)?;
            let code = answer.topics.first().map_or(0, |topic| topic.error_code);
            Ok(verdict(code, &[ErrorCode::None, ErrorCode::TopicAlreadyExists]))
        })?);
    }
    if !wish.record {
        return Ok(moments);
    }
    let request = one_record(wish);
    let acknowledged = attempts.until(|connection| {
        let answer = connection.call(PRODUCE_VERSION, &request)?;
        let code = answer.responses.iter().flat_map(|topic| &topic.partition_responses).next();
        Ok(verdict(code.map_or(-1, |partition| partition.error_code), &[ErrorCode::None]))
    })?;
    moments.acknowledged_ns = Some(acknowledged);
    Ok(moments)
}

fn verdict(code: i16, good: &[ErrorCode]) -> Result<(), &'static str> {
    if good.iter().any(|good| good.code() == code) { Ok(()) } else { Err(name_of(code)) }
}

fn one_record(wish: &Wish) -> ProduceRequest {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    batch.append(-1, None, Some(&vec![b'v'; wish.value_bytes]));
    let data = PartitionProduceData { index: 0, records: Some(Bytes::from(batch.build())) };
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: wish.topic.as_str().into(),
            partition_data: vec![data],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    }
}

/// A connection to each broker, opened anew whenever it ends.
struct Attempts {
    what: &'static str,
    connections: Vec<(SocketAddr, Option<Connection>)>,
    /// Whose turn it is.
    at: usize,
    began: Instant,
    limit: Duration,
}

impl Attempts {
    fn new(what: &'static str, wish: &Wish) -> Self {
        sleep_precisely();
        let connections = wish.bootstrap.0.iter().map(|address| (*address, None)).collect();
        Self { what, connections, at: 0, began: Instant::now(), limit: wish.limit }
    }

    /// Tries until it succeeds; the moment at which it did.
    fn until(
        &mut self,
        mut attempt: impl FnMut(&mut Connection) -> Result<Result<(), &'static str>, BenchError>,
    ) -> Result<u64, BenchError> {
        loop {
            let last = match self.connected().map_err(BenchError::from).and_then(&mut attempt) {
                Ok(Ok(())) => return Ok(monotonic_ns()),
                Ok(Err(error)) => error.to_owned(),
                Err(BenchError::Connection(error)) => {
                    self.connections[self.at].1 = None;
                    error.to_string()
                }
                Err(error) => return Err(error),
            };
            if self.began.elapsed() > self.limit {
                return Err(BenchError::Patience { what: self.what, limit: self.limit, last });
            }
            self.at = (self.at + 1) % self.connections.len();
            thread::sleep(PAUSE);
        }
    }

    fn connected(&mut self) -> io::Result<&mut Connection> {
        match &mut self.connections[self.at] {
            (_, Some(connection)) => Ok(connection),
            (address, none) => Ok(none.insert(Connection::open(*address)?)),
        }
    }
}
