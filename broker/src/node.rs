//! A broker's parts and how they hang together: built, connected, started and stopped in order.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::image::Image;
use ottla_protocol::types::NodeId;

use crate::clock::Clock;
use crate::endpoints::Endpoints;
use crate::net::listener::{self, BindError, ListenAt};
use crate::net::{NetOptions, Network};

/// How long connections have to finish when the node stops.
const NETWORK_STOP_LIMIT: Duration = Duration::from_secs(1);

/// Everything that a handler may reach, shared by the workers.
pub struct Node {
    pub id: NodeId,
    pub clock: Clock,
    pub endpoints: Endpoints,
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
    pub node_id: NodeId,
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
}

impl Running {
    pub fn start(settings: Settings) -> Result<Self, StartError> {
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
            endpoints: Endpoints::new(listeners, settings.advertised),
            image: ArcSwap::from_pointee(Image::default()),
        });
        let network = Network::start(Arc::clone(&node), bound, &settings.net).map_err(StartError::Network)?;
        Ok(Self { node, network })
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

    /// Stops taking requests, answers what was taken, and ends.
    pub fn stop(self) {
        self.network.stop(NETWORK_STOP_LIMIT);
    }
}

#[cfg(test)]
impl Node {
    /// A node with nothing in it.
    pub(crate) fn for_tests(clock: Clock) -> Self {
        Self {
            id: NodeId(1),
            clock,
            endpoints: Endpoints::default(),
            image: ArcSwap::from_pointee(Image::default()),
        }
    }
}
