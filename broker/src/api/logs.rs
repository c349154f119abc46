//! What concerns the logs themselves: DeleteRecords, OffsetForLeaderEpoch, DescribeProducers, DescribeLogDirs (keys 21, 23, 61, 35).

use std::sync::Arc;

use bytestring::ByteString;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use ottla_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use ottla_protocol::messages::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use ottla_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use ottla_protocol::messages::{
    DeleteRecordsRequest, DescribeLogDirsRequest, DescribeProducersRequest, OffsetForLeaderEpochRequest,
};
use ottla_protocol::types::{LeaderEpoch, Offset};

use super::{Reply, RequestContext};
use crate::node::Node;
use crate::partition::Partition;

fn partition(node: &Node, topic: &str, index: i32) -> Result<Arc<Partition>, ErrorCode> {
    let image = node.image.load();
    let known = image.topic_by_name(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    node.partitions.get(known.id, index).ok_or(ErrorCode::UnknownTopicOrPartition)
}

pub fn delete_records(
    cx: &mut RequestContext<'_>,
    request: DeleteRecordsRequest,
) -> Reply<DeleteRecordsResponse> {
    // The new start is answered once it survives a power cut, which waits for the disk.
    let slot = cx.defer();
    let node = Arc::clone(cx.node);
    cx.node.flusher.run_job(move || {
        let mut removals = Vec::new();
        let mut topics: Vec<_> = request
            .topics
            .iter()
            .map(|topic| DeleteRecordsTopicResult {
                name: topic.name.clone(),
                partitions: topic
                    .partitions
                    .iter()
                    .map(|asked| {
                        let trimmed = partition(&node, &topic.name, asked.partition_index)
                            .and_then(|partition| partition.delete_records(Offset(asked.offset)));
                        let (low_watermark, code) = match trimmed {
                            Ok((start, removal)) => {
                                removals.extend(removal);
                                (start.0, ErrorCode::None)
                            }
                            Err(code) => (-1, code),
                        };
                        DeleteRecordsPartitionResult {
                            partition_index: asked.partition_index,
                            low_watermark,
                            error_code: code.code(),
                        }
                    })
                    .collect(),
            })
            .collect();
        if let Err(error) = node.log_dir.journal().sync() {
            tracing::error!("the new log starts are not durable: {error}");
            for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                partition.error_code = ErrorCode::KafkaStorageError.code();
            }
        }
        slot.complete(&DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() });
        for removal in removals {
            if let Err(error) = removal.run() {
                tracing::error!("deleted segments stay: {error}");
            }
        }
    });
    Reply::Later
}

pub fn offset_for_leader_epoch(
    cx: &mut RequestContext<'_>,
    request: OffsetForLeaderEpochRequest,
) -> Reply<OffsetForLeaderEpochResponse> {
    let topics = request
        .topics
        .iter()
        .map(|topic| OffsetForLeaderTopicResult {
            topic: topic.topic.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|asked| {
                    let found = partition(cx.node, &topic.topic, asked.partition).and_then(|partition| {
                        partition.end_of_epoch(
                            LeaderEpoch(asked.current_leader_epoch),
                            LeaderEpoch(asked.leader_epoch),
                        )
                    });
                    let (code, epoch, end) = match found {
                        Ok((epoch, end)) => (ErrorCode::None, epoch, end),
                        Err(code) => (code, LeaderEpoch::NONE, Offset::NONE),
                    };
                    EpochEndOffset {
                        error_code: code.code(),
                        partition: asked.partition,
                        leader_epoch: epoch.0,
                        end_offset: end.0,
                    }
                })
                .collect(),
        })
        .collect();
    Reply::Now(OffsetForLeaderEpochResponse { topics, ..OffsetForLeaderEpochResponse::default() })
}

pub fn describe_producers(
    cx: &mut RequestContext<'_>,
    request: DescribeProducersRequest,
) -> Reply<DescribeProducersResponse> {
    let topics = request
        .topics
        .iter()
        .map(|topic| TopicResponse {
            name: topic.name.clone(),
            partitions: topic
                .partition_indexes
                .iter()
                .map(|index| {
                    let found =
                        partition(cx.node, &topic.name, *index).and_then(|partition| partition.producers());
                    match found {
                        Ok(producers) => PartitionResponse {
                            partition_index: *index,
                            active_producers: producers
                                .iter()
                                .map(|(id, producer)| ProducerState {
                                    producer_id: id,
                                    producer_epoch: i32::from(producer.epoch),
                                    last_sequence: producer.last_sequence(),
                                    last_timestamp: producer.last_timestamp,
                                    coordinator_epoch: -1,
                                    current_txn_start_offset: -1,
                                })
                                .collect(),
                            ..PartitionResponse::default()
                        },
                        Err(code) => PartitionResponse {
                            partition_index: *index,
                            error_code: code.code(),
                            error_message: Some(code.meaning().into()),
                            active_producers: Vec::new(),
                        },
                    }
                })
                .collect(),
        })
        .collect();
    Reply::Now(DescribeProducersResponse { topics, ..DescribeProducersResponse::default() })
}

pub fn describe_log_dirs(
    cx: &mut RequestContext<'_>,
    request: DescribeLogDirsRequest,
) -> Reply<DescribeLogDirsResponse> {
    // Sizes may need logs opened.
    let slot = cx.defer();
    let node = Arc::clone(cx.node);
    cx.node.flusher.run_job(move || {
        let mut partitions = node.partitions.all();
        partitions.sort_by(|a, b| (&a.name, a.index).cmp(&(&b.name, b.index)));
        let is_asked = |partition: &Partition| match &request.topics {
            None => true,
            Some(topics) => topics
                .iter()
                .any(|topic| *topic.topic == *partition.name && topic.partitions.contains(&partition.index)),
        };
        let wanted = |partition: &Partition| is_asked(partition) && partition.is_held();
        let mut topics: Vec<DescribeLogDirsTopic> = Vec::new();
        for partition in partitions.iter().filter(|partition| wanted(partition)) {
            let line = DescribeLogDirsPartition {
                partition_index: partition.index,
                partition_size: i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX),
                offset_lag: 0,
                is_future_key: false,
            };
            match topics.last_mut() {
                Some(last) if *last.name == *partition.name => last.partitions.push(line),
                _ => topics.push(DescribeLogDirsTopic {
                    name: ByteString::from(&*partition.name),
                    partitions: vec![line],
                }),
            }
        }
        let space = node.log_dir.disk().space(node.log_dir.path()).ok();
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let path =
            std::path::absolute(node.log_dir.path()).unwrap_or_else(|_| node.log_dir.path().to_path_buf());
        let result = DescribeLogDirsResult {
            log_dir: path.display().to_string().into(),
            topics,
            total_bytes: space.as_ref().map_or(-1, |space| bytes(space.total)),
            usable_bytes: space.as_ref().map_or(-1, |space| bytes(space.usable)),
            ..DescribeLogDirsResult::default()
        };
        slot.complete(&DescribeLogDirsResponse {
            results: vec![result],
            ..DescribeLogDirsResponse::default()
        });
    });
    Reply::Later
}
