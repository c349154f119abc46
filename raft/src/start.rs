//! How the log is started: what it is given, and what a node does first.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{InitializeError, RaftError as OpenRaftError};
use openraft::{Raft, SnapshotPolicy};
use ottla_storage::{Disk, Log, StorageError};

use crate::StateMachine;
use crate::apply::Applier;
use crate::log_store::LogStore;
use crate::network::{Links, NoPeers, Transport};
use crate::ticking::{self, Heard};
use crate::types::{Member, TypeConfig};

/// How the log is started.
pub struct RaftOptions {
    /// The id of this voter: a number that no other (node id, directory id) ever had.
    pub voter: u64,
    /// What the membership says of this node, for the transports of the others: its address, and by what it is known there.
    pub identity: Vec<u8>,
    /// Where votes and snapshots are kept; made if it is missing.
    pub dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    /// The log itself, opened.
    pub log: Log,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// `None` for a log whose only voter this node is, and stays.
    pub peers: Option<Peers>,
}

/// What a log of several nodes needs.
#[derive(Clone)]
pub struct Peers {
    pub transport: Arc<dyn Transport>,
    /// Who votes in a cluster that a fresh directory founds: this node among them, and every founder told the same. `None` if a fresh
    /// directory waits until a leader makes it a member.
    pub founders: Option<BTreeMap<u64, Vec<u8>>>,
    /// Whether this founder calls the first election, at once: one of them does, so that nobody has to wait for a time-out.
    pub is_first: bool,
    /// How often a leader is heard of. The same on all nodes, as are the election time-outs.
    pub heartbeat: Duration,
    /// A voter that hears of no leader for the longest of these, and then for one of them, calls an election.
    pub election: Range<Duration>,
}

impl Peers {
    /// With time-outs that suit nodes in one region.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, founders: Option<BTreeMap<u64, Vec<u8>>>) -> Self {
        let election = Duration::from_millis(300)..Duration::from_millis(600);
        Self { transport, founders, is_first: false, heartbeat: Duration::from_millis(100), election }
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("founders", &self.founders).finish_non_exhaustive()
    }
}

/// A founder calls the first election so many times, so long after each other, before it leaves it to the time-outs.
const FIRST_ROUNDS: u32 = 10;
const FIRST_ROUND: Duration = Duration::from_millis(30);

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot start the metadata log's thread: {0}")]
    Thread(std::io::Error),
    #[error("the metadata log does not start: {0}")]
    Raft(String),
}

/// Everything read, and nothing running yet.
pub(crate) struct Opened {
    pub voter: u64,
    founders: Option<BTreeMap<u64, Member>>,
    is_first: bool,
    config: Arc<openraft::Config>,
    links: Links,
    pub store: LogStore,
    pub heard: Heard,
    heartbeat: Duration,
    applier: Applier,
}

impl Opened {
    pub(crate) fn open(options: RaftOptions, machine: Box<dyn StateMachine>) -> Result<Self, RaftError> {
        let RaftOptions { voter, identity, dir, disk, log, snapshot_every, peers } = options;
        // A lone voter has nobody to hear from, and calls its elections itself: its clock need not tick a hundred times a second.
        let alone = Peers {
            transport: Arc::new(NoPeers),
            founders: Some(BTreeMap::from([(voter, identity)])),
            is_first: false,
            heartbeat: Duration::from_secs(1),
            election: Duration::from_secs(3)..Duration::from_secs(6),
        };
        let peers = peers.unwrap_or(alone);
        let config = config(snapshot_every, &peers)?;
        let store = LogStore::open(Arc::clone(&disk), &dir, log)?;
        let mut applier = Applier::open(disk, &dir, machine, store.last_index())?;
        applier.patience = store.patience.clone();
        let member = |(id, identity)| (id, Member { identity });
        let founders = peers.founders.map(|founders| founders.into_iter().map(member).collect());
        let (heard, heartbeat, is_first) = (Heard::default(), peers.heartbeat, peers.is_first);
        let links = Links(peers.transport);
        Ok(Self { voter, founders, is_first, config, links, store, heard, heartbeat, applier })
    }

    /// Starts openraft's tasks on this runtime.
    pub(crate) async fn run(self) -> Result<Raft<TypeConfig, Applier>, RaftError> {
        let Self { voter, founders, is_first, config, links, store, heard, heartbeat, applier } = self;
        let fresh = store.is_fresh();
        let raft = Raft::new(voter, config, links, store.clone(), applier).await.map_err(refused)?;
        if !fresh {
            let mut metrics = raft.metrics();
            // The first report says who the voters are; before it there are none.
            metrics.changed().await.map_err(refused)?;
            let lone = metrics.borrow_watched().membership_config.membership().voter_ids().eq([voter]);
            // Nobody else could answer: waiting for the election time-out would only make the start slower.
            if lone {
                raft.trigger().elect(false).await.map_err(refused)?;
            }
        } else if let Some(founders) = founders {
            match raft.initialize(founders).await {
                Ok(()) if is_first => {
                    tokio::spawn(call_first_election(raft.clone()));
                }
                // Another founder was quicker, and its log has come here.
                Ok(()) | Err(OpenRaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        tokio::spawn(ticking::keep(raft.clone(), heard, heartbeat, store));
        Ok(raft)
    }
}

/// The founders start within milliseconds of each other: whoever does not answer yet is asked again soon. A round that no majority wants
/// leaves the term as it is, so this can't take anything from a leader that there is already.
async fn call_first_election(raft: Raft<TypeConfig, Applier>) {
    for _ in 0..FIRST_ROUNDS {
        if raft.metrics().borrow_watched().current_leader.is_some()
            || raft.trigger().elect(true).await.is_err()
        {
            return;
        }
        tokio::time::sleep(FIRST_ROUND).await;
    }
}

fn refused(error: impl ToString) -> RaftError {
    RaftError::Raft(error.to_string())
}

fn config(snapshot_every: u64, peers: &Peers) -> Result<Arc<openraft::Config>, RaftError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = millis(peers.heartbeat);
    let config = openraft::Config {
        cluster_name: "ottla".into(),
        heartbeat_interval: heartbeat,
        election_timeout_min: millis(peers.election.start),
        election_timeout_max: millis(peers.election.end),
        enable_pre_vote: Some(true),
        // A restarted leader must win a new term: entries of its old one that were not flushed may be gone (KAFKA-10527).
        enable_leader_restore: Some(false),
        // A node that is back is to have the log again soon; one that is not costs a request now and then.
        backoff: format!("{heartbeat}ms {heartbeat}ms {heartbeat}ms"),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: snapshot_every.min(1000),
        ..openraft::Config::default()
    };
    Ok(Arc::new(config.validate().map_err(refused)?))
}
