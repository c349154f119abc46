//! One connection that reads: what is new, or what was there.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::fetch_frame::{Came, FetchFrame, read_answer};
use crate::journeys::Journeys;
use crate::link::{Link, Outgoing};
use crate::tally::{Answered, Tally};
use crate::timeline::Stream;
use crate::writer::why;

/// Asks for all that is new in some partitions, again and again; a request is on its way all the time.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) link: Link,
    frame: FetchFrame,
    /// Where each of its partitions is read next.
    next: Vec<(i32, i64)>,
    next_id: i32,
    value_bytes: u64,
    open: bool,
}

impl Follower {
    pub(crate) fn new(link: Link, frame: FetchFrame, next: Vec<(i32, i64)>, value_bytes: usize) -> Self {
        let value_bytes = u64::try_from(value_bytes).unwrap_or(u64::MAX);
        Self { link, frame, next, next_id: 0, value_bytes, open: true }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) fn ask(&mut self, tally: &mut Tally<'_>) {
        for (nth, (_, offset)) in self.next.iter().enumerate() {
            self.frame.set_offset(nth, *offset);
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.link.push(Outgoing::new(self.frame.whole(self.next_id), Bytes::new()));
        self.flush(tally);
    }

    pub(crate) fn receive(&mut self, tally: &mut Tally<'_>, journeys: &mut Journeys) {
        let (next, value_bytes) = (&mut self.next, self.value_bytes);
        let mut answered = false;
        let mut failed = None;
        let outcome = self.link.receive(|frame| {
            let now = Instant::now();
            answered = true;
            let read = read_answer(frame, |came| {
                let Some(at) = next.iter_mut().find(|(partition, _)| *partition == came.partition) else {
                    return;
                };
                // A batch that holds the offset that was asked for begins before it.
                if came.base_offset < at.1 {
                    return;
                }
                at.1 = came.next_offset;
                if let Some(journey) = journeys.on_seen(came.partition, came.base_offset, now) {
                    let bytes = came.records * value_bytes;
                    let answered = Answered { due: journey.due, records: came.records, bytes };
                    tally.answered(Stream::EndToEnd, answered, journey.seen);
                }
            });
            match read {
                Some((_, None)) => {}
                Some((_, Some(error))) => failed = Some(error.name().to_owned()),
                None => failed = Some("an answer that can't be read".to_owned()),
            }
        });
        if let Err(error) = outcome {
            self.end(&why(&error), tally);
        } else if let Some(failed) = failed {
            // Asked again at once, a broker that refuses would be asked some ten thousand times a second.
            self.end(&failed, tally);
        } else if answered {
            self.ask(tally);
        }
    }

    pub(crate) fn flush(&mut self, tally: &mut Tally<'_>) {
        if self.open
            && let Err(error) = self.link.flush()
        {
            self.end(&why(&error), tally);
        }
    }

    fn end(&mut self, why: &str, tally: &mut Tally<'_>) {
        tally.failed(Stream::EndToEnd, why, 1);
        self.open = false;
    }
}

/// A partition as one connection reads it.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) frame: FetchFrame,
    pub(crate) next: i64,
    pub(crate) end: i64,
}

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Instant,
    from: i64,
}

/// Reads what is there, partition after partition, from the start to the end.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) link: Link,
    shelves: Vec<Shelf>,
    at: usize,
    records_per_request: i64,
    once: bool,
    pending: VecDeque<Pending>,
    next_id: i32,
    ended: Option<String>,
}

impl Reader {
    pub(crate) fn new(link: Link, shelves: Vec<Shelf>, records_per_request: i64, once: bool) -> Self {
        Self {
            link,
            shelves,
            at: 0,
            records_per_request,
            once,
            pending: VecDeque::new(),
            next_id: 0,
            ended: None,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether something is left to be asked for.
    pub(crate) fn has_more(&self) -> bool {
        self.is_open() && self.next_shelf().is_some()
    }

    /// Puts the next request behind those that wait to leave. False: everything was asked for.
    pub(crate) fn push(&mut self, due: Instant, now: Instant, tally: &mut Tally<'_>) -> bool {
        if let Some(why) = &self.ended {
            tally.failed(Stream::Fetch, why.clone(), 1);
            return true;
        }
        let Some(at) = self.next_shelf() else { return false };
        let shelf = &mut self.shelves[at];
        let from = shelf.next;
        shelf.frame.set_offset(0, from);
        shelf.next += self.records_per_request;
        if shelf.next >= shelf.end && !self.once {
            shelf.next = 0;
        }
        let whole = shelf.frame.whole(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.at = at + 1;
        self.link.push(Outgoing::new(whole, Bytes::new()));
        self.pending.push_back(Pending { due, from });
        tally.sent(Stream::Fetch, due, now);
        true
    }

    /// The next partition in turn that has something left.
    fn next_shelf(&self) -> Option<usize> {
        let count = self.shelves.len();
        (0..count)
            .map(|step| (self.at + step) % count)
            .find(|at| self.shelves[*at].next < self.shelves[*at].end)
    }

    pub(crate) fn receive(&mut self, tally: &mut Tally<'_>) {
        let (pending, per_request) = (&mut self.pending, self.records_per_request);
        let outcome = self.link.receive(|frame| {
            let now = Instant::now();
            let Some(request) = pending.pop_front() else { return };
            let (mut records, mut bytes) = (0, 0);
            let read = read_answer(frame, |came: Came| {
                // What lies beyond belongs to the next request.
                if came.base_offset >= request.from && came.next_offset <= request.from + per_request {
                    records += came.records;
                    bytes += came.bytes;
                }
            });
            match read {
                Some((_, None)) if records > 0 => {
                    tally.answered(Stream::Fetch, Answered { due: request.due, records, bytes }, now);
                }
                Some((_, None)) => tally.failed(Stream::Fetch, "an answer without records", 1),
                Some((_, Some(error))) => tally.failed(Stream::Fetch, error.name(), 1),
                None => tally.failed(Stream::Fetch, "an answer that can't be read", 1),
            }
        });
        if let Err(error) = outcome {
            self.end(&why(&error), tally);
        }
    }

    pub(crate) fn flush(&mut self, tally: &mut Tally<'_>) {
        if self.is_open()
            && let Err(error) = self.link.flush()
        {
            self.end(&why(&error), tally);
        }
    }

    pub(crate) fn end(&mut self, why: &str, tally: &mut Tally<'_>) {
        tally.failed(Stream::Fetch, why, self.pending.len() as u64);
        self.pending.clear();
        self.ended = Some(why.to_owned());
    }
}
