//! Where logs begin and end, and which offset a moment has.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::metadata::TopicPartition;

/// How often a partition whose leader moves is asked about.
const ATTEMPTS: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(100);

/// Which offset of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The oldest record.
    Earliest,
    /// Behind the newest record that consumers may see.
    Latest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first record with this timestamp or a later one, in milliseconds since 1970.
    Time(i64),
}

impl At {
    fn code(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::Time(ms) => ms.max(0),
        }
    }
}

/// An answer: -1 where there is no such record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: i64,
    pub timestamp: i64,
}

impl Cluster {
    /// Asks the leaders of `partitions`. A partition without one, or whose leader refuses, has an error of its own.
    ///
    /// # Errors
    /// The cluster does not answer at all.
    pub fn offsets(
        &mut self,
        at: At,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Result<Found>>> {
        let mut open: Vec<TopicPartition> = partitions.to_vec();
        let mut found = BTreeMap::new();
        for attempt in 1..=ATTEMPTS {
            if open.is_empty() {
                break;
            }
            if attempt > 1 {
                sleep(BACKOFF * (attempt - 1));
            }
            let asked = self.offsets_once(at, &open)?;
            open.clear();
            for (partition, outcome) in asked {
                let again = outcome.as_ref().is_err_and(Error::is_retriable) && attempt < ATTEMPTS;
                if again {
                    open.push(partition);
                } else {
                    found.insert(partition, outcome);
                }
            }
        }
        Ok(found)
    }

    fn offsets_once(
        &mut self,
        at: At,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Result<Found>)>> {
        let mut names: Vec<&str> = partitions.iter().map(|partition| partition.topic.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let metadata = self.metadata(Some(&names), false)?;
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        let mut answers = Vec::new();
        for partition in partitions {
            match metadata.leader(partition) {
                Some(leader) => by_leader.entry(leader).or_default().push(partition.clone()),
                None => {
                    let code = match metadata.topic(&partition.topic) {
                        Some(topic) if topic.partition(partition.partition).is_some() => {
                            ErrorCode::LeaderNotAvailable
                        }
                        _ => ErrorCode::UnknownTopicOrPartition,
                    };
                    answers.push((partition.clone(), Err(refusal(partition, code.code()))));
                }
            }
        }
        for (leader, partitions) in by_leader {
            let request = request(at, &partitions);
            let least = if at == At::MaxTimestamp { 7 } else { 1 };
            match self.ask(leader, |node| node.call(least..=10, &request)) {
                Ok(answer) => {
                    for topic in answer.topics {
                        for answer in topic.partitions {
                            let partition =
                                TopicPartition::new(topic.name.as_ref() as &str, answer.partition_index);
                            let outcome = if answer.error_code == 0 {
                                Ok(Found { offset: answer.offset, timestamp: answer.timestamp })
                            } else {
                                Err(refusal(&partition, answer.error_code))
                            };
                            answers.push((partition, outcome));
                        }
                    }
                }
                Err(error) if error.is_absence() => {
                    let message = error.to_string();
                    answers.extend(partitions.into_iter().map(|partition| {
                        let gone = Error::refused(
                            partition.to_string(),
                            ErrorCode::BrokerNotAvailable.code(),
                            Some(&message),
                        );
                        (partition, Err(gone))
                    }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// The same for one place of all `partitions`, all of which must have it.
    ///
    /// # Errors
    /// The first partition's that has none.
    pub fn offsets_of_all(
        &mut self,
        at: At,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Found>> {
        self.offsets(at, partitions)?.into_iter().map(|(partition, found)| Ok((partition, found?))).collect()
    }
}

fn refusal(partition: &TopicPartition, code: i16) -> Error {
    Error::refused(partition.to_string(), code, None)
}

fn request(at: At, partitions: &[TopicPartition]) -> ListOffsetsRequest {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(ListOffsetsPartition {
            partition_index: partition.partition,
            timestamp: at.code(),
            ..Default::default()
        });
    }
    let topics =
        topics.into_iter().map(|(name, partitions)| ListOffsetsTopic { name: name.into(), partitions });
    ListOffsetsRequest { replica_id: -1, topics: topics.collect(), ..Default::default() }
}
