//! What a node is built from, and how its parts are connected. No thread is started here and no socket opened: the process does that
//! ([`crate::start`]), and the simulator does without.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ottla_machine::controller::command::{LogProof, Registration};
use ottla_machine::controller::image::Image;
use ottla_protocol::types::{BrokerEpoch, NodeId, Uuid};
use ottla_raft::{Peers, RaftOptions};
use ottla_storage::{LastStop, LogDir, LogOptions, StorageError};

use crate::api::init_producer_id::ProducerIds;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::rules::Rules;
use crate::controller::{
    Controller, OnImage, Others, Published, QUORUM_ELECTION, QUORUM_HEARTBEAT, QuorumTransport,
};
use crate::coordinator::Coordinators;
use crate::endpoints::Endpoints;
use crate::entropy::Entropy;
use crate::fetch_sessions::FetchSessions;
use crate::flusher::Flusher;
use crate::founding::Founding;
use crate::in_sync::InSync;
use crate::membership::Membership;
use crate::node::Node;
use crate::overdue::Overdue;
use crate::partition::Host;
use crate::partitions::Partitions;
use crate::peers::links::Links;
use crate::peers::{Address, Identity, raft_id};
use crate::refusals::Refusals;
use crate::replicators::{OnLeader, ReplicatorSettings, Replicators};
use crate::throttle::Throttle;

/// See the module.
#[derive(Debug)]
pub struct Parts {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub entropy: Arc<Entropy>,
    pub id: NodeId,
    pub log_dir: Arc<LogDir>,
    pub published: Arc<Published>,
    pub identity: Arc<Identity>,
    pub founding: Arc<Founding>,
    pub endpoints: Endpoints,
    pub flusher: Arc<Flusher>,
}

impl Parts {
    #[must_use]
    pub fn node(self) -> Arc<Node> {
        let Self { config, clock, entropy, id, log_dir, published, identity, founding, endpoints, flusher } =
            self;
        let overdue = Arc::new(Overdue::default());
        let host = Host {
            me: id,
            log_dir: Arc::clone(&log_dir),
            flusher: Arc::clone(&flusher),
            overdue: Arc::clone(&overdue),
            clock: clock.clone(),
            image: Arc::clone(&published.image),
            in_sync: Arc::new(InSync::default()),
            contact: Arc::clone(&identity.contact),
            refusals: Refusals::default(),
            is_settled: AtomicBool::new(false),
            lag_max_ms: u64::try_from(config.number("replica.lag.time.max.ms")).unwrap_or(0),
            on_followed_flush: OnceLock::new(),
            on_damage: OnceLock::new(),
        };
        let partitions = Arc::new(Partitions::new(host, Arc::clone(&config)));
        let coordinators = Coordinators::new(
            id,
            &config,
            clock.clone(),
            Arc::clone(&published.image),
            Arc::clone(&partitions),
            Arc::clone(&flusher),
        );
        let replicators = Arc::new(OnceLock::new());
        published.subscribe(follow_image(&partitions, &coordinators, &replicators));
        let rules = Box::new(Rules { config: Arc::clone(&config), node: id });
        let controller = Controller::new(Arc::clone(&published), rules, clock.clone(), Arc::clone(&entropy));
        let slots = usize::try_from(config.number("max.incremental.fetch.session.cache.slots")).unwrap_or(0);
        Arc::new(Node {
            coordinators,
            janitor: OnceLock::new(),
            throttle: Throttle::new(id, Arc::clone(&config)),
            producer_ids: ProducerIds::default(),
            fetch_bytes_max: usize::try_from(config.number("fetch.max.bytes")).unwrap_or(usize::MAX),
            fetch_sessions: Mutex::new(FetchSessions::new(slots)),
            is_for_peers_only: AtomicBool::new(false),
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
            identity,
            founding,
            replicators,
        })
    }
}

/// Connects a node with others, before its metadata log is attached: commands, in-sync sets, replication, membership.
///
/// `listener`: the one that brokers use among themselves; `on_leader` begins to follow one of them.
#[must_use]
pub fn connect(
    node: &Arc<Node>,
    links: &Arc<Links>,
    listener: &Arc<str>,
    on_leader: OnLeader,
) -> (Arc<Replicators>, Arc<Membership>) {
    let millis = |name: &str| u64::try_from(node.config.number(name)).unwrap_or(0);
    node.identity.contact.expect(millis("broker.session.timeout.ms"), node.clock.tick_ms());
    node.controller.connect(Others {
        links: Arc::clone(links),
        identity: Arc::clone(&node.identity),
        session_timeout_ms: millis("broker.session.timeout.ms"),
        balance_every_ms: node
            .config
            .flag("auto.leader.rebalance.enable")
            .then(|| 1000 * millis("leader.imbalance.check.interval.seconds")),
        election_ms: u64::try_from(QUORUM_ELECTION.end.as_millis()).unwrap_or(0),
        listener: Arc::clone(listener),
    });
    node.partitions.host().in_sync.attach(node.id, &node.controller, {
        let identity = Arc::clone(&node.identity);
        move || identity.epoch()
    });
    let replicators = Replicators::new(
        Arc::clone(&node.identity),
        Arc::clone(&node.image),
        Arc::clone(&node.partitions),
        ReplicatorSettings {
            listener: Arc::clone(listener),
            max_wait_ms: millis("replica.fetch.wait.max.ms"),
            max_bytes: i32::try_from(node.config.number("replica.fetch.response.max.bytes"))
                .unwrap_or(i32::MAX),
        },
        node.clock.clone(),
        on_leader,
    );
    node.follow_with(&replicators);
    let membership = Membership::new(
        Arc::clone(&node.identity),
        Arc::clone(&node.controller),
        Arc::clone(links),
        registration(node),
        Arc::clone(&node.log_dir),
        Duration::from_millis(millis("broker.heartbeat.interval.ms").max(1)),
    );
    let told = node.partitions.host().on_damage.set({
        let membership = Arc::downgrade(&membership);
        Box::new(move |topic, index| {
            if let Some(membership) = membership.upgrade() {
                membership.on_damage(topic, index);
            }
        })
    });
    assert!(told.is_ok(), "named once");
    (replicators, membership)
}

/// The metadata log's own partition, named as Kafka names it.
const METADATA_LOG: &str = "__cluster_metadata-0";
/// Votes and snapshots of the metadata log.
const METADATA_DIR: &str = "metadata";

/// What a node's metadata log is started with. `peers`, with this node's own address: what one of several has.
///
/// # Errors
/// Files that cannot be read.
pub fn metadata_log(
    node: &Node,
    peers: Option<(Peers, &Address)>,
    snapshot_every: u64,
) -> Result<RaftOptions, StorageError> {
    let (log, _) = node.log_dir.open_log(METADATA_LOG, Uuid::ZERO, LogOptions::default())?;
    let (peers, identity) = match peers {
        Some((peers, own)) => (Some(peers), own.to_text().into_bytes()),
        None => (None, Vec::new()),
    };
    Ok(RaftOptions {
        voter: raft_id(node.log_dir.directory_id()),
        identity,
        dir: node.log_dir.path().join(METADATA_DIR),
        disk: Arc::clone(node.log_dir.disk()),
        log,
        snapshot_every,
        peers,
    })
}

/// How the quorum's members reach each other, and how long they wait.
#[must_use]
pub fn voters(node: &Node, links: &Arc<Links>) -> Peers {
    Peers {
        heartbeat: QUORUM_HEARTBEAT,
        election: QUORUM_ELECTION,
        is_first: node.founding.is_first(),
        ..Peers::new(Arc::new(QuorumTransport(Arc::clone(links))), node.founding.founders())
    }
}

/// What a node says of itself, and of what its last stop left, when it registers.
#[must_use]
pub fn registration(node: &Node) -> Registration {
    Registration {
        id: node.id,
        directory: node.log_dir.directory_id(),
        endpoints: node.endpoints.to_register(),
        rack: node.config.text("broker.rack").map(Into::into),
        cluster_id: node.identity.cluster(),
        previous_epoch: BrokerEpoch(-1),
        proof: match node.log_dir.last_stop() {
            LastStop::Fresh => LogProof::Nothing,
            LastStop::Clean(_) | LastStop::Killed => LogProof::Complete,
            LastStop::PowerLoss => LogProof::Flushed,
        },
        damaged: Vec::new(),
        fenced: true,
    }
}

/// Keeps the partitions, the coordinators in them, and what follows others, in step with the image.
fn follow_image(
    partitions: &Arc<Partitions>,
    coordinators: &Arc<Coordinators>,
    replicators: &Arc<OnceLock<Arc<Replicators>>>,
) -> OnImage {
    let (partitions, coordinators) = (Arc::clone(partitions), Arc::clone(coordinators));
    let replicators = Arc::clone(replicators);
    let before = Mutex::new(Arc::new(Image::default()));
    Box::new(move |image| {
        let before =
            std::mem::replace(&mut *before.lock().unwrap_or_else(PoisonError::into_inner), Arc::clone(image));
        partitions.on_image(&before, image);
        coordinators.on_image(&before, image);
        if let Some(replicators) = replicators.get() {
            replicators.on_image(&before, image);
        }
    })
}
