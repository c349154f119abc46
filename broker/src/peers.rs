//! Other nodes: who this node says it is, and the connections by which it reaches them.
//!
//! A connection begins with PeerHello, which names cluster, node, directory and incarnation; the node at the other end checks them
//! before it takes anything else. [`dial`] is a blocking connection for a thread of its own (replication, founding), [`links`] keeps
//! pipelined ones for everybody (the quorum's messages, commands, heartbeats).

pub mod dial;
pub mod links;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use ottla_machine::controller::image::Image;
use ottla_protocol::messages::PeerHelloRequest;
use ottla_protocol::types::{BrokerEpoch, NodeId, Uuid};

use crate::contact::Contact;

/// Who this node is.
#[derive(Debug)]
pub struct Identity {
    pub node: NodeId,
    pub directory: Uuid,
    pub image: Arc<ArcSwap<Image>>,
    /// Known from the directory before the image tells it; zero in a fresh one.
    cluster: ArcSwap<Uuid>,
    /// Of this process's registration; -1 before it.
    epoch: AtomicI64,
    pub contact: Arc<Contact>,
}

impl Identity {
    #[must_use]
    pub fn new(node: NodeId, directory: Uuid, cluster: Uuid, image: Arc<ArcSwap<Image>>) -> Self {
        Self {
            node,
            directory,
            image,
            cluster: ArcSwap::from_pointee(cluster),
            epoch: AtomicI64::new(-1),
            contact: Arc::default(),
        }
    }

    /// The cluster that this node belongs to; zero while it is fresh.
    #[must_use]
    pub fn cluster(&self) -> Uuid {
        **self.cluster.load()
    }

    pub fn set_cluster(&self, cluster: Uuid) {
        self.cluster.store(Arc::new(cluster));
    }

    #[must_use]
    pub fn epoch(&self) -> BrokerEpoch {
        BrokerEpoch(self.epoch.load(Ordering::Acquire))
    }

    pub fn set_epoch(&self, epoch: BrokerEpoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// What a connection begins with.
    #[must_use]
    pub fn hello(&self) -> PeerHelloRequest {
        PeerHelloRequest {
            cluster_id: self.cluster(),
            node_id: self.node.0,
            directory_id: self.directory,
            broker_epoch: self.epoch().0,
        }
    }
}

/// Where another node is reached: what the quorum's membership says of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub node: NodeId,
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Reads `id@host:port`, as `controller.quorum.voters` has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (node, address) = text.trim().split_once('@')?;
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let node = NodeId(node.parse().ok().filter(|id| *id >= 0)?);
        (!host.is_empty()).then_some(Self { node, host: host.to_owned(), port: port.parse().ok()? })
    }

    /// The reverse of [`Address::parse`].
    #[must_use]
    pub fn to_text(&self) -> String {
        if self.host.contains(':') {
            format!("{}@[{}]:{}", self.node, self.host, self.port)
        } else {
            format!("{}@{}:{}", self.node, self.host, self.port)
        }
    }
}

/// The number by which the metadata log knows a directory: it never had another owner, so a wiped disk never votes under its old one.
#[must_use]
pub fn raft_id(directory: Uuid) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = directory.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kafka_writes_voters() {
        for text in ["1@localhost:9093", "3@[::1]:29093", "0@10.0.0.1:1"] {
            assert_eq!(Address::parse(text).map(|address| address.to_text()).as_deref(), Some(text));
        }
        for text in ["localhost:9093", "x@localhost:9093", "1@localhost", "1@:9", "-1@h:1", "1@h:70000"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
