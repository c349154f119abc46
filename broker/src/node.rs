//! A broker's parts as handlers see them. How they are built and started: [`crate::start`].

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use ottla_machine::controller::image::Image;
use ottla_protocol::types::NodeId;
use ottla_storage::LogDir;

use crate::api::init_producer_id::ProducerIds;
use crate::clock::Clock;
use crate::config::Config;
use crate::controller::Controller;
use crate::coordinator::Coordinators;
use crate::endpoints::Endpoints;
use crate::entropy::Entropy;
use crate::fetch_sessions::FetchSessions;
use crate::flusher::Flusher;
use crate::founding::Founding;
use crate::janitor::Janitor;
use crate::overdue::Overdue;
use crate::partitions::Partitions;
use crate::peers::Identity;
use crate::replicators::Replicators;
use crate::throttle::Throttle;

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
    /// What looks after partitions where something may become late.
    pub overdue: Arc<Overdue>,
    /// The group coordinators that this node hosts.
    pub coordinators: Arc<Coordinators>,
    pub(crate) janitor: OnceLock<Janitor>,
    /// Who this node is to others.
    pub identity: Arc<Identity>,
    pub founding: Arc<Founding>,
    /// What follows other brokers; empty for a node that is alone.
    pub(crate) replicators: Arc<OnceLock<Arc<Replicators>>>,
    pub(crate) throttle: Throttle,
    pub(crate) producer_ids: ProducerIds,
    /// `fetch.max.bytes`: looked up once, for every fetch asks for it.
    pub(crate) fetch_bytes_max: usize,
    pub(crate) fetch_sessions: Mutex<FetchSessions>,
    /// It listens, but is no part of its cluster yet: only peers are answered.
    pub(crate) is_for_peers_only: AtomicBool,
}

impl Node {
    /// From here on this node follows others, and tells them what it has flushed.
    pub fn follow_with(&self, replicators: &Arc<Replicators>) {
        assert!(self.replicators.set(Arc::clone(replicators)).is_ok(), "named once");
        let weak = Arc::downgrade(replicators);
        let told = self.partitions.host().on_followed_flush.set(Box::new(move |partition| {
            if let Some(replicators) = weak.upgrade() {
                replicators.on_flush(partition);
            }
        }));
        assert!(told.is_ok(), "named once");
    }

    pub(crate) fn keep_house_with(&self, janitor: Janitor) {
        assert!(self.janitor.set(janitor).is_ok(), "named once");
    }

    pub(crate) fn stop_house(&self) {
        if let Some(janitor) = self.janitor.get() {
            janitor.stop();
        }
    }

    pub(crate) fn fetch_sessions(&self) -> MutexGuard<'_, FetchSessions> {
        self.fetch_sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("clock", &self.clock).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Node {
    /// A node with nothing in it.
    pub(crate) fn for_tests(clock: Clock) -> Self {
        use crate::config::rules::Rules;
        use crate::controller::Published;
        use crate::in_sync::InSync;
        use crate::partition::Host;
        use crate::refusals::Refusals;
        use ottla_protocol::types::Uuid;
        use std::path::Path;

        let disk = Arc::new(ottla_storage::MemoryDisk::new());
        let log_dir =
            Arc::new(LogDir::open(disk, Path::new("/data"), [1; 16]).expect("a disk without faults"));
        let config = Arc::new(Config::default());
        let entropy = Arc::new(Entropy::seeded(1));
        let id = NodeId(1);
        let flusher = Flusher::start(0).expect("no threads are needed");
        let published = Published::new();
        let host = Host {
            me: id,
            log_dir: Arc::clone(&log_dir),
            flusher: Arc::clone(&flusher),
            overdue: Arc::default(),
            clock: clock.clone(),
            image: Arc::clone(&published.image),
            in_sync: Arc::new(InSync::default()),
            contact: Arc::default(),
            refusals: Refusals::default(),
            is_settled: AtomicBool::new(true),
            lag_max_ms: 30_000,
            on_followed_flush: OnceLock::new(),
            on_damage: OnceLock::new(),
        };
        let partitions = Arc::new(Partitions::new(host, Arc::clone(&config)));
        let identity =
            Arc::new(Identity::new(id, log_dir.directory_id(), Uuid::ZERO, Arc::clone(&published.image)));
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
            janitor: OnceLock::new(),
            founding: Founding::load(Arc::clone(&log_dir), Arc::clone(&identity)),
            identity,
            replicators: Arc::default(),
            throttle: Throttle::new(id, Arc::clone(&config)),
            producer_ids: ProducerIds::default(),
            fetch_bytes_max: usize::MAX,
            fetch_sessions: Mutex::new(FetchSessions::new(10)),
            is_for_peers_only: AtomicBool::new(false),
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
