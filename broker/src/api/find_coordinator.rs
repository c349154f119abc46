//! FindCoordinator (key 10): who coordinates a group. v1 kinds of keys, v4 several keys (KIP-699).

use bytestring::ByteString;
use ottla_machine::controller::command::Command;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::FindCoordinatorRequest;
use ottla_protocol::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};

use super::internal_topics::{CONSUMER_OFFSETS, new_topic};
use super::{Reply, RequestContext};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub fn handle(
    cx: &mut RequestContext<'_>,
    request: FindCoordinatorRequest,
) -> Reply<FindCoordinatorResponse> {
    let keys = if cx.version < 4 { vec![request.key.clone()] } else { request.coordinator_keys.clone() };
    let image = cx.node.image.load_full();
    let me = image.broker(cx.node.id).and_then(|broker| cx.address_of(broker));
    let id = cx.node.id.0;
    let several = cx.version >= 4;
    let kind = if cx.version == 0 { GROUP } else { request.key_type };
    let respond = move |made: bool| {
        let coordinators = keys
            .iter()
            .map(|key| {
                let fault = match kind {
                    // An empty group id is taken, as in Kafka: old clients commit under it.
                    GROUP if made => None,
                    GROUP => {
                        Some((ErrorCode::CoordinatorNotAvailable, "__consumer_offsets could not be made"))
                    }
                    TRANSACTION => Some((
                        ErrorCode::TransactionalIdAuthorizationFailed,
                        "transactions are not part of this version",
                    )),
                    _ => Some((ErrorCode::InvalidRequest, "this kind of coordinator is not known")),
                };
                match (&me, fault) {
                    (Some((host, port)), None) => Coordinator {
                        key: key.clone(),
                        node_id: id,
                        host: host.clone(),
                        port: *port,
                        error_code: 0,
                        error_message: None,
                    },
                    (_, fault) => {
                        let (code, message) =
                            fault.unwrap_or((ErrorCode::CoordinatorNotAvailable, "no listener"));
                        Coordinator {
                            key: key.clone(),
                            node_id: -1,
                            host: ByteString::default(),
                            port: -1,
                            error_code: code.code(),
                            error_message: Some(ByteString::from_static(message)),
                        }
                    }
                }
            })
            .collect::<Vec<_>>();
        match coordinators.first() {
            Some(first) if !several => FindCoordinatorResponse {
                error_code: first.error_code,
                error_message: first.error_message.clone(),
                node_id: first.node_id,
                host: first.host.clone(),
                port: first.port,
                ..FindCoordinatorResponse::default()
            },
            _ => FindCoordinatorResponse { coordinators, ..FindCoordinatorResponse::default() },
        }
    };
    if kind != GROUP || image.topic_by_name(CONSUMER_OFFSETS).is_some() {
        return Reply::Now(respond(true));
    }
    let slot = cx.defer();
    let node = std::sync::Arc::clone(cx.node);
    let topics = vec![new_topic(&cx.node.config, &image, CONSUMER_OFFSETS)];
    cx.node.controller.submit(Command::CreateTopics { topics, validate_only: false }, move |_| {
        let made = node.image.load().topic_by_name(CONSUMER_OFFSETS).is_some();
        slot.complete(&respond(made));
    });
    Reply::Later
}
