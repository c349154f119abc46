//! DeleteTopics (key 20). v5 brings error messages, v6 topic ids (KIP-516).

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, TopicRef};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::DeleteTopicsRequest;
use ottla_protocol::messages::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use ottla_protocol::types::Uuid;

use super::decided::{decided, said};
use super::duplicates::answered_once;
use super::{Reply, RequestContext};

pub fn handle(cx: &mut RequestContext<'_>, request: DeleteTopicsRequest) -> Reply<DeleteTopicsResponse> {
    let asked: Vec<(Option<ByteString>, Uuid)> = if cx.version >= 6 {
        request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id)).collect()
    } else {
        request.topic_names.iter().map(|name| (Some(name.clone()), Uuid::ZERO)).collect()
    };
    let topics = asked
        .iter()
        .map(|(name, id)| match name {
            Some(_) if !id.is_zero() => TopicRef::Both,
            Some(name) => TopicRef::Name(name.to_string()),
            None => TopicRef::Id(*id),
        })
        .collect();
    let version = cx.version;
    decided(cx, request.timeout_ms, Command::DeleteTopics { topics }, move |answer| {
        let answers = match answer {
            Answer::Topics(answers) => answers,
            Answer::Failed(failure) => vec![Err(failure); asked.len()],
            other => panic!("DeleteTopics was answered with {other:?}"),
        };
        let responses = asked.iter().cloned().zip(answers).map(|(named, answer)| {
            let result = match answer {
                Ok(gone) => DeletableTopicResult {
                    name: Some(ByteString::from(&*gone.name)),
                    topic_id: gone.id,
                    ..DeletableTopicResult::default()
                },
                Err(failure) => DeletableTopicResult {
                    name: named.0.clone(),
                    topic_id: named.1,
                    error_code: code_for(failure.code, version).code(),
                    error_message: said(failure),
                },
            };
            (named, result)
        });
        let responses = answered_once(responses);
        DeleteTopicsResponse { responses, ..Default::default() }
    })
}

/// Clients of before v3 know no TOPIC_DELETION_DISABLED.
fn code_for(code: ErrorCode, version: i16) -> ErrorCode {
    match code {
        ErrorCode::TopicDeletionDisabled if version < 3 => ErrorCode::InvalidRequest,
        code => code,
    }
}
