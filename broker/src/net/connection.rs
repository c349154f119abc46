//! A session and its socket: reads when the session wants bytes, writes what it has to say.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::admission::Permit;
use super::transmit::transmit;
use super::worker::Worker;
use crate::node::Node;
use crate::session::mailbox::ConnectionId;
use crate::session::{Ending, Session};

/// One step's read: large enough for several batches, small enough that one connection does not hold the others up.
pub(super) const READ_BYTES: usize = 128 * 1024;

/// A worker's connection. Its task reads; anyone on the worker may write and kick the task.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) peer: SocketAddr,
    pub(super) listener: Arc<str>,
    writer: tokio::net::tcp::OwnedWriteHalf,
    pub(super) session: RefCell<Session>,
    /// The earliest entry in the worker's timers.
    pub(super) armed_ms: Cell<u64>,
    /// What the task waits for.
    polled: Cell<Interests>,
    task: RefCell<Option<Waker>>,
    kicked: Cell<bool>,
    broken: Cell<bool>,
    _permit: Permit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Interests {
    read: bool,
    write: bool,
}

enum Event {
    Kicked,
    Read(io::Result<Read>),
    Writable,
}

enum Read {
    Scratch,
    InPlace,
    End,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        listener: Arc<str>,
        session: Session,
        permit: Permit,
    ) -> (Rc<Self>, OwnedReadHalf) {
        let (reader, writer) = stream.into_split();
        let connection = Self {
            id: session.id(),
            peer,
            listener,
            writer,
            session: RefCell::new(session),
            armed_ms: Cell::new(u64::MAX),
            polled: Cell::default(),
            task: RefCell::default(),
            kicked: Cell::new(false),
            broken: Cell::new(false),
            _permit: permit,
        };
        (Rc::new(connection), reader)
    }

    /// The life of a connection.
    pub(super) async fn run(self: &Rc<Self>, worker: &Worker, mut reader: OwnedReadHalf) {
        loop {
            if self.is_over() {
                return;
            }
            self.polled.set(self.interests());
            worker.arm(self);
            match poll_fn(|cx| self.poll_event(cx, worker, &mut reader)).await {
                Event::Kicked => {}
                Event::Read(Ok(read)) => {
                    let node = worker.node();
                    let mut session = self.session.borrow_mut();
                    match read {
                        Read::Scratch => session.on_bytes(node, worker.take_scratch()),
                        Read::InPlace => session.on_space_filled(node),
                        Read::End => session.on_end_of_bytes(node),
                    }
                }
                Event::Read(Err(_)) => return,
                Event::Writable => {}
            }
            self.flush(worker.node());
        }
    }

    fn poll_event(&self, cx: &mut Context<'_>, worker: &Worker, reader: &mut OwnedReadHalf) -> Poll<Event> {
        if self.kicked.take() {
            return Poll::Ready(Event::Kicked);
        }
        let Interests { read, write } = self.polled.get();
        if read && let Poll::Ready(result) = self.poll_read(cx, worker, reader) {
            return Poll::Ready(Event::Read(result));
        }
        if write && let Poll::Ready(result) = self.writer.as_ref().poll_write_ready(cx) {
            // A broken socket shows at the write that follows.
            let _ = result;
            return Poll::Ready(Event::Writable);
        }
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        worker: &Worker,
        reader: &mut OwnedReadHalf,
    ) -> Poll<io::Result<Read>> {
        let mut session = self.session.borrow_mut();
        // A connection that waits holds no buffer: the worker's is borrowed for the time of the call.
        if let Some(mut space) = session.space() {
            let polled = pin!(reader.read_buf(&mut space)).poll(cx);
            polled.map_ok(|bytes| if bytes == 0 { Read::End } else { Read::InPlace })
        } else {
            let polled = worker.with_scratch(|scratch| pin!(reader.read_buf(scratch)).poll(cx));
            polled.map_ok(|bytes| if bytes == 0 { Read::End } else { Read::Scratch })
        }
    }

    /// Sends what there is to send and the socket takes.
    fn flush(&self, node: &Arc<Node>) {
        let mut session = self.session.borrow_mut();
        while !session.outbound().is_empty() {
            let mut sent = false;
            let blocked = loop {
                let outbound = session.outbound();
                if outbound.is_empty() {
                    break false;
                }
                match transmit(self.writer.as_ref(), outbound) {
                    Ok(bytes) => {
                        outbound.advance(bytes);
                        sent = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        self.broken.set(true);
                        return;
                    }
                }
            };
            if sent {
                // Requests that waited for room may run now, and answer.
                session.on_sent(node);
            }
            if blocked {
                return;
            }
        }
    }

    /// After something other than the task's own event has touched the session.
    pub(super) fn settle(self: &Rc<Self>, worker: &Worker) {
        self.flush(worker.node());
        if self.is_over() || self.polled.get() != self.interests() {
            self.kicked.set(true);
            if let Some(task) = self.task.borrow().as_ref() {
                task.wake_by_ref();
            }
        } else {
            worker.arm(self);
        }
    }

    fn is_over(&self) -> bool {
        self.broken.get() || self.session.borrow().is_over().is_some()
    }

    fn interests(&self) -> Interests {
        let mut session = self.session.borrow_mut();
        Interests { read: session.wants_bytes(), write: !session.outbound().is_empty() }
    }

    /// Why it ended, for the log.
    pub(super) fn with_ending(&self, log: impl FnOnce(&Ending)) {
        let session = self.session.borrow();
        log(session.is_over().unwrap_or(&Ending::ByClient));
    }
}
