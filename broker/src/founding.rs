//! The first start of a cluster, without a format step.
//!
//! The lowest listed voter founds it, once every listed voter has answered that it is fresh; each voter writes the cluster's id and who
//! votes to its disk before it votes for the first time. A node whose directory is fresh while the others belong to a cluster is a
//! stranger to the quorum: it gets the log as a learner, and is told how it becomes a voter.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::FoundClusterRequest;
use ottla_protocol::messages::found_cluster_request::FoundingVoter;
use ottla_protocol::types::Uuid;
use ottla_storage::{LogDir, StorageError};

use crate::peers::dial::Dial;
use crate::peers::{Address, Identity, raft_id};

/// The directory's properties that say which cluster it belongs to, and who founded it.
pub(crate) const CLUSTER_ID: &str = "cluster.id";
const FOUNDERS: &str = "founding.voters";
/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(20);
/// A fresh node whose peers belong to a cluster already waits so long for its founder before it takes itself for a stranger.
const STRANGER_AFTER: Duration = Duration::from_secs(3);
/// A founder waits so long for the others to note what it founded.
const SPREAD_LIMIT: Duration = Duration::from_secs(1);
/// Who waits says so this often.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// A voter of the first hour: where it listens, and its directory.
pub type Voter = (Address, Uuid);

/// What this node knows of its cluster's founding.
#[derive(Debug)]
pub struct Founding {
    log_dir: Arc<LogDir>,
    identity: Arc<Identity>,
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cluster: Uuid,
    voters: Vec<Voter>,
}

impl Founding {
    /// Reads what the directory knows.
    #[must_use]
    pub fn load(log_dir: Arc<LogDir>, identity: Arc<Identity>) -> Arc<Self> {
        let properties = log_dir.properties();
        let cluster = properties.get(CLUSTER_ID).and_then(|id| Uuid::parse(id)).unwrap_or_default();
        let voters = properties.get(FOUNDERS).map(|text| parse_voters(text)).unwrap_or_default();
        identity.set_cluster(cluster);
        Arc::new(Self {
            log_dir,
            identity,
            state: Mutex::new(State { cluster, voters }),
            told: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster this node belongs to; zero while it is fresh.
    #[must_use]
    pub fn cluster(&self) -> Uuid {
        self.state().cluster
    }

    /// Who votes first, as the log wants it; `None` for a node that was not among them.
    #[must_use]
    pub fn founders(&self) -> Option<BTreeMap<u64, Vec<u8>>> {
        let state = self.state();
        let member = |(address, directory): &Voter| (raft_id(*directory), address.to_text().into_bytes());
        (!state.voters.is_empty()).then(|| state.voters.iter().map(member).collect())
    }

    /// Whether this node founded its cluster: the first one in the list that all of them noted.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.state().voters.first().is_some_and(|(_, directory)| *directory == self.identity.directory)
    }

    /// A founder says which cluster this node belongs to. Written to the disk before it counts.
    ///
    /// # Errors
    /// It belongs to another one, or to none that it could vote in; in words.
    pub fn accept(&self, cluster: Uuid, voters: &[Voter]) -> Result<(), String> {
        let mut state = self.state();
        if state.cluster == cluster {
            return Ok(());
        }
        if !state.cluster.is_zero() {
            return Err(format!("node {} belongs to cluster {}", self.identity.node, state.cluster));
        }
        if cluster.is_zero() || !voters.iter().any(|(_, directory)| *directory == self.identity.directory) {
            return Err(format!(
                "node {} with directory {} is none of the founding voters",
                self.identity.node, self.identity.directory
            ));
        }
        self.note(cluster, voters).map_err(|error| error.to_string())?;
        *state = State { cluster, voters: voters.to_vec() };
        self.identity.set_cluster(cluster);
        self.told.notify_all();
        Ok(())
    }

    fn note(&self, cluster: Uuid, voters: &[Voter]) -> Result<(), StorageError> {
        let mut properties = self.log_dir.properties();
        properties.insert(CLUSTER_ID.to_owned(), cluster.to_string());
        if !voters.is_empty() {
            let voters: Vec<String> = voters
                .iter()
                .map(|(address, directory)| format!("{}/{directory}", address.to_text()))
                .collect();
            properties.insert(FOUNDERS.to_owned(), voters.join(","));
        }
        self.log_dir.set_properties(&properties)
    }

    /// A node that is alone, or that learns of its cluster as a stranger, notes the cluster's id.
    ///
    /// # Errors
    /// The disk's.
    pub fn adopt(&self, cluster: Uuid) -> Result<(), StorageError> {
        let mut state = self.state();
        if state.cluster != cluster {
            self.note(cluster, &[])?;
            state.cluster = cluster;
            self.identity.set_cluster(cluster);
        }
        Ok(())
    }

    /// Waits until this node belongs to a cluster. `listed`: the voters of the configuration; `wanted`: the id for a cluster that this
    /// node founds.
    ///
    /// # Errors
    /// The disk's.
    pub fn settle(self: &Arc<Self>, listed: &[Address], wanted: Uuid) -> Result<(), StorageError> {
        let me = self.identity.node;
        let is_voter = listed.iter().any(|address| address.node == me);
        let founds = is_voter && listed.iter().map(|address| address.node).min() == Some(me);
        let others: Vec<&Address> = listed.iter().filter(|address| address.node != me).collect();
        let (began, mut said) = (Instant::now(), Instant::now());
        let mut stranger_since: Option<Instant> = None;
        while self.cluster().is_zero() {
            let mut fresh = Vec::new();
            let mut foreign = None;
            let mut silent = Vec::new();
            for address in &others {
                match Dial::connect(&address.host, address.port, &self.identity.hello()) {
                    Ok((_, hello)) if hello.cluster_id.is_zero() => {
                        fresh.push(((*address).clone(), hello.directory_id));
                    }
                    Ok((_, hello)) => foreign = Some((hello.node_id, hello.cluster_id)),
                    Err(error) => silent.push(format!("{} ({error})", address.to_text())),
                }
            }
            match foreign {
                Some((node, cluster)) => {
                    let since = *stranger_since.get_or_insert_with(Instant::now);
                    // The founder may just not have come to this node yet.
                    if !is_voter || since.elapsed() >= STRANGER_AFTER {
                        if is_voter {
                            tracing::warn!(
                                "node {me} is listed as a voter, but its directory is fresh and node {node} belongs to cluster {cluster}: \
                                 it joins as an observer. `ottla quorum replace {me}` gives it the vote of the directory that is lost"
                            );
                        }
                        return self.adopt(cluster);
                    }
                }
                None if founds && fresh.len() == others.len() => {
                    let own = listed.iter().find(|address| address.node == me).cloned();
                    let own = own.map(|address| (address, self.identity.directory));
                    let voters: Vec<Voter> = own.into_iter().chain(fresh).collect();
                    if let Err(message) = self.accept(wanted, &voters) {
                        tracing::error!("the cluster could not be founded: {message}");
                    }
                    // Whoever votes must know of it first; somebody who fell over just now hears of it later.
                    let limit = Instant::now() + SPREAD_LIMIT;
                    self.spread(&|| Instant::now() >= limit);
                    break;
                }
                None => stranger_since = None,
            }
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                tracing::info!(
                    "waiting for the cluster to be founded, {} s: {}",
                    began.elapsed().as_secs(),
                    if silent.is_empty() {
                        "everybody answers".to_owned()
                    } else {
                        format!("no answer from {}", silent.join(", "))
                    }
                );
            }
            let state = self.state();
            let _ = self
                .told
                .wait_timeout_while(state, ROUND, |state| state.cluster.is_zero())
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Tells the other voters of the founding until each has heard of it. Any founder may, again and again: the first one may have
    /// fallen over in the middle. Blocks until then, or until `stop` says so.
    pub fn spread(&self, stop: &dyn Fn() -> bool) {
        let (cluster, voters) = {
            let state = self.state();
            (state.cluster, state.voters.clone())
        };
        let request = FoundClusterRequest {
            cluster_id: cluster,
            voters: voters
                .iter()
                .map(|(address, directory)| FoundingVoter {
                    node_id: address.node.0,
                    directory_id: *directory,
                    address: address.to_text().into(),
                })
                .collect(),
        };
        let mut open: Vec<&Voter> =
            voters.iter().filter(|(address, _)| address.node != self.identity.node).collect();
        while !open.is_empty() && !stop() {
            open.retain(|(address, directory)| {
                let Ok((mut dial, hello)) =
                    Dial::connect(&address.host, address.port, &self.identity.hello())
                else {
                    return true;
                };
                // Another directory than the one that was to vote is a stranger.
                if hello.cluster_id == cluster || hello.directory_id != *directory {
                    return false;
                }
                match dial.call(&request) {
                    Ok(answer) if answer.error_code == ErrorCode::None.code() => false,
                    Ok(answer) => {
                        let message = answer.error_message.unwrap_or_default();
                        tracing::error!("node {} does not join the founding: {message}", address.node);
                        false
                    }
                    Err(_) => true,
                }
            });
            if !open.is_empty() {
                std::thread::sleep(ROUND);
            }
        }
    }
}

fn parse_voters(text: &str) -> Vec<Voter> {
    let one = |text: &str| {
        let (address, directory) = text.rsplit_once('/')?;
        Some((Address::parse(address)?, Uuid::parse(directory)?))
    };
    text.split(',').filter_map(one).collect()
}
