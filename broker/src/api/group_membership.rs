//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup (keys 11, 14, 12, 13): handed to the group's coordinator, which answers.
//!
//! JoinGroup v4 two-step member ids (KIP-394), v5 static members (KIP-345), v9 skipped assignment (KIP-814). LeaveGroup v3 several members.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use ottla_machine::group::coordinator::GroupReply;
use ottla_machine::group::join::Join;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::leave_group_request::MemberIdentity;
use ottla_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use ottla_protocol::types::Uuid;

use super::{Reply, RequestContext};
use crate::coordinator::Coordinator;

/// The group's coordinator, if the group's id is one.
fn coordinator(cx: &RequestContext<'_>, group: &str) -> Result<Arc<Coordinator>, ErrorCode> {
    if group.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    cx.node.coordinators.of(group)
}

/// The text in its hyphenated form, as Kafka's member ids have it.
fn hyphenated(bytes: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(Uuid::from_random(bytes).0).to_string()
}

pub fn join(cx: &mut RequestContext<'_>, request: JoinGroupRequest) -> Reply<JoinGroupResponse> {
    let failed = |code: ErrorCode| {
        Reply::Now(JoinGroupResponse {
            error_code: code.code(),
            generation_id: -1,
            protocol_name: Some(ByteString::default()),
            member_id: request.member_id.clone(),
            ..JoinGroupResponse::default()
        })
    };
    let coordinator = match coordinator(cx, &request.group_id) {
        Ok(coordinator) => coordinator,
        Err(code) => return failed(code),
    };
    // Everything that outlives the request is copied out of its frame.
    let join = Join {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_deref().map(str::to_owned),
        client_id: cx.client_id().unwrap_or_default().to_owned(),
        client_host: cx.client_host(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: if cx.version == 0 {
            request.session_timeout_ms
        } else {
            request.rebalance_timeout_ms
        },
        protocol_type: request.protocol_type.to_string(),
        protocols: request
            .protocols
            .iter()
            .map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
        requires_known_id: cx.version >= 4,
        may_skip_assignment: cx.version >= 9,
        fresh: hyphenated(cx.node.entropy.next_bytes()),
    };
    let slot = cx.defer();
    let refusal = JoinGroupResponse { member_id: request.member_id.clone(), ..JoinGroupResponse::default() };
    coordinator.step(
        GroupReply::Join(refusal),
        move |reply| match reply {
            GroupReply::Join(mut response) => {
                if slot.version() < 7 && response.protocol_name.is_none() {
                    response.protocol_name = Some(ByteString::default());
                }
                slot.complete(&response);
            }
            other => panic!("JoinGroup was answered with {other:?}"),
        },
        move |machine, token, now| machine.join(token, join, now),
    );
    Reply::Later
}

pub fn sync(cx: &mut RequestContext<'_>, request: SyncGroupRequest) -> Reply<SyncGroupResponse> {
    let failed = |code: ErrorCode| {
        Reply::Now(SyncGroupResponse { error_code: code.code(), ..SyncGroupResponse::default() })
    };
    // From version 5 on both must be named (KIP-559).
    if cx.version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return failed(ErrorCode::InconsistentGroupProtocol);
    }
    let coordinator = match coordinator(cx, &request.group_id) {
        Ok(coordinator) => coordinator,
        Err(code) => return failed(code),
    };
    let slot = cx.defer();
    coordinator.step(
        GroupReply::Sync(SyncGroupResponse::default()),
        move |reply| match reply {
            GroupReply::Sync(response) => slot.complete(&response),
            other => panic!("SyncGroup was answered with {other:?}"),
        },
        move |machine, token, now| machine.sync(token, &request, now),
    );
    Reply::Later
}

pub fn heartbeat(cx: &mut RequestContext<'_>, request: HeartbeatRequest) -> Reply<HeartbeatResponse> {
    let coordinator = match coordinator(cx, &request.group_id) {
        Ok(coordinator) => coordinator,
        // A coordinator that loads does not yet know whom to expel: the member lives (as in Kafka).
        Err(ErrorCode::CoordinatorLoadInProgress) => return Reply::Now(HeartbeatResponse::default()),
        Err(code) => {
            return Reply::Now(HeartbeatResponse { error_code: code.code(), ..HeartbeatResponse::default() });
        }
    };
    let slot = cx.defer();
    coordinator.step(
        GroupReply::Heartbeat(HeartbeatResponse::default()),
        move |reply| match reply {
            GroupReply::Heartbeat(response) => slot.complete(&response),
            other => panic!("Heartbeat was answered with {other:?}"),
        },
        move |machine, token, now| machine.heartbeat(token, &request, now),
    );
    Reply::Later
}

pub fn leave(cx: &mut RequestContext<'_>, request: LeaveGroupRequest) -> Reply<LeaveGroupResponse> {
    let coordinator = match coordinator(cx, &request.group_id) {
        Ok(coordinator) => coordinator,
        Err(code) => {
            return Reply::Now(LeaveGroupResponse {
                error_code: code.code(),
                ..LeaveGroupResponse::default()
            });
        }
    };
    let single = cx.version < 3;
    let members = if single {
        vec![MemberIdentity { member_id: request.member_id.clone(), ..MemberIdentity::default() }]
    } else {
        request.members
    };
    let slot = cx.defer();
    coordinator.step(
        GroupReply::Leave(LeaveGroupResponse::default()),
        move |reply| match reply {
            GroupReply::Leave(response) => slot.complete(&response),
            other => panic!("LeaveGroup was answered with {other:?}"),
        },
        move |machine, token, now| machine.leave(token, &request.group_id, &members, single, now),
    );
    Reply::Later
}
