//! A produce request that is encoded once and sent many times.

use bytes::Bytes;
use ottla_protocol::batch::HEADER_BYTES;
use ottla_protocol::frame;
use ottla_protocol::messages::ProduceRequest;
use ottla_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

use crate::connection::CLIENT_ID;
use crate::payload::Batch;

/// The newest version that names topics by name, so that nothing must be looked up first.
pub const PRODUCE_VERSION: i16 = 9;

/// How long the broker may wait for its replicas, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// In a frame: length, key and version stand before the correlation id.
const ID_AT: usize = 8;
/// What follows the batch: partition, topic and request end with the number of their tagged fields.
const END: [u8; 3] = [0; 3];

// In a batch.
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const PRODUCER_AT: usize = 43;

/// Who sends a batch, and which of its batches this is (idempotent producers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequenced {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub sequence: i32,
}

/// A request for one batch to one partition. Requests of other partitions share its records.
#[derive(Clone, Debug)]
pub struct ProduceFrame {
    /// Up to the batch's header.
    prefix: Vec<u8>,
    /// The records, and what ends the request.
    tail: Bytes,
    records: usize,
}

/// Batches as they end a request.
#[must_use]
pub fn tails(batches: &[Batch]) -> Vec<Bytes> {
    batches.iter().map(|batch| [batch.payload(), &END].concat().into()).collect()
}

impl ProduceFrame {
    /// `tail` is the batch's, of [`tails`]. `acks` is -1 (all) or 1.
    #[must_use]
    pub fn encode(topic: &str, partition: i32, batch: &Batch, tail: &Bytes, acks: i16) -> Self {
        let data = PartitionProduceData { index: partition, records: Some(batch.bytes().clone()) };
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
        let mut prefix = frame::encode_request(&request, PRODUCE_VERSION, 0, Some(CLIENT_ID));
        assert!(prefix.ends_with(tail), "a request ends with its records");
        prefix.truncate(prefix.len() - tail.len());
        prefix.shrink_to_fit();
        Self { prefix, tail: tail.clone(), records: batch.records }
    }

    /// The same for one batch alone.
    #[must_use]
    pub fn of_one(topic: &str, partition: i32, batch: &Batch, acks: i16) -> Self {
        let tail = tails(std::slice::from_ref(batch)).remove(0);
        Self::encode(topic, partition, batch, &tail, acks)
    }

    /// What differs from one sending to the next: all that stands before the records.
    #[must_use]
    pub fn prefix(&self, correlation_id: i32, sequenced: Option<Sequenced>) -> Vec<u8> {
        let mut prefix = self.prefix.clone();
        prefix[ID_AT..ID_AT + 4].copy_from_slice(&correlation_id.to_be_bytes());
        if let Some(by) = sequenced {
            let at = prefix.len() - HEADER_BYTES;
            let header = &mut prefix[at..];
            header[PRODUCER_AT..PRODUCER_AT + 8].copy_from_slice(&by.producer_id.to_be_bytes());
            header[PRODUCER_AT + 8..PRODUCER_AT + 10].copy_from_slice(&by.producer_epoch.to_be_bytes());
            header[PRODUCER_AT + 10..PRODUCER_AT + 14].copy_from_slice(&by.sequence.to_be_bytes());
            let records = &self.tail[..self.tail.len() - END.len()];
            let crc = crc32c::crc32c_append(crc32c::crc32c(&header[ATTRIBUTES_AT..]), records);
            header[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        }
        prefix
    }

    /// What follows the prefix, always the same.
    #[must_use]
    pub fn tail(&self) -> &Bytes {
        &self.tail
    }

    /// The records in it.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// The whole frame for one sending.
    #[must_use]
    pub fn whole(&self, correlation_id: i32) -> Vec<u8> {
        let mut whole = self.prefix(correlation_id, None);
        whole.extend_from_slice(&self.tail);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{BatchShape, Content};
    use ottla_protocol::batch::RecordBatch;
    use ottla_protocol::frame::{LENGTH_BYTES, RequestHeader};
    use ottla_protocol::wire::{Message as _, Reader};

    fn frame() -> ProduceFrame {
        let content = Content::plain(BatchShape::filling(1_024, 16_384), 1_000);
        ProduceFrame::of_one("t", 3, &content.batches()[0], -1)
    }

    fn request_of(sent: Vec<u8>) -> (i32, ProduceRequest) {
        let length = i32::from_be_bytes(sent[..4].try_into().expect("four bytes"));
        assert_eq!(usize::try_from(length).expect("a length"), sent.len() - LENGTH_BYTES);
        let mut r = Reader::new(Bytes::from(sent).slice(LENGTH_BYTES..));
        let id = RequestHeader::decode(&mut r).expect("a header").correlation_id;
        (id, ProduceRequest::decode(&mut r, PRODUCE_VERSION).expect("a request"))
    }

    #[test]
    fn a_sending_differs_from_the_next_by_its_correlation_id_alone() {
        let (id, request) = request_of(frame().whole(77));
        let data = &request.topic_data[0].partition_data[0];
        let bytes = data.records.as_ref().expect("records");
        let (batch, rest) = RecordBatch::parse(bytes).expect("a batch");
        batch.verify_crc().expect("a whole batch");
        assert_eq!((id, data.index, batch.header().records_count, rest.len()), (77, 3, 16, 0));
    }

    #[test]
    fn a_sequenced_sending_is_a_whole_batch_of_its_producer() {
        let frame = frame();
        let by = Sequenced { producer_id: 4_000, producer_epoch: 2, sequence: 160 };
        let (_, request) = request_of([&frame.prefix(1, Some(by))[..], frame.tail()].concat());
        let bytes = request.topic_data[0].partition_data[0].records.as_ref().expect("records");
        let (batch, _) = RecordBatch::parse(bytes).expect("a batch");
        batch.verify_crc().expect("a whole batch");
        let header = batch.header();
        assert_eq!((header.producer_id.0, header.producer_epoch.0, header.base_sequence), (4_000, 2, 160));
    }
}
