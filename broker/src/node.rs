//! A broker's parts and how they hang together: built, connected, started and stopped in order.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::image::Image;
use ottla_protocol::types::NodeId;
use ottla_storage::{LogDir, RealDisk, StorageError};

use crate::clock::Clock;
use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::entropy::Entropy;
use crate::net::listener::{self, BindError, ListenAt};
use crate::net::{NetOptions, Network};

/// How long connections have to finish when the node stops.
const NETWORK_STOP_LIMIT: Duration = Duration::from_secs(1);

/// Everything that a handler may reach, shared by the workers.
pub struct Node {
    pub id: NodeId,
    /// What was set before the start; what changes at run time stands in the image.
    pub config: Arc<Config>,
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
    #[error("{setting}: {error}")]
    Listeners { setting: &'static str, error: listener::ParseError },
    #[error("log.dirs: {0}")]
    LogDirs(String),
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

/// A node that serves.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    network: Network,
    log_dir: Arc<LogDir>,
}

impl Running {
    /// Builds the parts and begins to serve.
    ///
    /// # Errors
    /// Settings that don't fit together, a directory or a port that somebody else has, damaged files.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let entropy = Entropy::system();
        let id = NodeId(i32::try_from(config.number("node.id")).unwrap_or(i32::MAX));
        // The lock on the directory comes first: a second process on it must not even bind.
        let log_dir = open_log_dir(&config, id, &entropy)?;
        let bound = client_listeners(&config)?.iter().map(listener::bind).collect::<Result<Vec<_>, _>>()?;
        let listeners = bound
            .iter()
            .map(|bound| ListenAt {
                name: Arc::clone(&bound.name),
                host: bound.host.clone(),
                port: bound.port,
            })
            .collect();
        let options = NetOptions::from_config(&config);
        let node = Arc::new(Node {
            id,
            clock: Clock::system(),
            entropy,
            endpoints: Endpoints::new(listeners, listeners_of(&config, "advertised.listeners")?),
            config: Arc::new(config),
            log_dir: Arc::clone(&log_dir),
            image: ArcSwap::from_pointee(Image::default()),
        });
        let network = Network::start(Arc::clone(&node), bound, &options).map_err(StartError::Network)?;
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

fn listeners_of(config: &Config, setting: &'static str) -> Result<Vec<ListenAt>, StartError> {
    listener::parse(config.text(setting).unwrap_or_default())
        .map_err(|error| StartError::Listeners { setting, error })
}

/// The listeners without those of the controller, on which a single node has nobody to talk to.
fn client_listeners(config: &Config) -> Result<Vec<ListenAt>, StartError> {
    let mut listeners = listeners_of(config, "listeners")?;
    let of_controller: Vec<String> = config
        .text("controller.listener.names")
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().to_ascii_uppercase())
        .collect();
    listeners.retain(|at| !of_controller.iter().any(|name| *name == *at.name));
    Ok(listeners)
}

/// The directory's property that says whose it is.
const NODE_ID: &str = "node.id";

fn open_log_dir(config: &Config, id: NodeId, entropy: &Entropy) -> Result<Arc<LogDir>, StartError> {
    let path = config.text("log.dirs").or_else(|| config.text("log.dir")).unwrap_or_default().trim();
    if path.is_empty() {
        return Err(StartError::LogDirs("it is not set".to_owned()));
    }
    if path.contains(',') {
        return Err(StartError::LogDirs(format!(
            "one directory is used in this version, not several: {path}"
        )));
    }
    let dir = LogDir::open(Arc::new(RealDisk), Path::new(path), entropy.next_bytes())?;
    let mut properties = dir.properties();
    let ours = id.to_string();
    match properties.get(NODE_ID) {
        Some(theirs) if *theirs == ours => {}
        Some(theirs) => {
            return Err(StartError::OtherNode {
                dir: dir.path().display().to_string(),
                theirs: theirs.clone(),
                ours: id,
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
            config: Arc::new(Config::default()),
            clock,
            entropy: Entropy::seeded(1),
            endpoints: Endpoints::default(),
            log_dir: Arc::new(log_dir),
            image: ArcSwap::from_pointee(Image::default()),
        }
    }
}
