//! SyncGroup: the leader's assignment on its way to the members.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::coordinator::{GroupCoordinator, GroupReply, Now, Then, Token};
use super::join::check_member;
use super::{State, record};
use crate::sabotage::{Bug, is_on};

impl GroupCoordinator {
    /// SyncGroup.
    pub fn sync(&mut self, token: Token, request: &SyncGroupRequest, now: Now) {
        self.begin();
        if let Err(code) = self.try_sync(token, request, now) {
            self.reply(token, GroupReply::Sync(Default::default()).failed(code));
        }
    }

    fn try_sync(&mut self, token: Token, request: &SyncGroupRequest, now: Now) -> Result<(), ErrorCode> {
        let group = self.groups.get_mut(&*request.group_id).ok_or(ErrorCode::UnknownMemberId)?;
        check_member(group, &request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |named: Option<&str>, held: Option<&str>| named.is_some() && named != held;
        if differs(request.protocol_type.as_deref(), group.protocol_type.as_deref())
            || differs(request.protocol_name.as_deref(), group.protocol.as_deref())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match group.state {
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            State::Preparing => return Err(ErrorCode::RebalanceInProgress),
            State::Stable => {
                group.not_synced.remove(&*request.member_id);
                let assignment = group.members[&*request.member_id].assignment.clone();
                self.reply_sync(&request.group_id, token, assignment);
            }
            State::Completing => {
                let leads = group.leader.as_deref() == Some(&*request.member_id);
                group.not_synced.remove(&*request.member_id);
                let member = group.members.get_mut(&*request.member_id).expect("just checked");
                let before = member.syncing.replace(token);
                if leads && before.is_none() {
                    self.take_assignment(request, now);
                }
                if let Some(before) = before {
                    let reply = GroupReply::Sync(Default::default()).failed(ErrorCode::RebalanceInProgress);
                    self.reply(before, reply);
                }
            }
        }
        self.touch(&request.group_id, &request.member_id, now);
        Ok(())
    }

    fn take_assignment(&mut self, request: &SyncGroupRequest, now: Now) {
        let id = &*request.group_id;
        let group = &self.groups[id];
        let named: BTreeMap<&str, &Bytes> =
            request.assignments.iter().map(|assigned| (&*assigned.member_id, &assigned.assignment)).collect();
        // Copies: the request's frame is not to be kept for the life of a group. Who is not named gets nothing.
        let assignments: BTreeMap<String, Bytes> = group
            .members
            .keys()
            .map(|member| {
                let assignment =
                    named.get(member.as_str()).map_or(Bytes::new(), |bytes| Bytes::copy_from_slice(bytes));
                (member.clone(), assignment)
            })
            .collect();
        let mut assigned = group.clone();
        assigned.enter(State::Stable, now.wall_ms);
        for (member, assignment) in &assignments {
            if let Some(member) = assigned.members.get_mut(member) {
                member.assignment = assignment.clone();
            }
        }
        let generation = group.generation;
        let stored = record::group(id, &assigned);
        let early = is_on(Bug::AnswerSyncBeforeWritten).then(|| assignments.clone());
        self.append(vec![stored], Then::Assign { group: id.to_owned(), generation, assignments });
        if let Some(assignments) = early {
            self.on_assigned(id, generation, assignments, Ok(()), now);
        }
    }

    pub(super) fn on_assigned(
        &mut self,
        id: &str,
        generation: i32,
        assignments: BTreeMap<String, Bytes>,
        outcome: Result<(), ErrorCode>,
        now: Now,
    ) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let is_over = group.generation != generation && !is_on(Bug::AssignInAnyGeneration);
        if group.state != State::Completing || is_over {
            return;
        }
        if let Err(code) = outcome {
            self.release_syncing(id, code);
            self.rebalance(id, now);
            return;
        }
        let mut waiting = Vec::new();
        for (member, assignment) in assignments {
            if let Some(member) = group.members.get_mut(&member) {
                member.assignment = assignment.clone();
                waiting.extend(member.syncing.take().map(|token| (token, assignment)));
            }
        }
        group.enter(State::Stable, now.wall_ms);
        for (token, assignment) in waiting {
            self.reply_sync(id, token, assignment);
        }
    }

    fn reply_sync(&mut self, id: &str, token: Token, assignment: Bytes) {
        let group = &self.groups[id];
        let reply = SyncGroupResponse {
            protocol_type: group.protocol_type.as_deref().map(Into::into),
            protocol_name: group.protocol.as_deref().map(Into::into),
            assignment,
            ..SyncGroupResponse::default()
        };
        self.reply(token, GroupReply::Sync(reply));
    }

    /// Members that never asked for their assignment are out.
    pub(super) fn on_sync_timer(&mut self, id: &str, now: Now) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let over =
            matches!(group.state, State::Completing | State::Stable) && group.sync_ends_ms <= now.tick_ms;
        if !over || group.not_synced.is_empty() {
            return;
        }
        for member in std::mem::take(&mut group.not_synced) {
            group.remove(&member);
        }
        self.rebalance(id, now);
    }
}
