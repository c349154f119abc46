//! JoinGroup: who may come in, and as whom.

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::join_group_response::{JoinGroupResponse, JoinGroupResponseMember};

use super::coordinator::{GroupCoordinator, GroupReply, Now, Then, Timer, Token};
use super::{Group, Member, State, record};

/// A JoinGroup request with what is known of its client.
#[derive(Clone, Debug)]
pub struct Join {
    pub group: String,
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<(String, Bytes)>,
    /// From version 4 on a dynamic member must come back with the id that it was given (KIP-394).
    pub requires_known_id: bool,
    /// From version 9 on a leader can be told to keep the assignment (KIP-814).
    pub may_skip_assignment: bool,
    /// A fresh unique text, for a new member's id.
    pub fresh: String,
}

/// A new member that waits for a rebalance is given up after so long without one.
const NEW_MEMBER_LIMIT_MS: u64 = 300_000;

pub(super) fn failure(member_id: &str, code: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: code.code(),
        generation_id: -1,
        protocol_name: Some(Default::default()),
        member_id: member_id.into(),
        ..JoinGroupResponse::default()
    }
}

impl GroupCoordinator {
    /// JoinGroup.
    pub fn join(&mut self, token: Token, join: Join, now: Now) {
        self.begin();
        if let Err(code) = self.try_join(token, &join, now) {
            self.reply(token, GroupReply::Join(failure(&join.member_id, code)));
        }
    }

    fn try_join(&mut self, token: Token, join: &Join, now: Now) -> Result<(), ErrorCode> {
        let (min, max) = (self.settings.min_session_timeout_ms, self.settings.max_session_timeout_ms);
        if join.session_timeout_ms < min || join.session_timeout_ms > max {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        let max_size = self.settings.max_size;
        let is_new_group = !self.groups.contains_key(&join.group);
        if is_new_group && !join.member_id.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        let group = self.groups.entry(join.group.clone()).or_insert_with(|| Group::new(now.wall_ms));
        let is_known = group.members.contains_key(&join.member_id);
        let replaces = join.instance_id.as_ref().is_some_and(|id| group.static_members.contains_key(id));
        if !is_known && !replaces && group.members.len() >= max_size {
            group.pending.remove(&join.member_id);
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        if !group.supports(&join.protocol_type, &join.protocols) {
            if is_new_group {
                self.groups.remove(&join.group);
            }
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if join.member_id.is_empty() {
            self.join_unknown(token, join, now);
            Ok(())
        } else {
            self.join_known(token, join, now)
        }
    }

    fn join_unknown(&mut self, token: Token, join: &Join, now: Now) {
        let prefix = join.instance_id.as_deref().unwrap_or(&join.client_id);
        let id = format!("{prefix}-{}", join.fresh);
        let group = self.groups.get_mut(&join.group).expect("made by the caller");
        if let Some(instance) = &join.instance_id {
            match group.static_members.get(instance).cloned() {
                Some(old) => self.replace_static(token, join, &old, id, now),
                None => self.add_and_rebalance(token, join, id, now),
            }
        } else if join.requires_known_id {
            let ends = now.tick_ms + u64::try_from(join.session_timeout_ms).unwrap_or(0);
            group.pending.insert(id.clone(), ends);
            self.set_timer(ends, Timer::PendingMember { group: join.group.clone(), member: id.clone() });
            self.reply(token, GroupReply::Join(failure(&id, ErrorCode::MemberIdRequired)));
        } else {
            self.add_and_rebalance(token, join, id, now);
        }
    }

    fn join_known(&mut self, token: Token, join: &Join, now: Now) -> Result<(), ErrorCode> {
        let group = self.groups.get_mut(&join.group).expect("made by the caller");
        if group.pending.remove(&join.member_id).is_some() {
            if join.instance_id.is_some() {
                return Err(ErrorCode::InvalidRequest);
            }
            self.add_and_rebalance(token, join, join.member_id.clone(), now);
            return Ok(());
        }
        check_member(group, &join.member_id, join.instance_id.as_deref())?;
        let member = &group.members[&join.member_id];
        let same = member.protocols == join.protocols;
        let leads = group.leader.as_deref() == Some(&join.member_id);
        match group.state {
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            State::Completing if same => {}
            State::Stable if same && !leads => {}
            State::Preparing | State::Completing | State::Stable => {
                self.update_and_rebalance(token, join, now);
                return Ok(());
            }
        }
        // It missed the answer: the same again.
        let reply = self.join_reply(&join.group, &join.member_id);
        self.reply(token, GroupReply::Join(reply));
        self.touch(&join.group, &join.member_id, now);
        Ok(())
    }

    fn add_and_rebalance(&mut self, token: Token, join: &Join, id: String, now: Now) {
        let group = self.groups.get_mut(&join.group).expect("made by the caller");
        let expires_ms = now.tick_ms + NEW_MEMBER_LIMIT_MS;
        group.protocol_type = Some(join.protocol_type.clone());
        group.joined_since = true;
        group.add(Member {
            id: id.clone(),
            instance_id: join.instance_id.clone(),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols.clone(),
            assignment: Bytes::new(),
            joining: Some(token),
            syncing: None,
            is_new: true,
            expires_ms,
        });
        self.set_timer(expires_ms, Timer::Session { group: join.group.clone(), member: id });
        self.rebalance(&join.group, now);
    }

    fn update_and_rebalance(&mut self, token: Token, join: &Join, now: Now) {
        let group = self.groups.get_mut(&join.group).expect("made by the caller");
        let member = group.members.get_mut(&join.member_id).expect("checked by the caller");
        member.protocols.clone_from(&join.protocols);
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.session_timeout_ms = join.session_timeout_ms;
        if let Some(before) = member.joining.replace(token) {
            // Not an unknown member: told so, a client would come back as somebody else.
            let reply = failure(&join.member_id, ErrorCode::RebalanceInProgress);
            self.reply(before, GroupReply::Join(reply));
        }
        self.rebalance(&join.group, now);
    }

    /// A static member is back under a new id (KIP-345): it keeps its assignment, and its twin is fenced.
    fn replace_static(&mut self, token: Token, join: &Join, old: &str, id: String, now: Now) {
        let group = self.groups.get_mut(&join.group).expect("made by the caller");
        let before = Box::new(group.clone());
        let leader_before = group.leader.clone();
        let place = group.order.iter().position(|known| known == old).unwrap_or(0);
        let led = leader_before.as_deref() == Some(old);
        let mut member = group.remove(old).expect("a static member's id is a member");
        let fenced = [(member.joining.take(), true), (member.syncing.take(), false)];
        member.id.clone_from(&id);
        member.protocols.clone_from(&join.protocols);
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.session_timeout_ms = join.session_timeout_ms;
        member.client_id.clone_from(&join.client_id);
        member.client_host.clone_from(&join.client_host);
        group.add(member);
        let end = group.order.pop().expect("just added");
        group.order.insert(place, end);
        if led {
            group.leader = Some(id.clone());
        }
        let (state, protocol) = (group.state, group.protocol.clone());
        let keeps = group.select_protocol() == protocol;
        let code = ErrorCode::FencedInstanceId;
        let fenced = fenced.into_iter().filter_map(|(waiting, is_join)| {
            let reply = if is_join {
                GroupReply::Join(failure(old, code))
            } else {
                GroupReply::Sync(Default::default()).failed(code)
            };
            Some((waiting?, reply))
        });
        let fenced: Vec<_> = fenced.collect();
        let ends = now.tick_ms + u64::try_from(join.session_timeout_ms).unwrap_or(0);
        self.set_timer(ends, Timer::Session { group: join.group.clone(), member: id.clone() });
        self.touch(&join.group, &id, now);
        if state == State::Stable && keeps {
            let mut reply = self.join_reply(&join.group, &id);
            if join.may_skip_assignment {
                reply.skip_assignment = led;
            } else {
                // An older client that saw itself as leader would assign anew: it is told of its former self.
                reply.leader = leader_before.unwrap_or_default().into();
                reply.members.clear();
            }
            let stored = record::group(&join.group, &self.groups[&join.group]);
            let then = Then::Replaced { group: join.group.clone(), before, fenced, reply, token };
            self.append(vec![stored], then);
            return;
        }
        fenced.into_iter().for_each(|(waiting, reply)| self.reply(waiting, reply));
        let group = self.groups.get_mut(&join.group).expect("looked at above");
        group.members.get_mut(&id).expect("just added").joining = Some(token);
        self.rebalance(&join.group, now);
    }

    pub(super) fn on_replaced(
        &mut self,
        group: String,
        before: Group,
        fenced: Vec<(Token, GroupReply)>,
        reply: JoinGroupResponse,
        token: Token,
        outcome: Result<(), ErrorCode>,
    ) {
        let reply = match outcome {
            Ok(()) => {
                fenced.into_iter().for_each(|(waiting, reply)| self.reply(waiting, reply));
                reply
            }
            Err(code) => {
                // Its predecessor is the member still, and timers find it: they look again when they fire.
                for member in before.members.values() {
                    self.set_timer(
                        member.expires_ms,
                        Timer::Session { group: group.clone(), member: member.id.clone() },
                    );
                }
                self.groups.insert(group, before);
                failure(&reply.member_id, code)
            }
        };
        self.reply(token, GroupReply::Join(reply));
    }

    /// The answer that a member of the present generation gets; the leader's lists the members.
    pub(super) fn join_reply(&self, group: &str, member: &str) -> JoinGroupResponse {
        let group = &self.groups[group];
        let leads = group.leader.as_deref() == Some(member);
        let members = group.order.iter().filter(|_| leads).filter_map(|id| group.members.get(id));
        JoinGroupResponse {
            generation_id: group.generation,
            protocol_type: group.protocol_type.as_deref().map(Into::into),
            protocol_name: group.protocol.as_deref().map(Into::into),
            leader: group.leader.as_deref().unwrap_or_default().into(),
            member_id: member.into(),
            members: members
                .map(|member| JoinGroupResponseMember {
                    member_id: member.id.as_str().into(),
                    group_instance_id: member.instance_id.as_deref().map(Into::into),
                    metadata: member.metadata(group.protocol.as_deref()),
                })
                .collect(),
            ..JoinGroupResponse::default()
        }
    }
}

/// Whether the caller is the member that it says it is.
pub(super) fn check_member(group: &Group, member: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
    if let Some(instance) = instance {
        match group.static_members.get(instance) {
            None => return Err(ErrorCode::UnknownMemberId),
            Some(held) if held != member => return Err(ErrorCode::FencedInstanceId),
            Some(_) => {}
        }
    }
    if group.members.contains_key(member) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
}
