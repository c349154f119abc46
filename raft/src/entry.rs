//! An entry as bytes: one batch of one record at the offset of its index, so that Kafka's log tools read the log.
//!
//! The record's key is the entry's log id as JSON; the value is a byte for the kind (0 blank, 1 normal, 2 membership) and the content.

use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use ottla_protocol::batch::{self, RecordBatch};
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{LeaderEpoch, Offset};
use ottla_storage::StorageError;

use crate::types::{Entry, LogId, Proposal};

/// What a proposal may have.
pub(crate) const PROPOSAL_BYTES_MAX: usize = 64 << 20;
/// No entry is larger, packed or not.
pub(crate) const ENTRY_BYTES_MAX: usize = PROPOSAL_BYTES_MAX + (64 << 10);

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

pub(crate) fn offset_of(index: u64) -> Result<Offset, StorageError> {
    i64::try_from(index).map(Offset).map_err(|_| StorageError::Malformed(format!("index {index}")))
}

/// The entry as it lies in the log and travels to other nodes, where nobody asks for its time.
pub(crate) fn encode(entry: &Entry, now_ms: i64) -> Result<Vec<u8>, StorageError> {
    let log_id = entry.log_id();
    let key = serde_json::to_vec(&log_id).expect("a log id is plain data");
    let mut value = Vec::new();
    match &entry.payload {
        EntryPayload::Blank => value.push(BLANK),
        EntryPayload::Normal(proposal) => {
            value.push(NORMAL);
            value.extend_from_slice(&proposal.0);
        }
        EntryPayload::Membership(membership) => {
            value.push(MEMBERSHIP);
            value.extend(serde_json::to_vec(membership).expect("a membership is plain data"));
        }
    }
    let term = i32::try_from(log_id.leader_id.term).map_err(|_| StorageError::Malformed("a term".into()))?;
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: offset_of(log_id.index)?,
        leader_epoch: LeaderEpoch(term),
        ..BatchOptions::default()
    });
    builder.append(now_ms, Some(&key), Some(&value));
    Ok(builder.build())
}

/// Every entry of bytes that hold nothing else.
pub(crate) fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Result<Entry, String>> {
    batch::batches(bytes).map(|batch| decode(&batch.map_err(|error| error.to_string())?))
}

fn decode(batch: &RecordBatch<'_>) -> Result<Entry, String> {
    batch.verify_crc().map_err(|error| error.to_string())?;
    let payload = batch.uncompressed(ENTRY_BYTES_MAX).map_err(|error| error.to_string())?;
    let record = batch.records(&payload).next().ok_or("a batch without a record")?;
    let record = record.map_err(|error| error.to_string())?;
    let (Some(key), Some([kind, content @ ..])) = (record.key, record.value) else {
        return Err("an entry without key or value".into());
    };
    let log_id: LogId = serde_json::from_slice(key).map_err(|error| error.to_string())?;
    let payload = match *kind {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Proposal(content.to_vec())),
        MEMBERSHIP => {
            EntryPayload::Membership(serde_json::from_slice(content).map_err(|error| error.to_string())?)
        }
        other => return Err(format!("an entry of the unknown kind {other}")),
    };
    if u64::try_from(record.offset.0) != Ok(log_id.index) {
        return Err(format!("entry {} lies at offset {}", log_id.index, record.offset));
    }
    Ok(Entry::new(log_id, payload))
}

/// Wall clock for the batches' timestamps; nothing is decided by it.
pub(crate) fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
