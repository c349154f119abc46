//! Opens a run's connections: who writes and reads what, on which thread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::InitProducerIdRequest;

use crate::connection::Connection;
use crate::error::BenchError;
use crate::event_loop::{Crew, Departures};
use crate::fetch_frame::{Appetite, FetchFrame};
use crate::link::Link;
use crate::plan::{Followers, Plan, Readers, Writers};
use crate::produce_frame::{ProduceFrame, tails};
use crate::reader::{Follower, Reader, Shelf};
use crate::writer::{Lane, Writer};

/// How long a broker may take until it gives producers their ids, and when it is asked again.
const PRODUCER_ID_LIMIT: Duration = Duration::from_secs(30);
const PRODUCER_ID_AGAIN: Duration = Duration::from_millis(50);
/// How long a broker may let a follower wait for news, in milliseconds.
const NEWS_WAIT_MS: i32 = 500;

/// Opens all connections, and deals them out to threads.
pub(crate) fn hire(plan: &Plan, threads: usize) -> Result<Vec<Crew>, BenchError> {
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
    let began = Instant::now();
    loop {
        let answer = connection.call(1, &request)?;
        match ErrorCode::from_code(answer.error_code) {
            Some(ErrorCode::None) => return Ok((answer.producer_id, answer.producer_epoch)),
            // A broker that has just started.
            Some(ErrorCode::CoordinatorLoadInProgress | ErrorCode::CoordinatorNotAvailable)
                if began.elapsed() < PRODUCER_ID_LIMIT =>
            {
                thread::sleep(PRODUCER_ID_AGAIN);
            }
            _ => return Err(BenchError::refused("InitProducerId", answer.error_code, None)),
        }
    }
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
