//! A single-threaded event loop and its connections.
//!
//! One task per connection reads and runs requests; one more delivers what other threads posted (answers, wake-ups, new sockets),
//! fires deadlines, and writes all answers that came of it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::Shared;
use super::admission::Permit;
use super::connection::{Connection, READ_BYTES};
use super::listener::Listener;
use super::timers::Timers;
use crate::api::ConnectionState;
use crate::node::Node;
use crate::session::Session;
use crate::session::mailbox::{ConnectionId, Mail, Mailbox};

/// The scratch buffer is replaced once less than this is left of it.
const SCRATCH_BYTES_MIN: usize = READ_BYTES / 2;

/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A worker as other threads see it.
pub(super) struct Intake {
    notify: Arc<Notify>,
    mailbox: Arc<Mailbox>,
    accepted: Mutex<Vec<Accepted>>,
    listeners: Mutex<Vec<(Listener, Intakes)>>,
    /// Connections that it has, or will have.
    connections: AtomicUsize,
    stopping: AtomicBool,
    stop_limit_ms: AtomicU64,
}

/// All workers', for whoever spreads connections over them.
pub(super) type Intakes = Arc<[Arc<Intake>]>;

struct Accepted {
    socket: std::net::TcpStream,
    peer: SocketAddr,
    listener: Arc<str>,
    permit: Permit,
}

pub(super) struct WorkerHandle {
    intake: Arc<Intake>,
    thread: JoinHandle<()>,
    started: std::sync::mpsc::Receiver<io::Result<()>>,
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle").field("thread", &self.thread.thread().name()).finish_non_exhaustive()
    }
}

impl WorkerHandle {
    pub(super) fn start(index: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let notify = Arc::new(Notify::new());
        let wake = Arc::clone(&notify);
        let intake = Arc::new(Intake {
            notify,
            mailbox: Arc::new(Mailbox::new(move || wake.notify_one())),
            accepted: Mutex::default(),
            listeners: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            stop_limit_ms: AtomicU64::new(0),
        });
        let of_thread = Arc::clone(&intake);
        let (built, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build_local(tokio::runtime::LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = built.send(Err(error));
                    return;
                }
            };
            let _ = built.send(Ok(()));
            runtime.block_on(async move { Rc::new(Worker::new(shared, of_thread)).run().await });
            // Tasks that are left (connections that did not end in time) are dropped with the runtime.
        })?;
        Ok(Self { intake, thread, started })
    }

    /// Waits until its event loop runs.
    pub(super) fn wait_started(&self) -> io::Result<()> {
        self.started.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread ended at once")))
    }

    pub(super) fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.intake)
    }

    /// Has this worker accept for a listener, spreading the connections over `all`.
    pub(super) fn accept_from(&self, listener: Listener, all: Intakes) {
        lock(&self.intake.listeners).push((listener, all));
        self.intake.notify.notify_one();
    }

    pub(super) fn begin_stop(&self, limit: Duration) {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.intake.stop_limit_ms.store(limit_ms, Ordering::Relaxed);
        self.intake.stopping.store(true, Ordering::Release);
        self.intake.notify.notify_one();
    }

    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a worker thread panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker as its own tasks see it.
pub(super) struct Worker {
    shared: Arc<Shared>,
    intake: Arc<Intake>,
    connections: RefCell<HashMap<ConnectionId, Rc<Connection>>>,
    /// Read into by whichever connection has bytes.
    scratch: RefCell<BytesMut>,
    timers: RefCell<Timers>,
    /// Until when the main task sleeps at most.
    sleeps_until_ms: Cell<u64>,
    acceptors: RefCell<Vec<tokio::task::AbortHandle>>,
}

impl Worker {
    fn new(shared: Arc<Shared>, intake: Arc<Intake>) -> Self {
        Self {
            shared,
            intake,
            connections: RefCell::default(),
            scratch: RefCell::default(),
            timers: RefCell::default(),
            sleeps_until_ms: Cell::new(u64::MAX),
            acceptors: RefCell::default(),
        }
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.shared.node
    }

    /// The main task.
    async fn run(self: &Rc<Self>) {
        let mut mail = VecDeque::new();
        let mut stops_at_ms = None;
        loop {
            let wakes_at_ms = self.timers.borrow().earliest_ms();
            let wakes_at_ms = [wakes_at_ms, stops_at_ms].into_iter().flatten().min();
            self.sleeps_until_ms.set(wakes_at_ms.unwrap_or(u64::MAX));
            match wakes_at_ms {
                None => self.intake.notify.notified().await,
                Some(at_ms) => {
                    let sleep_ms = at_ms.saturating_sub(self.node().clock.tick_ms());
                    tokio::select! {
                        biased;
                        () = self.intake.notify.notified() => {}
                        () = tokio::time::sleep(Duration::from_millis(sleep_ms)) => {}
                    }
                }
            }
            self.start_acceptors();
            self.take_sockets();
            self.deliver(&mut mail);
            self.fire_timers();
            if self.intake.stopping.load(Ordering::Acquire) {
                let now_ms = self.node().clock.tick_ms();
                let limit_ms = self.intake.stop_limit_ms.load(Ordering::Relaxed);
                let stops_at_ms = *stops_at_ms.get_or_insert_with(|| {
                    self.stop_sessions();
                    now_ms.saturating_add(limit_ms)
                });
                if self.connections.borrow().is_empty() || now_ms >= stops_at_ms {
                    return;
                }
            }
        }
    }

    fn start_acceptors(self: &Rc<Self>) {
        for (listener, all) in std::mem::take(&mut *lock(&self.intake.listeners)) {
            let worker = Rc::clone(self);
            let task = tokio::task::spawn_local(async move { worker.accept(listener, &all).await });
            self.acceptors.borrow_mut().push(task.abort_handle());
        }
    }

    /// Takes connections and gives each to the worker that has fewest.
    async fn accept(&self, listener: Listener, all: &[Arc<Intake>]) {
        let Listener { name, socket, local } = listener;
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%local, "can't accept connections: {error}");
                return;
            }
        };
        loop {
            let (stream, peer) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // A client that was gone before it was accepted, or no descriptor is left: others must be closed first.
                    tracing::warn!(%local, "could not accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let permit = match self.shared.admission.admit(peer.ip()) {
                Ok(permit) => permit,
                Err(refusal) => {
                    self.shared.endings.refused(peer, &name, refusal, self.node().clock.tick_ms());
                    continue;
                }
            };
            let Ok(socket) = stream.into_std() else { continue };
            let fewest = all
                .iter()
                .min_by_key(|intake| intake.connections.load(Ordering::Relaxed))
                .expect("there is a worker");
            fewest.connections.fetch_add(1, Ordering::Relaxed);
            lock(&fewest.accepted).push(Accepted { socket, peer, listener: Arc::clone(&name), permit });
            fewest.notify.notify_one();
        }
    }

    fn take_sockets(self: &Rc<Self>) {
        let accepted = std::mem::take(&mut *lock(&self.intake.accepted));
        for accepted in accepted {
            let peer = accepted.peer;
            if let Err(error) = self.open(accepted) {
                self.intake.connections.fetch_sub(1, Ordering::Relaxed);
                tracing::debug!(%peer, "a connection was gone before it began: {error}");
            }
        }
    }

    fn open(self: &Rc<Self>, accepted: Accepted) -> io::Result<()> {
        let Accepted { socket, peer, listener, permit } = accepted;
        let stream = TcpStream::from_std(socket)?;
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_keepalive(true)?;
        let state = ConnectionState {
            id: self.shared.next_connection_id(),
            peer,
            local: stream.local_addr()?,
            listener: Arc::clone(&listener),
            client_id: None,
            client_software: None,
            node: None,
        };
        let limits = Arc::clone(&self.shared.limits);
        let tick_ms = self.node().clock.tick_ms();
        let session = Session::new(state, Arc::clone(&self.intake.mailbox), limits, tick_ms);
        let (connection, reader) = Connection::new(stream, peer, listener, session, permit);
        self.connections.borrow_mut().insert(connection.id, Rc::clone(&connection));
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            connection.run(&worker, reader).await;
            worker.close(&connection);
        });
        Ok(())
    }

    fn close(&self, connection: &Connection) {
        let tick_ms = self.node().clock.tick_ms();
        connection.with_ending(|ending| {
            self.shared.endings.ended(connection.peer, &connection.listener, ending, tick_ms);
        });
        if let Some(id) = connection.session.borrow().living_node() {
            let node = Arc::clone(self.node());
            // It asks whether anybody listens there still, which may take a moment.
            self.node().flusher.run_job(move || node.controller.on_peer_gone(id));
        }
        self.connections.borrow_mut().remove(&connection.id);
        self.intake.connections.fetch_sub(1, Ordering::Relaxed);
        if self.intake.stopping.load(Ordering::Acquire) {
            self.intake.notify.notify_one();
        }
    }

    /// Hands mail to its sessions, then writes each touched connection's answers once.
    fn deliver(&self, mail: &mut VecDeque<Mail>) {
        self.intake.mailbox.drain_into(mail);
        let mut touched: Vec<Rc<Connection>> = Vec::new();
        for letter in mail.drain(..) {
            let (Mail::Completed { connection, .. }
            | Mail::Woken { connection, .. }
            | Mail::Readable { connection }) = &letter;
            let Some(connection) = self.connections.borrow().get(connection).cloned() else { continue };
            connection.session.borrow_mut().on_mail(self.node(), letter);
            if touched.last().is_none_or(|last| last.id != connection.id) {
                touched.push(connection);
            }
        }
        for connection in touched {
            connection.settle(self);
        }
    }

    fn fire_timers(&self) {
        let now_ms = self.node().clock.tick_ms();
        loop {
            let Some((due_ms, id)) = self.timers.borrow_mut().pop_due(now_ms) else { return };
            let Some(connection) = self.connections.borrow().get(&id).cloned() else { continue };
            if connection.armed_ms.get() == due_ms {
                connection.armed_ms.set(u64::MAX);
            }
            connection.session.borrow_mut().on_tick(self.node());
            connection.settle(self);
            // Where the task was kicked it arms on its own; here nothing may be lost.
            self.arm(&connection);
        }
    }

    /// Sees to it that the connection is looked at when its next deadline comes.
    pub(super) fn arm(&self, connection: &Connection) {
        let Some(due_ms) = connection.session.borrow().next_deadline_ms() else { return };
        if due_ms < connection.armed_ms.get() {
            connection.armed_ms.set(due_ms);
            self.timers.borrow_mut().push(due_ms, connection.id);
            if due_ms < self.sleeps_until_ms.get() {
                self.intake.notify.notify_one();
            }
        }
    }

    fn stop_sessions(&self) {
        for acceptor in self.acceptors.borrow_mut().drain(..) {
            acceptor.abort();
        }
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            connection.session.borrow_mut().on_stop(self.node());
            connection.settle(self);
        }
    }

    pub(super) fn with_scratch<R>(&self, read: impl FnOnce(&mut BytesMut) -> R) -> R {
        let mut scratch = self.scratch.borrow_mut();
        if scratch.capacity() - scratch.len() < SCRATCH_BYTES_MIN {
            scratch.reserve(READ_BYTES);
        }
        read(&mut scratch)
    }

    /// What was read into the scratch buffer.
    pub(super) fn take_scratch(&self) -> BytesMut {
        self.scratch.borrow_mut().split()
    }
}
