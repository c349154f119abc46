//! One thread of a run: sends what is due, takes what comes, on all of its connections.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::clock::{sleep_precisely, sleep_until};
use crate::figures::Count;
use crate::journeys::Journeys;
use crate::link::Link;
use crate::reader::{Follower, Reader};
use crate::tally::Tally;
use crate::writer::Writer;

/// How long answers are waited for when nothing more is sent.
const DRAIN: Duration = Duration::from_secs(30);
/// The same when somebody wants the run to end.
const DRAIN_INTERRUPTED: Duration = Duration::from_millis(200);
/// The thread looks around so often though nothing happens.
const LOOK_AROUND: Duration = Duration::from_millis(100);
const EVENTS: usize = 256;
const NO_ANSWER: &str = "no answer";

/// When the requests of one thread leave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Departures {
    /// The `n`th at `first + n * gap`, `total` in all, by the connections in turn.
    Timetable { first: Instant, gap: Duration, total: u64, gone: u64 },
    /// As answers come; until the deadline, or as long as any are left of a stock that all threads share.
    OnAnswer { in_flight: usize, deadline: Option<Instant> },
}

impl Departures {
    fn next_due(&self) -> Option<Instant> {
        match self {
            Self::Timetable { first, gap, total, gone } if gone < total => Some(*first + times(*gap, *gone)),
            _ => None,
        }
    }
}

/// `Duration` multiplies by 32 bits alone.
fn times(gap: Duration, count: u64) -> Duration {
    let nanoseconds = gap.as_nanos() * u128::from(count);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

pub(crate) struct EventLoop<'a> {
    epoll: OwnedFd,
    pub(crate) writers: Vec<Writer>,
    writing: Departures,
    followers: Vec<Follower>,
    readers: Vec<Reader>,
    reading: Departures,
    /// Requests that may still be sent, where as many go as go through.
    stock: &'a AtomicI64,
    stop: &'a AtomicBool,
    tally: Tally<'a>,
    journeys: Journeys,
    /// Connections whose readiness to take more is waited for.
    armed: Vec<bool>,
    quiet_since: Option<Instant>,
}

/// Who an event is for.
#[derive(Clone, Copy)]
enum Who {
    Writer(usize),
    Follower(usize),
    Reader(usize),
}

/// What a thread works with.
pub(crate) struct Crew {
    pub(crate) writers: Vec<Writer>,
    pub(crate) writing: Departures,
    pub(crate) followers: Vec<Follower>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) reading: Departures,
}

impl<'a> EventLoop<'a> {
    pub(crate) fn new(
        crew: Crew,
        stock: &'a AtomicI64,
        stop: &'a AtomicBool,
        tally: Tally<'a>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let links = crew.writers.iter().map(|one| &one.link);
        let links = links.chain(crew.followers.iter().map(|one| &one.link));
        let mut count = 0;
        for (number, link) in links.chain(crew.readers.iter().map(|one| &one.link)).enumerate() {
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, link.stream(), data, epoll::EventFlags::IN)?;
            count += 1;
        }
        Ok(Self {
            epoll,
            writers: crew.writers,
            writing: crew.writing,
            followers: crew.followers,
            readers: crew.readers,
            reading: crew.reading,
            stock,
            stop,
            tally,
            journeys: Journeys::default(),
            armed: vec![false; count],
            quiet_since: None,
        })
    }

    /// Works from `began` on, until all is sent and answered.
    pub(crate) fn run(mut self, began: Instant) -> io::Result<[Count; 3]> {
        sleep_precisely();
        for at in 0..self.followers.len() {
            self.followers[at].ask(&mut self.tally);
        }
        sleep_until(began);
        let now = Instant::now();
        (0..self.writers.len()).for_each(|at| self.write_on(at, now));
        (0..self.readers.len()).for_each(|at| self.read_on(at, now));
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let now = Instant::now();
            self.send_due(now);
            self.tally.tell_in_time(now);
            if self.is_over(now) {
                break;
            }
            wait(&self.epoll, self.patience(Instant::now()), &mut events)?;
            for event in events.drain(..) {
                self.on_event(event)?;
            }
        }
        Ok(self.tally.finish())
    }

    fn who(&self, number: usize) -> Who {
        let (writers, followers) = (self.writers.len(), self.followers.len());
        match number {
            at if at < writers => Who::Writer(at),
            at if at < writers + followers => Who::Follower(at - writers),
            at => Who::Reader(at - writers - followers),
        }
    }

    fn on_event(&mut self, event: epoll::Event) -> io::Result<()> {
        // Copies, for the kernel packs them.
        let (flags, data) = (event.flags, event.data);
        let number = usize::try_from(data.u64()).unwrap_or(usize::MAX);
        let who = self.who(number);
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            match who {
                Who::Writer(at) => {
                    let journeys = (!self.followers.is_empty()).then_some(&mut self.journeys);
                    self.writers[at].receive(&mut self.tally, journeys);
                    self.write_on(at, Instant::now());
                }
                Who::Follower(at) => self.followers[at].receive(&mut self.tally, &mut self.journeys),
                Who::Reader(at) => {
                    self.readers[at].receive(&mut self.tally);
                    self.read_on(at, Instant::now());
                }
            }
        }
        if flags.contains(epoll::EventFlags::OUT) {
            self.flush(who);
        }
        self.arm(number)
    }

    fn flush(&mut self, who: Who) {
        match who {
            Who::Writer(at) => self.writers[at].flush(&mut self.tally),
            Who::Follower(at) => self.followers[at].flush(&mut self.tally),
            Who::Reader(at) => self.readers[at].flush(&mut self.tally),
        }
    }

    /// Waits for a socket to take more, where something is left; forgets one that has ended.
    fn arm(&mut self, number: usize) -> io::Result<()> {
        let (link, open): (&Link, bool) = match self.who(number) {
            Who::Writer(at) => (&self.writers[at].link, self.writers[at].is_open()),
            Who::Follower(at) => (&self.followers[at].link, self.followers[at].is_open()),
            Who::Reader(at) => (&self.readers[at].link, self.readers[at].is_open()),
        };
        if !open {
            // It is told of no more; forgetting it twice is no harm.
            let _ = epoll::delete(&self.epoll, link.stream());
            return Ok(());
        }
        let wanted = link.is_backed_up();
        if wanted != self.armed[number] {
            let flags =
                if wanted { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(&self.epoll, link.stream(), epoll::EventData::new_u64(number as u64), flags)?;
            self.armed[number] = wanted;
        }
        Ok(())
    }

    /// Sends all that the timetables say.
    fn send_due(&mut self, now: Instant) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        let writers = self.writers.len();
        while let Some(due) = self.writing.next_due().filter(|due| *due <= now && writers > 0) {
            let at = depart(&mut self.writing, writers);
            self.writers[at].push(due, now, &mut self.tally);
            self.writers[at].flush(&mut self.tally);
            if self.writers[at].link.is_backed_up() {
                let _ = self.arm(at);
            }
        }
        let readers = self.readers.len();
        while let Some(due) = self.reading.next_due().filter(|due| *due <= now && readers > 0) {
            let at = depart(&mut self.reading, readers);
            if !self.readers[at].push(due, now, &mut self.tally)
                && let Departures::Timetable { total, gone, .. } = &mut self.reading
            {
                *total = *gone;
            }
            self.readers[at].flush(&mut self.tally);
            if self.readers[at].link.is_backed_up() {
                let _ = self.arm(writers + self.followers.len() + at);
            }
        }
    }

    /// Keeps a writer's requests in flight, where answers say when to send.
    fn write_on(&mut self, at: usize, now: Instant) {
        let Departures::OnAnswer { in_flight, deadline } = self.writing else { return };
        if self.is_late(deadline, now) || !self.writers[at].is_open() {
            return;
        }
        let wanted = in_flight.saturating_sub(self.writers[at].in_flight());
        for _ in 0..self.take(wanted) {
            self.writers[at].push(now, now, &mut self.tally);
        }
        self.writers[at].flush(&mut self.tally);
        let _ = self.arm(at);
    }

    fn read_on(&mut self, at: usize, now: Instant) {
        let Departures::OnAnswer { in_flight, deadline } = self.reading else { return };
        if self.is_late(deadline, now) || !self.readers[at].is_open() {
            return;
        }
        while self.readers[at].in_flight() < in_flight {
            if !self.readers[at].push(now, now, &mut self.tally) {
                break;
            }
        }
        self.readers[at].flush(&mut self.tally);
        let _ = self.arm(self.writers.len() + self.followers.len() + at);
    }

    fn is_late(&self, deadline: Option<Instant>, now: Instant) -> bool {
        self.stop.load(Ordering::Relaxed) || deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Takes up to `wanted` from the stock, fewer near its end.
    fn take(&self, wanted: usize) -> usize {
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let before = self.stock.fetch_sub(wanted, Ordering::Relaxed);
        usize::try_from(before.clamp(0, wanted)).unwrap_or(0)
    }

    /// Whether everything was sent and answered; what is not answered in time has failed.
    fn is_over(&mut self, now: Instant) -> bool {
        let stopped = self.stop.load(Ordering::Relaxed);
        let more_writes = !self.writers.is_empty() && self.has_more(self.writing, now);
        let more_reads = !self.readers.is_empty()
            && self.has_more(self.reading, now)
            && self.readers.iter().any(Reader::has_more);
        if !stopped && (more_writes || more_reads) {
            return false;
        }
        let waiting = self.writers.iter().any(|one| one.in_flight() > 0)
            || self.readers.iter().any(|one| one.in_flight() > 0)
            || (self.journeys.on_the_way() > 0 && self.followers.iter().any(Follower::is_open));
        let quiet_since = *self.quiet_since.get_or_insert(now);
        let drain = if stopped { DRAIN_INTERRUPTED } else { DRAIN };
        if waiting && now.saturating_duration_since(quiet_since) < drain {
            return false;
        }
        if !stopped {
            self.writers.iter_mut().for_each(|one| one.end(NO_ANSWER, &mut self.tally));
            self.readers.iter_mut().for_each(|one| one.end(NO_ANSWER, &mut self.tally));
            let lost = self.journeys.on_the_way() as u64;
            self.tally.failed(crate::timeline::Stream::EndToEnd, "acknowledged and never read", lost);
        }
        true
    }

    fn has_more(&self, departures: Departures, now: Instant) -> bool {
        match departures {
            Departures::Timetable { total, gone, .. } => gone < total,
            Departures::OnAnswer { deadline, .. } => {
                deadline.map_or_else(|| self.stock.load(Ordering::Relaxed) > 0, |deadline| now < deadline)
                    && (self.writers.iter().any(Writer::is_open) || self.readers.iter().any(Reader::is_open))
            }
        }
    }

    fn patience(&self, now: Instant) -> Duration {
        let dues = [self.writing.next_due(), self.reading.next_due()];
        let next = dues.into_iter().flatten().min();
        next.map_or(LOOK_AROUND, |next| next.saturating_duration_since(now).min(LOOK_AROUND))
    }
}

/// Waits for events, to the point: epoll alone counts in milliseconds, which would be most of what is measured.
fn wait(epoll: &OwnedFd, patience: Duration, events: &mut Vec<epoll::Event>) -> io::Result<()> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = match poll(&mut [PollFd::new(epoll, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => ready > 0,
        Err(rustix::io::Errno::INTR) => false,
        Err(error) => return Err(error.into()),
    };
    events.clear();
    if ready {
        epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(&at_once))?;
    }
    Ok(())
}

/// Notes a departure; whose turn it was.
fn depart(departures: &mut Departures, connections: usize) -> usize {
    match departures {
        Departures::Timetable { gone, .. } => {
            let at = usize::try_from(*gone % connections as u64).unwrap_or(0);
            *gone += 1;
            at
        }
        Departures::OnAnswer { .. } => 0,
    }
}
