//! An open loop: requests leave at a fixed rate whether or not answers come, and a request's latency counts from the moment at which
//! it should have left. A broker that stalls is charged for everything that waited (no coordinated omission).

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::answers::Answers;
use crate::clock::{sleep_precisely, sleep_until};
use crate::error::BenchError;
use crate::latency::Latency;
use crate::load::{Count, Load, Outcome};
use crate::produce_frame::ProduceFrame;

/// Threads are running before the first request is due.
const LEAD: Duration = Duration::from_millis(50);

/// How much is offered, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub records_per_second: f64,
    pub duration: Duration,
    /// What is sent at first is not counted.
    pub warmup: Duration,
}

/// When one connection sends: every `every`, from `first`.
#[derive(Clone, Copy, Debug)]
struct Timetable {
    first: Instant,
    every: Duration,
    requests: u32,
    counted_from: Instant,
}

impl Timetable {
    fn due(&self, request: u32) -> Instant {
        self.first + self.every * request
    }
}

/// Offers the load at its rate, and waits for every answer.
///
/// # Errors
/// A connection ended or records were refused.
pub fn run(load: &Load, rate: Rate) -> Result<Outcome, BenchError> {
    let connections = load.connect()?;
    let began = Instant::now() + LEAD;
    let timetables = timetables(load, rate, began);
    let counts = thread::scope(|scope| {
        let running: Vec<_> = connections
            .into_iter()
            .zip(timetables)
            .enumerate()
            .map(|(number, (connection, timetable))| {
                let frame = load.frame_of(number);
                scope.spawn(move || offer(connection.into_stream(), &frame, timetable))
            })
            .collect();
        running
            .into_iter()
            .map(|one| one.join().expect("a sender does not panic"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let elapsed = began.elapsed().saturating_sub(rate.warmup);
    Ok(Outcome::of(&counts, load, elapsed, Some(rate.records_per_second)))
}

/// Connections take turns, so that requests of all of them together are evenly spaced.
fn timetables(load: &Load, rate: Rate, began: Instant) -> Vec<Timetable> {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (records, connections) = (load.shape.records as f64, load.connections as f64);
    let gap = Duration::from_secs_f64(records / rate.records_per_second);
    let every = Duration::from_secs_f64(records * connections / rate.records_per_second);
    let whole = rate.warmup + rate.duration;
    let requests = u32::try_from(whole.as_nanos() / every.as_nanos().max(1)).unwrap_or(u32::MAX).max(1);
    (0..u32::try_from(load.connections).unwrap_or(u32::MAX))
        .map(|number| Timetable {
            first: began + gap * number,
            every,
            requests,
            counted_from: began + rate.warmup,
        })
        .collect()
}

fn offer(stream: TcpStream, frame: &ProduceFrame, timetable: Timetable) -> Result<Count, BenchError> {
    let mut writing = stream.try_clone()?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            sleep_precisely();
            let mut bytes = [&frame.head(0)[..], frame.tail()].concat();
            for request in 0..timetable.requests {
                let head = frame.head(i32::try_from(request).unwrap_or(i32::MAX));
                bytes[..head.len()].copy_from_slice(&head);
                sleep_until(timetable.due(request));
                writing.write_all(&bytes)?;
            }
            Ok::<(), std::io::Error>(())
        });
        let count = receive(stream, timetable);
        sender.join().expect("a sender does not panic")?;
        count
    })
}

fn receive(mut stream: TcpStream, timetable: Timetable) -> Result<Count, BenchError> {
    let mut answers = Answers::new(0);
    let mut latency = Latency::default();
    let (mut received, mut counted) = (0, 0);
    while received < timetable.requests {
        let came = u32::try_from(answers.read(&mut stream)?).unwrap_or(u32::MAX);
        let now = Instant::now();
        for request in received..received.saturating_add(came).min(timetable.requests) {
            let due = timetable.due(request);
            if due >= timetable.counted_from {
                latency.record(now.saturating_duration_since(due));
                counted += 1;
            }
        }
        received = received.saturating_add(came);
    }
    Ok(Count { batches: counted, latency })
}
