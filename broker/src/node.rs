//! A broker's parts and how they hang together: built, connected, started and stopped in order.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::image::Image;
use ottla_protocol::types::NodeId;
use ottla_storage::{LogDir, RealDisk, StorageError};

use crate::clock::Clock;
use crate::endpoints::Endpoints;
use crate::entropy::Entropy;
use crate::net::listener::{self, BindError, ListenAt};
use crate::net::{NetOptions, Network};

/// How long connections have to finish when the node stops.
const NETWORK_STOP_LIMIT: Duration = Duration::from_secs(1);

/// Everything that a handler may reach, shared by the workers.
pub struct Node {
    pub id: NodeId,
    pub clock: Clock,
    pub entropy: Entropy,
    pub endpoints: Endpoints,
    pub log_dir: Arc<LogDir>,
    /// The cluster's metadata as this node knows it.
    pub image: ArcSwap<Image>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(
        "data directory {dir} belongs to node.id {theirs}, and this node was started with node.id {ours}: \
         choose another directory with --data-dir, or start it with --set node.id={theirs}"
    )]
    OtherNode { dir: String, theirs: String, ours: NodeId },
    #[error("can't start the network threads: {0}")]
    Network(std::io::Error),
}

/// What a node is started with.
#[derive(Debug)]
pub struct Settings {
    pub node_id: NodeId,
    pub data_dir: PathBuf,
    pub listeners: Vec<ListenAt>,
    /// Empty: clients are told the address by which they came.
    pub advertised: Vec<ListenAt>,
    pub net: NetOptions,
}

/// A node that serves.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    network: Network,
    log_dir: Arc<LogDir>,
}

impl Running {
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        // The lock on the directory comes first: a second process on it must not even bind.
        let entropy = Entropy::system();
        let log_dir = open_log_dir(&settings, &entropy)?;
        let bound = settings.listeners.iter().map(listener::bind).collect::<Result<Vec<_>, _>>()?;
        let listeners = bound
            .iter()
            .map(|bound| ListenAt {
                name: Arc::clone(&bound.name),
                host: bound.host.clone(),
                port: bound.port,
            })
            .collect();
        let node = Arc::new(Node {
            id: settings.node_id,
            clock: Clock::system(),
            entropy,
            endpoints: Endpoints::new(listeners, settings.advertised),
            log_dir: Arc::clone(&log_dir),
            image: ArcSwap::from_pointee(Image::default()),
        });
        let network = Network::start(Arc::clone(&node), bound, &settings.net).map_err(StartError::Network)?;
        Ok(Self { node, network, log_dir })
    }

    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// An address by which a client on this machine reaches the node.
    #[must_use]
    pub fn bootstrap(&self) -> Option<SocketAddr> {
        let (_, mut address) = self.network.addresses().first()?.clone();
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Some(address)
    }

    /// Stops taking requests, answers what was taken, syncs, and leaves the mark of a clean shutdown.
    ///
    /// # Errors
    /// The mark could not be left; the next start then recovers.
    pub fn stop(self) -> Result<(), StorageError> {
        self.network.stop(NETWORK_STOP_LIMIT);
        drop(self.node);
        match Arc::into_inner(self.log_dir) {
            Some(log_dir) => log_dir.close(b""),
            None => {
                tracing::warn!(
                    "something still uses the data directory: no mark of a clean shutdown is left"
                );
                Ok(())
            }
        }
    }
}

/// The directory's property that says whose it is.
const NODE_ID: &str = "node.id";

fn open_log_dir(settings: &Settings, entropy: &Entropy) -> Result<Arc<LogDir>, StartError> {
    let dir = LogDir::open(Arc::new(RealDisk), &settings.data_dir, entropy.next_bytes())?;
    let mut properties = dir.properties();
    let ours = settings.node_id.to_string();
    match properties.get(NODE_ID) {
        Some(theirs) if *theirs == ours => {}
        Some(theirs) => {
            return Err(StartError::OtherNode {
                dir: settings.data_dir.display().to_string(),
                theirs: theirs.clone(),
                ours: settings.node_id,
            });
        }
        None => {
            properties.insert(NODE_ID.to_owned(), ours);
            dir.set_properties(&properties)?;
        }
    }
    Ok(Arc::new(dir))
}

#[cfg(test)]
impl Node {
    /// A node with nothing in it.
    pub(crate) fn for_tests(clock: Clock) -> Self {
        let disk = Arc::new(ottla_storage::MemoryDisk::new());
        let log_dir =
            LogDir::open(disk, std::path::Path::new("/data"), [1; 16]).expect("a disk without faults");
        Self {
            id: NodeId(1),
            clock,
            entropy: Entropy::seeded(1),
            endpoints: Endpoints::default(),
            log_dir: Arc::new(log_dir),
            image: ArcSwap::from_pointee(Image::default()),
        }
    }
}
