//! One connection that writes.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use ottla_protocol::batch::add_sequence;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::ProduceRequest;

use crate::error::name_of;
use crate::journeys::Journeys;
use crate::link::{Link, Outgoing};
use crate::produce_frame::{PRODUCE_VERSION, ProduceFrame, Sequenced};
use crate::tally::{Answered, Tally};
use crate::timeline::Stream;

/// A partition as one connection writes to it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) partition: i32,
    /// One for each batch that is sent in turn.
    pub(crate) frames: Vec<ProduceFrame>,
    next_frame: usize,
    sequence: i32,
}

impl Lane {
    pub(crate) fn new(partition: i32, frames: Vec<ProduceFrame>) -> Self {
        Self { partition, frames, next_frame: 0, sequence: 0 }
    }
}

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    partition: i32,
    due: Instant,
    records: u64,
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) link: Link,
    lanes: Vec<Lane>,
    next_lane: usize,
    /// Id and epoch, of an idempotent producer.
    producer: Option<(i64, i16)>,
    pending: VecDeque<Pending>,
    next_id: i32,
    value_bytes: u64,
    /// Why it ended.
    ended: Option<String>,
}

impl Writer {
    pub(crate) fn new(
        link: Link,
        lanes: Vec<Lane>,
        producer: Option<(i64, i16)>,
        value_bytes: usize,
    ) -> Self {
        let value_bytes = u64::try_from(value_bytes).unwrap_or(u64::MAX);
        Self {
            link,
            lanes,
            next_lane: 0,
            producer,
            pending: VecDeque::new(),
            next_id: 0,
            value_bytes,
            ended: None,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// Puts the next request behind those that wait to leave.
    pub(crate) fn push(&mut self, due: Instant, now: Instant, tally: &mut Tally<'_>) {
        if let Some(why) = &self.ended {
            tally.failed(Stream::Produce, why.clone(), 1);
            return;
        }
        let turn = self.next_lane;
        self.next_lane = (turn + 1) % self.lanes.len();
        let lane = &mut self.lanes[turn];
        let frame = &lane.frames[lane.next_frame];
        lane.next_frame = (lane.next_frame + 1) % lane.frames.len();
        let sequenced = self.producer.map(|(producer_id, producer_epoch)| Sequenced {
            producer_id,
            producer_epoch,
            sequence: lane.sequence,
        });
        lane.sequence = add_sequence(lane.sequence, i32::try_from(frame.records()).unwrap_or(i32::MAX));
        self.link.push(Outgoing::new(frame.prefix(self.next_id, sequenced), frame.tail().clone()));
        let records = u64::try_from(frame.records()).unwrap_or(u64::MAX);
        self.pending.push_back(Pending { partition: lane.partition, due, records });
        self.next_id = self.next_id.wrapping_add(1);
        tally.sent(Stream::Produce, due, now);
    }

    /// Takes the answers that came.
    pub(crate) fn receive(&mut self, tally: &mut Tally<'_>, journeys: Option<&mut Journeys>) {
        let mut journeys = journeys;
        let (pending, value_bytes) = (&mut self.pending, self.value_bytes);
        let first_id = self.next_id.wrapping_sub(i32::try_from(pending.len()).unwrap_or(i32::MAX));
        let mut expected = first_id;
        let mut nonsense = None;
        let outcome = self.link.receive(|frame| {
            let now = Instant::now();
            let Some(request) = pending.pop_front() else {
                nonsense = Some("an answer to no request".to_owned());
                return;
            };
            let verdict = verdict(frame, expected);
            expected = expected.wrapping_add(1);
            match verdict {
                Ok(base_offset) => {
                    let bytes = request.records * value_bytes;
                    let answered = Answered { due: request.due, records: request.records, bytes };
                    tally.answered(Stream::Produce, answered, now);
                    let journey = journeys
                        .as_mut()
                        .and_then(|open| open.on_written(request.partition, base_offset, request.due));
                    if let Some(journey) = journey {
                        let answered = Answered { due: journey.due, records: request.records, bytes };
                        tally.answered(Stream::EndToEnd, answered, journey.seen);
                    }
                }
                Err(error) => tally.failed(Stream::Produce, error, 1),
            }
        });
        if let Err(error) = outcome {
            self.end(&why(&error), tally);
        } else if let Some(nonsense) = nonsense {
            self.end(&nonsense, tally);
        }
    }

    pub(crate) fn flush(&mut self, tally: &mut Tally<'_>) {
        if self.is_open()
            && let Err(error) = self.link.flush()
        {
            self.end(&why(&error), tally);
        }
    }

    /// What is not answered counts as failed, and what would be sent later.
    pub(crate) fn end(&mut self, why: &str, tally: &mut Tally<'_>) {
        tally.failed(Stream::Produce, why, self.pending.len() as u64);
        self.pending.clear();
        self.ended = Some(why.to_owned());
    }
}

/// How the end of a connection is told.
pub(crate) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the broker closed the connection".to_owned(),
        _ => format!("the connection: {error}"),
    }
}

/// The offset that the batch got, or the error that it met.
fn verdict(frame: &[u8], expected: i32) -> Result<i64, String> {
    let answer = frame::decode_response::<ProduceRequest>(Bytes::copy_from_slice(frame), PRODUCE_VERSION);
    let (id, response) = answer.map_err(|error| format!("an answer that can't be read: {error}"))?;
    if id != expected {
        return Err("an answer out of order".to_owned());
    }
    let partition = response.responses.iter().flat_map(|topic| &topic.partition_responses).next();
    match partition {
        Some(partition) if partition.error_code == ErrorCode::None.code() => Ok(partition.base_offset),
        Some(partition) => Err(name_of(partition.error_code).to_owned()),
        None => Err("an answer without a partition".to_owned()),
    }
}
