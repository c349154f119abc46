//! AlterReplicaLogDirs (key 34, KIP-113): moves replicas between a broker's log directories. There is one, so whatever is here is where
//! it is wanted, or wanted where there is nothing.

use std::path::Path;

use bytestring::ByteString;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::AlterReplicaLogDirsRequest;
use ottla_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};

use super::{Reply, RequestContext};

pub fn handle(
    cx: &mut RequestContext<'_>,
    request: AlterReplicaLogDirsRequest,
) -> Reply<AlterReplicaLogDirsResponse> {
    let image = cx.node.image.load();
    let own = absolute(cx.node.log_dir.path());
    let find = |dir: &str, topic: &str, index: i32| {
        if !Path::new(dir).is_absolute() || absolute(Path::new(dir)) != own {
            return ErrorCode::LogDirNotFound;
        }
        let known = image.topic_by_name(topic).and_then(|topic| topic.partition(index.into()));
        match known {
            None => ErrorCode::UnknownTopicOrPartition,
            Some(placed) if placed.replicas.contains(&cx.node.id) => ErrorCode::None,
            Some(_) => ErrorCode::ReplicaNotAvailable,
        }
    };
    let mut results: Vec<AlterReplicaLogDirTopicResult> = Vec::new();
    for dir in &request.dirs {
        for topic in &dir.topics {
            let partitions = topic.partitions.iter().map(|index| AlterReplicaLogDirPartitionResult {
                partition_index: *index,
                error_code: find(&dir.path, &topic.name, *index).code(),
            });
            match results.iter_mut().find(|result| result.topic_name == topic.name) {
                Some(result) => result.partitions.extend(partitions),
                None => results.push(AlterReplicaLogDirTopicResult {
                    topic_name: ByteString::clone(&topic.name),
                    partitions: partitions.collect(),
                }),
            }
        }
    }
    Reply::Now(AlterReplicaLogDirsResponse { results, ..AlterReplicaLogDirsResponse::default() })
}

fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
