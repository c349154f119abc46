//! A broker's parts and how they hang together: built, connected, started and stopped in order.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::image::Image;

use crate::clock::Clock;
use crate::net::listener::{self, BindError, ListenAt};
use crate::net::{NetOptions, Network};

/// How long connections have to finish when the node stops.
const NETWORK_STOP_LIMIT: Duration = Duration::from_secs(1);

/// Everything that a handler may reach, shared by the workers.
pub struct Node {
    pub clock: Clock,
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
    #[error("can't start the network threads: {0}")]
    Network(std::io::Error),
}

/// What a node is started with.
#[derive(Debug)]
pub struct Settings {
    pub listeners: Vec<ListenAt>,
    pub net: NetOptions,
}

/// A node that serves.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    network: Network,
    listeners: Vec<(Arc<str>, String, u16)>,
}

impl Running {
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let bound = settings.listeners.iter().map(listener::bind).collect::<Result<Vec<_>, _>>()?;
        let listeners =
            bound.iter().map(|bound| (Arc::clone(&bound.name), bound.host.clone(), bound.port)).collect();
        let node = Arc::new(Node { clock: Clock::system(), image: ArcSwap::from_pointee(Image::default()) });
        let network = Network::start(Arc::clone(&node), bound, &settings.net).map_err(StartError::Network)?;
        Ok(Self { node, network, listeners })
    }

    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Name, host and port of each listener.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, &str, u16)> {
        self.listeners.iter().map(|(name, host, port)| (&**name, host.as_str(), *port))
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

    /// Stops taking requests, answers what was taken, and ends.
    pub fn stop(self) {
        self.network.stop(NETWORK_STOP_LIMIT);
    }
}

#[cfg(test)]
impl Node {
    /// A node with nothing in it.
    pub(crate) fn for_tests(clock: Clock) -> Self {
        Self { clock, image: ArcSwap::from_pointee(Image::default()) }
    }
}
