//! DeleteTopics (key 20). v5 brings error messages, v6 topic ids (KIP-516).

use bytestring::ByteString;
use ottla_machine::controller::command::{Answer, Command, TopicRef};
use ottla_protocol::messages::DeleteTopicsRequest;
use ottla_protocol::messages::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use ottla_protocol::types::Uuid;

use super::{Reply, RequestContext};

pub fn handle(cx: &mut RequestContext<'_>, request: DeleteTopicsRequest) -> Reply<DeleteTopicsResponse> {
    let asked: Vec<(Option<ByteString>, Uuid)> = if cx.version >= 6 {
        request.topics.into_iter().map(|topic| (topic.name, topic.topic_id)).collect()
    } else {
        request.topic_names.into_iter().map(|name| (Some(name), Uuid::ZERO)).collect()
    };
    let topics = asked
        .iter()
        .map(|(name, id)| match name {
            Some(_) if !id.is_zero() => TopicRef::Both,
            Some(name) => TopicRef::Name(name.to_string()),
            None => TopicRef::Id(*id),
        })
        .collect();
    let slot = cx.defer();
    cx.node.controller.submit(Command::DeleteTopics { topics }, move |answer| {
        let answers = match answer {
            Answer::Topics(answers) => answers,
            Answer::Failed(failure) => vec![Err(failure); asked.len()],
            other => panic!("DeleteTopics was answered with {other:?}"),
        };
        let responses = asked
            .into_iter()
            .zip(answers)
            .map(|((name, topic_id), answer)| match answer {
                Ok(gone) => DeletableTopicResult {
                    name: Some(ByteString::from(&*gone.name)),
                    topic_id: gone.id,
                    ..DeletableTopicResult::default()
                },
                Err(failure) => DeletableTopicResult {
                    name,
                    topic_id,
                    error_code: failure.code.code(),
                    error_message: Some(failure.message.into()),
                },
            })
            .collect();
        slot.complete(&DeleteTopicsResponse { responses, ..Default::default() });
    });
    Reply::Later
}
