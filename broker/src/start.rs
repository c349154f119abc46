//! How a node comes up: its parts built and connected, then, alone or with others, one step after the other until it serves.

mod directory;
mod sockets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ottla_machine::controller::command::{Answer, Command, Registration};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{NodeId, Uuid};
use ottla_raft::{MetadataLog, Peers, RaftError};
use ottla_storage::{LastStop, StorageError};

use crate::api::api_versions;
use crate::clock::Clock;
use crate::config::quorum::Quorum;
use crate::config::{Config, ConfigError};
use crate::controller::Published;
use crate::entropy::Entropy;
use crate::flusher::Flusher;
use crate::founding::Founding;
use crate::janitor::Janitor;
use crate::membership::Membership;
use crate::net::listener::{self, BindError};
use crate::net::{NetOptions, Network};
use crate::node::Node;
use crate::parts::{self, Parts, registration};
use crate::peers::dial::{Dial, DialError};
use crate::peers::links::Links;
use crate::peers::{Address, Identity};
use crate::replicators::{Replicators, follow_on_threads};

use directory::open_log_dir;
use sockets::{Sockets, bind, inter_broker_listener, own_address};

/// How long connections have to finish when the node stops.
const NETWORK_STOP_LIMIT: Duration = Duration::from_secs(1);
/// How long others may take to take over what this node leads when it stops.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Threads that wait for the disk. Group commit needs few: while one syncs, the next batch gathers.
/// One of them is kept free of cold reads, searches and loading.
const DISK_THREADS: usize = 3;

/// Entries of the metadata log between two snapshots.
const METADATA_SNAPSHOT_EVERY: u64 = 5_000;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{setting}: {error}")]
    Listeners { setting: &'static str, error: listener::ParseError },
    #[error("{0}")]
    NoListener(String),
    #[error("log.dirs: {0}")]
    LogDirs(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(
        "data directory {dir} belongs to node.id {theirs}, and this node was started with node.id {ours}: \
         choose another directory with --data-dir, or start it with --set node.id={theirs}"
    )]
    OtherNode { dir: String, theirs: String, ours: NodeId },
    #[error("the metadata log: {0}")]
    MetadataLog(#[from] RaftError),
    #[error(
        "CLUSTER_ID={0} is no id: 22 characters of base64 are needed, as `kafka-storage random-uuid` makes them"
    )]
    ClusterId(String),
    #[error("data directory belongs to cluster {theirs}, and CLUSTER_ID={ours}")]
    OtherCluster { theirs: Uuid, ours: Uuid },
    #[error(
        "node {node} runs already at {host}:{port}, {how}: two processes must not be one node. Stop that one, or give this one a \
         node.id and a directory of its own"
    )]
    Twin { node: NodeId, host: String, port: u16, how: &'static str },
    #[error("this node could not register: {0}")]
    Register(String),
    #[error("can't start threads: {0}")]
    Threads(std::io::Error),
}

/// Looks for a living process in this node's place, before anything here could be taken for it: votes of two that are one to the others
/// would count twice.
fn refuse_twin(identity: &Identity, quorum: &Quorum) -> Result<(), StartError> {
    let Some(Address { node, host, port }) = quorum.voters.iter().find(|voter| voter.node == identity.node)
    else {
        return Ok(());
    };
    let how = match Dial::connect(host, *port, &identity.hello()) {
        Ok((_, theirs)) if theirs.directory_id == identity.directory => "with a copy of this directory",
        Err(DialError::Refused(ErrorCode::DuplicateBrokerRegistration, _)) => "with another directory",
        _ => return Ok(()),
    };
    Err(StartError::Twin { node: *node, host: host.clone(), port: *port, how })
}

/// A node that serves.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    network: Network,
    together: Option<Together>,
}

/// What a node has that is not alone.
#[derive(Debug)]
struct Together {
    membership: Arc<Membership>,
    replicators: Arc<Replicators>,
    stopping: Arc<AtomicBool>,
    is_broker: bool,
}

impl Running {
    /// Builds the parts and begins to serve. `cluster_id` is for a cluster that this start founds; `None` draws one.
    ///
    /// # Errors
    /// Settings that don't fit together, a directory or a port that somebody else has, damaged files.
    pub fn start(config: Config, cluster_id: Option<String>) -> Result<Self, StartError> {
        let named = match cluster_id {
            Some(text) => Some(Uuid::parse(&text).ok_or(StartError::ClusterId(text))?),
            None => None,
        };
        let config = Arc::new(config);
        let quorum = config.quorum()?;
        let clock = Clock::system();
        let entropy = Arc::new(Entropy::system());
        let id = NodeId(i32::try_from(config.number("node.id")).unwrap_or(i32::MAX));
        // The lock on the directory comes first: a second process on it must not even bind.
        // A node that is alone founds its cluster by itself, and its directory says so from the first moment.
        let drawn = named.unwrap_or_else(|| Uuid::from_random(entropy.next_bytes()));
        let log_dir = open_log_dir(&config, id, &entropy, quorum.is_alone().then_some(drawn))?;
        let published = Published::new();
        let identity =
            Arc::new(Identity::new(id, log_dir.directory_id(), Uuid::ZERO, Arc::clone(&published.image)));
        refuse_twin(&identity, &quorum)?;
        let (sockets, endpoints) = bind(&config, &quorum)?;
        let founding = Founding::load(Arc::clone(&log_dir), Arc::clone(&identity));
        if let Some(ours) = named
            && !founding.cluster().is_zero()
            && founding.cluster() != ours
        {
            return Err(StartError::OtherCluster { theirs: founding.cluster(), ours });
        }
        let wanted = if founding.cluster().is_zero() { drawn } else { founding.cluster() };
        let flusher = Flusher::start(DISK_THREADS).map_err(StartError::Threads)?;
        let parts =
            Parts { config, clock, entropy, id, log_dir, published, identity, founding, endpoints, flusher };
        let node = parts.node();
        node.overdue.start(node.clock.clone()).map_err(StartError::Threads)?;
        let options = NetOptions::from_config(&node.config);
        let network = Network::start(Arc::clone(&node), options).map_err(StartError::Threads)?;
        let running = Self { node, network, together: None };
        if quorum.is_alone() {
            running.come_up_alone(wanted, sockets)
        } else {
            running.come_up_together(wanted, &quorum, sockets)
        }
    }

    fn come_up_alone(self, wanted: Uuid, sockets: Sockets) -> Result<Self, StartError> {
        let node = &self.node;
        node.controller.attach(start_metadata_log(node, None)?);
        let registration = Registration { fenced: false, ..registration(node) };
        // Both join one entry: the first has no answer of its own to wait for.
        node.controller.submit(found_cluster(wanted, &[]), |_| {});
        match node.controller.ask(Command::RegisterBroker(registration)) {
            Answer::Registered(epoch) => node.identity.set_epoch(epoch),
            Answer::Failed(failure) => return Err(StartError::Register(failure.message)),
            other => return Err(StartError::Register(format!("{other:?}"))),
        }
        // Of a directory that an earlier version made, the metadata log alone knows it.
        node.founding.adopt(node.controller.cluster_id())?;
        self.serve()?;
        self.network.listen(sockets.first);
        self.network.listen(sockets.then);
        self.network.wait_started().map_err(StartError::Threads)?;
        Ok(self)
    }

    fn come_up_together(
        mut self,
        wanted: Uuid,
        quorum: &Quorum,
        sockets: Sockets,
    ) -> Result<Self, StartError> {
        let node = Arc::clone(&self.node);
        let own = own_address(&node, quorum, &sockets)?;
        node.is_for_peers_only.store(true, Ordering::Release);
        self.network.listen(sockets.first);
        self.network.wait_started().map_err(StartError::Threads)?;
        node.founding.settle(&quorum.known, wanted)?;
        let links = Links::start(Arc::clone(&node.identity)).map_err(StartError::Threads)?;
        let listener = inter_broker_listener(&node.config)?;
        let (replicators, membership) = parts::connect(&node, &links, &listener, follow_on_threads());
        let peers = parts::voters(&node, &links);
        node.controller.attach(start_metadata_log(&node, Some((peers, &own)))?);
        let stopping = Arc::new(AtomicBool::new(false));
        spread_founding(&node, &stopping)?;
        if node.founding.founders().is_none() {
            membership.join_quorum(&own, &quorum.known).map_err(StartError::Register)?;
        }
        self.together = Some(Together {
            membership: Arc::clone(&membership),
            replicators,
            stopping,
            is_broker: quorum.is_broker,
        });
        let cluster = node.founding.cluster();
        node.controller.submit(found_cluster(cluster, &api_versions::OF_SEVERAL_NODES), |_| {});
        if quorum.is_broker {
            membership.register().map_err(StartError::Register)?;
            self.serve()?;
            node.is_for_peers_only.store(false, Ordering::Release);
            self.network.listen(sockets.then);
            membership.enter().map_err(StartError::Register)?;
        } else {
            membership.watch().map_err(StartError::Register)?;
        }
        Ok(self)
    }

    /// What runs beside the requests, once the image knows this node.
    fn serve(&self) -> Result<(), StartError> {
        let Node { log_dir, partitions, coordinators, config, clock, .. } = &*self.node;
        partitions.settle();
        if !matches!(log_dir.last_stop(), LastStop::Clean(_) | LastStop::Fresh) {
            tracing::info!("the last process did not stop cleanly ({:?}): recovering", log_dir.last_stop());
            partitions.recover();
        }
        coordinators.start().map_err(StartError::Threads)?;
        let janitor =
            Janitor::start(config, clock, partitions, log_dir.journal()).map_err(StartError::Threads)?;
        self.node.keep_house_with(janitor);
        Ok(())
    }

    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// An address by which a client on this machine reaches the node.
    #[must_use]
    pub fn bootstrap(&self) -> Option<SocketAddr> {
        let of_controller = self.node.config.controller_listeners();
        let addresses = self.network.addresses();
        let client = addresses.iter().find(|(name, _)| !of_controller.iter().any(|of| **of == **name));
        let (_, mut address) = client.or_else(|| addresses.first())?.clone();
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Some(address)
    }

    /// Hands over what this node leads, stops taking requests, answers what was taken, syncs, and leaves the mark of a clean shutdown.
    ///
    /// # Errors
    /// Something could not be synced, so no mark was left; the next start then recovers.
    pub fn stop(self) -> Result<(), StorageError> {
        if let Some(together) = &self.together {
            together.stopping.store(true, Ordering::Release);
            if together.is_broker {
                together.membership.leave(LEAVE_LIMIT);
            }
            self.node.controller.resign();
        }
        // Answers that wait for a flush still get it: the disk's threads work until the last connection is gone.
        self.network.stop(NETWORK_STOP_LIMIT);
        let Node { partitions, controller, flusher, overdue, log_dir, coordinators, .. } = &*self.node;
        if let Some(together) = &self.together {
            together.membership.stop();
            together.replicators.stop();
        }
        coordinators.stop();
        self.node.stop_house();
        controller.stop();
        overdue.stop();
        flusher.stop();
        partitions.close()?;
        log_dir.mark_clean(b"")
    }
}

fn start_metadata_log(node: &Node, peers: Option<(Peers, &Address)>) -> Result<MetadataLog, StartError> {
    let options = parts::metadata_log(node, peers, METADATA_SNAPSHOT_EVERY)?;
    Ok(MetadataLog::start(options, node.controller.state_machine())?)
}

fn spread_founding(node: &Node, stopping: &Arc<AtomicBool>) -> Result<(), StartError> {
    let (founding, stopping) = (Arc::clone(&node.founding), Arc::clone(stopping));
    std::thread::Builder::new()
        .name("founding".into())
        .spawn(move || founding.spread(&|| stopping.load(Ordering::Acquire)))
        .map(|_| ())
        .map_err(StartError::Threads)
}

fn found_cluster(cluster_id: Uuid, more: &[(&str, i16)]) -> Command {
    let features = [("metadata.version", api_versions::METADATA_VERSION)];
    let features = features.iter().chain(more).map(|(name, level)| ((*name).into(), *level)).collect();
    Command::FoundCluster { cluster_id, features }
}
