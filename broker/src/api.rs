//! The APIs that this broker answers: one table line each, one file each under `api/`.
//!
//! A handler is a synchronous function on the worker that read the request:
//!
//! ```text
//! pub fn handle(cx: &mut RequestContext<'_>, request: XRequest) -> Reply<XResponse>
//! ```
//!
//! What is not in the table is not advertised and closes the connection. Versions come from `ottla_protocol::api`, the table of the
//! protocol; the two are checked against each other by a test.

mod context;
mod reply;

pub mod alter_replica_log_dirs;
pub mod api_versions;
pub mod cluster;
pub mod configs;
pub mod create_partitions;
pub mod create_topics;
mod decided;
pub mod delete_topics;
mod duplicates;
pub mod elect_leaders;
pub mod fetch;
pub mod find_coordinator;
mod gather;
pub mod group_membership;
pub mod group_offsets;
pub mod groups_admin;
pub mod init_producer_id;
pub mod internal_topics;
pub mod list_offsets;
pub mod logs;
pub mod metadata;
pub mod peers;
pub mod produce;
pub mod quorum;
pub mod reassignments;
pub mod replica_fetch;
pub mod unregister_broker;
pub mod update_features;

use std::sync::atomic::Ordering;

use ottla_protocol::api::ApiKey;
use ottla_protocol::wire::{DecodeError, Reader, Request};

pub use context::{ConnectionState, Entrance, RequestContext};
pub(crate) use reply::{Origin, Overdue};
pub use reply::{Output, Parked, Piece, Reply, ReplySlot, Resume, Wakeup};

/// A handler's reply once its response is bytes.
pub(crate) enum Answer {
    Now(Output),
    Later,
    None,
    Park(Box<dyn Parked>),
    Close(&'static str),
}

macro_rules! handlers {
    ($($key:ident => $handler:path,)*) => {
        /// Every API that has a handler, in the order of the table.
        pub const SERVED: &[ApiKey] = &[$(ApiKey::$key),*];

        /// Decodes the body and runs the handler. The caller has seen that the API is one of [`SERVED`].
        pub(crate) fn dispatch(cx: &mut RequestContext<'_>, body: &mut Reader) -> Result<Answer, DecodeError> {
            if cx.node.is_for_peers_only.load(Ordering::Relaxed) && !cx.api.api().peer {
                return Ok(Answer::Close("this node is no part of its cluster yet"));
            }
            match cx.api {
                $(ApiKey::$key => run(cx, body, $handler),)*
                #[allow(unreachable_patterns, reason = "once every key of the protocol's table has a handler")]
                _ => Ok(Answer::Close("the API has no handler")),
            }
        }
    };
}

handlers! {
    Produce => produce::handle,
    Fetch => fetch::handle,
    ListOffsets => list_offsets::handle,
    Metadata => metadata::handle,
    OffsetCommit => group_offsets::commit,
    OffsetFetch => group_offsets::fetch,
    FindCoordinator => find_coordinator::handle,
    JoinGroup => group_membership::join,
    Heartbeat => group_membership::heartbeat,
    LeaveGroup => group_membership::leave,
    SyncGroup => group_membership::sync,
    DescribeGroups => groups_admin::describe,
    ListGroups => groups_admin::list,
    ApiVersions => api_versions::handle,
    CreateTopics => create_topics::handle,
    DeleteTopics => delete_topics::handle,
    DeleteRecords => logs::delete_records,
    InitProducerId => init_producer_id::handle,
    OffsetForLeaderEpoch => logs::offset_for_leader_epoch,
    DescribeConfigs => configs::describe,
    AlterConfigs => configs::alter,
    AlterReplicaLogDirs => alter_replica_log_dirs::handle,
    DescribeLogDirs => logs::describe_log_dirs,
    CreatePartitions => create_partitions::handle,
    DeleteGroups => groups_admin::delete,
    ElectLeaders => elect_leaders::handle,
    IncrementalAlterConfigs => configs::alter_incrementally,
    AlterPartitionReassignments => reassignments::alter,
    ListPartitionReassignments => reassignments::list,
    OffsetDelete => group_offsets::delete,
    DescribeQuorum => quorum::describe,
    UpdateFeatures => update_features::handle,
    DescribeCluster => cluster::describe,
    DescribeProducers => logs::describe_producers,
    UnregisterBroker => unregister_broker::handle,
    ListConfigResources => configs::list,
    DescribeTopicPartitions => cluster::describe_topic_partitions,
    AddRaftVoter => quorum::add_voter,
    RemoveRaftVoter => quorum::remove_voter,
    PeerHello => peers::hello,
    Quorum => peers::quorum,
    FoundCluster => peers::found,
    JoinQuorum => peers::join,
    ControllerCommand => peers::command,
    BrokerBeat => peers::beat,
    ReplicaFetch => replica_fetch::fetch,
    ReplicaUpdate => replica_fetch::update,
    LeaderAsked => quorum::asked,
}

fn run<Q: Request>(
    cx: &mut RequestContext<'_>,
    body: &mut Reader,
    handler: fn(&mut RequestContext<'_>, Q) -> Reply<Q::Response>,
) -> Result<Answer, DecodeError> {
    // Bytes after the body are accepted, as Kafka accepts them.
    let request = Q::decode(body, cx.version)?;
    Ok(match handler(cx, request) {
        Reply::Now(response) => Answer::Now(Output::of(&response, cx.version)),
        Reply::Pieces(output) => Answer::Now(output),
        Reply::Later => {
            assert!(cx.deferred, "{:?} answers later without having taken a slot", cx.api);
            Answer::Later
        }
        Reply::None => Answer::None,
        Reply::Park(parked) => Answer::Park(parked),
        Reply::Close(why) => Answer::Close(why),
    })
}
