//! Waiting until new topics are served: a broker may answer their creation before it leads them.
//!
//! Of many partitions all are asked for at once, and then one of those that are not led yet, again and again, until it is. Asking for
//! all of them every few milliseconds would be most of what the broker does meanwhile, and what is measured would be the asking.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::ListOffsetsRequest;
use ottla_protocol::messages::list_offsets_request::ListOffsetsTopic;

use crate::bootstrap::{Bootstrap, latest_of, topics};
use crate::connection::Connection;
use crate::error::{BenchError, name_of};

/// Between two looks; longer where a look takes longer.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Who leads a partition is looked up again where it is not served for so long.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(1);

/// Waits until every partition of a topic has all its replicas in sync and a leader that serves reads. The leaders' addresses, by
/// partition.
///
/// # Errors
/// They are not led within `limit`.
pub fn wait_until_served(
    bootstrap: &Bootstrap,
    topic: &str,
    limit: Duration,
) -> Result<Vec<SocketAddr>, BenchError> {
    let places = wait(bootstrap, &[topic.to_owned()], limit)?;
    Ok(places.into_iter().map(|place| place.leader).collect())
}

/// The same of many topics.
///
/// # Errors
/// They are not led within `limit`.
pub fn wait_until_all_served(
    bootstrap: &Bootstrap,
    names: &[String],
    limit: Duration,
) -> Result<(), BenchError> {
    wait(bootstrap, names, limit).map(drop)
}

/// Where a partition is led.
#[derive(Clone, Debug)]
struct Place {
    topic: String,
    index: i32,
    leader: SocketAddr,
}

fn wait(bootstrap: &Bootstrap, names: &[String], limit: Duration) -> Result<Vec<Place>, BenchError> {
    let mut connection = bootstrap.connect()?;
    let mut leaders = Leaders::default();
    let patience = Patience { began: Instant::now(), limit };
    loop {
        let places = led(&mut connection, names, &patience)?;
        let mut left: Vec<&Place> = places.iter().collect();
        loop {
            left = leaders.unserved(&left)?;
            let Some(one) = left.first() else { return Ok(places) };
            if !leaders.is_served_soon(one, &patience)? {
                break;
            }
        }
    }
}

/// Waits until all partitions have a leader and all their replicas in sync, as metadata tell.
fn led(connection: &mut Connection, names: &[String], patience: &Patience) -> Result<Vec<Place>, BenchError> {
    loop {
        let looked = Instant::now();
        let topics = topics(connection, names)?;
        let wanted: usize = topics.iter().map(|(_, partitions)| partitions.len()).sum();
        let is_known = topics.len() == names.len() && topics.iter().all(|(_, its)| !its.is_empty());
        let places: Vec<Place> = topics
            .into_iter()
            .flat_map(|(topic, partitions)| {
                let whole = (0..).zip(partitions).filter(|(_, led)| led.in_sync == led.replicas);
                whole.filter_map(move |(index, led)| {
                    Some(Place { topic: topic.clone(), index, leader: led.address? })
                })
            })
            .collect();
        if is_known && places.len() == wanted {
            return Ok(places);
        }
        patience.check(if is_known {
            "a partition has no leader, or not all replicas are in sync"
        } else {
            "a topic is not known"
        })?;
        thread::sleep(looked.elapsed().max(LOOK_AGAIN));
    }
}

/// How long it may all take.
struct Patience {
    began: Instant,
    limit: Duration,
}

impl Patience {
    fn check(&self, last: &str) -> Result<(), BenchError> {
        if self.began.elapsed() <= self.limit {
            return Ok(());
        }
        Err(BenchError::Patience { what: "a new topic", limit: self.limit, last: last.to_owned() })
    }
}

#[derive(Default)]
struct Leaders(BTreeMap<SocketAddr, Connection>);

impl Leaders {
    /// Those of some partitions that their leaders do not serve.
    fn unserved<'a>(&mut self, places: &[&'a Place]) -> Result<Vec<&'a Place>, BenchError> {
        let mut by_leader: BTreeMap<SocketAddr, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
        for place in places {
            let its = by_leader.entry(place.leader).or_default();
            its.entry(&place.topic).or_default().push(place.index);
        }
        let mut served: BTreeMap<(String, i32), bool> = BTreeMap::new();
        for (leader, topics) in by_leader {
            let topics = topics.into_iter().map(|(topic, its)| latest_of(topic, its.into_iter())).collect();
            for (topic, index, code) in self.ask(leader, topics)? {
                served.insert((topic, index), code == ErrorCode::None.code());
            }
        }
        let is_served = |place: &&Place| served.get(&(place.topic.clone(), place.index)) == Some(&true);
        Ok(places.iter().copied().filter(|place| !is_served(place)).collect())
    }

    /// Asks for one partition until it is served. False: not for so long that it may have moved.
    fn is_served_soon(&mut self, place: &Place, patience: &Patience) -> Result<bool, BenchError> {
        let began = Instant::now();
        while began.elapsed() < LOOK_UP_AGAIN {
            let topics = vec![latest_of(&place.topic, std::iter::once(place.index))];
            let answers = self.ask(place.leader, topics)?;
            let Some((_, _, code)) = answers.first() else { return Ok(false) };
            if *code == ErrorCode::None.code() {
                return Ok(true);
            }
            patience.check(name_of(*code))?;
            thread::sleep(LOOK_AGAIN);
        }
        Ok(false)
    }

    /// Topic, partition and error code. Only a partition's leader answers without an error.
    fn ask(
        &mut self,
        leader: SocketAddr,
        topics: Vec<ListOffsetsTopic>,
    ) -> Result<Vec<(String, i32, i16)>, BenchError> {
        let connection = match self.0.entry(leader) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Connection::open(leader)?),
        };
        let request = ListOffsetsRequest { replica_id: -1, topics, ..ListOffsetsRequest::default() };
        let answer = connection.call(5, &request)?;
        let answers = answer.topics.into_iter().flat_map(|topic| {
            let name = topic.name.to_string();
            let partitions = topic.partitions.into_iter();
            partitions.map(move |one| (name.clone(), one.partition_index, one.error_code))
        });
        Ok(answers.collect())
    }
}
