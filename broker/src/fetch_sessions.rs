//! Incremental fetch sessions (KIP-227): a client names its partitions once, and afterwards only what changes.

use std::collections::HashMap;

use bytestring::ByteString;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::FetchRequest;
use ottla_protocol::types::{LeaderEpoch, Offset, TopicId};

/// How a request names a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicName {
    Name(ByteString),
    Id(TopicId),
}

/// What is wanted of one partition, and what the client was told of it last.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub topic: TopicName,
    pub index: i32,
    pub offset: Offset,
    pub epoch: LeaderEpoch,
    pub max_bytes: i32,
    /// High watermark and log start of the last answer; -1 before the first.
    pub told: (i64, i64),
}

/// How an answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionAnswer {
    /// 0: no session.
    pub session_id: i32,
    /// Only partitions with news.
    pub incremental: bool,
}

struct Session {
    epoch: i32,
    by_id: bool,
    partitions: Vec<Wanted>,
    used_ms: u64,
}

/// The sessions of this node.
#[derive(Default)]
pub struct FetchSessions {
    sessions: HashMap<i32, Session>,
    slots: usize,
}

/// A session that was not used for so long gives way to a new one.
const IDLE_MS: u64 = 120_000;
/// Partitions of one session; a client with more fetches without one.
const PARTITIONS_MAX: usize = 100_000;

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl FetchSessions {
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { sessions: HashMap::new(), slots }
    }

    /// Takes up a request: what to fetch, and how to answer.
    ///
    /// # Errors
    /// The session is unknown, at another epoch, or mixes names and ids.
    pub fn begin(
        &mut self,
        request: &FetchRequest,
        by_id: bool,
        tick_ms: u64,
        fresh_id: impl FnMut() -> i32,
    ) -> Result<(Vec<Wanted>, SessionAnswer), ErrorCode> {
        let asked = wanted_of(request, by_id);
        if request.session_epoch <= 0 {
            if request.session_id != 0 {
                self.sessions.remove(&request.session_id);
            }
            let session_id = if request.session_epoch == 0 && !asked.is_empty() {
                self.open(&asked, by_id, tick_ms, fresh_id)
            } else {
                0
            };
            return Ok((asked, SessionAnswer { session_id, incremental: false }));
        }
        let Some(session) = self.sessions.get_mut(&request.session_id) else {
            return Err(ErrorCode::FetchSessionIdNotFound);
        };
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.used_ms = tick_ms;
        session.epoch = next_epoch(session.epoch);
        for topic in &request.forgotten_topics_data {
            let name = name_of(&topic.topic, topic.topic_id, by_id);
            session.partitions.retain(|have| have.topic != name || !topic.partitions.contains(&have.index));
        }
        if !asked.is_empty() {
            let places: HashMap<(TopicName, i32), usize> = session
                .partitions
                .iter()
                .enumerate()
                .map(|(at, have)| ((have.topic.clone(), have.index), at))
                .collect();
            for wanted in asked {
                match places.get(&(wanted.topic.clone(), wanted.index)) {
                    Some(at) => {
                        let told = session.partitions[*at].told;
                        session.partitions[*at] = Wanted { told, ..wanted };
                    }
                    None => session.partitions.push(wanted),
                }
            }
        }
        let answer = SessionAnswer { session_id: request.session_id, incremental: true };
        Ok((session.partitions.clone(), answer))
    }

    /// Notes what an answer told; `served` lists partitions that gave records, which go to the back so that others get their turn.
    pub fn note(
        &mut self,
        session_id: i32,
        told: &[(TopicName, i32, (i64, i64))],
        served: &[(TopicName, i32)],
    ) {
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        if !told.is_empty() {
            let told: HashMap<_, _> =
                told.iter().map(|(topic, index, what)| ((topic, *index), *what)).collect();
            for have in &mut session.partitions {
                if let Some(what) = told.get(&(&have.topic, have.index)) {
                    have.told = *what;
                }
            }
        }
        if !served.is_empty() && served.len() < session.partitions.len() {
            session.partitions.sort_by_key(|have| {
                served.iter().any(|(topic, index)| *topic == have.topic && *index == have.index)
            });
        }
    }

    fn open(
        &mut self,
        asked: &[Wanted],
        by_id: bool,
        tick_ms: u64,
        mut fresh_id: impl FnMut() -> i32,
    ) -> i32 {
        if asked.len() > PARTITIONS_MAX {
            return 0;
        }
        if self.sessions.len() >= self.slots {
            self.sessions.retain(|_, session| tick_ms.saturating_sub(session.used_ms) < IDLE_MS);
            if self.sessions.len() >= self.slots {
                return 0;
            }
        }
        let id = loop {
            let id = fresh_id() & i32::MAX;
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        // A session outlives its first request: what it keeps is copied out of the request's frame.
        let partitions = asked
            .iter()
            .map(|wanted| match &wanted.topic {
                TopicName::Name(name) => {
                    Wanted { topic: TopicName::Name(ByteString::from(name.to_string())), ..wanted.clone() }
                }
                TopicName::Id(_) => wanted.clone(),
            })
            .collect();
        self.sessions.insert(id, Session { epoch: 1, by_id, partitions, used_ms: tick_ms });
        id
    }
}

fn name_of(name: &ByteString, id: TopicId, by_id: bool) -> TopicName {
    if by_id { TopicName::Id(id) } else { TopicName::Name(name.clone()) }
}

fn wanted_of(request: &FetchRequest, by_id: bool) -> Vec<Wanted> {
    request
        .topics
        .iter()
        .flat_map(|topic| {
            let name = name_of(&topic.topic, topic.topic_id, by_id);
            topic.partitions.iter().map(move |partition| Wanted {
                topic: name.clone(),
                index: partition.partition,
                offset: Offset(partition.fetch_offset),
                epoch: LeaderEpoch(partition.current_leader_epoch),
                max_bytes: partition.partition_max_bytes,
                told: (-1, -1),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ottla_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};

    use super::*;

    fn request(
        session_id: i32,
        session_epoch: i32,
        partitions: &[(i32, i64)],
        forgotten: &[i32],
    ) -> FetchRequest {
        let partitions = partitions
            .iter()
            .map(|(partition, fetch_offset)| FetchPartition {
                partition: *partition,
                fetch_offset: *fetch_offset,
                ..Default::default()
            })
            .collect::<Vec<_>>();
        let topic = ByteString::from_static("t");
        FetchRequest {
            session_id,
            session_epoch,
            topics: if partitions.is_empty() {
                vec![]
            } else {
                vec![FetchTopic { topic: topic.clone(), partitions, ..Default::default() }]
            },
            forgotten_topics_data: if forgotten.is_empty() {
                vec![]
            } else {
                vec![ForgottenTopic { topic, partitions: forgotten.to_vec(), ..Default::default() }]
            },
            ..FetchRequest::default()
        }
    }

    #[test]
    fn a_session_remembers_changes_and_forgets() {
        let mut sessions = FetchSessions::new(1);
        let mut begin = |request: FetchRequest| {
            sessions.begin(&request, false, 0, || 5).map(|(wanted, answer)| {
                let places: Vec<_> = wanted.iter().map(|wanted| (wanted.index, wanted.offset.0)).collect();
                (places, answer.session_id, answer.incremental)
            })
        };
        assert_eq!(begin(request(0, -1, &[(0, 1)], &[])), Ok((vec![(0, 1)], 0, false)));
        assert_eq!(begin(request(0, 0, &[(0, 1), (1, 1)], &[])), Ok((vec![(0, 1), (1, 1)], 5, false)));
        assert_eq!(begin(request(0, 0, &[(0, 1)], &[])), Ok((vec![(0, 1)], 0, false)), "no slot is left");
        assert_eq!(begin(request(5, 1, &[], &[])), Ok((vec![(0, 1), (1, 1)], 5, true)));
        assert_eq!(begin(request(5, 2, &[(1, 9), (2, 3)], &[0])), Ok((vec![(1, 9), (2, 3)], 5, true)));
        assert_eq!(begin(request(5, 2, &[], &[])), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(begin(request(6, 1, &[], &[])), Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!(begin(request(5, -1, &[(0, 0)], &[])), Ok((vec![(0, 0)], 0, false)));
        assert_eq!(begin(request(5, 3, &[], &[])), Err(ErrorCode::FetchSessionIdNotFound), "it was closed");
    }
}
