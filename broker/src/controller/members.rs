//! Who takes part in the metadata log: what is told of them, and voters that come and go (KIP-853). Only the node that leads the log
//! knows and decides; what another one is asked, it passes on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_machine::controller::command::Failure;
use ottla_protocol::api::ApiKey;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::LeaderAskedRequest;
use ottla_protocol::types::{NodeId, Uuid};
use ottla_raft::{MemberChange, ProposeError, Proposed, Status};

use super::Controller;
use crate::peers::links::Line;
use crate::peers::{Address, raft_id};

/// How long the node that leads is looked for, and waited for, with what it alone can answer.
const LEADER_LIMIT: Duration = Duration::from_secs(30);
/// The same for one attempt, where only something is read.
const READ_LIMIT: Duration = Duration::from_secs(1);
/// Between two attempts to find it.
const LEADER_PAUSE: Duration = Duration::from_millis(20);

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

type OnAsked = Box<dyn FnOnce(Result<Bytes, ErrorCode>) + Send>;

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

    /// Has the node that leads the log answer a request of a client.
    pub fn ask_leader(self: &Arc<Self>, api_key: i16, api_version: i16, body: Bytes, answer: OnAsked) {
        let deadline_ms = self.clock.tick_ms() + u64::try_from(LEADER_LIMIT.as_millis()).unwrap_or(0);
        self.attempt_to_ask(LeaderAskedRequest { api_key, api_version, body }, answer, deadline_ms);
    }

    fn attempt_to_ask(self: &Arc<Self>, request: LeaderAskedRequest, answer: OnAsked, deadline_ms: u64) {
        let Some(others) = self.others.get() else { return answer(Err(ErrorCode::NotController)) };
        let leader = self.leader_address().filter(|address| address.node != others.identity.node);
        let controller = Arc::clone(self);
        let again = move |request: LeaderAskedRequest, answer: OnAsked| {
            let Some(others) = controller.others.get() else { return };
            if controller.clock.tick_ms() >= deadline_ms {
                return answer(Err(ErrorCode::RequestTimedOut));
            }
            let later = Arc::clone(&controller);
            others.links.after(LEADER_PAUSE, move || later.attempt_to_ask(request, answer, deadline_ms));
        };
        let Some(leader) = leader else { return again(request, answer) };
        let sent = request.clone();
        // Asking twice is as good as once: a leader that hangs is not waited for.
        let is_repeatable = request.api_key == ApiKey::DescribeQuorum.code();
        let limit = if is_repeatable { READ_LIMIT } else { LEADER_LIMIT };
        others.links.call(&leader, Line::Asked, &request, limit, move |outcome| match outcome {
            Ok(response) if response.error_code == 0 => answer(Ok(response.body)),
            Ok(response) if response.error_code == ErrorCode::NotController.code() => again(sent, answer),
            Ok(response) => {
                answer(Err(
                    ErrorCode::from_code(response.error_code).unwrap_or(ErrorCode::UnknownServerError)
                ));
            }
            Err(error) if error.was_not_sent() || is_repeatable => again(sent, answer),
            Err(_) => answer(Err(ErrorCode::RequestTimedOut)),
        });
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
