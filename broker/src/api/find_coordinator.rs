//! FindCoordinator (key 10): who coordinates a group. v1 kinds of keys, v4 several keys (KIP-699).

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use ottla_machine::controller::command::Command;
use ottla_machine::controller::image::Image;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::FindCoordinatorRequest;
use ottla_protocol::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};
use ottla_protocol::types::NodeId;

use super::internal_topics::{CONSUMER_OFFSETS, new_topic};
use super::{Reply, RequestContext};
use crate::coordinator::partition_of;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub fn handle(
    cx: &mut RequestContext<'_>,
    request: FindCoordinatorRequest,
) -> Reply<FindCoordinatorResponse> {
    let keys = if cx.version < 4 { vec![request.key.clone()] } else { request.coordinator_keys.clone() };
    let image = cx.node.image.load_full();
    // By which address each broker is reached from where this client came in.
    let addresses: HashMap<NodeId, (ByteString, i32)> =
        image.active_brokers().filter_map(|broker| Some((broker.id, cx.address_of(broker)?))).collect();
    let several = cx.version >= 4;
    let kind = if cx.version == 0 { GROUP } else { request.key_type };
    let respond = move |image: &Image| {
        let coordinators: Vec<Coordinator> =
            keys.iter().map(|key| answer(key, find(image, &addresses, kind, key))).collect();
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
        return Reply::Now(respond(&image));
    }
    let slot = cx.defer();
    let node = Arc::clone(cx.node);
    let topics = vec![new_topic(&cx.node.config, &image, CONSUMER_OFFSETS)];
    cx.node.controller.submit(Command::CreateTopics { topics, validate_only: false }, move |_| {
        slot.complete(&respond(&node.image.load()));
    });
    Reply::Later
}

type Found<'a> = Result<(NodeId, &'a (ByteString, i32)), (ErrorCode, &'static str)>;

/// The leader of the partition of `__consumer_offsets` that a group belongs to.
fn find<'a>(
    image: &Image,
    addresses: &'a HashMap<NodeId, (ByteString, i32)>,
    kind: i8,
    key: &str,
) -> Found<'a> {
    match kind {
        // An empty group id is taken, as in Kafka: old clients commit under it.
        GROUP => {
            let unavailable = |why| (ErrorCode::CoordinatorNotAvailable, why);
            let topic = image
                .topic_by_name(CONSUMER_OFFSETS)
                .ok_or(unavailable("__consumer_offsets could not be made"))?;
            let index = partition_of(key, topic.partitions.len());
            let leader = topic.partition(index.into()).map_or(NodeId::NONE, |placed| placed.leader);
            let address = addresses.get(&leader).ok_or(unavailable("the group's partition has no leader"))?;
            Ok((leader, address))
        }
        TRANSACTION => {
            Err((ErrorCode::TransactionalIdAuthorizationFailed, "transactions are not part of this version"))
        }
        _ => Err((ErrorCode::InvalidRequest, "this kind of coordinator is not known")),
    }
}

fn answer(key: &ByteString, found: Found<'_>) -> Coordinator {
    match found {
        Ok((node, (host, port))) => Coordinator {
            key: key.clone(),
            node_id: node.0,
            host: host.clone(),
            port: *port,
            error_code: 0,
            error_message: None,
        },
        Err((code, message)) => Coordinator {
            key: key.clone(),
            node_id: -1,
            host: ByteString::default(),
            port: -1,
            error_code: code.code(),
            error_message: Some(ByteString::from_static(message)),
        },
    }
}
