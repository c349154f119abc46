//! FetchResponse in all versions, as small encoded pieces and the slices of the log between them: records are never copied.
//!
//! v5 log start; v7 sessions (KIP-227); v11 preferred replica (KIP-392); v12 flexible, diverging epoch and current leader as tagged
//! fields (KIP-595, KIP-951); v13 topic ids (KIP-516); v16 node endpoints.

use bytes::Bytes;

use crate::messages::fetch_response::{FetchResponse, PartitionData};
use crate::wire::Writer;

/// A part of the response, in order.
#[derive(Debug)]
pub enum FetchPiece<S> {
    Encoded(Bytes),
    Records(S),
}

/// Writes `response`, whose partitions carry no records, with `records` in their places: for each partition, in order, the slices and
/// their length in all.
///
/// # Panics
/// If there are fewer entries in `records` than partitions.
pub fn write<S>(
    response: &FetchResponse,
    version: i16,
    records: impl IntoIterator<Item = (Vec<S>, usize)>,
) -> Vec<FetchPiece<S>> {
    let flexible = version >= 12;
    let mut records = records.into_iter();
    let mut pieces = Vec::new();
    let mut w = Writer::with_capacity(256);
    if version >= 1 {
        w.i32(response.throttle_time_ms);
    }
    if version >= 7 {
        w.i16(response.error_code);
        w.i32(response.session_id);
    }
    w.array_len(response.responses.len(), flexible);
    for topic in &response.responses {
        if version >= 13 {
            w.uuid(topic.topic_id);
        } else {
            w.string(&topic.topic, flexible);
        }
        w.array_len(topic.partitions.len(), flexible);
        for partition in &topic.partitions {
            let (slices, bytes) = records.next().expect("as many entries as partitions");
            write_partition(&mut w, partition, version, bytes);
            if bytes > 0 {
                let encoded = std::mem::replace(&mut w, Writer::with_capacity(128));
                pieces.push(FetchPiece::Encoded(encoded.into_bytes().into()));
                pieces.extend(slices.into_iter().map(FetchPiece::Records));
            }
            if flexible {
                write_partition_tags(&mut w, partition, version);
            }
        }
        if flexible {
            w.varint(0);
        }
    }
    if flexible {
        write_endpoints(&mut w, response, version);
    }
    pieces.push(FetchPiece::Encoded(w.into_bytes().into()));
    pieces
}

fn write_partition(w: &mut Writer, partition: &PartitionData, version: i16, bytes: usize) {
    let flexible = version >= 12;
    w.i32(partition.partition_index);
    w.i16(partition.error_code);
    w.i64(partition.high_watermark);
    w.i64(partition.last_stable_offset);
    if version >= 5 {
        w.i64(partition.log_start_offset);
    }
    match &partition.aborted_transactions {
        None => w.null_array(flexible),
        Some(aborted) => {
            w.array_len(aborted.len(), flexible);
            for transaction in aborted {
                w.i64(transaction.producer_id);
                w.i64(transaction.first_offset);
                if flexible {
                    w.varint(0);
                }
            }
        }
    }
    if version >= 11 {
        w.i32(partition.preferred_read_replica);
    }
    w.bytes_len(bytes, flexible);
}

fn write_partition_tags(w: &mut Writer, partition: &PartitionData, version: i16) {
    let default = PartitionData::default();
    let diverging = partition.diverging_epoch != default.diverging_epoch;
    let leader = partition.current_leader != default.current_leader;
    w.varint(u32::from(diverging) + u32::from(leader));
    if diverging {
        let start = w.begin_tag(0);
        partition.diverging_epoch.write(w, version);
        w.end_tag(start);
    }
    if leader {
        let start = w.begin_tag(1);
        partition.current_leader.write(w, version);
        w.end_tag(start);
    }
}

fn write_endpoints(w: &mut Writer, response: &FetchResponse, version: i16) {
    if version < 16 || response.node_endpoints.is_empty() {
        w.varint(0);
        return;
    }
    w.varint(1);
    let start = w.begin_tag(0);
    w.array_len(response.node_endpoints.len(), true);
    for endpoint in &response.node_endpoints {
        endpoint.write(w, version);
    }
    w.end_tag(start);
}

#[cfg(test)]
mod tests {
    use bytestring::ByteString;

    use super::*;
    use crate::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
    };
    use crate::types::Uuid;
    use crate::wire::Message as _;

    #[test]
    fn the_pieces_are_what_the_general_encoder_writes() {
        let partition = |index: i32, records: &'static [u8]| PartitionData {
            partition_index: index,
            high_watermark: 9,
            last_stable_offset: 8,
            log_start_offset: 3,
            aborted_transactions: (index == 1)
                .then(|| vec![AbortedTransaction { producer_id: 4, first_offset: 5 }]),
            diverging_epoch: if index == 2 {
                EpochEndOffset { epoch: 1, end_offset: 7 }
            } else {
                EpochEndOffset::default()
            },
            current_leader: if index > 0 {
                LeaderIdAndEpoch { leader_id: 1, leader_epoch: 6 }
            } else {
                LeaderIdAndEpoch::default()
            },
            records: Some(Bytes::from_static(records)),
            ..PartitionData::default()
        };
        for version in 4..=18 {
            let topic = |name: &'static str, partitions| FetchableTopicResponse {
                topic: if version < 13 { ByteString::from_static(name) } else { ByteString::default() },
                topic_id: if version < 13 { Uuid::ZERO } else { Uuid([3; 16]) },
                partitions,
            };
            let response = FetchResponse {
                session_id: if version < 7 { 0 } else { 77 },
                responses: vec![
                    topic(
                        "a",
                        vec![partition(0, b""), partition(1, b"some records"), partition(2, &[7; 300])],
                    ),
                    topic("b", vec![]),
                ],
                node_endpoints: if version < 16 {
                    vec![]
                } else {
                    vec![NodeEndpoint { node_id: 1, host: ByteString::from_static("h"), port: 2, rack: None }]
                },
                ..FetchResponse::default()
            };
            let records: Vec<_> = response
                .responses
                .iter()
                .flat_map(|topic| &topic.partitions)
                .map(|partition| {
                    let bytes = partition.records.clone().expect("some");
                    let len = bytes.len();
                    (vec![bytes], len)
                })
                .collect();
            let mut written = Vec::new();
            for piece in write(&response, version, records) {
                match piece {
                    FetchPiece::Encoded(bytes) | FetchPiece::Records(bytes) => {
                        written.extend_from_slice(&bytes)
                    }
                }
            }
            let mut whole = Writer::new();
            response.encode(&mut whole, version);
            assert_eq!(written, whole.into_bytes(), "version {version}");
        }
    }
}
