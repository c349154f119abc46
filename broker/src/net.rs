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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::node::Node;
use crate::session::Limits;
use crate::session::mailbox::ConnectionId;

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

/// The running edge.
#[derive(Debug)]
pub struct Network {
    workers: Vec<WorkerHandle>,
    addresses: Vec<(Arc<str>, SocketAddr)>,
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

impl Network {
    /// Starts the workers and takes connections from the sockets that were bound.
    pub fn start(node: Arc<Node>, listeners: Vec<Bound>, options: &NetOptions) -> io::Result<Self> {
        let addresses = listeners
            .iter()
            .flat_map(|bound| bound.sockets.iter().map(|(_, address)| (Arc::clone(&bound.name), *address)))
            .collect();
        let shared = Arc::new(Shared {
            node,
            limits: Arc::clone(&options.limits),
            admission: Admission::new(options.connections_max, options.connections_per_ip_max),
            endings: ending_log::EndingLog::default(),
            next_connection: AtomicU64::new(0),
        });
        let workers: Vec<WorkerHandle> = (0..options.workers.max(1))
            .map(|index| WorkerHandle::start(index, Arc::clone(&shared)))
            .collect::<io::Result<_>>()?;
        let intakes: Arc<[_]> = workers.iter().map(WorkerHandle::intake).collect();
        for bound in listeners {
            for (socket, local) in bound.sockets {
                let listener = Listener { name: Arc::clone(&bound.name), socket, local };
                workers[0].accept_from(listener, Arc::clone(&intakes));
            }
        }
        for worker in &workers {
            worker.wait_started()?;
        }
        Ok(Self { workers, addresses })
    }

    /// Each listener's name and an address that it is bound to.
    #[must_use]
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
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
