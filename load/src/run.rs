//! Does what a plan says.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::event_loop::{Crew, Departures, EventLoop};
use crate::figures::{Count, Outcome};
use crate::hire::hire;
use crate::plan::{Pace, Plan, Span};
use crate::tally::Tally;
use crate::timeline::{Stream, Timeline};

/// Threads are running before the first request is due.
const LEAD: Duration = Duration::from_millis(50);
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

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "far below 2^52, and above 0"
)]
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
            let offset = gap.mul_f64(share.nth as f64 / share.threads as f64);
            let total = match (plan.span, end) {
                (Span::Records(wanted), _) => {
                    let all = wanted.div_ceil(records as u64);
                    all * share.mine as u64 / share.whole as u64
                }
                // All that are due before the end; a float's last digit makes none more.
                (_, Some(duration)) => {
                    let gaps = duration.saturating_sub(offset).as_secs_f64() / gap.as_secs_f64();
                    (gaps - 1e-6).ceil() as u64
                }
                (_, None) => 0,
            };
            let first = began + offset;
            Departures::Timetable { first, gap, total: total.max(1), gone: 0 }
        }
    }
}
