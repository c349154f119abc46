//! CreatePartitions (key 37): a topic grows (KIP-195).

use ottla_machine::controller::command::{Answer, Command, NewPartitions};
use ottla_protocol::messages::CreatePartitionsRequest;
use ottla_protocol::messages::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use ottla_protocol::types::NodeId;

use super::decided::{decided, said};
use super::duplicates::answered_once;
use super::{Reply, RequestContext};

pub fn handle(
    cx: &mut RequestContext<'_>,
    request: CreatePartitionsRequest,
) -> Reply<CreatePartitionsResponse> {
    let names: Vec<_> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let topics = request
        .topics
        .iter()
        .map(|topic| NewPartitions {
            topic: topic.name.to_string(),
            count: topic.count,
            assignments: topic.assignments.as_ref().map(|assignments| {
                assignments
                    .iter()
                    .map(|placed| placed.broker_ids.iter().copied().map(NodeId).collect())
                    .collect()
            }),
        })
        .collect();
    let command = Command::CreatePartitions { topics, validate_only: request.validate_only };
    decided(cx, request.timeout_ms, command, move |answer| {
        let answers = match answer {
            Answer::Topics(answers) => answers,
            Answer::Failed(failure) => vec![Err(failure); names.len()],
            other => panic!("CreatePartitions was answered with {other:?}"),
        };
        let results = names.iter().cloned().zip(answers).map(|(name, answer)| {
            let failure = answer.err();
            let result = CreatePartitionsTopicResult {
                name: name.clone(),
                error_code: failure.as_ref().map_or(0, |failure| failure.code.code()),
                error_message: failure.and_then(said),
            };
            (name, result)
        });
        CreatePartitionsResponse { results: answered_once(results), ..Default::default() }
    })
}
