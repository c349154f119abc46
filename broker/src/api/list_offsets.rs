//! ListOffsets (key 2): offsets by time and by name. v4 leader epochs, v7 the largest timestamp (-3), v8 the local start (-4), v9 the
//! end of tiered storage (-5).

use std::collections::HashSet;
use std::sync::Arc;

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::ListOffsetsRequest;
use ottla_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use ottla_protocol::types::{LeaderEpoch, Offset};
use ottla_storage::{FoundTimestamp, LogView, StorageError};

use super::{Reply, RequestContext};
use crate::node::Node;
use crate::partition::{Partition, ReadFrom, storage_code};

/// Who reads to find faults asks any replica by this id.
const DEBUGGING: i32 = -2;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

pub fn handle(cx: &mut RequestContext<'_>, request: ListOffsetsRequest) -> Reply<ListOffsetsResponse> {
    let searches = request
        .topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .any(|partition| partition.timestamp >= 0 || partition.timestamp == MAX_TIMESTAMP);
    let version = cx.version;
    if !searches {
        return Reply::Now(respond(cx.node, &request, version));
    }
    // A search may wait for the disk.
    let slot = cx.defer();
    let node = Arc::clone(cx.node);
    cx.node.flusher.run_job(move || slot.complete(&respond(&node, &request, version)));
    Reply::Later
}

fn respond(node: &Node, request: &ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    let image = node.image.load();
    let (mut seen, mut twice) = (HashSet::new(), HashSet::new());
    for topic in &request.topics {
        for partition in &topic.partitions {
            if !seen.insert((&topic.name, partition.partition_index)) {
                twice.insert((&topic.name, partition.partition_index));
            }
        }
    }
    let from = if request.replica_id == DEBUGGING { ReadFrom::AnyReplica } else { ReadFrom::Leader };
    let topics = request
        .topics
        .iter()
        .map(|topic| ListOffsetsTopicResponse {
            name: topic.name.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|asked| {
                    let index = asked.partition_index;
                    let found = if twice.contains(&(&topic.name, index)) {
                        Err(ErrorCode::InvalidRequest)
                    } else {
                        image
                            .topic_by_name(&topic.name)
                            .and_then(|topic| node.partitions.get(topic.id, index))
                            .ok_or(ErrorCode::UnknownTopicOrPartition)
                            .and_then(|partition| {
                                find(
                                    &partition,
                                    LeaderEpoch(asked.current_leader_epoch),
                                    from,
                                    asked.timestamp,
                                    version,
                                )
                            })
                    };
                    let failed = |code: ErrorCode| ListOffsetsPartitionResponse {
                        partition_index: index,
                        error_code: code.code(),
                        timestamp: -1,
                        offset: -1,
                        leader_epoch: -1,
                    };
                    match found {
                        Ok((timestamp, offset, epoch)) => ListOffsetsPartitionResponse {
                            partition_index: index,
                            error_code: 0,
                            timestamp,
                            offset: offset.0,
                            leader_epoch: epoch.0,
                        },
                        // The code is as young as version 5 (KIP-207).
                        Err(ErrorCode::OffsetNotAvailable) if version < 5 => {
                            failed(ErrorCode::LeaderNotAvailable)
                        }
                        Err(code) => failed(code),
                    }
                })
                .collect(),
        })
        .collect();
    ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
}

fn find(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    from: ReadFrom,
    timestamp: i64,
    version: i16,
) -> Result<(i64, Offset, LeaderEpoch), ErrorCode> {
    let nothing = (-1, Offset::NONE, LeaderEpoch::NONE);
    match timestamp {
        LATEST => {
            let bounds = partition.bounds(epoch, from)?;
            Ok((-1, bounds.high_watermark, bounds.leader_epoch))
        }
        EARLIEST => {
            let bounds = partition.bounds(epoch, from)?;
            Ok((-1, bounds.log_start, partition.epoch_at(bounds.log_start)))
        }
        EARLIEST_LOCAL if version >= 8 => {
            let bounds = partition.bounds(epoch, from)?;
            Ok((-1, bounds.log_start, partition.epoch_at(bounds.log_start)))
        }
        // Nothing is tiered.
        LATEST_TIERED if version >= 9 => partition.bounds(epoch, from).map(|_| nothing),
        MAX_TIMESTAMP if version >= 7 => search(partition, epoch, from, LogView::max_timestamp),
        0.. => search(partition, epoch, from, |view| view.find_by_timestamp(timestamp)),
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

/// Searches what is committed.
fn search(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    from: ReadFrom,
    look: impl FnOnce(&LogView) -> Result<Option<FoundTimestamp>, StorageError>,
) -> Result<(i64, Offset, LeaderEpoch), ErrorCode> {
    let (view, bounds) = partition.view(epoch, from)?;
    match look(&view.until(bounds.high_watermark)) {
        Ok(Some(found)) if found.offset < bounds.high_watermark => {
            Ok((found.timestamp_ms, found.offset, found.leader_epoch))
        }
        Ok(_) => Ok((-1, Offset::NONE, LeaderEpoch::NONE)),
        Err(error) => {
            tracing::error!("a search by time in {}: {error}", partition.dir_name);
            Err(storage_code(&error))
        }
    }
}
