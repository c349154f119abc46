//! The records inside a batch: read as borrowed slices, written by [`BatchBuilder`].
//!
//! A record is `length varint | attributes i8 | timestampDelta varlong | offsetDelta varint | key | value | headers`, where a byte string
//! stands behind a varint length (-1: null). All varints are zigzag.

use crate::batch::{
    BatchError, BatchHeader, HEADER_BYTES, MAGIC, PREFIX_BYTES, TimestampType, attributes, renew_crc,
};
use crate::compression::{Compression, compress};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// One record, borrowed from the uncompressed bytes of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset: Offset,
    /// Milliseconds since 1970: the producer's, or the batch's where the broker set it.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// In order; the same name may come more than once.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// Iterates over records; ends after the first malformed one, which is an error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: Cursor<'a>,
    base_offset: Offset,
    base_timestamp: i64,
    append_time: Option<i64>,
    index: i32,
    count: i32,
}

/// Reads varints and byte strings off a slice.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

type Malformed = &'static str;

/// The longest encodings of 32 and of 64 bits that clients read.
pub(crate) const VARINT_BYTES_MAX: usize = 5;
pub(crate) const VARLONG_BYTES_MAX: usize = 10;

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn varlong(&mut self) -> Result<i64, Malformed> {
        self.zigzag(VARLONG_BYTES_MAX)
    }

    /// A number of 32 bits in at most 5 bytes: consumers fail on longer ones, even where the value would fit.
    pub(crate) fn varint(&mut self) -> Result<i32, Malformed> {
        i32::try_from(self.zigzag(VARINT_BYTES_MAX)?).map_err(|_| "a number in it is out of range")
    }

    #[inline]
    fn zigzag(&mut self, bytes_max: usize) -> Result<i64, Malformed> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().take(bytes_max).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number in it does not end")
    }

    fn nullable(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.varint()? {
            -1 => Ok(None),
            len => self.take(usize::try_from(len).map_err(|_| "a length in it is negative")?).map(Some),
        }
    }
}

impl<'a> Records<'a> {
    pub(crate) fn new(header: &BatchHeader, uncompressed: &'a [u8]) -> Self {
        let append_time =
            (header.timestamp_type() == TimestampType::LogAppendTime).then_some(header.max_timestamp);
        Self {
            rest: Cursor(uncompressed),
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time,
            index: 0,
            count: header.records_count,
        }
    }

    fn read(&mut self) -> Result<Record<'a>, Malformed> {
        let length = usize::try_from(self.rest.varint()?).map_err(|_| "its length is negative")?;
        let mut body = Cursor(self.rest.take(length)?);
        body.take(1)?;
        let timestamp = self.base_timestamp.wrapping_add(body.varlong()?);
        let offset = Offset(self.base_offset.0.wrapping_add(i64::from(body.varint()?)));
        let key = body.nullable()?;
        let value = body.nullable()?;
        let count = usize::try_from(body.varint()?).map_err(|_| "its header count is negative")?;
        // A header takes two bytes at least: a count beyond that is a lie, and allocates nothing.
        if count > body.0.len() / 2 {
            return Err("it has fewer headers than it counts");
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let name = body.nullable()?.ok_or("a header has no name")?;
            headers.push((name, body.nullable()?));
        }
        if !body.0.is_empty() {
            return Err("bytes follow its headers");
        }
        Ok(Record { offset, timestamp: self.append_time.unwrap_or(timestamp), key, value, headers })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.count {
            return None;
        }
        let index = self.index;
        self.index += 1;
        Some(self.read().map_err(|what| {
            self.index = self.count;
            BatchError::BadRecord { index, what }
        }))
    }
}

pub(crate) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push((zigzag as u8 & 0x7f) | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, i64::try_from(bytes.len()).expect("memory is smaller than 2^63"));
            out.extend_from_slice(bytes);
        }
    }
}

/// What a batch is beside its records.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    pub base_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub compression: Compression,
    pub level: Option<i32>,
    pub timestamps: TimestampType,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    pub transactional: bool,
    pub control: bool,
    /// When the cleaner may drop the batch's tombstones (KIP-534).
    pub delete_horizon_ms: Option<i64>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            base_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch(0),
            compression: Compression::None,
            level: None,
            timestamps: TimestampType::CreateTime,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            transactional: false,
            control: false,
            delete_horizon_ms: None,
        }
    }
}

impl BatchOptions {
    /// The options of a batch that another one replaces: recompressed, or cleaned.
    ///
    /// # Errors
    /// The compression bits name no codec.
    pub fn of(header: &BatchHeader) -> Result<Self, BatchError> {
        Ok(Self {
            base_offset: header.base_offset,
            leader_epoch: header.partition_leader_epoch,
            compression: header.compression()?,
            level: None,
            timestamps: header.timestamp_type(),
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            transactional: header.is_transactional(),
            control: header.is_control(),
            delete_horizon_ms: header.delete_horizon_ms(),
        })
    }
}

/// Builds one batch: those that the broker writes itself, and those that it writes anew.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    payload: Vec<u8>,
    scratch: Vec<u8>,
    count: i32,
    next_offset: Offset,
    last_offset: Offset,
    base_timestamp: Option<i64>,
    max_timestamp: i64,
}

impl BatchBuilder {
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self {
            next_offset: options.base_offset,
            last_offset: Offset(options.base_offset.0 - 1),
            base_timestamp: options.delete_horizon_ms,
            options,
            payload: Vec::new(),
            scratch: Vec::new(),
            count: 0,
            max_timestamp: -1,
        }
    }

    /// Appends a record at the next offset.
    pub fn append(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.append_record(&Record { offset: self.next_offset, timestamp, key, value, headers: Vec::new() });
    }

    /// Appends a record at its own offset, which is not below the next one.
    pub fn append_record(&mut self, record: &Record<'_>) {
        assert!(record.offset >= self.next_offset, "offsets of a batch ascend");
        let base_timestamp = *self.base_timestamp.get_or_insert(record.timestamp);
        let body = &mut self.scratch;
        body.clear();
        body.push(0);
        put_varlong(body, record.timestamp.wrapping_sub(base_timestamp));
        put_varlong(body, record.offset.0 - self.options.base_offset.0);
        put_nullable(body, record.key);
        put_nullable(body, record.value);
        put_varlong(body, i64::try_from(record.headers.len()).expect("memory is smaller than 2^63"));
        for (name, value) in &record.headers {
            put_nullable(body, Some(name));
            put_nullable(body, *value);
        }
        put_varlong(&mut self.payload, i64::try_from(body.len()).expect("memory is smaller than 2^63"));
        self.payload.extend_from_slice(body);
        self.count += 1;
        self.last_offset = record.offset;
        self.next_offset = record.offset.plus(1);
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the records so far, uncompressed.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Lets the batch end at a later offset than its last record's: a cleaned batch keeps the range that it had.
    pub fn extend_to(&mut self, last_offset: Offset) {
        assert!(last_offset >= self.last_offset, "a batch does not end before its last record");
        self.last_offset = last_offset;
    }

    /// The batch's bytes.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        self.build_with_max_timestamp(None)
    }

    /// The batch's bytes with a largest timestamp other than its records' (log append time).
    ///
    /// # Panics
    /// If the batch would not fit the format: more than 2 GiB, or more than 2^31 offsets.
    #[must_use]
    pub fn build_with_max_timestamp(self, max_timestamp: Option<i64>) -> Vec<u8> {
        let options = &self.options;
        let payload = match options.compression {
            Compression::None => self.payload,
            codec => compress(codec, options.level, &self.payload),
        };
        let mut bytes = vec![0; HEADER_BYTES];
        let header = BatchHeader {
            base_offset: options.base_offset,
            batch_length: i32::try_from(HEADER_BYTES - PREFIX_BYTES + payload.len())
                .expect("a batch is smaller than 2 GiB"),
            partition_leader_epoch: options.leader_epoch,
            magic: MAGIC,
            crc: 0,
            attributes: attributes(
                options.compression,
                options.timestamps,
                options.transactional,
                options.control,
                options.delete_horizon_ms.is_some(),
            ),
            last_offset_delta: i32::try_from(self.last_offset.0 - options.base_offset.0)
                .expect("a batch spans fewer than 2^31 offsets"),
            base_timestamp: self.base_timestamp.unwrap_or(-1),
            max_timestamp: max_timestamp.unwrap_or(self.max_timestamp),
            producer_id: options.producer_id,
            producer_epoch: options.producer_epoch,
            base_sequence: options.base_sequence,
            records_count: self.count,
        };
        header.write(&mut bytes);
        bytes.extend_from_slice(&payload);
        renew_crc(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::RecordBatch;

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        option::of(vec(any::<u8>(), 0..50))
    }

    proptest! {
        #[test]
        fn what_was_built_is_read_back(
            records in vec((0i64..1 << 40, bytes(), bytes(), vec((vec(any::<u8>(), 0..5), bytes()), 0..3), 1i64..5), 1..20),
            codec in 0usize..5,
            base in 0i64..1 << 50,
        ) {
            let mut builder = BatchBuilder::new(BatchOptions {
                base_offset: Offset(base), compression: Compression::ALL[codec], ..BatchOptions::default()
            });
            let mut offset = base;
            let mut expected = Vec::new();
            for (timestamp, key, value, headers, gap) in &records {
                let headers = headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
                let record = Record { offset: Offset(offset), timestamp: *timestamp, key: key.as_deref(), value: value.as_deref(), headers };
                builder.append_record(&record);
                expected.push(record);
                offset += gap;
            }
            let bytes = builder.build();
            let (batch, rest) = RecordBatch::parse(&bytes).expect("whole");
            prop_assert!(rest.is_empty());
            batch.verify_crc().expect("checksum");
            let unpacked = batch.uncompressed(1 << 20).expect("unpacks");
            let read: Vec<_> = batch.records(&unpacked).map(|record| record.expect("well formed")).collect();
            prop_assert_eq!(read, expected);
            prop_assert_eq!(batch.header().max_timestamp, records.iter().map(|record| record.0).max().expect("some"));
        }

        #[test]
        fn any_bytes_are_records_or_an_error(payload in vec(any::<u8>(), 0..200), count in any::<i32>()) {
            let mut bytes = BatchBuilder::new(BatchOptions::default()).build();
            bytes.extend_from_slice(&payload);
            let mut header = BatchHeader::read(&bytes).expect("a header");
            header.records_count = count;
            prop_assert!(Records::new(&header, &payload).count() <= payload.len() + 1);
        }
    }
}
