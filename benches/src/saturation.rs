//! As much as the broker takes: every connection keeps a fixed number of requests in flight.

use std::io::{self, IoSlice, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::answers::Answers;
use crate::error::BenchError;
use crate::load::{Count, Load, Outcome};
use crate::produce_frame::{HEAD_BYTES, ProduceFrame};

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many records were acknowledged (rounded up to whole batches).
    Records(u64),
    Elapsed(Duration),
}

/// Sends until `until`, and waits for every answer.
///
/// # Errors
/// A connection ended or records were refused.
pub fn run(load: &Load, in_flight: usize, until: Until) -> Result<Outcome, BenchError> {
    let left = AtomicI64::new(match until {
        Until::Records(records) => {
            let batches = records.div_ceil(u64::try_from(load.shape.records).unwrap_or(1));
            i64::try_from(batches).unwrap_or(i64::MAX)
        }
        Until::Elapsed(_) => i64::MAX,
    });
    let connections = load.connect()?;
    let began = Instant::now();
    let deadline = match until {
        Until::Elapsed(duration) => Some(began + duration),
        Until::Records(_) => None,
    };
    let quota = Quota { left: &left, deadline };
    let counts = thread::scope(|scope| {
        let senders: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(number, connection)| {
                let frame = load.frame_of(number);
                scope.spawn(move || keep_in_flight(connection.into_stream(), &frame, in_flight, quota))
            })
            .collect();
        senders
            .into_iter()
            .map(|sender| sender.join().expect("a sender does not panic"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(Outcome::of(&counts, load, began.elapsed(), None))
}

/// The batches that are still to be sent, shared by all connections.
#[derive(Clone, Copy)]
struct Quota<'a> {
    left: &'a AtomicI64,
    deadline: Option<Instant>,
}

impl Quota<'_> {
    /// Takes up to `wanted`, fewer near the end.
    fn take(self, wanted: usize, now: Instant) -> usize {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return 0;
        }
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let before = self.left.fetch_sub(wanted, Ordering::Relaxed);
        usize::try_from(before.clamp(0, wanted)).unwrap_or(0)
    }
}

fn keep_in_flight(
    mut stream: TcpStream,
    frame: &ProduceFrame,
    in_flight: usize,
    quota: Quota<'_>,
) -> Result<Count, BenchError> {
    let mut answers = Answers::new(0);
    let mut count = Count::default();
    let mut sent_at = std::collections::VecDeque::with_capacity(in_flight);
    let mut next_id = 0_i32;
    loop {
        let now = Instant::now();
        let sending = quota.take(in_flight - sent_at.len(), now);
        if sending > 0 {
            send(&mut stream, frame, next_id, sending)?;
            next_id = next_id.wrapping_add(i32::try_from(sending).unwrap_or(i32::MAX));
            sent_at.extend(std::iter::repeat_n(now, sending));
        }
        if sent_at.is_empty() {
            return Ok(count);
        }
        let answered = answers.read(&mut stream)?;
        let now = Instant::now();
        for sent in sent_at.drain(..answered.min(sent_at.len())) {
            count.latency.record(now - sent);
        }
        count.batches += u64::try_from(answered).unwrap_or(0);
    }
}

/// Sends the frame `times` over with ascending ids: one call to the system if the socket takes it.
fn send(stream: &mut TcpStream, frame: &ProduceFrame, first_id: i32, times: usize) -> io::Result<()> {
    let heads: Vec<[u8; HEAD_BYTES]> = (first_id..).take(times).map(|id| frame.head(id)).collect();
    let mut slices: Vec<IoSlice<'_>> =
        heads.iter().flat_map(|head| [IoSlice::new(head), IoSlice::new(frame.tail())]).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match stream.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
