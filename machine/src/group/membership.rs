//! Staying in a group and leaving it: heartbeats, sessions, LeaveGroup, DeleteGroups.

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::leave_group_request::MemberIdentity;
use ottla_protocol::messages::leave_group_response::MemberResponse;
use ottla_protocol::messages::{HeartbeatRequest, HeartbeatResponse, LeaveGroupResponse};

use super::coordinator::{GroupCoordinator, GroupReply, Now, Then, Timer, Token};
use super::join::{check_member, failure};
use super::{State, record};

impl GroupCoordinator {
    /// Heartbeat.
    pub fn heartbeat(&mut self, token: Token, request: &HeartbeatRequest, now: Now) {
        self.begin();
        let code = self.try_heartbeat(request, now).err().unwrap_or(ErrorCode::None);
        let reply = HeartbeatResponse { error_code: code.code(), ..HeartbeatResponse::default() };
        self.reply(token, GroupReply::Heartbeat(reply));
    }

    fn try_heartbeat(&mut self, request: &HeartbeatRequest, now: Now) -> Result<(), ErrorCode> {
        let group = self.groups.get(&*request.group_id).ok_or(ErrorCode::UnknownMemberId)?;
        check_member(group, &request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let state = group.state;
        self.touch(&request.group_id, &request.member_id, now);
        match state {
            State::Empty => Err(ErrorCode::UnknownMemberId),
            State::Preparing => Err(ErrorCode::RebalanceInProgress),
            State::Completing | State::Stable => Ok(()),
        }
    }

    /// The member was heard of: its session begins anew.
    pub(super) fn touch(&mut self, group: &str, member: &str, now: Now) {
        let Some(held) = self.groups.get_mut(group).and_then(|group| group.members.get_mut(member)) else {
            return;
        };
        let expires_ms = now.tick_ms + u64::try_from(held.session_timeout_ms).unwrap_or(0);
        let earlier = expires_ms < held.expires_ms;
        held.expires_ms = expires_ms;
        // A timer that runs already finds the later deadline when it fires.
        if earlier {
            self.set_timer(expires_ms, Timer::Session { group: group.to_owned(), member: member.to_owned() });
        }
    }

    pub(super) fn on_session_timer(&mut self, group: &str, member: &str, now: Now) {
        let Some(held) = self.groups.get(group).and_then(|group| group.members.get(member)) else { return };
        let timer = Timer::Session { group: group.to_owned(), member: member.to_owned() };
        if held.expires_ms > now.tick_ms {
            let at = held.expires_ms;
            self.set_timer(at, timer);
            return;
        }
        // Who waits for us cannot be late, unless it is new and nobody ever heard of it again.
        if held.syncing.is_some() || held.joining.is_some() && !held.is_new {
            let at = now.tick_ms + u64::try_from(held.session_timeout_ms).unwrap_or(0).max(1);
            self.set_timer(at, timer);
            return;
        }
        self.drop_member(group, member);
        self.on_member_gone(group, now);
    }

    pub(super) fn on_pending_timer(&mut self, group: &str, member: &str, now: Now) {
        let Some(held) = self.groups.get_mut(group) else { return };
        if held.pending.remove(member).is_some() {
            self.on_awaited_gone(group, now);
        }
    }

    fn drop_member(&mut self, group: &str, member: &str) {
        let Some(gone) = self.groups.get_mut(group).and_then(|group| group.remove(member)) else { return };
        if let Some(token) = gone.joining {
            self.reply(token, GroupReply::Join(failure(member, ErrorCode::UnknownMemberId)));
        }
        if let Some(token) = gone.syncing {
            self.reply(token, GroupReply::Sync(Default::default()).failed(ErrorCode::UnknownMemberId));
        }
    }

    /// LeaveGroup, of one member (`single`: versions before 3) or several.
    pub fn leave(&mut self, token: Token, id: &str, leaving: &[MemberIdentity], single: bool, now: Now) {
        self.begin();
        let mut members = Vec::new();
        let mut left = 0;
        for identity in leaving {
            let code = match self.leave_one(id, identity) {
                Ok(was_member) => {
                    left += usize::from(was_member);
                    ErrorCode::None
                }
                Err(code) => code,
            };
            members.push(MemberResponse {
                member_id: identity.member_id.clone(),
                group_instance_id: identity.group_instance_id.clone(),
                error_code: code.code(),
            });
        }
        if left > 0 {
            self.on_member_gone(id, now);
        } else {
            self.on_awaited_gone(id, now);
        }
        let reply = if single {
            let error_code = members.first().map_or(0, |member| member.error_code);
            LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() }
        } else {
            LeaveGroupResponse { members, ..LeaveGroupResponse::default() }
        };
        self.reply(token, GroupReply::Leave(reply));
    }

    /// Whether who left was a member, and not only expected.
    fn leave_one(&mut self, id: &str, identity: &MemberIdentity) -> Result<bool, ErrorCode> {
        let group = self.groups.get_mut(id).ok_or(ErrorCode::UnknownMemberId)?;
        let member = match (&*identity.member_id, identity.group_instance_id.as_deref()) {
            // An operator removes a static member by its instance's name (KIP-345).
            ("", Some(instance)) => {
                group.static_members.get(instance).cloned().ok_or(ErrorCode::UnknownMemberId)?
            }
            (member, instance) => {
                if group.pending.remove(member).is_some() {
                    return Ok(false);
                }
                check_member(group, member, instance)?;
                member.to_owned()
            }
        };
        self.drop_member(id, &member);
        Ok(true)
    }

    /// DeleteGroups, one group.
    pub fn delete(&mut self, token: Token, id: &str) {
        self.begin();
        let Some(group) = self.groups.get(id) else {
            self.reply(token, GroupReply::DeleteGroup(ErrorCode::GroupIdNotFound));
            return;
        };
        if group.state != State::Empty || !group.pending.is_empty() {
            self.reply(token, GroupReply::DeleteGroup(ErrorCode::NonEmptyGroup));
            return;
        }
        let offsets = self.offsets.get(id).into_iter().flat_map(|offsets| offsets.keys());
        let mut records: Vec<_> =
            offsets.map(|(topic, partition)| record::offset_removed(id, topic, *partition)).collect();
        records.push(record::group_removed(id));
        self.append(records, Then::Reply { token, reply: GroupReply::DeleteGroup(ErrorCode::None) });
    }
}
