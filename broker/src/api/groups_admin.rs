//! DescribeGroups, ListGroups and DeleteGroups (keys 15, 16, 42). DescribeGroups v6 says when a group is not known (KIP-1043); ListGroups v4
//! filters by state (KIP-518), v5 by type (KIP-848).

use std::sync::{Arc, Mutex, PoisonError};

use bytestring::ByteString;
use ottla_machine::group::coordinator::{GroupCoordinator, GroupReply};
use ottla_machine::group::{Group, State};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::delete_groups_response::{DeletableGroupResult, DeleteGroupsResponse};
use ottla_protocol::messages::describe_groups_response::{
    DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use ottla_protocol::messages::list_groups_response::{ListGroupsResponse, ListedGroup};
use ottla_protocol::messages::{DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest};

use super::{Reply, ReplySlot, RequestContext};

/// READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS as bits.
const GROUP_OPERATIONS: i32 = 3400;

pub fn describe(
    cx: &mut RequestContext<'_>,
    request: DescribeGroupsRequest,
) -> Reply<DescribeGroupsResponse> {
    let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { i32::MIN };
    let groups = request.groups.iter().map(|id| describe_one(cx, id, operations)).collect();
    Reply::Now(DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() })
}

fn describe_one(cx: &RequestContext<'_>, id: &ByteString, operations: i32) -> DescribedGroup {
    let base = DescribedGroup {
        group_id: id.clone(),
        authorized_operations: operations,
        ..DescribedGroup::default()
    };
    let coordinator = match cx.node.coordinators.of(id) {
        Ok(coordinator) => coordinator,
        Err(code) => {
            return DescribedGroup { error_code: code.code(), authorized_operations: i32::MIN, ..base };
        }
    };
    let dead = || DescribedGroup {
        error_code: if cx.version >= 6 { ErrorCode::GroupIdNotFound.code() } else { 0 },
        error_message: (cx.version >= 6).then(|| format!("Group {id} not found.").into()),
        group_state: ByteString::from_static("Dead"),
        ..base.clone()
    };
    coordinator.read(|machine| machine.group(id).map(|group| shown(group, &base))).unwrap_or_else(dead)
}

fn shown(group: &Group, base: &DescribedGroup) -> DescribedGroup {
    let members = GroupCoordinator::members_shown(group).into_iter().map(|(member, metadata, assignment)| {
        DescribedGroupMember {
            member_id: member.id.as_str().into(),
            group_instance_id: member.instance_id.as_deref().map(Into::into),
            client_id: member.client_id.as_str().into(),
            client_host: member.client_host.as_str().into(),
            member_metadata: metadata,
            member_assignment: assignment,
        }
    });
    let protocol = if group.state == State::Stable { group.protocol.as_deref() } else { None };
    DescribedGroup {
        group_state: ByteString::from_static(group.state.name()),
        protocol_type: group.protocol_type.as_deref().unwrap_or_default().into(),
        protocol_data: protocol.unwrap_or_default().into(),
        members: members.collect(),
        ..base.clone()
    }
}

pub fn list(cx: &mut RequestContext<'_>, request: ListGroupsRequest) -> Reply<ListGroupsResponse> {
    let wants = |filter: &[ByteString], name: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
    };
    let mut groups = Vec::new();
    for coordinator in cx.node.coordinators.all() {
        coordinator.read(|machine| {
            for (id, group) in machine.list() {
                if wants(&request.states_filter, group.state.name())
                    && wants(&request.types_filter, "classic")
                {
                    groups.push(ListedGroup {
                        group_id: id.into(),
                        protocol_type: group.protocol_type.as_deref().unwrap_or_default().into(),
                        group_state: ByteString::from_static(group.state.name()),
                        group_type: ByteString::from_static("classic"),
                    });
                }
            }
        });
    }
    Reply::Now(ListGroupsResponse { groups, ..ListGroupsResponse::default() })
}

/// A response that waits for several coordinators.
struct Pending {
    open: usize,
    response: DeleteGroupsResponse,
    slot: Option<ReplySlot<DeleteGroupsResponse>>,
}

fn set(pending: &Mutex<Pending>, at: usize, code: ErrorCode) {
    let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
    pending.response.results[at].error_code = code.code();
    pending.open -= 1;
    if pending.open == 0
        && let Some(slot) = pending.slot.take()
    {
        slot.complete(&pending.response);
    }
}

pub fn delete(cx: &mut RequestContext<'_>, request: DeleteGroupsRequest) -> Reply<DeleteGroupsResponse> {
    let results = request
        .groups_names
        .iter()
        .map(|id| DeletableGroupResult { group_id: id.clone(), error_code: 0 })
        .collect();
    let response = DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() };
    if request.groups_names.is_empty() {
        return Reply::Now(response);
    }
    let slot = Some(cx.defer());
    let pending = Arc::new(Mutex::new(Pending { open: request.groups_names.len(), response, slot }));
    for (at, id) in request.groups_names.iter().enumerate() {
        let coordinator =
            if id.is_empty() { Err(ErrorCode::InvalidGroupId) } else { cx.node.coordinators.of(id) };
        match coordinator {
            Err(code) => set(&pending, at, code),
            Ok(coordinator) => {
                let (pending, id) = (Arc::clone(&pending), id.clone());
                coordinator.step(
                    move |reply| match reply {
                        GroupReply::DeleteGroup(code) => set(&pending, at, code),
                        other => panic!("DeleteGroups was answered with {other:?}"),
                    },
                    move |machine, token, _| machine.delete(token, &id),
                );
            }
        }
    }
    Reply::Later
}
