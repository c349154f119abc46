//! A produce request that is encoded once and sent many times.

use bytes::Bytes;
use ottla_protocol::frame;
use ottla_protocol::messages::ProduceRequest;
use ottla_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use ottla_protocol::record::{BatchBuilder, BatchOptions};

use crate::connection::CLIENT_ID;

/// The newest version that names topics by name, so that nothing must be looked up first.
pub const PRODUCE_VERSION: i16 = 9;

/// How long the broker may wait for its replicas, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// What stands before what never changes: length, key, version, correlation id.
pub const HEAD_BYTES: usize = 12;

const ID_AT: usize = 8;

/// How records are cut into batches.
#[derive(Clone, Copy, Debug)]
pub struct BatchShape {
    /// Bytes of each record's value.
    pub value_bytes: usize,
    pub records: usize,
}

impl BatchShape {
    /// As many records of `value_bytes` as `batch_bytes` hold, one at least.
    #[must_use]
    pub fn filling(value_bytes: usize, batch_bytes: usize) -> Self {
        Self { value_bytes, records: (batch_bytes / value_bytes.max(1)).max(1) }
    }
}

#[derive(Clone, Debug)]
pub struct ProduceFrame {
    bytes: Bytes,
    records: usize,
}

impl ProduceFrame {
    /// A request for one batch to one partition. `acks` is -1 (all) or 1.
    #[must_use]
    pub fn encode(topic: &str, partition: i32, shape: BatchShape, acks: i16, timestamp_ms: i64) -> Self {
        let mut batch = BatchBuilder::new(BatchOptions::default());
        for number in 0..shape.records {
            batch.append(timestamp_ms, None, Some(&value(number, shape.value_bytes)));
        }
        let data = PartitionProduceData { index: partition, records: Some(Bytes::from(batch.build())) };
        let request = ProduceRequest {
            transactional_id: None,
            acks,
            timeout_ms: TIMEOUT_MS,
            topic_data: vec![TopicProduceData {
                name: topic.into(),
                partition_data: vec![data],
                ..TopicProduceData::default()
            }],
        };
        let bytes = frame::encode_request(&request, PRODUCE_VERSION, 0, Some(CLIENT_ID)).into();
        Self { bytes, records: shape.records }
    }

    /// The first bytes of the frame, for one sending.
    #[must_use]
    pub fn head(&self, correlation_id: i32) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&self.bytes[..HEAD_BYTES]);
        head[ID_AT..].copy_from_slice(&correlation_id.to_be_bytes());
        head
    }

    /// What follows the head, always the same.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.bytes[HEAD_BYTES..]
    }

    /// The records in it.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// The frame's length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a frame has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Bytes that differ from record to record: neither side compresses them, and a page of equal ones would be a special case.
fn value(number: usize, bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::try_from(number).unwrap_or_default();
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::batch::RecordBatch;
    use ottla_protocol::frame::{LENGTH_BYTES, RequestHeader};
    use ottla_protocol::wire::{Message as _, Reader};

    #[test]
    fn a_sending_differs_from_the_next_by_its_correlation_id_alone() {
        let shape = BatchShape::filling(1_024, 16_384);
        let frame = ProduceFrame::encode("t", 3, shape, -1, 1_000);
        let sent: Vec<u8> = [&frame.head(77)[..], frame.tail()].concat();
        assert_eq!(sent.len(), frame.len());
        let mut r = Reader::new(Bytes::from(sent).slice(LENGTH_BYTES..));
        assert_eq!(RequestHeader::decode(&mut r).expect("a header").correlation_id, 77);
        let request = ProduceRequest::decode(&mut r, PRODUCE_VERSION).expect("a request");
        let data = &request.topic_data[0].partition_data[0];
        let bytes = data.records.as_ref().expect("records");
        let (batch, rest) = RecordBatch::parse(bytes).expect("a batch");
        batch.verify_crc().expect("a whole batch");
        assert_eq!((data.index, batch.header().records_count, rest.len()), (3, 16, 0));
    }

    #[test]
    fn a_batch_holds_one_record_at_least() {
        assert_eq!(BatchShape::filling(1_024, 1).records, 1);
        assert_eq!(BatchShape::filling(0, 8).records, 8);
    }
}
