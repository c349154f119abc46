//! Record batches of magic 2 as a borrowed view: header fields, checksum, stamping in place.
//!
//! ```text
//! 0 baseOffset i64 | 8 batchLength i32 | 12 partitionLeaderEpoch i32 | 16 magic i8 | 17 crc u32 | 21 attributes i16
//! 23 lastOffsetDelta i32 | 27 baseTimestamp i64 | 35 maxTimestamp i64 | 43 producerId i64 | 51 producerEpoch i16
//! 53 baseSequence i32 | 57 recordsCount i32 | 61 records, compressed as the attributes say
//! ```
//!
//! The checksum (CRC-32C) covers what lies behind it, so that a broker stamps offset and epoch without touching it. Source: the record
//! batch section of Kafka's message format.

use std::borrow::Cow;

use crate::compression::{self, Compression};
use crate::error::ErrorCode;
use crate::record::Records;
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the part that `batch_length` counts.
pub const PREFIX_BYTES: usize = 12;
/// The only version of the format that this broker stores.
pub const MAGIC: i8 = 2;

const AT_EPOCH: usize = 12;
const AT_CRC: usize = 17;
const AT_ATTRIBUTES: usize = 21;
const AT_MAX_TIMESTAMP: usize = 35;

const COMPRESSION_BITS: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// Who set the timestamps of a batch (`message.timestamp.type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// What is wrong with a batch. [`BatchError::code`] is the one place that chooses the code on the wire.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    #[error("the batch ends after {have} bytes of {need}")]
    Truncated { have: usize, need: usize },
    #[error("batch length {0} is impossible")]
    BadLength(i32),
    #[error("message format (magic) {0} is not 2")]
    BadMagic(i8),
    #[error("checksum {stored:08x} does not match the content ({computed:08x})")]
    BadCrc { stored: u32, computed: u32 },
    #[error("{0} bytes follow the batch")]
    TrailingBytes(usize),
    #[error("a produce request carries exactly one batch per partition")]
    NotOneBatch,
    #[error("the batch of {size} bytes is larger than the {limit} that max.message.bytes allows")]
    TooLarge { size: usize, limit: usize },
    #[error("the header counts {count} records, but its last offset delta is {last_offset_delta}")]
    BadCount { count: i32, last_offset_delta: i32 },
    #[error("the base offset of a produced batch is 0, not {0}")]
    BadBaseOffset(i64),
    #[error("clients may not write control batches")]
    Control,
    #[error("clients may not set the delete horizon of a batch")]
    DeleteHorizon,
    #[error("clients may not set the timestamp type to LogAppendTime")]
    LogAppendTime,
    #[error("the batch of producer {producer_id} has no valid sequence ({sequence}) or epoch ({epoch})")]
    BadProducer { producer_id: i64, epoch: i16, sequence: i32 },
    #[error("compression type {0} is unknown")]
    UnknownCompression(i16),
    #[error("zstd needs produce version 7")]
    ZstdTooEarly,
    #[error("the records cannot be decompressed: {0}")]
    Undecodable(String),
    #[error("the records unpack to more than {0} bytes")]
    TooLargeUnpacked(usize),
    #[error("record {index}: {what}")]
    BadRecord { index: i32, what: &'static str },
    /// Well-formed records that the topic doesn't take; never empty.
    #[error("{} record(s) are not what the topic takes; {}", .0.len(), .0[0])]
    Unwanted(Vec<Unwanted>),
}

/// A well-formed record that the topic does not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unwanted {
    #[error("record {index} has no key, which a compacted topic needs")]
    NullKey { index: i32 },
    #[error(
        "the timestamp {timestamp} of record {index} is out of range: it should be within [{earliest}, {latest}]"
    )]
    BadTimestamp { index: i32, timestamp: i64, earliest: i64, latest: i64 },
}

impl Unwanted {
    /// Its place in the batch.
    #[must_use]
    pub fn index(&self) -> i32 {
        match self {
            Self::NullKey { index } | Self::BadTimestamp { index, .. } => *index,
        }
    }

    fn is_of_time(&self) -> bool {
        matches!(self, Self::BadTimestamp { .. })
    }
}

impl BatchError {
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. }
            | Self::BadLength(_)
            | Self::BadCrc { .. }
            | Self::TrailingBytes(_)
            | Self::Undecodable(_)
            | Self::UnknownCompression(_) => ErrorCode::CorruptMessage,
            // Kafka names the old formats as invalid and later ones as corrupt.
            Self::BadMagic(0 | 1) => ErrorCode::InvalidRecord,
            Self::BadMagic(_) => ErrorCode::CorruptMessage,
            Self::TooLarge { .. } | Self::TooLargeUnpacked(_) => ErrorCode::MessageTooLarge,
            Self::ZstdTooEarly => ErrorCode::UnsupportedCompressionType,
            Self::LogAppendTime => ErrorCode::InvalidTimestamp,
            // As in Kafka, times go before keys where a batch has both faults.
            Self::Unwanted(records) if records.iter().any(Unwanted::is_of_time) => {
                ErrorCode::InvalidTimestamp
            }
            Self::NotOneBatch
            | Self::BadBaseOffset(_)
            | Self::DeleteHorizon
            | Self::BadCount { .. }
            | Self::Control
            | Self::BadProducer { .. }
            | Self::BadRecord { .. }
            | Self::Unwanted(_) => ErrorCode::InvalidRecord,
        }
    }
}

/// The 61 bytes before the records, as numbers. `batch_length` was checked to hold at least a header; nothing else was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Bytes after this field.
    pub batch_length: i32,
    pub partition_leader_epoch: LeaderEpoch,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    pub records_count: i32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has this length")
}

impl BatchHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// Too few bytes, another magic, or a length that cannot hold a header.
    pub fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < AT_CRC {
            return Err(BatchError::Truncated { have: bytes.len(), need: HEADER_BYTES });
        }
        let magic = i8::from_be_bytes(array(bytes, 16));
        if magic != MAGIC {
            return Err(BatchError::BadMagic(magic));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Truncated { have: bytes.len(), need: HEADER_BYTES });
        }
        let batch_length = i32::from_be_bytes(array(bytes, 8));
        if usize::try_from(batch_length).map_or(true, |length| length < HEADER_BYTES - PREFIX_BYTES) {
            return Err(BatchError::BadLength(batch_length));
        }
        Ok(Self {
            base_offset: Offset(i64::from_be_bytes(array(bytes, 0))),
            batch_length,
            partition_leader_epoch: LeaderEpoch(i32::from_be_bytes(array(bytes, AT_EPOCH))),
            magic,
            crc: u32::from_be_bytes(array(bytes, AT_CRC)),
            attributes: i16::from_be_bytes(array(bytes, AT_ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
            base_timestamp: i64::from_be_bytes(array(bytes, 27)),
            max_timestamp: i64::from_be_bytes(array(bytes, AT_MAX_TIMESTAMP)),
            producer_id: ProducerId(i64::from_be_bytes(array(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(array(bytes, 51))),
            base_sequence: i32::from_be_bytes(array(bytes, 53)),
            records_count: i32::from_be_bytes(array(bytes, 57)),
        })
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        PREFIX_BYTES + usize::try_from(self.batch_length).expect("checked when it was read")
    }

    #[must_use]
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    /// # Errors
    /// Bits that name no codec.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let bits = self.attributes & COMPRESSION_BITS;
        Compression::from_bits(bits).ok_or(BatchError::UnknownCompression(bits))
    }

    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// When the cleaner may drop the tombstones of this batch (KIP-534), in milliseconds since 1970.
    #[must_use]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// The sequence of the last record; sequences wrap after 2^31 - 1.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }

    pub(crate) fn write(&self, into: &mut [u8]) {
        into[..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        into[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        into[12..16].copy_from_slice(&self.partition_leader_epoch.0.to_be_bytes());
        into[16..17].copy_from_slice(&self.magic.to_be_bytes());
        into[17..21].copy_from_slice(&self.crc.to_be_bytes());
        into[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        into[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        into[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        into[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        into[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        into[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        into[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        into[57..61].copy_from_slice(&self.records_count.to_be_bytes());
    }
}

/// The sequence `count` records after `sequence`: after 2^31 - 1 comes 0.
#[must_use]
pub fn add_sequence(sequence: i32, count: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(count);
    i32::try_from(if sum > i64::from(i32::MAX) { sum - i64::from(i32::MAX) - 1 } else { sum }).unwrap_or(-1)
}

pub(crate) fn attributes(
    compression: Compression,
    timestamps: TimestampType,
    transactional: bool,
    control: bool,
    delete_horizon: bool,
) -> i16 {
    compression.bits()
        | if timestamps == TimestampType::LogAppendTime { LOG_APPEND_TIME } else { 0 }
        | if transactional { TRANSACTIONAL } else { 0 }
        | if control { CONTROL } else { 0 }
        | if delete_horizon { DELETE_HORIZON } else { 0 }
}

/// One batch, header parsed, bytes borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RecordBatch<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> RecordBatch<'a> {
    /// Takes the first batch off `bytes` and returns what follows it. The checksum is not verified.
    ///
    /// # Errors
    /// As [`BatchHeader::read`], or fewer bytes than the header names.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), BatchError> {
        let header = BatchHeader::read(bytes)?;
        let need = header.size_bytes();
        if bytes.len() < need {
            return Err(BatchError::Truncated { have: bytes.len(), need });
        }
        let (bytes, rest) = bytes.split_at(need);
        Ok((Self { header, bytes }, rest))
    }

    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// # Errors
    /// The checksum does not match.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let computed = crc32c::crc32c(&self.bytes[AT_ATTRIBUTES..]);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(BatchError::BadCrc { stored: self.header.crc, computed })
        }
    }

    /// The records, compressed as they came.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The records, uncompressed; at most `limit` bytes.
    ///
    /// # Errors
    /// Undecodable, or larger than `limit`.
    pub fn uncompressed(&self, limit: usize) -> Result<Cow<'a, [u8]>, BatchError> {
        match self.header.compression()? {
            Compression::None => Ok(Cow::Borrowed(self.payload())),
            codec => compression::decompress(codec, self.payload(), limit).map(Cow::Owned),
        }
    }

    /// Iterates over records that [`Self::uncompressed`] gave.
    #[must_use]
    pub fn records<'p>(&self, uncompressed: &'p [u8]) -> Records<'p> {
        Records::new(&self.header, uncompressed)
    }
}

/// The batches in `bytes`, one after another; ends after the first error.
pub fn batches(bytes: &[u8]) -> impl Iterator<Item = Result<RecordBatch<'_>, BatchError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match RecordBatch::parse(rest) {
            Ok((batch, after)) => {
                rest = after;
                Some(Ok(batch))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

/// Puts the codec's bits in place of those of another.
pub(crate) fn with_compression(attributes: i16, codec: Compression) -> i16 {
    (attributes & !COMPRESSION_BITS) | codec.bits()
}

/// Writes offset and epoch into a batch, in place. Both lie outside the checksum.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[AT_EPOCH..AT_EPOCH + 4].copy_from_slice(&leader_epoch.0.to_be_bytes());
}

/// Writes the largest timestamp, and who set it, into a batch and renews the checksum.
pub fn set_max_timestamp(batch: &mut [u8], kind: TimestampType, timestamp_ms: i64) {
    let mut attributes = i16::from_be_bytes(array(batch, AT_ATTRIBUTES));
    match kind {
        TimestampType::CreateTime => attributes &= !LOG_APPEND_TIME,
        TimestampType::LogAppendTime => attributes |= LOG_APPEND_TIME,
    }
    batch[AT_ATTRIBUTES..AT_ATTRIBUTES + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[AT_MAX_TIMESTAMP..AT_MAX_TIMESTAMP + 8].copy_from_slice(&timestamp_ms.to_be_bytes());
    renew_crc(batch);
}

pub(crate) fn renew_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[AT_ATTRIBUTES..]);
    batch[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_be_bytes());
}
