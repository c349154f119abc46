//! A cluster: where its brokers are, which of them to ask, and when to ask again.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use ottla_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::metadata::{Broker, Metadata, Topic};

/// The first wait before a question is asked again; each further one is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A topic that a cluster makes by itself is there within this, or never.
const CREATION: Duration = Duration::from_secs(3);

/// How a client presents itself, and how long it waits.
#[derive(Clone, Debug)]
pub struct Options {
    pub client_id: String,
    /// For a connection, and for its first answer.
    pub connect_timeout: Duration,
    /// For every other answer; also for how long a retriable error is asked about again.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            client_id: "ottla".to_owned(),
            connect_timeout: Duration::from_secs(5),
            patience: Duration::from_secs(30),
        }
    }
}

/// A cluster that answered at least once.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    bootstrap: Vec<String>,
    brokers: BTreeMap<i32, Broker>,
    connections: BTreeMap<i32, Connection>,
    /// To whoever answered first; it serves what any broker can answer.
    any: Option<Connection>,
}

impl Cluster {
    /// Connects to the first of the comma-separated addresses that answers.
    ///
    /// # Errors
    /// None of them does, or one is no address.
    pub fn connect(bootstrap: &str, options: Options) -> Result<Self> {
        let addresses = bootstrap.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned);
        let mut cluster = Self {
            options,
            bootstrap: addresses.collect(),
            brokers: BTreeMap::new(),
            connections: BTreeMap::new(),
            any: None,
        };
        if cluster.bootstrap.is_empty() {
            return Err(Error::BadAddress(bootstrap.to_owned()));
        }
        cluster.any()?;
        Ok(cluster)
    }

    /// The same cluster over connections of its own: for questions while answers are awaited on these.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            options: self.options.clone(),
            bootstrap: self.bootstrap.clone(),
            brokers: self.brokers.clone(),
            connections: BTreeMap::new(),
            any: None,
        }
    }

    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The brokers of the last [`Cluster::metadata`], by rising id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    /// A connection to any broker.
    ///
    /// # Errors
    /// No broker can be reached.
    pub fn any(&mut self) -> Result<&mut Connection> {
        if self.any.is_none() {
            // Those who were advertised later may live where the first ones died.
            let advertised = self.brokers.values().map(Broker::address);
            let mut tried = Vec::new();
            for address in self.bootstrap.clone().into_iter().chain(advertised) {
                if tried.iter().any(|(before, _)| *before == address) {
                    continue;
                }
                match Connection::open(&address, &self.options) {
                    Ok(connection) => {
                        self.any = Some(connection);
                        break;
                    }
                    Err(Error::Unreachable { tried: failed }) => tried.extend(failed),
                    Err(error @ (Error::Lost { .. } | Error::TimedOut { .. } | Error::Unreadable { .. })) => {
                        tried.push((address, error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
            }
            if self.any.is_none() {
                return Err(Error::Unreachable { tried });
            }
        }
        Ok(self.any.as_mut().expect("just connected"))
    }

    /// The connection to one broker, known from the metadata.
    ///
    /// # Errors
    /// It is not known, or not reached.
    pub fn node(&mut self, id: i32) -> Result<&mut Connection> {
        if !self.connections.contains_key(&id) {
            if !self.brokers.contains_key(&id) {
                self.metadata(Some(&[]), false)?;
            }
            let Some(broker) = self.brokers.get(&id) else {
                let why = "it is not among the brokers that answer for the cluster".to_owned();
                return Err(Error::Unreachable { tried: vec![(format!("node {id}"), why)] });
            };
            let connection = Connection::open(&broker.address(), &self.options)?;
            self.connections.insert(id, connection);
        }
        Ok(self.connections.get_mut(&id).expect("just inserted"))
    }

    /// Closes the connection to a broker: after an error it is of no use.
    pub fn forget(&mut self, id: i32) {
        self.connections.remove(&id);
    }

    /// Closes all connections.
    pub fn forget_all(&mut self) {
        self.connections.clear();
        self.any = None;
    }

    /// Closes all but those to `busy` brokers, on which answers are awaited.
    pub(crate) fn forget_all_idle(&mut self, busy: &[i32]) {
        self.connections.retain(|id, _| busy.contains(id));
        self.any = None;
    }

    /// Asks one broker something, and closes the connection if that failed.
    ///
    /// # Errors
    /// Those of `ask`.
    pub fn ask<T>(&mut self, id: i32, ask: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let outcome = ask(self.node(id)?);
        if outcome
            .as_ref()
            .is_err_and(|error| !matches!(error, Error::Refused { .. } | Error::NotServed { .. }))
        {
            self.forget(id);
        }
        outcome
    }

    /// The same of any broker.
    ///
    /// # Errors
    /// Those of `ask`.
    pub fn ask_any<T>(&mut self, ask: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let outcome = ask(self.any()?);
        if outcome
            .as_ref()
            .is_err_and(|error| !matches!(error, Error::Refused { .. } | Error::NotServed { .. }))
        {
            self.any = None;
        }
        outcome
    }

    /// Asks until there is an answer or an error that stays, as long as the patience lasts. Not for what must not happen twice.
    ///
    /// # Errors
    /// The first that stays, or the last one.
    pub fn retry<T>(&mut self, mut ask: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + self.options.patience;
        let mut wait = BACKOFF_MIN;
        loop {
            match ask(self) {
                Err(error) if error.is_retriable() && Instant::now() + wait < deadline => {
                    if error.is_absence() {
                        self.forget_all();
                    }
                    sleep(wait);
                    wait = (wait * 2).min(BACKOFF_MAX);
                }
                outcome => return outcome,
            }
        }
    }

    /// The brokers and the named topics (`None`: all). A topic that is not there has an error code; with `create` the cluster may make it.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn metadata(&mut self, topics: Option<&[&str]>, create: bool) -> Result<Metadata> {
        let named = topics.map(|names| {
            names
                .iter()
                .map(|name| MetadataRequestTopic { name: Some((*name).into()), ..Default::default() })
                .collect()
        });
        let request =
            MetadataRequest { topics: named, allow_auto_topic_creation: create, ..Default::default() };
        let answer = match self.ask_any(|any| any.call(4..=12, &request)) {
            // A connection that was idle for long may have been closed meanwhile.
            Err(error) if error.is_absence() => self.ask_any(|any| any.call(4..=12, &request))?,
            outcome => outcome?,
        };
        let metadata = Metadata::of(answer);
        self.brokers = metadata.brokers.iter().map(|broker| (broker.id, broker.clone())).collect();
        Ok(metadata)
    }

    /// A topic that must be there.
    ///
    /// # Errors
    /// It is not, or nobody answers.
    pub fn topic(&mut self, name: &str) -> Result<Topic> {
        self.topic_or_create(name, false)
    }

    /// A topic that the cluster may make, where it makes topics by themselves; then it is waited for until it has leaders.
    ///
    /// # Errors
    /// It is not there.
    pub fn topic_or_create(&mut self, name: &str, create: bool) -> Result<Topic> {
        let deadline = Instant::now() + CREATION;
        self.retry(|cluster| {
            let metadata = cluster.metadata(Some(&[name]), create)?;
            let topic = metadata.topic(name).ok_or_else(|| Error::NoTopic(name.to_owned()))?;
            match ErrorCode::from_code(topic.error_code) {
                Some(ErrorCode::None) if create && topic.partitions.iter().all(|p| p.leader.is_none()) => {
                    Err(Error::refused(format!("topic {name}"), ErrorCode::LeaderNotAvailable.code(), None))
                }
                Some(ErrorCode::None) => Ok(topic.clone()),
                // A cluster that is making the topic says the same as one that never will.
                Some(ErrorCode::UnknownTopicOrPartition) if !create || Instant::now() > deadline => {
                    Err(Error::NoTopic(name.to_owned()))
                }
                _ => Err(Error::refused(format!("topic {name}"), topic.error_code, None)),
            }
        })
    }

    /// The broker that coordinates a group.
    ///
    /// # Errors
    /// None does.
    pub fn coordinator(&mut self, group: &str) -> Result<i32> {
        self.retry(|cluster| {
            let request = FindCoordinatorRequest {
                key: group.into(),
                key_type: 0,
                coordinator_keys: vec![group.into()],
            };
            let answer = cluster.ask_any(|any| any.call(0..=6, &request))?;
            let what = format!("the coordinator of group {group}");
            let id = match answer.coordinators.first() {
                Some(found) => {
                    Error::check(what, found.error_code, found.error_message.as_deref())?;
                    found.node_id
                }
                None => {
                    Error::check(what, answer.error_code, answer.error_message.as_deref())?;
                    answer.node_id
                }
            };
            if !cluster.brokers.contains_key(&id) {
                cluster.metadata(Some(&[]), false)?;
            }
            Ok(id)
        })
    }
}
