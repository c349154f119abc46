//! InitProducerId (key 22): an id for an idempotent producer, out of a block that the controller gave this broker (KIP-730).
//!
//! A transactional id is refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED: every client takes that as final, where codes that say "not
//! now" would have it try for ever.

use std::sync::{Arc, Mutex, PoisonError};

use ottla_machine::controller::command::{Answer, Command};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};

use super::{Reply, RequestContext};
use crate::node::Node;

/// Ids that one decision of the controller reserves.
const BLOCK: i64 = 1000;

/// What is left of the block: the next id, and the end.
#[derive(Debug, Default)]
pub struct ProducerIds(Mutex<(i64, i64)>);

impl ProducerIds {
    fn take(&self) -> Option<i64> {
        let mut block = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (block.0 < block.1).then(|| {
            block.0 += 1;
            block.0 - 1
        })
    }

    fn refill(&self, first: i64, count: i64) {
        let mut block = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Two requests may have asked at once: ids of the older block that are left are given up.
        *block = (first, first + count);
    }
}

pub fn handle(cx: &mut RequestContext<'_>, request: InitProducerIdRequest) -> Reply<InitProducerIdResponse> {
    if request.transactional_id.is_some() {
        return Reply::Now(failed(ErrorCode::TransactionalIdAuthorizationFailed));
    }
    if (request.producer_id == -1) != (request.producer_epoch == -1) {
        return Reply::Now(failed(ErrorCode::InvalidRequest));
    }
    if let Some(id) = cx.node.producer_ids.take() {
        return Reply::Now(given(id));
    }
    let slot = cx.defer();
    let node: Arc<Node> = Arc::clone(cx.node);
    cx.node.controller.submit(Command::AllocateProducerIds { count: BLOCK }, move |answer| match answer {
        Answer::ProducerIds { first, count } => {
            node.producer_ids.refill(first.0 + 1, count - 1);
            slot.complete(&given(first.0));
        }
        _ => slot.complete(&failed(ErrorCode::CoordinatorLoadInProgress)),
    });
    Reply::Later
}

fn given(producer_id: i64) -> InitProducerIdResponse {
    InitProducerIdResponse { producer_id, producer_epoch: 0, ..InitProducerIdResponse::default() }
}

fn failed(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse {
        error_code: code.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..InitProducerIdResponse::default()
    }
}
