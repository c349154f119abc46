//! A fetch request that is encoded once, and what it brings, read where it lies.

use ottla_protocol::batch::BatchHeader;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::FetchRequest;
use ottla_protocol::messages::fetch_request::{FetchPartition, FetchTopic};

use crate::connection::CLIENT_ID;

/// The newest version whose fields have fixed places: topics by name, no tagged fields.
const FETCH_VERSION: i16 = 11;
const ID_AT: usize = 8;
/// partition, leader epoch, offset, log start, bytes.
const PARTITION_BYTES: usize = 4 + 4 + 8 + 8 + 4;
const OFFSET_AT: usize = 8;
/// An empty list of forgotten topics and an empty rack end the request.
const END_BYTES: usize = 4 + 2;

/// How much is asked for, and how long a broker may wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Appetite {
    pub max_bytes: i32,
    pub max_wait_ms: i32,
}

#[derive(Clone, Debug)]
pub struct FetchFrame {
    bytes: Vec<u8>,
    partitions: usize,
}

impl FetchFrame {
    /// Asks one leader for some partitions of a topic.
    #[must_use]
    pub fn encode(topic: &str, partitions: &[i32], appetite: Appetite) -> Self {
        let of = |&partition| FetchPartition {
            partition,
            current_leader_epoch: -1,
            partition_max_bytes: appetite.max_bytes,
            ..FetchPartition::default()
        };
        let request = FetchRequest {
            max_wait_ms: appetite.max_wait_ms,
            min_bytes: 1,
            max_bytes: appetite.max_bytes,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: topic.into(),
                partitions: partitions.iter().map(of).collect(),
                ..FetchTopic::default()
            }],
            ..FetchRequest::default()
        };
        let bytes = frame::encode_request(&request, FETCH_VERSION, 0, Some(CLIENT_ID));
        Self { bytes, partitions: partitions.len() }
    }

    /// Says from where on a partition is read: the `nth` of those that were named.
    pub fn set_offset(&mut self, nth: usize, offset: i64) {
        let from_end = END_BYTES + PARTITION_BYTES * (self.partitions - nth);
        let at = self.bytes.len() - from_end + OFFSET_AT;
        self.bytes[at..at + 8].copy_from_slice(&offset.to_be_bytes());
    }

    /// The frame for one sending.
    #[must_use]
    pub fn whole(&self, correlation_id: i32) -> Vec<u8> {
        let mut whole = self.bytes.clone();
        whole[ID_AT..ID_AT + 4].copy_from_slice(&correlation_id.to_be_bytes());
        whole
    }
}

/// A batch that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    pub partition: i32,
    pub base_offset: i64,
    pub next_offset: i64,
    pub records: u64,
    pub bytes: u64,
}

/// Reads an answer: its correlation id, and the first error in it. `on_batch` is told of every whole batch; a batch that was cut
/// off at the limit of bytes is not one. `None`: this is no answer to such a request.
pub fn read_answer(frame: &[u8], mut on_batch: impl FnMut(Came)) -> Option<(i32, Option<ErrorCode>)> {
    let mut at = Cursor { rest: frame };
    let id = at.i32()?;
    at.skip(4)?;
    let mut error = error_of(at.i16()?);
    at.skip(4)?;
    for _ in 0..at.i32()? {
        let name = usize::try_from(at.i16()?).ok()?;
        at.skip(name)?;
        for _ in 0..at.i32()? {
            let partition = at.i32()?;
            error = error.or(error_of(at.i16()?));
            at.skip(8 * 3)?;
            let aborted = usize::try_from(at.i32()?.max(0)).ok()?;
            at.skip(aborted.checked_mul(16)?)?;
            at.skip(4)?;
            let bytes = usize::try_from(at.i32()?.max(0)).ok()?;
            let mut records = at.take(bytes)?;
            while let Ok(header) = BatchHeader::read(records) {
                let size = header.size_bytes();
                let Some(rest) = records.get(size..) else { break };
                on_batch(Came {
                    partition,
                    base_offset: header.base_offset.0,
                    next_offset: header.next_offset().0,
                    records: u64::try_from(header.records_count).unwrap_or(0),
                    bytes: size as u64,
                });
                records = rest;
            }
        }
    }
    Some((id, error))
}

fn error_of(code: i16) -> Option<ErrorCode> {
    match code {
        0 => None,
        code => Some(ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError)),
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.take(bytes).map(drop)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{BatchShape, Content};
    use bytes::Bytes;
    use ottla_protocol::frame::{LENGTH_BYTES, RequestHeader};
    use ottla_protocol::messages::FetchResponse;
    use ottla_protocol::messages::fetch_response::{
        AbortedTransaction, FetchableTopicResponse, PartitionData,
    };
    use ottla_protocol::wire::{Message as _, Reader, Writer};

    #[test]
    fn offsets_are_set_in_their_places() {
        let mut frame = FetchFrame::encode("topic", &[4, 7], Appetite { max_bytes: 99, max_wait_ms: 5 });
        frame.set_offset(0, 11);
        frame.set_offset(1, 1 << 40);
        let mut r = Reader::new(Bytes::from(frame.whole(6)).slice(LENGTH_BYTES..));
        assert_eq!(RequestHeader::decode(&mut r).expect("a header").correlation_id, 6);
        let request = FetchRequest::decode(&mut r, FETCH_VERSION).expect("a request");
        let asked: Vec<_> = request.topics[0]
            .partitions
            .iter()
            .map(|of| (of.partition, of.fetch_offset, of.log_start_offset, of.partition_max_bytes))
            .collect();
        assert_eq!(asked, [(4, 11, -1, 99), (7, 1 << 40, -1, 99)]);
    }

    #[test]
    fn whole_batches_are_told_and_errors_named() {
        let content = Content::plain(BatchShape { value_bytes: 10, records: 3 }, 0);
        let batch = content.batches()[0].bytes().to_vec();
        let cut = [&batch[..], &batch[..40]].concat();
        let partition = |partition_index, error_code, records: Vec<u8>| PartitionData {
            partition_index,
            error_code,
            aborted_transactions: Some(vec![AbortedTransaction::default()]),
            records: Some(records.into()),
            ..PartitionData::default()
        };
        let response = FetchResponse {
            responses: vec![FetchableTopicResponse {
                topic: "t".into(),
                partitions: vec![
                    partition(2, 0, cut),
                    partition(3, ErrorCode::NotLeaderOrFollower.code(), Vec::new()),
                ],
                ..FetchableTopicResponse::default()
            }],
            ..FetchResponse::default()
        };
        let mut w = Writer::new();
        frame::encode_response(&mut w, &response, FETCH_VERSION, 9);
        let bytes = w.into_bytes();
        let mut came = Vec::new();
        let read = read_answer(&bytes[LENGTH_BYTES..], |batch| came.push(batch));
        assert_eq!(read, Some((9, Some(ErrorCode::NotLeaderOrFollower))));
        let size = batch.len() as u64;
        assert_eq!(came, [Came { partition: 2, base_offset: 0, next_offset: 3, records: 3, bytes: size }]);
        assert_eq!(read_answer(&bytes[LENGTH_BYTES..30], |_| ()), None);
    }
}
