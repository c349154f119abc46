//! Does what a plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::InitProducerIdRequest;

use crate::connection::Connection;
use crate::error::BenchError;
use crate::event_loop::{Crew, Departures, EventLoop};
use crate::fetch_frame::{Appetite, FetchFrame};
use crate::figures::{Count, Outcome};
use crate::link::Link;
use crate::plan::{Followers, Pace, Plan, Readers, Span, Writers};
use crate::produce_frame::{ProduceFrame, tails};
use crate::reader::{Follower, Reader, Shelf};
use crate::tally::Tally;
use crate::timeline::{Stream, Timeline};
use crate::writer::{Lane, Writer};

/// Threads are running before the first request is due.
const LEAD: Duration = Duration::from_millis(50);
/// How long a broker may let a follower wait for news, in milliseconds.
const NEWS_WAIT_MS: i32 = 500;

/// What others see of a run while it goes on, and how they end it.
#[derive(Debug)]
pub struct Watch {
    pub timeline: Timeline,
    /// Set, it ends the run early.
    pub stop: AtomicBool,
    counted_from: Mutex<Option<Instant>>,
}

impl Watch {
    /// For a run of about `duration`.
    #[must_use]
    pub fn over(duration: Duration) -> Self {
        Self {
            timeline: Timeline::over(duration),
            stop: AtomicBool::new(false),
            counted_from: Mutex::default(),
        }
    }

    /// When the time that counts begins, once that is known.
    #[must_use]
    pub fn counted_from(&self) -> Option<Instant> {
        *self.counted_from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a plan to its end.
///
/// # Errors
/// A broker takes no connection, or gives no producer an id. Errors after that are counted.
pub fn run(plan: &Plan, watch: &Watch) -> Result<Outcome, BenchError> {
    let mut crews = hire(plan, plan.threads.max(1))?;
    let began = Instant::now() + LEAD;
    let counted_from = began + plan.warmup;
    *watch.counted_from.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted_from);
    set_departures(&mut crews, plan, began);
    let stock = AtomicI64::new(stock_of(plan));
    let counts = thread::scope(|scope| {
        let running: Vec<_> = crews
            .into_iter()
            .map(|crew| {
                let stock = &stock;
                scope.spawn(move || {
                    let tally = Tally::new(counted_from, &watch.timeline);
                    EventLoop::new(crew, stock, &watch.stop, tally)?.run(began)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|one| one.join().expect("a thread of the generator does not panic"))
            .collect::<io::Result<Vec<_>>>()
    })?;
    let mut whole: [Count; 3] = Default::default();
    for counts in &counts {
        whole.iter_mut().zip(counts).for_each(|(sum, count)| sum.add(count));
    }
    Ok(outcome(plan, whole, counted_from))
}

fn outcome(plan: &Plan, counts: [Count; 3], counted_from: Instant) -> Outcome {
    let planned = match plan.span {
        Span::Elapsed(duration) => duration,
        Span::Records(_) => Duration::ZERO,
    };
    let figures = |stream: Stream, at_least: Duration, offered: Option<f64>| {
        let count = counts[stream as usize].clone();
        let last =
            count.last_answer.map_or(Duration::ZERO, |last| last.saturating_duration_since(counted_from));
        count.figures(last.max(at_least).max(Duration::from_micros(1)), offered)
    };
    let produce =
        plan.writers.as_ref().map(|writers| figures(Stream::Produce, planned, rate_of(writers.pace)));
    let end_to_end = plan.followers.as_ref().map(|_| {
        let offered = plan.writers.as_ref().and_then(|writers| rate_of(writers.pace));
        figures(Stream::EndToEnd, planned, offered)
    });
    let fetch = plan.readers.as_ref().map(|readers| {
        let at_least = if readers.once { Duration::ZERO } else { planned };
        figures(Stream::Fetch, at_least, rate_of(readers.pace))
    });
    Outcome { produce, end_to_end, fetch }
}

fn rate_of(pace: Pace) -> Option<f64> {
    match pace {
        Pace::Rate(rate) => Some(rate),
        Pace::InFlight(_) => None,
    }
}

/// Requests that may be sent where nothing else ends the run.
fn stock_of(plan: &Plan) -> i64 {
    let (Span::Records(records), Some(writers)) = (plan.span, &plan.writers) else { return i64::MAX };
    let per_batch = u64::try_from(writers.content.shape.records).unwrap_or(1);
    i64::try_from(records.div_ceil(per_batch)).unwrap_or(i64::MAX)
}

/// Opens all connections, and deals them out to threads.
fn hire(plan: &Plan, threads: usize) -> Result<Vec<Crew>, BenchError> {
    let idle = Departures::OnAnswer { in_flight: 0, deadline: None };
    let mut crews: Vec<Crew> = (0..threads)
        .map(|_| Crew {
            writers: Vec::new(),
            writing: idle,
            followers: Vec::new(),
            readers: Vec::new(),
            reading: idle,
        })
        .collect();
    if let Some(writers) = &plan.writers {
        let places = spread(&plan.leaders, writers.connections);
        let on_thread = if plan.followers.is_some() {
            threads_by_partition(&places, threads)
        } else {
            (0..places.len()).map(|number| number % threads).collect()
        };
        let hired = hire_writers(plan, writers, &places)?;
        for (writer, thread) in hired.into_iter().zip(&on_thread) {
            crews[*thread].writers.push(writer);
        }
        if let Some(followers) = &plan.followers {
            for (thread, crew) in crews.iter_mut().enumerate() {
                let its =
                    places.iter().zip(&on_thread).filter(|(_, on)| **on == thread).map(|(place, _)| place);
                crew.followers = hire_followers(plan, followers, its)?;
            }
        }
    }
    if let Some(readers) = &plan.readers {
        for (number, reader) in hire_readers(plan, readers)?.into_iter().enumerate() {
            crews[number % threads].readers.push(reader);
        }
    }
    crews.retain(|crew| crew.writers.len() + crew.followers.len() + crew.readers.len() > 0);
    Ok(crews)
}

/// Those that write to the same partition are on one thread, for there its records' journeys are known.
fn threads_by_partition(places: &[Place], threads: usize) -> Vec<usize> {
    let mut of_partition: BTreeMap<i32, usize> = BTreeMap::new();
    let mut next = 0;
    let on_thread = places.iter().map(|(_, partitions)| {
        let known = partitions.iter().find_map(|partition| of_partition.get(partition).copied());
        let thread = known.unwrap_or_else(|| {
            next += 1;
            (next - 1) % threads
        });
        of_partition.extend(partitions.iter().map(|partition| (*partition, thread)));
        thread
    });
    on_thread.collect()
}

fn hire_writers(plan: &Plan, writers: &Writers, places: &[Place]) -> Result<Vec<Writer>, BenchError> {
    let batches = writers.content.batches();
    let tails = tails(&batches);
    let mut hired = Vec::new();
    for (leader, partitions) in places {
        let mut connection = Connection::open(*leader)?;
        let producer = writers.idempotent.then(|| producer_id(&mut connection)).transpose()?;
        let lanes = partitions.iter().map(|&partition| {
            let frames = batches
                .iter()
                .zip(&tails)
                .map(|(batch, tail)| ProduceFrame::encode(&plan.topic, partition, batch, tail, writers.acks));
            Lane::new(partition, frames.collect())
        });
        let link = Link::new(connection.into_stream())?;
        hired.push(Writer::new(link, lanes.collect(), producer, writers.content.shape.value_bytes));
    }
    Ok(hired)
}

/// One connection to each leader of what one thread writes.
fn hire_followers<'a>(
    plan: &Plan,
    followers: &Followers,
    places: impl Iterator<Item = &'a Place>,
) -> Result<Vec<Follower>, BenchError> {
    let appetite = Appetite { max_bytes: followers.max_bytes, max_wait_ms: NEWS_WAIT_MS };
    let value_bytes = plan.writers.as_ref().map_or(0, |writers| writers.content.shape.value_bytes);
    let mut by_leader: BTreeMap<SocketAddr, BTreeSet<i32>> = BTreeMap::new();
    for (leader, partitions) in places {
        by_leader.entry(*leader).or_default().extend(partitions);
    }
    let mut hired = Vec::new();
    for (leader, partitions) in by_leader {
        let partitions: Vec<i32> = partitions.into_iter().collect();
        let from = partitions.iter().map(|partition| (*partition, start_of(&followers.from, *partition)));
        let frame = FetchFrame::encode(&plan.topic, &partitions, appetite);
        let link = Link::new(Connection::open(leader)?.into_stream())?;
        hired.push(Follower::new(link, frame, from.collect(), value_bytes));
    }
    Ok(hired)
}

fn hire_readers(plan: &Plan, readers: &Readers) -> Result<Vec<Reader>, BenchError> {
    let appetite = Appetite { max_bytes: readers.max_bytes, max_wait_ms: 0 };
    let places = spread(&plan.leaders, readers.connections);
    let mut hired: Vec<Reader> = Vec::new();
    for (number, (leader, partitions)) in places.iter().enumerate() {
        // Of several that read the same partition each has a part of it, so that together they read it once.
        let sharers = |partition: i32| {
            let all = places.iter().enumerate().filter(move |(_, (_, its))| its.contains(&partition));
            all.map(|(number, _)| number).collect::<Vec<_>>()
        };
        let shelves = partitions.iter().map(|partition| {
            let sharers = sharers(*partition);
            let mine = sharers.iter().position(|sharer| *sharer == number).unwrap_or(0);
            let (next, end) = part_of(
                start_of(&readers.ends, *partition),
                readers.records_per_request,
                mine,
                if readers.once { sharers.len() } else { 1 },
            );
            Shelf { frame: FetchFrame::encode(&plan.topic, &[*partition], appetite), next, end }
        });
        let shelves = shelves.collect();
        let link = Link::new(Connection::open(*leader)?.into_stream())?;
        hired.push(Reader::new(link, shelves, readers.records_per_request, readers.once));
    }
    Ok(hired)
}

/// The `nth` of `parts` parts of a partition, cut between requests.
fn part_of(end: i64, step: i64, nth: usize, parts: usize) -> (i64, i64) {
    let (nth, parts) = (i64::try_from(nth).unwrap_or(0), i64::try_from(parts).unwrap_or(1).max(1));
    let steps = (end + step - 1) / step.max(1);
    (steps * nth / parts * step, (steps * (nth + 1) / parts * step).min(end))
}

fn start_of(offsets: &[i64], partition: i32) -> i64 {
    usize::try_from(partition).ok().and_then(|at| offsets.get(at)).copied().unwrap_or(0)
}

fn producer_id(connection: &mut Connection) -> Result<(i64, i16), BenchError> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        ..InitProducerIdRequest::default()
    };
    let answer = connection.call(1, &request)?;
    if answer.error_code != ErrorCode::None.code() {
        return Err(BenchError::refused("InitProducerId", answer.error_code, None));
    }
    Ok((answer.producer_id, answer.producer_epoch))
}

/// A connection: whom it leads to, and the partitions that it serves.
type Place = (SocketAddr, Vec<i32>);

/// Which connection serves which partitions: each partition has at least one, and a connection serves those of one leader alone.
fn spread(leaders: &[SocketAddr], connections: usize) -> Vec<Place> {
    let number = |at: usize| i32::try_from(at).unwrap_or(i32::MAX);
    if connections >= leaders.len() {
        let partitions = leaders.iter().enumerate().cycle().take(connections);
        return partitions.map(|(at, leader)| (*leader, vec![number(at)])).collect();
    }
    let mut by_leader: BTreeMap<SocketAddr, Vec<i32>> = BTreeMap::new();
    for (at, leader) in leaders.iter().enumerate() {
        by_leader.entry(*leader).or_default().push(number(at));
    }
    let mut spread = Vec::new();
    for (leader, partitions) in by_leader {
        let share = (connections * partitions.len() / leaders.len()).clamp(1, partitions.len());
        let mut dealt = vec![Vec::new(); share];
        for (at, partition) in partitions.into_iter().enumerate() {
            dealt[at % share].push(partition);
        }
        spread.extend(dealt.into_iter().map(|partitions| (leader, partitions)));
    }
    spread
}

/// Each thread gets the part of the timetable that its connections have; requests of all of them together are evenly spaced.
fn set_departures(crews: &mut [Crew], plan: &Plan, began: Instant) {
    let whole = crews.iter().map(|crew| crew.writers.len()).sum::<usize>();
    let whole_readers = crews.iter().map(|crew| crew.readers.len()).sum::<usize>();
    let threads = crews.len();
    for (number, crew) in crews.iter_mut().enumerate() {
        if let Some(writers) = &plan.writers {
            let records = writers.content.shape.records;
            let share = Share { nth: number, threads, mine: crew.writers.len(), whole };
            crew.writing = departures(plan, writers.pace, records, share, began);
        }
        if let Some(readers) = &plan.readers {
            let records = usize::try_from(readers.records_per_request).unwrap_or(1);
            let share = Share { nth: number, threads, mine: crew.readers.len(), whole: whole_readers };
            crew.reading = departures(plan, readers.pace, records, share, began);
        }
    }
}

/// The part of a rate that one thread offers.
#[derive(Clone, Copy)]
struct Share {
    nth: usize,
    threads: usize,
    mine: usize,
    whole: usize,
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn departures(plan: &Plan, pace: Pace, records: usize, share: Share, began: Instant) -> Departures {
    let end = match plan.span {
        Span::Elapsed(duration) => Some(plan.warmup + duration),
        Span::Records(_) => None,
    };
    match pace {
        Pace::InFlight(in_flight) => {
            Departures::OnAnswer { in_flight, deadline: end.map(|duration| began + duration) }
        }
        Pace::Rate(_) if share.mine == 0 => Departures::OnAnswer { in_flight: 0, deadline: Some(began) },
        Pace::Rate(rate) => {
            let requests_per_second = rate / records as f64;
            let mine = requests_per_second * share.mine as f64 / share.whole as f64;
            let gap = Duration::from_secs_f64(1.0 / mine);
            let total = match (plan.span, end) {
                (Span::Records(wanted), _) => {
                    let all = wanted.div_ceil(records as u64);
                    all * share.mine as u64 / share.whole as u64
                }
                (_, Some(duration)) => {
                    u64::try_from(duration.as_nanos() / gap.as_nanos().max(1)).unwrap_or(u64::MAX)
                }
                (_, None) => 0,
            };
            let first = began + gap.mul_f64(share.nth as f64 / share.threads as f64);
            Departures::Timetable { first, gap, total: total.max(1), gone: 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    #[test]
    fn every_partition_has_a_connection_to_its_leader() {
        let leaders = addresses(&[1, 2, 3, 1, 2, 3, 1]);
        for connections in 1..20 {
            let spread = spread(&leaders, connections);
            let mut served = vec![0; leaders.len()];
            for (leader, partitions) in &spread {
                assert!(!partitions.is_empty());
                for partition in partitions {
                    let at = usize::try_from(*partition).expect("small");
                    assert_eq!(leaders[at], *leader, "{connections} connections");
                    served[at] += 1;
                }
            }
            assert!(served.iter().all(|times| *times >= 1), "{connections} connections: {served:?}");
            assert!(spread.len() <= connections.max(3), "{connections} connections: {}", spread.len());
        }
    }

    #[test]
    fn a_partition_belongs_to_one_thread() {
        for (partitions, connections) in [(1, 8), (8, 1), (4, 4), (3, 7), (9, 4)] {
            let places = spread(&addresses(&vec![1; partitions]), connections);
            let on_thread = threads_by_partition(&places, 4);
            let mut thread_of: BTreeMap<i32, usize> = BTreeMap::new();
            for ((_, its), thread) in places.iter().zip(&on_thread) {
                for partition in its {
                    assert_eq!(
                        thread_of.entry(*partition).or_insert(*thread),
                        thread,
                        "{partitions} {connections}"
                    );
                }
            }
            let used: BTreeSet<usize> = on_thread.into_iter().collect();
            assert_eq!(used.len(), partitions.min(connections).min(4), "{partitions} {connections}");
        }
    }

    #[test]
    fn parts_of_a_partition_are_all_of_it() {
        let parts: Vec<_> = (0..3).map(|nth| part_of(1_001, 100, nth, 3)).collect();
        assert_eq!(parts, [(0, 300), (300, 700), (700, 1_001)]);
        assert_eq!(part_of(0, 100, 0, 1), (0, 0));
    }
}
