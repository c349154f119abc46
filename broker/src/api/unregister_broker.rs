//! UnregisterBroker (key 64): a broker that will not come back is forgotten. One that is alive registers anew.

use ottla_machine::controller::command::{Answer, Command};
use ottla_protocol::messages::UnregisterBrokerRequest;
use ottla_protocol::messages::unregister_broker_response::UnregisterBrokerResponse;
use ottla_protocol::types::NodeId;

use super::{Reply, RequestContext};

pub fn handle(
    cx: &mut RequestContext<'_>,
    request: UnregisterBrokerRequest,
) -> Reply<UnregisterBrokerResponse> {
    let slot = cx.defer();
    cx.node.controller.submit(Command::UnregisterBroker { id: NodeId(request.broker_id) }, move |answer| {
        slot.complete(&match answer {
            Answer::Done => UnregisterBrokerResponse::default(),
            Answer::Failed(failure) => UnregisterBrokerResponse {
                error_code: failure.code.code(),
                error_message: Some(failure.message.into()),
                ..UnregisterBrokerResponse::default()
            },
            other => panic!("UnregisterBroker was answered with {other:?}"),
        });
    });
    Reply::Later
}
