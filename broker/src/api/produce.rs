//! Produce (key 0), versions 3 to 13. v8 names the records at fault (KIP-467), v10 the current leader (KIP-951), v13 topic ids.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ottla_machine::controller::image::is_internal_name;
use ottla_machine::partition::turned_away::Addressed;
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::ProduceRequest;
use ottla_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use ottla_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, ProduceResponse,
    TopicProduceResponse,
};
use ottla_protocol::types::TopicId;

use super::{Entrance, Reply, ReplySlot, RequestContext};
use crate::node::Node;
use crate::partition::{AppendRequest, OnCommitted, Partition, Refused};

/// A response that waits for its last partition.
struct Pending {
    /// Partitions that are not committed yet, and one for the handler itself.
    open: AtomicUsize,
    inner: Mutex<(ProduceResponse, Option<ReplySlot<ProduceResponse>>)>,
    node: Arc<Node>,
    entrance: Entrance,
}

impl Pending {
    /// Closes one; the last one sends the response.
    fn close(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            let slot = self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.take();
            if let Some(slot) = slot {
                slot.complete(&self.take());
            }
        }
    }

    /// The response, which says of every partition that this node does not lead (any more) who does, and where (KIP-951).
    fn take(&self) -> ProduceResponse {
        let mut response = std::mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).0);
        let code = ErrorCode::NotLeaderOrFollower.code();
        let mut leaders = BTreeSet::new();
        let mut image = None;
        for topic in &mut response.responses {
            for answer in topic.partition_responses.iter_mut().filter(|answer| answer.error_code == code) {
                let image = image.get_or_insert_with(|| self.node.image.load_full());
                let known = match topic.topic_id.is_zero() {
                    true => image.topic_by_name(&topic.name),
                    false => image.topic(topic.topic_id),
                };
                let Some(state) = known.and_then(|known| known.partition(answer.index.into())) else {
                    continue;
                };
                answer.current_leader =
                    LeaderIdAndEpoch { leader_id: state.leader.0, leader_epoch: state.leader_epoch.0 };
                leaders.insert(state.leader);
            }
        }
        let brokers = leaders.iter().filter_map(|id| image.as_ref()?.broker(*id));
        response.node_endpoints = brokers
            .filter_map(|broker| {
                let (host, port) = self.entrance.address_of(&self.node, broker)?;
                let rack = broker.rack.as_deref().map(Into::into);
                Some(NodeEndpoint { node_id: broker.id.0, host, port, rack })
            })
            .collect();
        response
    }

    fn with(&self, topic: usize, partition: usize, change: impl FnOnce(&mut PartitionProduceResponse)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner.0.responses[topic].partition_responses[partition]);
    }
}

pub fn handle(cx: &mut RequestContext<'_>, request: ProduceRequest) -> Reply<ProduceResponse> {
    let image = cx.node.image.load_full();
    let by_id = cx.version >= 13;
    // The whole request shares these faults.
    let common = match request.acks {
        _ if request.transactional_id.is_some() => Some(ErrorCode::TransactionalIdAuthorizationFailed),
        -1..=1 => None,
        _ => Some(ErrorCode::InvalidRequiredAcks),
    };
    let responses = request
        .topic_data
        .iter()
        .map(|topic| TopicProduceResponse {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partition_responses: topic
                .partition_data
                .iter()
                .map(|partition| PartitionProduceResponse {
                    index: partition.index,
                    base_offset: -1,
                    log_append_time_ms: -1,
                    log_start_offset: -1,
                    ..PartitionProduceResponse::default()
                })
                .collect(),
        })
        .collect();
    let waits = request.acks == -1;
    let slot = waits.then(|| cx.defer());
    let pending = Arc::new(Pending {
        open: AtomicUsize::new(1),
        inner: Mutex::new((ProduceResponse { responses, ..ProduceResponse::default() }, slot)),
        node: Arc::clone(cx.node),
        entrance: cx.connection.entrance(),
    });
    for (t, topic) in request.topic_data.iter().enumerate() {
        let id =
            if by_id { Some(topic.topic_id) } else { image.topic_by_name(&topic.name).map(|topic| topic.id) };
        let known = id.and_then(|id| image.topic(id));
        for (p, data) in topic.partition_data.iter().enumerate() {
            let partition = match (common, known) {
                (Some(code), _) => Err(code),
                (None, None) if by_id => Err(ErrorCode::UnknownTopicId),
                (None, None) => Err(ErrorCode::UnknownTopicOrPartition),
                (None, Some(known)) if is_internal_name(&known.name) => Err(ErrorCode::InvalidTopicException),
                (None, Some(known)) => partition_of(cx, known.id, data.index),
            };
            let records = data.records.as_deref().unwrap_or_default();
            let on_committed: Option<OnCommitted> = waits.then(|| {
                let pending = Arc::clone(&pending);
                Box::new(move |result: Result<(), ErrorCode>| {
                    if let Err(code) = result {
                        pending.with(t, p, |answer| {
                            answer.error_code = code.code();
                            answer.base_offset = -1;
                        });
                    }
                    pending.close();
                }) as OnCommitted
            });
            if waits {
                pending.open.fetch_add(1, Ordering::AcqRel);
            }
            if let Err(code) = partition {
                turn_away(cx, topic, data, known.map(|known| known.id), code);
            }
            let result = partition.map_err(Refused::from).and_then(|partition| {
                if is_transactional(records) {
                    return Err(ErrorCode::TransactionalIdAuthorizationFailed.into());
                }
                let append = AppendRequest {
                    records,
                    acks_all: waits,
                    produce_version: cx.version,
                    now_ms: cx.now_ms,
                    tick_ms: cx.tick_ms,
                    deadline_ms: cx.tick_ms + u64::try_from(request.timeout_ms).unwrap_or(0),
                };
                partition.produce(&append, on_committed)
            });
            match result {
                Ok(appended) => pending.with(t, p, |answer| {
                    // A commit that failed meanwhile has said so.
                    if answer.error_code == 0 {
                        answer.base_offset = appended.base_offset.0;
                    }
                    answer.log_append_time_ms = appended.log_append_time;
                    answer.log_start_offset = appended.log_start.0;
                }),
                Err(refused) => {
                    pending.with(t, p, |answer| refuse(answer, &refused));
                    if waits {
                        pending.close();
                    }
                }
            }
        }
    }
    if waits {
        pending.close();
        return Reply::Later;
    }
    let response = pending.take();
    if request.acks != 0 {
        return Reply::Now(response);
    }
    let failed =
        response.responses.iter().flat_map(|topic| &topic.partition_responses).any(|p| p.error_code != 0);
    // Without answers, closing is the only way to tell; Kafka does the same.
    if failed { Reply::Close("a produce request with acks=0 failed") } else { Reply::None }
}

fn partition_of(cx: &RequestContext<'_>, topic: TopicId, index: i32) -> Result<Arc<Partition>, ErrorCode> {
    cx.node.partitions.get(topic, index).ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// Remembers what was refused because this node does not know the partition yet: it may in a moment.
fn turn_away(
    cx: &RequestContext<'_>,
    topic: &TopicProduceData,
    data: &PartitionProduceData,
    known: Option<TopicId>,
    code: ErrorCode,
) {
    if !matches!(code, ErrorCode::UnknownTopicId | ErrorCode::UnknownTopicOrPartition) {
        return;
    }
    let addressed = match known {
        Some(id) => Addressed::Id(id),
        None if cx.version >= 13 => Addressed::Id(topic.topic_id),
        None => Addressed::Name((&*topic.name).into()),
    };
    if let Ok(header) = BatchHeader::read(data.records.as_deref().unwrap_or_default()) {
        // By the time that another batch is refused for it, the partition is known.
        let code = ErrorCode::NotLeaderOrFollower;
        cx.node.partitions.host().refusals.note(addressed, data.index, &header, code, cx.tick_ms);
    }
}

fn is_transactional(records: &[u8]) -> bool {
    BatchHeader::read(records).is_ok_and(|header| header.is_transactional())
}

fn refuse(answer: &mut PartitionProduceResponse, refused: &Refused) {
    answer.error_code = refused.code.code();
    answer.error_message = refused.message.as_deref().map(Into::into);
    answer.record_errors = refused
        .records
        .iter()
        .map(|(index, reason)| BatchIndexAndErrorMessage {
            batch_index: *index,
            batch_index_error_message: reason.as_deref().map(Into::into),
        })
        .collect();
}
