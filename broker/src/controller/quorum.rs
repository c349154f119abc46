//! The metadata log's way to other nodes, and theirs to this one's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::QuorumRequest;
use ottla_protocol::types::Uuid;
use ottla_raft::{MemberChange, Transport};

use super::Controller;
use crate::peers::links::{Line, Links};
use crate::peers::{Address, raft_id};

/// An answer to the quorum is not waited for longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long a node may take to catch up as a learner.
const LEARN_LIMIT: Duration = Duration::from_secs(60);

/// Carries the quorum's messages over the links to other nodes.
#[derive(Debug)]
pub struct QuorumTransport(pub Arc<Links>);

impl Transport for QuorumTransport {
    fn ask(&self, _node: u64, identity: &[u8], request: Vec<u8>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        let address = std::str::from_utf8(identity).ok().and_then(Address::parse);
        let Some(address) = address else {
            return Box::pin(std::future::ready(Err(io::Error::other("the member has no address"))));
        };
        let (tell, told) = tokio::sync::oneshot::channel();
        let request = QuorumRequest { payload: request.into() };
        self.0.call(&address, Line::Quorum, &request, ANSWER_LIMIT, move |outcome| {
            let _ = tell.send(outcome);
        });
        Box::pin(async move {
            match told.await {
                Ok(Ok(response)) if response.error_code == 0 => Ok(response.payload.to_vec()),
                Ok(Ok(response)) => Err(io::Error::other(format!("error {}", response.error_code))),
                Ok(Err(error)) => Err(io::Error::other(error.to_string())),
                Err(_) => Err(io::Error::other("this node stops")),
            }
        })
    }
}

impl Controller {
    /// Answers a message of another member of the quorum.
    pub fn answer_quorum(
        &self,
        request: Vec<u8>,
        answer: impl FnOnce(Result<Vec<u8>, ErrorCode>) + Send + 'static,
    ) {
        let (Some(log), Some(others)) = (self.log.get().cloned(), self.others.get()) else {
            return answer(Err(ErrorCode::BrokerNotAvailable));
        };
        others.links.handle().spawn(async move {
            let outcome = log.answer_peer(&request).await;
            answer(outcome.map_err(|error| {
                tracing::debug!("a message of the quorum was refused: {error}");
                ErrorCode::InvalidRequest
            }));
        });
    }

    /// Makes a node a learner of the log: it gets every entry from here on.
    pub fn add_learner(
        &self,
        directory: Uuid,
        address: &Address,
        answer: impl FnOnce(Result<(), ErrorCode>) + Send + 'static,
    ) {
        let Some(log) = self.log.get().filter(|_| self.is_active()) else {
            return answer(Err(ErrorCode::NotController));
        };
        let (id, identity) = (raft_id(directory), address.to_text().into_bytes());
        let status = log.status();
        if status.identities.get(&id) == Some(&identity) {
            return answer(Ok(()));
        }
        let change = if status.identities.contains_key(&id) {
            MemberChange::Identify([(id, identity)].into())
        } else {
            MemberChange::AddLearner { id, identity }
        };
        log.change_members(change, LEARN_LIMIT, move |outcome| {
            answer(outcome.map(|_| ()).map_err(|error| {
                tracing::warn!("a node could not join the quorum: {error}");
                ErrorCode::NotController
            }));
        });
    }
}
