//! DescribeGroups, ListGroups and DeleteGroups (keys 15, 16, 42). DescribeGroups v6 says when a group is not known (KIP-1043); ListGroups v4
//! filters by state (KIP-518), v5 by type (KIP-848).

use std::sync::Arc;

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

use super::gather::Gather;
use super::{Reply, RequestContext};

/// READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS as bits.
const GROUP_OPERATIONS: i32 = 3400;

pub fn describe(
    cx: &mut RequestContext<'_>,
    request: DescribeGroupsRequest,
) -> Reply<DescribeGroupsResponse> {
    let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { i32::MIN };
    let (version, slot) = (cx.version, cx.defer());
    let gather = Gather::new(request.groups.len(), move |groups| {
        slot.complete(&DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() });
    });
    for (at, id) in request.groups.into_iter().enumerate() {
        let base =
            DescribedGroup { group_id: id.clone(), authorized_operations: operations, ..Default::default() };
        let failed = |base: &DescribedGroup, code: ErrorCode| DescribedGroup {
            error_code: code.code(),
            authorized_operations: i32::MIN,
            ..base.clone()
        };
        match cx.node.coordinators.of(&id) {
            Ok(coordinator) => {
                let (gather, shown_as) = (Arc::clone(&gather), base.clone());
                coordinator.read(
                    move |machine| match machine.group(&id) {
                        Some(group) => shown(group, &shown_as),
                        None => dead(&shown_as, version),
                    },
                    move |seen| gather.set(at, seen.unwrap_or_else(|code| failed(&base, code))),
                );
            }
            Err(code) => gather.set(at, failed(&base, code)),
        }
    }
    Reply::Later
}

fn dead(base: &DescribedGroup, version: i16) -> DescribedGroup {
    let id = &base.group_id;
    DescribedGroup {
        error_code: if version >= 6 { ErrorCode::GroupIdNotFound.code() } else { 0 },
        error_message: (version >= 6).then(|| format!("Group {id} not found.").into()),
        group_state: ByteString::from_static("Dead"),
        ..base.clone()
    }
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
    let failed = |code: ErrorCode| ListGroupsResponse { error_code: code.code(), ..Default::default() };
    let coordinators = match cx.node.coordinators.all() {
        Ok(coordinators) => coordinators,
        Err(code) => return Reply::Now(failed(code)),
    };
    let slot = cx.defer();
    let gather = Gather::new(coordinators.len(), move |parts: Vec<Result<Vec<ListedGroup>, ErrorCode>>| {
        let mut groups = Vec::new();
        for part in parts {
            match part {
                Ok(part) => groups.extend(part),
                // Its groups are another node's now, which lists them.
                Err(ErrorCode::NotCoordinator) => {}
                Err(code) => return slot.complete(&failed(code)),
            }
        }
        slot.complete(&ListGroupsResponse { groups, ..ListGroupsResponse::default() });
    });
    let request = Arc::new(request);
    for (at, coordinator) in coordinators.into_iter().enumerate() {
        let (gather, request) = (Arc::clone(&gather), Arc::clone(&request));
        coordinator.read(
            move |machine| machine.list().filter_map(|(id, group)| listed(&request, id, group)).collect(),
            move |seen| gather.set(at, seen),
        );
    }
    Reply::Later
}

/// The group, if the request wants to hear of it.
fn listed(request: &ListGroupsRequest, id: &str, group: &Group) -> Option<ListedGroup> {
    let wants = |filter: &[ByteString], name: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
    };
    let wanted = wants(&request.states_filter, group.state.name()) && wants(&request.types_filter, "classic");
    wanted.then(|| ListedGroup {
        group_id: id.into(),
        protocol_type: group.protocol_type.as_deref().unwrap_or_default().into(),
        group_state: ByteString::from_static(group.state.name()),
        group_type: ByteString::from_static("classic"),
    })
}

pub fn delete(cx: &mut RequestContext<'_>, request: DeleteGroupsRequest) -> Reply<DeleteGroupsResponse> {
    let slot = cx.defer();
    let gather = Gather::new(request.groups_names.len(), move |results| {
        slot.complete(&DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() });
    });
    for (at, id) in request.groups_names.into_iter().enumerate() {
        let set = {
            let (gather, group_id) = (Arc::clone(&gather), id.clone());
            move |code: ErrorCode| gather.set(at, DeletableGroupResult { group_id, error_code: code.code() })
        };
        match cx.node.coordinators.of(&id) {
            Err(code) => set(code),
            Ok(coordinator) => coordinator.step(
                GroupReply::DeleteGroup(ErrorCode::None),
                move |reply| match reply {
                    GroupReply::DeleteGroup(code) => set(code),
                    other => panic!("DeleteGroups was answered with {other:?}"),
                },
                move |machine, token, _| machine.delete(token, &id),
            ),
        }
    }
    Reply::Later
}
