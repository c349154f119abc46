//! A broker's parts and how they hang together: built, connected, started and stopped in order.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_machine::controller::command::{Answer, Command, LogProof, Registration};
use ottla_machine::controller::image::Image;
use ottla_protocol::types::{BrokerEpoch, NodeId, Uuid};
use ottla_raft::{MetadataLog, RaftError, RaftOptions};
use ottla_storage::{LastStop, LogDir, LogOptions, RealDisk, StorageError};

use crate::api::api_versions;
use crate::api::init_producer_id::ProducerIds;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::rules::Rules;
use crate::controller::{Controller, OnImage, Published};
use crate::coordinator::Coordinators;
use crate::endpoints::Endpoints;
use crate::entropy::Entropy;
use crate::fetch_sessions::FetchSessions;
use crate::flusher::Flusher;
use crate::janitor::Janitor;
use crate::net::listener::{self, BindError, Bound, ListenAt};
use crate::net::{NetOptions, Network};
use crate::overdue::Overdue;
use crate::partition::Host;
use crate::partitions::Partitions;

/// How long connections have to finish when the node stops.
const NETWORK_STOP_LIMIT: Duration = Duration::from_secs(1);

/// Threads that wait for the disk. Group commit needs few: while one syncs, the next batch gathers.
/// One of them is kept free of cold reads, searches and loading.
const DISK_THREADS: usize = 3;

/// The metadata log's own partition, named as Kafka names it.
const METADATA_LOG: &str = "__cluster_metadata-0";

/// Votes and snapshots of the metadata log.
const METADATA_DIR: &str = "metadata";

/// Entries of the metadata log between two snapshots.
const METADATA_SNAPSHOT_EVERY: u64 = 5_000;

/// Everything that a handler may reach, shared by the workers.
pub struct Node {
    pub id: NodeId,
    /// What was set before the start; what changes at run time stands in the image.
    pub config: Arc<Config>,
    pub clock: Clock,
    pub entropy: Arc<Entropy>,
    pub endpoints: Endpoints,
    pub log_dir: Arc<LogDir>,
    /// The cluster's metadata as this node knows it.
    pub image: Arc<ArcSwap<Image>>,
    /// The partitions that this node holds.
    pub partitions: Arc<Partitions>,
    /// Where changes of the metadata are asked for.
    pub controller: Arc<Controller>,
    /// Where work that waits for the disk is done.
    pub flusher: Arc<Flusher>,
    pub(crate) overdue: Arc<Overdue>,
    /// The group coordinators that this node hosts.
    pub coordinators: Arc<Coordinators>,
    /// `None` in tests without threads.
    pub janitor: Option<Janitor>,
    pub(crate) producer_ids: ProducerIds,
    /// `fetch.max.bytes`: looked up once, for every fetch asks for it.
    pub(crate) fetch_bytes_max: usize,
    pub(crate) fetch_sessions: Mutex<FetchSessions>,
}

impl Node {
    pub(crate) fn fetch_sessions(&self) -> MutexGuard<'_, FetchSessions> {
        self.fetch_sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    #[error("the metadata log: {0}")]
    MetadataLog(#[from] RaftError),
    #[error(
        "CLUSTER_ID={0} is no id: 22 characters of base64 are needed, as `kafka-storage random-uuid` makes them"
    )]
    ClusterId(String),
    #[error("this node could not register: {0}")]
    Register(String),
    #[error("can't start threads: {0}")]
    Threads(std::io::Error),
}

/// A node that serves.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    network: Network,
}

impl Running {
    /// Builds the parts and begins to serve. `cluster_id` is for a cluster that this start founds; `None` draws one.
    ///
    /// # Errors
    /// Settings that don't fit together, a directory or a port that somebody else has, damaged files.
    pub fn start(config: Config, cluster_id: Option<String>) -> Result<Self, StartError> {
        let cluster_id = match cluster_id {
            Some(text) => Some(Uuid::parse(&text).ok_or(StartError::ClusterId(text))?),
            None => None,
        };
        let config = Arc::new(config);
        let clock = Clock::system();
        let entropy = Arc::new(Entropy::system());
        let id = NodeId(i32::try_from(config.number("node.id")).unwrap_or(i32::MAX));
        // The lock on the directory comes first: a second process on it must not even bind.
        let log_dir = open_log_dir(&config, id, &entropy)?;
        let bound = client_listeners(&config)?.iter().map(listener::bind).collect::<Result<Vec<_>, _>>()?;
        let endpoints = Endpoints::new(
            bound.iter().map(Bound::address).collect(),
            listeners_of(&config, "advertised.listeners")?,
        );

        let flusher = Flusher::start(DISK_THREADS).map_err(StartError::Threads)?;
        let overdue = Arc::new(Overdue::default());
        overdue.start(clock.clone()).map_err(StartError::Threads)?;
        let host = Host {
            me: id,
            log_dir: Arc::clone(&log_dir),
            flusher: Arc::clone(&flusher),
            overdue: Arc::clone(&overdue),
        };
        let partitions = Arc::new(Partitions::new(host, Arc::clone(&config)));
        let published = Published::new();
        let coordinators = Coordinators::new(
            id,
            &config,
            clock.clone(),
            Arc::clone(&published.image),
            Arc::clone(&partitions),
            Arc::clone(&flusher),
        );
        published.subscribe(follow_image(&partitions, &coordinators));
        let rules = Box::new(Rules { config: Arc::clone(&config), node: id });
        let controller = Controller::new(Arc::clone(&published), rules, clock.clone(), Arc::clone(&entropy));
        controller.attach(start_metadata_log(&log_dir, &controller)?);
        register(
            &controller,
            &config,
            id,
            &log_dir,
            &endpoints,
            cluster_id,
            Uuid::from_random(entropy.next_bytes()),
        )?;

        if !matches!(log_dir.last_stop(), LastStop::Clean(_) | LastStop::Fresh) {
            tracing::info!("the last process did not stop cleanly ({:?}): recovering", log_dir.last_stop());
            partitions.recover();
        }
        let options = NetOptions::from_config(&config);
        let slots = usize::try_from(config.number("max.incremental.fetch.session.cache.slots")).unwrap_or(0);
        coordinators.start().map_err(StartError::Threads)?;
        let janitor =
            Janitor::start(&config, &clock, &partitions, log_dir.journal()).map_err(StartError::Threads)?;
        let node = Arc::new(Node {
            coordinators,
            janitor: Some(janitor),
            producer_ids: ProducerIds::default(),
            fetch_bytes_max: usize::try_from(config.number("fetch.max.bytes")).unwrap_or(usize::MAX),
            fetch_sessions: Mutex::new(FetchSessions::new(slots)),
            id,
            config,
            clock,
            entropy,
            endpoints,
            log_dir,
            image: Arc::clone(&published.image),
            partitions,
            controller,
            flusher,
            overdue,
        });
        let network = Network::start(Arc::clone(&node), bound, &options).map_err(StartError::Threads)?;
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

    /// Stops taking requests, answers what was taken, syncs, and leaves the mark of a clean shutdown.
    ///
    /// # Errors
    /// Something could not be synced, so no mark was left; the next start then recovers.
    pub fn stop(self) -> Result<(), StorageError> {
        // Answers that wait for a flush still get it: the disk's threads work until the last connection is gone.
        self.network.stop(NETWORK_STOP_LIMIT);
        let Node { partitions, controller, flusher, overdue, log_dir, coordinators, .. } = &*self.node;
        coordinators.stop();
        if let Some(janitor) = &self.node.janitor {
            janitor.stop();
        }
        controller.stop();
        overdue.stop();
        flusher.stop();
        partitions.close()?;
        log_dir.mark_clean(b"")
    }
}

/// Keeps the partitions, and the coordinators in them, in step with the image.
fn follow_image(partitions: &Arc<Partitions>, coordinators: &Arc<Coordinators>) -> OnImage {
    let (partitions, coordinators) = (Arc::clone(partitions), Arc::clone(coordinators));
    let before = Mutex::new(Arc::new(Image::default()));
    Box::new(move |image| {
        let before =
            std::mem::replace(&mut *before.lock().unwrap_or_else(PoisonError::into_inner), Arc::clone(image));
        partitions.on_image(&before, image);
        coordinators.on_image(&before, image);
    })
}

fn start_metadata_log(log_dir: &LogDir, controller: &Arc<Controller>) -> Result<MetadataLog, StartError> {
    let (log, _) = log_dir.open_log(METADATA_LOG, Uuid::ZERO, LogOptions::default())?;
    // A wiped disk has another directory id, so it never votes under its old identity.
    let [a, b, c, d, e, f, g, h, ..] = log_dir.directory_id().0;
    let options = RaftOptions {
        voter: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        identity: Vec::new(),
        dir: log_dir.path().join(METADATA_DIR),
        disk: Arc::clone(log_dir.disk()),
        log,
        snapshot_every: METADATA_SNAPSHOT_EVERY,
        peers: None,
    };
    Ok(MetadataLog::start(options, controller.state_machine())?)
}

/// Founds the cluster if this is its first start, under the id that was asked for or else `drawn`, and makes this process known.
fn register(
    controller: &Arc<Controller>,
    config: &Config,
    id: NodeId,
    log_dir: &LogDir,
    endpoints: &Endpoints,
    asked_for: Option<Uuid>,
    drawn: Uuid,
) -> Result<(), StartError> {
    let cluster_id = asked_for.unwrap_or(drawn);
    let features = vec![("metadata.version".into(), api_versions::METADATA_VERSION)];
    // Both join one entry: the first has no answer of its own to wait for.
    controller.submit(Command::FoundCluster { cluster_id, features }, |_| {});
    let registration = Registration {
        id,
        directory: log_dir.directory_id(),
        endpoints: endpoints.to_register(),
        rack: config.text("broker.rack").map(Into::into),
        // A node that was told no id belongs to the cluster that its own metadata log founded: what was drawn just now is nobody's.
        cluster_id: asked_for.unwrap_or(Uuid::ZERO),
        previous_epoch: BrokerEpoch(-1),
        // A lone node's logs are all there is: nobody else could lead in its place.
        proof: LogProof::Complete,
        damaged: Vec::new(),
        fenced: false,
    };
    match controller.ask(Command::RegisterBroker(registration)) {
        Answer::Registered(_) => Ok(()),
        Answer::Failed(failure) => Err(StartError::Register(failure.message)),
        other => Err(StartError::Register(format!("{other:?}"))),
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
    let ours = id.to_string();
    let founding = BTreeMap::from([(NODE_ID.to_owned(), ours.clone())]);
    let dir = LogDir::open_or_found(Arc::new(RealDisk), Path::new(path), entropy.next_bytes(), founding)?;
    let mut properties = dir.properties();
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
            Arc::new(LogDir::open(disk, Path::new("/data"), [1; 16]).expect("a disk without faults"));
        let config = Arc::new(Config::default());
        let entropy = Arc::new(Entropy::seeded(1));
        let id = NodeId(1);
        let flusher = Flusher::start(0).expect("no threads are needed");
        let host = Host {
            me: id,
            log_dir: Arc::clone(&log_dir),
            flusher: Arc::clone(&flusher),
            overdue: Arc::default(),
        };
        let partitions = Arc::new(Partitions::new(host, Arc::clone(&config)));
        let published = Published::new();
        let rules = Box::new(Rules { config: Arc::clone(&config), node: id });
        let coordinators = Coordinators::new(
            id,
            &config,
            clock.clone(),
            Arc::clone(&published.image),
            Arc::clone(&partitions),
            Arc::clone(&flusher),
        );
        Self {
            coordinators,
            janitor: None,
            producer_ids: ProducerIds::default(),
            fetch_bytes_max: usize::MAX,
            fetch_sessions: Mutex::new(FetchSessions::new(10)),
            id,
            config,
            clock: clock.clone(),
            entropy: Arc::clone(&entropy),
            endpoints: Endpoints::default(),
            log_dir,
            image: Arc::clone(&published.image),
            partitions,
            controller: Controller::new(published, rules, clock, entropy),
            flusher,
            overdue: Arc::default(),
        }
    }
}
