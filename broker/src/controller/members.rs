//! Who takes part in the metadata log: what is told of them, and voters that come and go (KIP-853). Only the node that leads the log
//! knows and decides; what another one is asked, it passes on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_machine::controller::command::Failure;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::LeaderAskedRequest;
use ottla_protocol::types::{NodeId, Uuid};
use ottla_raft::{MemberChange, ProposeError, Proposed, Status};

use super::Controller;
use crate::peers::links::Line;
use crate::peers::{Address, raft_id};

/// One who takes part in the metadata log, as its leader sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The log's own name for its directory.
    pub id: u64,
    /// `None` for a node that is alone.
    pub address: Option<Address>,
    pub is_voter: bool,
    /// The last entry that it has.
    pub end: Option<u64>,
    /// How long ago it last answered.
    pub heard_ago: Option<Duration>,
}

/// Why the leader has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody is known to lead, or the request reached nobody who does.
    NotHeard,
    /// It may have been heard, and may have had its effect.
    Lost,
    /// The leader refuses.
    Said(ErrorCode),
}

/// Takes the body of the leader's answer.
type OnAsked = Box<dyn FnOnce(Result<Bytes, Unanswered>) + Send>;

impl Controller {
    /// Who takes part, by rising `node.id`, with what this node knows of each if it leads.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let Some(log) = self.log.get() else { return Vec::new() };
        let (status, heard) = (log.status(), log.last_heard());
        let me = self.voter_id();
        let member = |id: u64, is_voter: bool| {
            let is_me = Some(id) == me;
            Member {
                id,
                address: address_of(&status, id),
                is_voter,
                end: if is_me { status.last_index } else { status.replicated.get(&id).copied().flatten() },
                heard_ago: if is_me { Some(Duration::ZERO) } else { heard.get(&id).copied() },
            }
        };
        let voters = status.voters.iter().map(|id| member(*id, true));
        let mut members: Vec<_> = voters.chain(status.learners.iter().map(|id| member(*id, false))).collect();
        members.sort_by_key(|member| member.address.as_ref().map(|address| address.node));
        members
    }

    /// Makes a voter of a node that is a learner already. Only the leader can.
    pub fn add_voter(
        &self,
        node: NodeId,
        directory: Uuid,
        limit: Duration,
        answer: impl FnOnce(Result<(), Failure>) + Send + 'static,
    ) {
        let Some(log) = self.log.get().filter(|_| self.is_active()) else {
            return answer(Err(ErrorCode::NotController.into()));
        };
        let (status, id) = (log.status(), raft_id(directory));
        if let Some(taken) = voter_of_node(&status, node) {
            let message = if taken == id {
                format!("Node {node} is a voter already.")
            } else {
                format!("Node {node} is a voter with another directory: remove that one first.")
            };
            return answer(Err(Failure::new(ErrorCode::DuplicateVoter, message)));
        }
        if address_of(&status, id).is_none_or(|known| known.node != node) {
            let message = format!(
                "Node {node} with directory {directory} does not follow the quorum yet: start it with \
                 controller.quorum.bootstrap.servers, and add it then."
            );
            return answer(Err(Failure::new(ErrorCode::RequestTimedOut, message)));
        }
        let answer = move |outcome: Result<Proposed, ProposeError>| {
            answer(outcome.map(|_| ()).map_err(refusal));
        };
        log.change_members(MemberChange::Promote([id].into()), limit, Box::new(answer));
    }

    /// Takes the vote from a node. One that is still a broker stays a learner, for brokers need the log; any other leaves. Only the
    /// leader can.
    pub fn remove_voter(
        &self,
        node: NodeId,
        directory: Uuid,
        limit: Duration,
        answer: impl FnOnce(Result<(), Failure>) + Send + 'static,
    ) {
        let Some(log) = self.log.get().filter(|_| self.is_active()).cloned() else {
            return answer(Err(ErrorCode::NotController.into()));
        };
        let (status, id) = (log.status(), raft_id(directory));
        if voter_of_node(&status, node) != Some(id) {
            let message = format!("Node {node} with directory {directory} is no voter.");
            return answer(Err(Failure::new(ErrorCode::VoterNotFound, message)));
        }
        if status.voters.len() == 1 {
            let message = "The only voter can't be removed.";
            return answer(Err(Failure::new(ErrorCode::InvalidRequest, message)));
        }
        let image = self.published.image.load();
        let stays = image.broker(node).is_some_and(|broker| broker.directory == directory && !broker.fenced);
        let leaving = Arc::clone(&log);
        let demoted = move |outcome: Result<Proposed, ProposeError>| match outcome {
            Ok(_) if stays => answer(Ok(())),
            Ok(_) => {
                let removed = move |outcome: Result<Proposed, ProposeError>| {
                    answer(outcome.map(|_| ()).map_err(refusal));
                };
                leaving.change_members(MemberChange::Remove([id].into()), limit, Box::new(removed));
            }
            Err(error) => answer(Err(refusal(error))),
        };
        log.change_members(MemberChange::Demote([id].into()), limit, Box::new(demoted));
    }

    /// Has the node that leads the log answer a request of a client, if it is known and another one.
    pub fn ask_leader(&self, request: &LeaderAskedRequest, limit: Duration, answer: OnAsked) {
        let Some(others) = self.others.get() else {
            return answer(Err(Unanswered::Said(ErrorCode::NotController)));
        };
        let leader = self.leader_address().filter(|address| address.node != others.identity.node);
        let Some(leader) = leader else { return answer(Err(Unanswered::NotHeard)) };
        others.links.call(&leader, Line::Asked, request, limit, move |outcome| {
            answer(match outcome {
                Ok(response) if response.error_code == 0 => Ok(response.body),
                Ok(response) => match ErrorCode::from_code(response.error_code) {
                    Some(ErrorCode::NotController) => Err(Unanswered::NotHeard),
                    code => Err(Unanswered::Said(code.unwrap_or(ErrorCode::UnknownServerError))),
                },
                Err(error) if error.was_not_sent() => Err(Unanswered::NotHeard),
                Err(_) => Err(Unanswered::Lost),
            });
        });
    }

    /// Calls `act` after a while, on the thread of the links; never on a node that is alone.
    pub fn after(&self, delay: Duration, act: impl FnOnce() + Send + 'static) {
        if let Some(others) = self.others.get() {
            others.links.after(delay, act);
        }
    }
}

/// What the membership says of one's address.
fn address_of(status: &Status, id: u64) -> Option<Address> {
    Address::parse(std::str::from_utf8(status.identities.get(&id)?).ok()?)
}

/// The voter of this `node.id`, whatever its directory.
fn voter_of_node(status: &Status, node: NodeId) -> Option<u64> {
    let is_it = |id: &&u64| address_of(status, **id).is_some_and(|address| address.node == node);
    status.voters.iter().find(is_it).copied()
}

fn refusal(error: ProposeError) -> Failure {
    let code = match &error {
        ProposeError::NotLeader(_) => ErrorCode::NotController,
        ProposeError::Full(_) | ProposeError::Stopped(_) => ErrorCode::KafkaStorageError,
        ProposeError::TooLarge(_) => ErrorCode::InvalidRequest,
        // Another change is under way, or the outcome is unknown: it may be asked for again.
        ProposeError::MembersStay(_) | ProposeError::OutcomeUnknown => ErrorCode::RequestTimedOut,
    };
    Failure::new(code, error.to_string())
}
