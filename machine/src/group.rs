//! Classic consumer groups: membership, rebalances, committed offsets (Kafka's `GroupMetadataManager`, classic protocol).
//!
//! ```text
//!            first member joins            every member joined, or time-out
//!   Empty ----------------------> Preparing ------------------------------> Completing
//!     ^                            ^     ^                                     |
//!     | last member gone           |     | a member joins, leaves or expires   | leader's assignment is committed
//!     +----------------------------+     +------------------------- Stable <---+
//! ```
//!
//! One [`coordinator::GroupCoordinator`] holds all groups of one partition of `__consumer_offsets`. What is durable is what its records say;
//! replies that rest on a record leave once it is committed.

pub mod coordinator;
pub mod join;
mod membership;
pub mod offsets;
mod rebalance;
pub mod record;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use coordinator::Token;

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    /// Members are joining.
    Preparing,
    /// Members wait for the leader's assignment.
    Completing,
    Stable,
}

impl State {
    /// As DescribeGroups shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Preparing => "PreparingRebalance",
            Self::Completing => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// In the order of its preference: name and metadata.
    pub protocols: Vec<(String, Bytes)>,
    pub assignment: Bytes,
    /// Its JoinGroup waits for the rebalance.
    pub(crate) joining: Option<Token>,
    /// Its SyncGroup waits for the assignment.
    pub(crate) syncing: Option<Token>,
    /// Has never been part of a generation.
    pub(crate) is_new: bool,
    /// The tick at which it expires unless it is heard of.
    pub(crate) expires_ms: u64,
}

impl Member {
    pub(crate) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| Some(name.as_str()) == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub state: State,
    /// `None`: offsets only ("simple" consumers).
    pub protocol_type: Option<String>,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub members: BTreeMap<String, Member>,
    /// Wall clock of the last change of state, milliseconds since 1970.
    pub since_ms: i64,
    /// In the order of joining: the first one leads.
    pub(crate) order: Vec<String>,
    pub(crate) static_members: BTreeMap<String, String>,
    /// Ids that were given out and not used yet, with the tick of their end.
    pub(crate) pending: BTreeMap<String, u64>,
    /// The end of the joining phase.
    pub(crate) join_ends_ms: u64,
    /// First rebalance of an empty group: how much longer it may be put off; `None` in others.
    pub(crate) initial_left_ms: Option<u64>,
    pub(crate) joined_since: bool,
    pub(crate) not_synced: BTreeSet<String>,
    pub(crate) sync_ends_ms: u64,
}

impl Group {
    pub(crate) fn new(now_ms: i64) -> Self {
        Self {
            state: State::Empty,
            protocol_type: None,
            generation: 0,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            since_ms: now_ms,
            order: Vec::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_ends_ms: 0,
            initial_left_ms: None,
            joined_since: false,
            not_synced: BTreeSet::new(),
            sync_ends_ms: 0,
        }
    }

    pub(crate) fn enter(&mut self, state: State, now_ms: i64) {
        self.state = state;
        self.since_ms = now_ms;
    }

    pub(crate) fn add(&mut self, member: Member) {
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), member.id.clone());
        }
        self.order.push(member.id.clone());
        self.members.insert(member.id.clone(), member);
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.order.retain(|known| known != id);
        self.not_synced.remove(id);
        if let Some(instance) = &member.instance_id
            && self.static_members.get(instance).is_some_and(|held| held == id)
        {
            self.static_members.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.order.first().cloned();
        }
        Some(member)
    }

    /// Whether a member with these protocols fits the others.
    pub(crate) fn supports(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.is_common(name))
    }

    fn is_common(&self, name: &str) -> bool {
        self.members.values().all(|member| member.protocols.iter().any(|(own, _)| own == name))
    }

    /// The protocol that most members prefer among those that all have; the first named wins a tie.
    pub(crate) fn select_protocol(&self) -> Option<String> {
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for id in &self.order {
            let member = self.members.get(id)?;
            let choice = member.protocols.iter().find(|(name, _)| self.is_common(name))?.0.as_str();
            match votes.iter_mut().find(|(name, _)| *name == choice) {
                Some((_, count)) => *count += 1,
                None => votes.push((choice, 1)),
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        votes.iter().find(|(_, count)| *count == most).map(|(name, _)| (*name).to_owned())
    }

    pub(crate) fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0);
        u64::try_from(longest).unwrap_or(0)
    }

    pub(crate) fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some())
    }
}
