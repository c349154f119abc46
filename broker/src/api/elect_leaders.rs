//! ElectLeaders (key 43, KIP-460): leaders elected on demand, the preferred ones, or where none is left, any. v1 the kind of election.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, ElectionKind, Failure};
use ottla_machine::controller::image::Image;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::ElectLeadersRequest;
use ottla_protocol::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};

use super::decided::decided;
use super::{Reply, RequestContext};

type Outcomes = BTreeMap<(String, i32), Result<(), Failure>>;

pub fn handle(cx: &mut RequestContext<'_>, request: ElectLeadersRequest) -> Reply<ElectLeadersResponse> {
    let kind = match request.election_type {
        0 => ElectionKind::Preferred,
        1 => ElectionKind::Unclean,
        other => {
            let message = format!("There is no kind of election {other}.");
            return Reply::Now(refused(&request, &Failure::new(ErrorCode::InvalidRequest, message)));
        }
    };
    let node = cx.node.clone();
    let command = Command::ElectLeaders { kind, partitions: named(&request) };
    decided(cx, request.timeout_ms, command, move |answer| {
        let outcomes: Outcomes = match answer {
            Answer::Elections(elections) => {
                elections.into_iter().map(|(topic, index, outcome)| ((topic, index), outcome)).collect()
            }
            Answer::Failed(failure) => return refused(&request, &failure),
            other => panic!("ElectLeaders was answered with {other:?}"),
        };
        respond(&node.image.load(), &request, outcomes)
    })
}

/// Each partition once, however often it stands in the request: it is elected once, and answered as often as it was named.
fn named(request: &ElectLeadersRequest) -> Option<Vec<(String, i32)>> {
    let topics = request.topic_partitions.as_ref()?;
    let mut seen = BTreeSet::new();
    let all = topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic.to_string(), *index)));
    Some(all.filter(|one| seen.insert(one.clone())).collect())
}

/// In the request's order; without names, every topic with those of its partitions for which there is something to say.
fn respond(image: &Image, request: &ElectLeadersRequest, mut outcomes: Outcomes) -> ElectLeadersResponse {
    let results = match &request.topic_partitions {
        Some(topics) => topics
            .iter()
            .map(|topic| ReplicaElectionResult {
                topic: topic.topic.clone(),
                partition_result: topic
                    .partitions
                    .iter()
                    .map(|index| result(*index, outcomes.get(&(topic.topic.to_string(), *index))))
                    .collect(),
            })
            .collect(),
        None => {
            let mut by_topic: BTreeMap<String, Vec<PartitionResult>> =
                image.topic_ids.keys().map(|name| (name.to_string(), Vec::new())).collect();
            while let Some(((topic, index), outcome)) = outcomes.pop_first() {
                by_topic.entry(topic).or_default().push(result(index, Some(&outcome)));
            }
            by_topic
                .into_iter()
                .map(|(topic, partition_result)| ReplicaElectionResult {
                    topic: topic.into(),
                    partition_result,
                })
                .collect()
        }
    };
    ElectLeadersResponse { replica_election_results: results, ..ElectLeadersResponse::default() }
}

fn result(index: i32, outcome: Option<&Result<(), Failure>>) -> PartitionResult {
    let failure = match outcome {
        Some(outcome) => outcome.as_ref().err().cloned(),
        None => Some(ErrorCode::UnknownServerError.into()),
    };
    PartitionResult {
        partition_id: index,
        error_code: failure.as_ref().map_or(0, |failure| failure.code.code()),
        error_message: failure.map(|failure| failure.message.into()),
    }
}

/// Nothing was elected: said of the request as a whole (from v1 on), and of every partition that it names.
fn refused(request: &ElectLeadersRequest, failure: &Failure) -> ElectLeadersResponse {
    let topics = request.topic_partitions.as_deref().unwrap_or_default();
    let replica_election_results = topics
        .iter()
        .map(|topic| ReplicaElectionResult {
            topic: topic.topic.clone(),
            partition_result: topic
                .partitions
                .iter()
                .map(|index| PartitionResult {
                    partition_id: *index,
                    error_code: failure.code.code(),
                    error_message: Some(ByteString::from(failure.message.as_str())),
                })
                .collect(),
        })
        .collect();
    ElectLeadersResponse {
        error_code: failure.code.code(),
        replica_election_results,
        ..ElectLeadersResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::messages::elect_leaders_request::TopicPartitions;

    use super::*;

    #[test]
    fn a_partition_named_twice_is_elected_once_and_answered_twice() {
        let topic = TopicPartitions { topic: "t".into(), partitions: vec![1, 0, 1] };
        let request = ElectLeadersRequest { topic_partitions: Some(vec![topic]), ..Default::default() };
        assert_eq!(named(&request), Some(vec![("t".to_owned(), 1), ("t".to_owned(), 0)]));
        let outcomes =
            [(("t".to_owned(), 0), Err(ErrorCode::ElectionNotNeeded.into())), (("t".to_owned(), 1), Ok(()))];
        let response = respond(&Image::default(), &request, outcomes.into());
        let codes: Vec<_> = response.replica_election_results[0]
            .partition_result
            .iter()
            .map(|result| (result.partition_id, result.error_code))
            .collect();
        let not_needed = ErrorCode::ElectionNotNeeded.code();
        assert_eq!(codes, [(1, 0), (0, not_needed), (1, 0)]);
    }
}
