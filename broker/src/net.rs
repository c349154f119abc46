//! The network edge: listeners, and one single-threaded event loop per core that runs the sessions of its connections.

mod admission;
mod connection;
mod ending_log;
pub mod listener;
mod timers;
mod transmit;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::Config;
use crate::node::Node;
use crate::session::mailbox::ConnectionId;
use crate::session::{Limits, RequestMemory};

use admission::Admission;
use listener::{Bound, Listener};
use worker::WorkerHandle;

/// How the edge is built.
#[derive(Debug)]
pub struct NetOptions {
    /// Event loops; one per core does best.
    pub workers: usize,
    /// `max.connections`.
    pub connections_max: usize,
    /// `max.connections.per.ip`.
    pub connections_per_ip_max: usize,
    pub limits: Arc<Limits>,
}

impl NetOptions {
    /// What the node's settings say.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let count = |name| usize::try_from(config.number(name)).unwrap_or(usize::MAX);
        let limits = Limits {
            request_bytes_max: count("socket.request.max.bytes"),
            // Kafka: a negative value never closes an idle connection, and leaves the requests' memory without a limit.
            idle_ms: u64::try_from(config.number("connections.max.idle.ms")).ok(),
            memory: RequestMemory::new(
                u64::try_from(config.number("queued.max.request.bytes")).unwrap_or(u64::MAX),
            ),
            ..Limits::default()
        };
        let workers = match config.text("num.network.threads") {
            Some(_) => count("num.network.threads"),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        Self {
            workers,
            connections_max: count("max.connections"),
            connections_per_ip_max: count("max.connections.per.ip"),
            limits: Arc::new(limits),
        }
    }
}

/// The running edge.
pub struct Network {
    workers: Vec<WorkerHandle>,
    intakes: worker::Intakes,
    addresses: Mutex<Vec<(Arc<str>, SocketAddr)>>,
}

/// What acceptors and workers share.
pub(crate) struct Shared {
    node: Arc<Node>,
    limits: Arc<Limits>,
    admission: Admission,
    endings: ending_log::EndingLog,
    next_connection: AtomicU64,
}

impl Shared {
    fn next_connection_id(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({:?})", self.addresses())
    }
}

impl Network {
    /// Starts the workers. Nobody is let in before [`Network::listen`].
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn start(node: Arc<Node>, options: NetOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            node,
            limits: options.limits,
            admission: Admission::new(options.connections_max, options.connections_per_ip_max),
            endings: ending_log::EndingLog::default(),
            next_connection: AtomicU64::new(0),
        });
        let workers: Vec<WorkerHandle> = (0..options.workers.max(1))
            .map(|index| WorkerHandle::start(index, Arc::clone(&shared)))
            .collect::<io::Result<_>>()?;
        let intakes: worker::Intakes = workers.iter().map(WorkerHandle::intake).collect();
        Ok(Self { workers, intakes, addresses: Mutex::default() })
    }

    /// Takes connections from the sockets that were bound, from now on.
    pub fn listen(&self, listeners: Vec<Bound>) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        for bound in listeners {
            for (socket, local) in bound.sockets {
                addresses.push((Arc::clone(&bound.name), local));
                let listener = Listener { name: Arc::clone(&bound.name), socket, local };
                self.workers[0].accept_from(listener, Arc::clone(&self.intakes));
            }
        }
    }

    /// Waits until the workers run.
    ///
    /// # Errors
    /// One of them did not start.
    pub fn wait_started(&self) -> io::Result<()> {
        self.workers.iter().try_for_each(WorkerHandle::wait_started)
    }

    /// Each listener's name and an address that it is bound to.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no more connections and requests, answers what was taken, closes everything; at the latest after `limit`.
    pub fn stop(self, limit: Duration) {
        for worker in &self.workers {
            worker.begin_stop(limit);
        }
        for worker in self.workers {
            worker.join();
        }
    }
}
