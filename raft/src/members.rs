//! Who takes part in the log, and who leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, Instant as _, Raft};

use crate::apply::Applier;
use crate::types::{Member, TypeConfig};
use crate::{MetadataLog, ProposeError, Proposed, outcome_within};

/// How the quorum stands, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub leader: Option<u64>,
    pub term: u64,
    pub last_index: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub voters: Vec<u64>,
    /// Get the log, and have no vote.
    pub learners: Vec<u64>,
    /// What the membership says of each voter and learner.
    pub identities: BTreeMap<u64, Vec<u8>>,
    /// Up to where others have the log; known to the leader alone.
    pub replicated: BTreeMap<u64, Option<u64>>,
}

/// A change of who takes part. One at a time; a change of the voters that a failure cuts short is completed by the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// From now on the node gets the log. Done once it has caught up.
    AddLearner { id: u64, identity: Vec<u8> },
    /// Learners become voters.
    Promote(BTreeSet<u64>),
    /// Voters become learners. A leader that is one of them asks a voter to lead.
    Demote(BTreeSet<u64>),
    /// Learners leave.
    Remove(BTreeSet<u64>),
    /// Nodes are known by something else.
    Identify(BTreeMap<u64, Vec<u8>>),
}

impl From<MemberChange> for ChangeMembers<u64, Member> {
    fn from(change: MemberChange) -> Self {
        let member = |(id, identity)| (id, Member { identity });
        match change {
            MemberChange::AddLearner { id, identity } => {
                Self::AddNodes(BTreeMap::from([member((id, identity))]))
            }
            MemberChange::Promote(ids) => Self::AddVoterIds(ids),
            MemberChange::Demote(ids) => Self::RemoveVoters(ids),
            MemberChange::Remove(ids) => Self::RemoveNodes(ids),
            MemberChange::Identify(identities) => {
                Self::SetNodes(identities.into_iter().map(member).collect())
            }
        }
    }
}

impl MetadataLog {
    #[must_use]
    pub fn status(&self) -> Status {
        status_of(&self.raft.metrics().borrow_watched())
    }

    /// How long ago each of the others last answered; known to the leader alone.
    #[must_use]
    pub fn last_heard(&self) -> BTreeMap<u64, Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.iter().flatten();
        heard.filter_map(|(id, at)| Some((*id, at.as_ref()?.elapsed()))).collect()
    }

    /// Calls `told` on the log's thread whenever there is another leader, term, or membership, and once at the beginning.
    pub fn watch(&self, mut told: impl FnMut(Status) + Send + 'static) {
        // Of these there are news only when there are any to tell: the others change with every heartbeat.
        let (mut news, metrics) = (self.raft.server_metrics(), self.raft.metrics());
        self.handle.spawn(async move {
            let key = |status: &Status| {
                let Status { leader, term, voters, learners, identities, .. } = status.clone();
                (leader, term, voters, learners, identities)
            };
            let mut last = None;
            loop {
                // They are published together, these last.
                let status = status_of(&metrics.borrow_watched());
                if last.as_ref() != Some(&key(&status)) {
                    last = Some(key(&status));
                    told(status);
                }
                if news.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Calls `told` on the log's thread with the reason when the log stops by itself: it goes on only after another start.
    pub fn when_stopped(&self, told: impl FnOnce(String) + Send + 'static) {
        let (mut news, metrics) = (self.raft.server_metrics(), self.raft.metrics());
        self.handle.spawn(async move {
            // They end when it has stopped; its last word is the reason.
            while news.changed().await.is_ok() {}
            match metrics.borrow_watched().running_state.clone() {
                Ok(()) | Err(Fatal::Stopped) => {}
                Err(reason) => told(reason.to_string()),
            }
        });
    }

    /// Changes who takes part; `answer` is called as that of [`Self::propose`]. Only the leader can.
    pub fn change_members(
        &self,
        change: MemberChange,
        timeout: Duration,
        answer: impl FnOnce(Result<Proposed, ProposeError>) + Send + 'static,
    ) {
        let (raft, voter) = (self.raft.clone(), self.voter);
        self.handle.spawn(async move {
            answer(match change {
                MemberChange::AddLearner { id, identity } => {
                    outcome_within(timeout, raft.add_learner(id, Member { identity }, true)).await
                }
                change => outcome_within(timeout, raft.change_membership(change, true)).await,
            });
            let status = status_of(&raft.metrics().borrow_watched());
            let leads = status.leader == Some(voter);
            // openraft lets a leader that has become a learner lead on.
            if leads && !status.voters.contains(&voter) {
                let next = status.voters.iter().max_by_key(|id| status.replicated.get(id));
                transfer(&raft, next.copied().unwrap_or(voter)).await;
            }
        });
    }

    /// Asks this node, if it leads, to let a voter lead that has the whole log. Whether it does, the status says: if that voter does not
    /// answer, an election follows.
    pub fn transfer_leadership(&self, to: u64) {
        let raft = self.raft.clone();
        self.handle.spawn(async move { transfer(&raft, to).await });
    }
}

impl MetadataLog {
    /// Calls an election at once, in which the others vote although they heard of the leader a moment ago: for when it is known that its
    /// process is gone, and waiting for the time-out would help nobody. Nothing happens if another leads by then, or nobody. It is no
    /// less safe than any other election: who has fewer committed entries gets no majority, and a leader that lives after all loses its
    /// term.
    pub fn replace_leader(&self, gone: u64, after: Duration) {
        let (raft, voter, store) = (self.raft.clone(), self.voter, self.store.clone());
        self.handle.spawn(async move {
            tokio::time::sleep(after).await;
            if !store.has_room_for(0) {
                return;
            }
            let vote = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                let votes = metrics.membership_config.membership().voter_ids().any(|id| id == voter);
                if !votes || metrics.current_leader != Some(gone) {
                    return;
                }
                metrics.vote
            };
            // What a leader sends to the one that it wants to follow it; this one can't any more.
            let request = TransferLeaderRequest::new(vote, voter, None);
            if let Err(error) = raft.handle_transfer_leader(request).await {
                tracing::debug!("no election was called: {error}");
            }
        });
    }
}

async fn transfer(raft: &Raft<TypeConfig, Applier>, to: u64) {
    if let Err(error) = raft.trigger().transfer_leader(to).await {
        tracing::warn!("the leadership of the metadata log stays here: {error}");
    }
}

fn status_of(metrics: &openraft::RaftMetrics<TypeConfig>) -> Status {
    let membership = metrics.membership_config.membership();
    let replicated = metrics.replication.iter().flatten();
    Status {
        leader: metrics.current_leader,
        term: metrics.current_term,
        last_index: metrics.last_log_index,
        committed: metrics.local_committed.map(|id| id.index),
        applied: metrics.last_applied.map(|id| id.index),
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        identities: membership.nodes().map(|(id, member)| (*id, member.identity.clone())).collect(),
        replicated: replicated.map(|(id, matched)| (*id, matched.map(|matched| matched.index))).collect(),
    }
}
