//! For how long nothing is acknowledged while brokers come and go: records at a steady rate to one partition, and the longest time
//! between two acknowledgements.
//!
//! The client is quicker than real ones, so that the cluster is measured and not a client's back-off: as soon as an acknowledgement is
//! late, every broker is asked every 5 ms who leads, and the newest leader epoch counts. Records are sent when they are due, whether or
//! not answers came, and never again: what a failover swallows is counted as lost.

use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::answers::Answers;
use crate::bootstrap::{self, Bootstrap, Led};
use crate::clock::{monotonic_ns, sleep_precisely};
use crate::connection::Connection;
use crate::error::BenchError;
use crate::payload::{BatchShape, Content};
use crate::produce_frame::ProduceFrame;
use crate::served;

/// Between two questions for the leader, and before a connection to the same leader is opened again.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// So long after the last acknowledgement they begin.
const LATE: Duration = Duration::from_millis(20);
/// A node that hangs is asked in vain for so long.
const ASK_PATIENCE: Duration = Duration::from_millis(250);
/// So many acknowledgements in a row, and the load counts as steady.
const STEADY_ACKS: u64 = 200;
/// The cluster has recovered when it acknowledged for so long...
const RECOVERED: Duration = Duration::from_secs(1);
/// ... without a pause like this.
const PAUSE: Duration = Duration::from_millis(200);

/// What is sent where.
#[derive(Clone, Debug)]
pub struct Steady {
    pub bootstrap: Bootstrap,
    pub topic: String,
    pub partition: i32,
    pub records_per_second: f64,
    pub value_bytes: usize,
    /// It is given up then.
    pub limit: Duration,
}

/// What came of it. Moments are of the machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Gap {
    pub longest_ms: f64,
    /// The last acknowledgement before the longest gap.
    pub began_ns: u64,
    pub acknowledged: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Opened meanwhile.
    pub connections: u64,
    /// Acknowledgements went on at the end.
    pub recovered: bool,
}

enum Event {
    Leader(Led),
    Acknowledged { link: u64, count: usize },
    Refused { link: u64 },
    Ended { link: u64 },
}

/// Sends until `ending` is set and the cluster has recovered. `on_steady` is called once, when acknowledgements come steadily; what
/// happened before that is not counted.
///
/// # Errors
/// Nobody leads the partition at the beginning.
pub fn measure(steady: &Steady, ending: &AtomicBool, on_steady: impl FnOnce()) -> Result<Gap, BenchError> {
    let leaders = served::wait_until_served(&steady.bootstrap, &steady.topic, steady.limit)?;
    let (to, from) = channel();
    let late = AtomicBool::new(true);
    let stopping = AtomicBool::new(false);
    thread::scope(|scope| {
        for address in &steady.bootstrap.0 {
            let (to, late, stopping) = (to.clone(), &late, &stopping);
            scope.spawn(move || ask_for_leader(*address, steady, late, stopping, &to));
        }
        let mut client = Client::new(steady, &leaders, to, &late);
        let gap = client.run(&from, ending, on_steady);
        stopping.store(true, Ordering::Release);
        client.link = None;
        Ok(gap)
    })
}

/// Asks one broker who leads, while acknowledgements are late.
fn ask_for_leader(
    address: SocketAddr,
    steady: &Steady,
    late: &AtomicBool,
    stopping: &AtomicBool,
    to: &Sender<Event>,
) {
    let mut connection = None;
    while !stopping.load(Ordering::Acquire) {
        if late.load(Ordering::Acquire) {
            let asked = ask(&mut connection, address, steady);
            match asked {
                Ok(Some(led)) if led.address.is_some() => {
                    let _ = to.send(Event::Leader(led));
                }
                Ok(_) => {}
                Err(_) => connection = None,
            }
        }
        thread::sleep(ASK_AGAIN);
    }
}

fn ask(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    steady: &Steady,
) -> Result<Option<Led>, BenchError> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(Connection::open_patiently(address, ASK_PATIENCE)?),
    };
    let led = bootstrap::partitions(connection, &steady.topic)?;
    Ok(usize::try_from(steady.partition).ok().and_then(|at| led.get(at).copied()))
}

/// A connection to a leader. A thread reads from it until it ends.
struct Link {
    number: u64,
    stream: TcpStream,
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

struct Client<'a> {
    steady: &'a Steady,
    frame: ProduceFrame,
    to: Sender<Event>,
    late: &'a AtomicBool,
    /// The newest leader that anybody told of.
    leader: SocketAddr,
    leader_epoch: i32,
    link: Option<Link>,
    links: u64,
    next_dial: Instant,
    next_id: i32,
    last_ack: (Instant, u64),
    last_pause: Instant,
    gap: Gap,
}

impl<'a> Client<'a> {
    fn new(steady: &'a Steady, leaders: &[SocketAddr], to: Sender<Event>, late: &'a AtomicBool) -> Self {
        let now = Instant::now();
        let shape = BatchShape { value_bytes: steady.value_bytes, records: 1 };
        let at = usize::try_from(steady.partition).unwrap_or(0).min(leaders.len() - 1);
        Self {
            steady,
            frame: ProduceFrame::of_one(
                &steady.topic,
                steady.partition,
                &Content::plain(shape, -1).batches()[0],
                -1,
            ),
            to,
            late,
            leader: leaders[at],
            leader_epoch: -1,
            link: None,
            links: 0,
            next_dial: now,
            next_id: 0,
            last_ack: (now, monotonic_ns()),
            last_pause: now,
            gap: Gap::default(),
        }
    }

    fn run(&mut self, events: &Receiver<Event>, ending: &AtomicBool, on_steady: impl FnOnce()) -> Gap {
        sleep_precisely();
        let every = Duration::from_secs_f64(1.0 / self.steady.records_per_second);
        let began = Instant::now();
        let mut due = began;
        let mut on_steady = Some(on_steady);
        loop {
            due += every;
            self.send();
            self.listen(events, due);
            if self.gap.acknowledged >= STEADY_ACKS
                && let Some(on_steady) = on_steady.take()
            {
                self.gap = Gap::default();
                on_steady();
            }
            let now = Instant::now();
            let quiet = now - self.last_ack.0;
            self.late.store(quiet > LATE.max(every * 4), Ordering::Release);
            let recovered = quiet < PAUSE && now - self.last_pause >= RECOVERED;
            if ending.load(Ordering::Acquire) && on_steady.is_none() && recovered {
                return Gap { recovered: true, ..self.gap };
            }
            if now - began > self.steady.limit {
                self.note_gap(now);
                return self.gap;
            }
        }
    }

    /// One record, if there is somebody to send it to.
    fn send(&mut self) {
        if self.link.is_none() && Instant::now() >= self.next_dial {
            self.next_dial = Instant::now() + ASK_AGAIN;
            self.link = self.dial().ok();
        }
        let Some(link) = &mut self.link else { return };
        let sent = self.frame.whole(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        if link.stream.write_all(&sent).is_err() {
            self.link = None;
        }
    }

    fn dial(&mut self) -> io::Result<Link> {
        let stream = Connection::open_patiently(self.leader, ASK_PATIENCE)?.into_stream();
        stream.set_read_timeout(None)?;
        // A node that hangs takes nothing more at some time.
        stream.set_write_timeout(Some(ASK_AGAIN))?;
        let mut reading = stream.try_clone()?;
        self.links += 1;
        self.gap.connections += 1;
        let (number, first_id, to) = (self.links, self.next_id, self.to.clone());
        thread::spawn(move || {
            let mut answers = Answers::new(first_id);
            loop {
                let event = match answers.read(&mut reading) {
                    Ok(count) => Event::Acknowledged { link: number, count },
                    Err(BenchError::Refused { .. }) => Event::Refused { link: number },
                    Err(_) => Event::Ended { link: number },
                };
                let over = !matches!(event, Event::Acknowledged { .. });
                if to.send(event).is_err() || over {
                    return;
                }
            }
        });
        Ok(Link { number, stream })
    }

    /// Takes what happens, until the next record is due.
    fn listen(&mut self, events: &Receiver<Event>, due: Instant) {
        loop {
            let event = match events.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            };
            match event {
                Event::Leader(led) => self.on_leader(&led),
                Event::Acknowledged { link, count } => {
                    if count > 0 && self.is_current(link) {
                        self.note_gap(Instant::now());
                        self.gap.acknowledged += u64::try_from(count).unwrap_or(0);
                        self.last_ack = (Instant::now(), monotonic_ns());
                    }
                }
                Event::Refused { link } => {
                    self.gap.refused += 1;
                    self.drop_link(link);
                }
                Event::Ended { link } => self.drop_link(link),
            }
        }
    }

    fn on_leader(&mut self, led: &Led) {
        let Some(address) = led.address.filter(|_| led.leader_epoch > self.leader_epoch) else { return };
        self.leader_epoch = led.leader_epoch;
        if address != self.leader {
            self.leader = address;
            self.link = None;
            self.next_dial = Instant::now();
        }
    }

    fn is_current(&self, number: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.number == number)
    }

    fn drop_link(&mut self, number: u64) {
        if self.is_current(number) {
            self.link = None;
            // Others are asked at once.
            self.late.store(true, Ordering::Release);
        }
    }

    fn note_gap(&mut self, now: Instant) {
        let gap = now - self.last_ack.0;
        if gap > PAUSE {
            self.last_pause = now;
        }
        let gap_ms = gap.as_secs_f64() * 1_000.0;
        if gap_ms > self.gap.longest_ms {
            self.gap.longest_ms = gap_ms;
            self.gap.began_ns = self.last_ack.1;
        }
    }
}
