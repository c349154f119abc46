//! What a broker checks of a batch before it stores it: Kafka's `LogValidator`, plus a walk over the framing of every record, compressed
//! ones through a small window. One malformed batch with a good checksum would stop every consumer behind it.

use std::io::{BufRead, BufReader, Read};

use crate::batch::{
    BatchError, BatchHeader, HEADER_BYTES, PREFIX_BYTES, RecordBatch, TimestampType, Unwanted, renew_crc,
    with_compression,
};
use crate::compression::{self, Compression, compress};
use crate::record::{Cursor, VARINT_BYTES_MAX, VARLONG_BYTES_MAX};
use crate::types::Offset;

/// What one topic asks of a produced batch.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRules {
    /// `max.message.bytes`.
    pub bytes_max: usize,
    /// Bytes that a compressed batch may unpack to.
    pub unpacked_bytes_max: usize,
    /// `cleanup.policy` has `compact`: every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type`; bounds apply to what producers set.
    pub timestamps: TimestampType,
    /// `message.timestamp.before.max.ms` and `.after.max.ms`.
    pub before_max_ms: i64,
    pub after_max_ms: i64,
    /// The wall clock, milliseconds since 1970.
    pub now_ms: i64,
    /// The version of the Produce request.
    pub produce_version: i16,
}

/// What a valid batch is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFacts {
    pub header: BatchHeader,
    pub compression: Compression,
    /// The largest timestamp of its records, whatever the header says.
    pub max_timestamp: i64,
}

/// Judges the records of one partition of a Produce request.
///
/// # Errors
/// What is wrong, with the record at fault where there is one.
pub fn validate_produced(bytes: &[u8], rules: &ProduceRules) -> Result<BatchFacts, BatchError> {
    if bytes.is_empty() {
        return Err(BatchError::NotOneBatch);
    }
    let header = BatchHeader::read(bytes)?;
    let size = header.size_bytes();
    if size > rules.bytes_max && size <= bytes.len() {
        return Err(BatchError::TooLarge { size, limit: rules.bytes_max });
    }
    let (batch, rest) = RecordBatch::parse(bytes)?;
    if !rest.is_empty() {
        return Err(match RecordBatch::parse(rest) {
            Ok(_) => BatchError::NotOneBatch,
            Err(_) => BatchError::TrailingBytes(rest.len()),
        });
    }
    batch.verify_crc()?;
    let codec = header.compression()?;
    if codec == Compression::Zstd && rules.produce_version < 7 {
        return Err(BatchError::ZstdTooEarly);
    }
    if header.is_control() {
        return Err(BatchError::Control);
    }
    // It lies outside the checksum, so a client may send any: what builds on it must not meet one near the end of `i64`.
    if header.base_offset != Offset::ZERO {
        return Err(BatchError::BadBaseOffset(header.base_offset.0));
    }
    // The cleaner would take the base timestamp for the time at which tombstones may go.
    if header.delete_horizon_ms().is_some() {
        return Err(BatchError::DeleteHorizon);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime
        && rules.timestamps == TimestampType::LogAppendTime
    {
        return Err(BatchError::LogAppendTime);
    }
    let (count, last_offset_delta) = (header.records_count, header.last_offset_delta);
    if count <= 0 || last_offset_delta != count - 1 {
        return Err(BatchError::BadCount { count, last_offset_delta });
    }
    check_producer(&header)?;
    let walk = Walk { header: &header, rules, named_max: size };
    let max_timestamp = match codec {
        Compression::None => walk.all(&mut Cursor(batch.payload()))?,
        codec => {
            let limit = rules.unpacked_bytes_max;
            walk.all(&mut Window { inner: compression::window(codec, batch.payload(), limit)?, limit })?
        }
    };
    Ok(BatchFacts { header, compression: codec, max_timestamp })
}

fn check_producer(header: &BatchHeader) -> Result<(), BatchError> {
    let (producer_id, epoch, sequence) =
        (header.producer_id.0, header.producer_epoch.0, header.base_sequence);
    let fits = if producer_id == -1 {
        !header.is_transactional()
    } else {
        producer_id >= 0 && epoch >= 0 && sequence >= 0
    };
    if fits { Ok(()) } else { Err(BatchError::BadProducer { producer_id, epoch, sequence }) }
}

/// Where the walk reads from. `Err` says what is wrong with the record, or with the stream under it.
trait Source {
    fn varlong(&mut self) -> Result<i64, Fault>;
    fn varint(&mut self) -> Result<i64, Fault>;
    fn skip(&mut self, count: u64) -> Result<(), Fault>;
    fn at_end(&mut self) -> Result<bool, Fault>;
    /// Bytes consumed so far, to compare two positions.
    fn left(&self) -> u64;
}

enum Fault {
    Record(&'static str),
    Stream(BatchError),
}

impl From<&'static str> for Fault {
    fn from(what: &'static str) -> Self {
        Self::Record(what)
    }
}

impl Source for Cursor<'_> {
    #[inline]
    fn varlong(&mut self) -> Result<i64, Fault> {
        Ok(Cursor::varlong(self)?)
    }

    #[inline]
    fn varint(&mut self) -> Result<i64, Fault> {
        Ok(i64::from(Cursor::varint(self)?))
    }

    #[inline]
    fn skip(&mut self, count: u64) -> Result<(), Fault> {
        self.take(usize::try_from(count).map_err(|_| "it ends too early")?)?;
        Ok(())
    }

    fn at_end(&mut self) -> Result<bool, Fault> {
        Ok(self.0.is_empty())
    }

    #[inline]
    fn left(&self) -> u64 {
        self.0.len() as u64
    }
}

struct Window<'a> {
    inner: BufReader<Box<dyn Read + 'a>>,
    limit: usize,
}

/// Counts downwards from a fixed number, as a slice's length does.
struct Counted<'w, 'a> {
    window: &'w mut Window<'a>,
    left: u64,
}

impl Counted<'_, '_> {
    fn fill(&mut self) -> Result<&[u8], Fault> {
        let limit = self.window.limit;
        self.window.inner.fill_buf().map_err(|error| Fault::Stream(compression::error_of(&error, limit)))
    }

    fn consume(&mut self, count: usize) {
        self.window.inner.consume(count);
        self.left -= count as u64;
    }

    fn zigzag(&mut self, bytes_max: usize) -> Result<i64, Fault> {
        let mut value = 0u64;
        for at in 0..bytes_max {
            let byte = *self.fill()?.first().ok_or("it ends too early")?;
            self.consume(1);
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number in it does not end".into())
    }
}

impl Source for Counted<'_, '_> {
    fn varlong(&mut self) -> Result<i64, Fault> {
        self.zigzag(VARLONG_BYTES_MAX)
    }

    fn varint(&mut self) -> Result<i64, Fault> {
        let value = self.zigzag(VARINT_BYTES_MAX)?;
        i32::try_from(value).map_err(|_| "a number in it is out of range")?;
        Ok(value)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), Fault> {
        while count > 0 {
            let have = self.fill()?.len();
            if have == 0 {
                return Err("it ends too early".into());
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(have);
            self.consume(step);
            count -= step as u64;
        }
        Ok(())
    }

    fn at_end(&mut self) -> Result<bool, Fault> {
        Ok(self.fill()?.is_empty())
    }

    fn left(&self) -> u64 {
        self.left
    }
}

struct Walk<'a> {
    header: &'a BatchHeader,
    rules: &'a ProduceRules,
    /// So many unwanted records are named at most: well packed, a few bytes hold millions.
    named_max: usize,
}

impl Walk<'_> {
    fn all(&self, source: &mut impl Walkable) -> Result<i64, BatchError> {
        source.walk(self)
    }

    fn run<S: Source>(&self, source: &mut S) -> Result<i64, BatchError> {
        let mut max_timestamp = -1;
        let mut unwanted = Vec::new();
        for index in 0..self.header.records_count {
            let judged = self.record(source, index).map_err(|fault| match fault {
                Fault::Record(what) => BatchError::BadRecord { index, what },
                Fault::Stream(error) => error,
            })?;
            match judged {
                Ok(timestamp) => max_timestamp = timestamp.max(max_timestamp),
                Err(record) if unwanted.len() < self.named_max => unwanted.push(record),
                Err(_) => {}
            }
        }
        match source.at_end() {
            Ok(true) if unwanted.is_empty() => Ok(max_timestamp),
            Ok(true) => Err(BatchError::Unwanted(unwanted)),
            Ok(false) => Err(BatchError::BadRecord {
                index: self.header.records_count,
                what: "bytes follow the last record",
            }),
            Err(Fault::Stream(error)) => Err(error),
            Err(Fault::Record(what)) => Err(BatchError::BadRecord { index: self.header.records_count, what }),
        }
    }

    /// Walks one record and returns its timestamp, if the topic takes it.
    #[inline]
    fn record<S: Source>(&self, source: &mut S, index: i32) -> Result<Result<i64, Unwanted>, Fault> {
        let length = u64::try_from(source.varint()?).map_err(|_| "its length is negative")?;
        let end = source.left().checked_sub(length).ok_or("it ends too early")?;
        source.skip(1)?;
        let delta = source.varlong()?;
        let offset_delta = source.varint()?;
        if offset_delta != i64::from(index) {
            return Err("its offset delta is not its place in the batch".into());
        }
        let key_len = source.varint()?;
        skip_nullable(source, key_len)?;
        let value_len = source.varint()?;
        skip_nullable(source, value_len)?;
        let headers = source.varint()?;
        if headers < 0 {
            return Err("its header count is negative".into());
        }
        for _ in 0..headers {
            let name_len = source.varint()?;
            if name_len < 0 {
                return Err("a header has no name".into());
            }
            skip_nullable(source, name_len)?;
            let value_len = source.varint()?;
            skip_nullable(source, value_len)?;
            if source.left() < end {
                return Err("it has fewer headers than it counts".into());
            }
        }
        if source.left() != end {
            return Err("its length does not fit its content".into());
        }
        if key_len == -1 && self.rules.compacted {
            return Ok(Err(Unwanted::NullKey { index }));
        }
        Ok(self.check_timestamp(index, delta))
    }

    fn check_timestamp(&self, index: i32, delta: i64) -> Result<i64, Unwanted> {
        let rules = self.rules;
        let (timestamp, overflows) = match self.header.base_timestamp.checked_add(delta) {
            Some(timestamp) => (timestamp, false),
            None => (self.header.base_timestamp.saturating_add(delta), true),
        };
        if !overflows && (rules.timestamps == TimestampType::LogAppendTime || timestamp == -1) {
            return Ok(timestamp);
        }
        let earliest = rules.now_ms.saturating_sub(rules.before_max_ms);
        let latest = rules.now_ms.saturating_add(rules.after_max_ms);
        if overflows || timestamp < earliest || timestamp > latest {
            return Err(Unwanted::BadTimestamp { index, timestamp, earliest, latest });
        }
        Ok(timestamp)
    }
}

fn skip_nullable<S: Source>(source: &mut S, len: i64) -> Result<(), Fault> {
    match len {
        -1 => Ok(()),
        len => source.skip(u64::try_from(len).map_err(|_| "a length in it is negative")?),
    }
}

/// Both kinds of source, each walked by code of its own: the plain one is the hot path.
trait Walkable {
    fn walk(&mut self, walk: &Walk<'_>) -> Result<i64, BatchError>;
}

impl Walkable for Cursor<'_> {
    fn walk(&mut self, walk: &Walk<'_>) -> Result<i64, BatchError> {
        walk.run(self)
    }
}

impl Walkable for Window<'_> {
    fn walk(&mut self, walk: &Walk<'_>) -> Result<i64, BatchError> {
        walk.run(&mut Counted { window: self, left: u64::MAX })
    }
}

/// Packs the records of a valid batch with another codec: `compression.type` of the topic is not the producer's. All but codec, length
/// and checksum stays.
///
/// # Errors
/// Undecodable records, or more bytes than `max.message.bytes` allows: what unpacks well is not thereby small.
pub fn recompress(
    bytes: &[u8],
    codec: Compression,
    level: Option<i32>,
    rules: &ProduceRules,
) -> Result<Vec<u8>, BatchError> {
    let (batch, _) = RecordBatch::parse(bytes)?;
    // Uncompressed, what does not fit is given up before it is unpacked.
    let limit = match codec {
        Compression::None => rules.unpacked_bytes_max.min(rules.bytes_max),
        _ => rules.unpacked_bytes_max,
    };
    let packed = compress(codec, level, &batch.uncompressed(limit)?);
    let size = HEADER_BYTES + packed.len();
    let too_large = BatchError::TooLarge { size, limit: rules.bytes_max };
    if size > rules.bytes_max {
        return Err(too_large);
    }
    let header = BatchHeader {
        batch_length: i32::try_from(size - PREFIX_BYTES).map_err(|_| too_large)?,
        attributes: with_compression(batch.header().attributes, codec),
        ..*batch.header()
    };
    let mut out = vec![0; HEADER_BYTES];
    header.write(&mut out);
    out.extend_from_slice(&packed);
    renew_crc(&mut out);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, BatchOptions};
    use crate::types::{ProducerEpoch, ProducerId};

    const NOW: i64 = 1_700_000_000_000;

    fn rules() -> ProduceRules {
        ProduceRules {
            bytes_max: 1 << 20,
            unpacked_bytes_max: 16 << 20,
            compacted: false,
            timestamps: TimestampType::CreateTime,
            before_max_ms: i64::MAX,
            after_max_ms: 3_600_000,
            now_ms: NOW,
            produce_version: 9,
        }
    }

    fn batch(codec: Compression, key: Option<&[u8]>) -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
        for i in 0..100 {
            builder.append(NOW + i, key, Some(b"a value of some length, again and again"));
        }
        builder.build()
    }

    fn changed(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
        bytes[at..at + with.len()].copy_from_slice(with);
        renew_crc(&mut bytes);
        bytes
    }

    #[test]
    fn every_codec_is_accepted_and_its_records_counted() {
        for codec in Compression::ALL {
            let facts = validate_produced(&batch(codec, None), &rules()).expect("valid");
            assert_eq!((facts.compression, facts.max_timestamp), (codec, NOW + 99));
        }
    }

    #[test]
    fn each_fault_has_its_own_code() {
        let good = batch(Compression::None, None);
        let mut flipped = good.clone();
        flipped[100] ^= 1;
        let mut two = good.clone();
        two.extend_from_slice(&good);
        let mut trailing = good.clone();
        trailing.push(7);
        let control = BatchBuilder::new(BatchOptions { control: true, ..BatchOptions::default() });
        let producer = BatchOptions {
            producer_id: ProducerId(5),
            producer_epoch: ProducerEpoch(0),
            ..BatchOptions::default()
        };
        let mut no_sequence = BatchBuilder::new(producer);
        no_sequence.append(NOW, None, None);
        let cases: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
            ("no batch", Vec::new(), ErrorCode::InvalidRecord),
            ("cut", good[..80].to_vec(), ErrorCode::CorruptMessage),
            (
                "magic 0",
                {
                    let mut b = good.clone();
                    b[16] = 0;
                    b
                },
                ErrorCode::InvalidRecord,
            ),
            (
                "magic 3",
                {
                    let mut b = good.clone();
                    b[16] = 3;
                    b
                },
                ErrorCode::CorruptMessage,
            ),
            ("a flipped bit", flipped, ErrorCode::CorruptMessage),
            ("two batches", two, ErrorCode::InvalidRecord),
            ("a trailing byte", trailing, ErrorCode::CorruptMessage),
            ("control", control.build(), ErrorCode::InvalidRecord),
            ("no sequence", no_sequence.build(), ErrorCode::InvalidRecord),
            ("count too large", changed(good.clone(), 57, &i32::MAX.to_be_bytes()), ErrorCode::InvalidRecord),
            ("count negative", changed(good.clone(), 57, &(-1i32).to_be_bytes()), ErrorCode::InvalidRecord),
            (
                "delta and count agree on too many",
                changed(changed(good.clone(), 57, &101i32.to_be_bytes()), 23, &100i32.to_be_bytes()),
                ErrorCode::InvalidRecord,
            ),
            (
                "delta and count agree on too few",
                changed(changed(good.clone(), 57, &99i32.to_be_bytes()), 23, &98i32.to_be_bytes()),
                ErrorCode::InvalidRecord,
            ),
            ("not gzip", changed(good.clone(), 21, &1i16.to_be_bytes()), ErrorCode::CorruptMessage),
            ("codec 7", changed(good.clone(), 21, &7i16.to_be_bytes()), ErrorCode::CorruptMessage),
            (
                "too late",
                changed(good.clone(), 27, &(NOW + 3_600_001).to_be_bytes()),
                ErrorCode::InvalidTimestamp,
            ),
            (
                "overflowing time",
                changed(good.clone(), 27, &i64::MAX.to_be_bytes()),
                ErrorCode::InvalidTimestamp,
            ),
        ];
        for (name, bytes, code) in cases {
            assert_eq!(
                validate_produced(&bytes, &rules()).map_err(|error| error.code()),
                Err(code),
                "{name}"
            );
        }
    }

    use crate::error::ErrorCode;

    #[test]
    fn every_record_that_a_topic_does_not_take_is_named() {
        let rules = ProduceRules { compacted: true, ..rules() };
        let late = NOW + 3_600_001;
        let batch = |codec, records: &[(i64, Option<&[u8]>)]| {
            let mut builder =
                BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
            for (timestamp, key) in records {
                builder.append(*timestamp, *key, Some(b"v"));
            }
            validate_produced(&builder.build(), &rules).map(|_| ()).map_err(|error| {
                let BatchError::Unwanted(records) = &error else { panic!("{error}") };
                let named: Vec<_> = records.iter().map(Unwanted::index).collect();
                (error.code(), named)
            })
        };
        let (key, none): (Option<&[u8]>, _) = (Some(b"k"), None);
        for codec in Compression::ALL {
            assert_eq!(batch(codec, &[(NOW, key), (NOW, key)]), Ok(()));
            let keyless = batch(codec, &[(NOW, none), (NOW, key), (NOW, none)]);
            assert_eq!(keyless, Err((ErrorCode::InvalidRecord, vec![0, 2])));
            let both = batch(codec, &[(NOW, none), (NOW, key), (late, key), (late, none)]);
            assert_eq!(both, Err((ErrorCode::InvalidTimestamp, vec![0, 2, 3])));
        }
    }

    #[test]
    fn no_more_records_are_named_than_the_batch_has_bytes() {
        let mut builder =
            BatchBuilder::new(BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() });
        for _ in 0..100_000 {
            builder.append(NOW, None, None);
        }
        let bytes = builder.build();
        let rules = ProduceRules { compacted: true, ..rules() };
        let Err(BatchError::Unwanted(named)) = validate_produced(&bytes, &rules) else { panic!("no keys") };
        assert_eq!(named.len(), bytes.len());
    }

    #[test]
    fn size_and_version_limits() {
        let bytes = batch(Compression::None, None);
        let small = ProduceRules { bytes_max: bytes.len() - 1, ..rules() };
        assert_eq!(
            validate_produced(&bytes, &small).expect_err("too large").code(),
            ErrorCode::MessageTooLarge
        );
        assert!(validate_produced(&bytes, &ProduceRules { bytes_max: bytes.len(), ..rules() }).is_ok());
        let zstd = batch(Compression::Zstd, None);
        let old = ProduceRules { produce_version: 6, ..rules() };
        assert_eq!(validate_produced(&zstd, &old), Err(BatchError::ZstdTooEarly));
    }

    #[test]
    fn no_change_of_a_byte_is_stored_as_good_without_its_checksum() {
        for codec in Compression::ALL {
            let good = batch(codec, Some(b"k"));
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x55;
                // The epoch lies outside the checksum: the broker writes it itself. So does the offset, which must be 0.
                let harmless = (12..16).contains(&at);
                assert_eq!(validate_produced(&bad, &rules()).is_ok(), harmless, "{codec:?} byte {at}");
            }
        }
    }

    #[test]
    fn changed_payloads_with_good_checksums_are_judged_like_the_reader_judges_them() {
        for codec in Compression::ALL {
            let good = batch(codec, Some(b"k"));
            for at in 61..good.len() {
                let bad = changed(good.clone(), at, &[good[at] ^ 0x11]);
                if validate_produced(&bad, &rules()).is_ok() {
                    let (batch, _) = RecordBatch::parse(&bad).expect("parsed before");
                    let unpacked = batch.uncompressed(1 << 24).expect("unpacked before");
                    assert!(batch.records(&unpacked).all(|record| record.is_ok()), "{codec:?} byte {at}");
                }
            }
        }
    }

    #[test]
    fn recompression_changes_the_codec_and_nothing_else() {
        let plain = batch(Compression::None, Some(b"k"));
        for codec in Compression::ALL {
            let packed = recompress(&plain, codec, None, &rules()).expect("valid");
            assert_eq!(recompress(&packed, Compression::None, None, &rules()), Ok(plain.clone()));
        }
    }

    #[test]
    fn a_base_offset_at_the_ends_of_its_type_is_refused() {
        for base_offset in [i64::MIN, -1, 1, i64::MAX] {
            let mut bytes = batch(Compression::None, None);
            bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
            assert_eq!(validate_produced(&bytes, &rules()), Err(BatchError::BadBaseOffset(base_offset)));
            // Whoever recompresses without asking gets a batch, not a panic.
            assert!(recompress(&bytes, Compression::Gzip, None, &rules()).is_ok());
        }
    }

    #[test]
    fn what_unpacks_to_more_than_the_topic_allows_is_not_stored_unpacked() {
        let mut builder =
            BatchBuilder::new(BatchOptions { compression: Compression::Zstd, ..BatchOptions::default() });
        builder.append(NOW, None, Some(&vec![0; 8 << 20]));
        let bytes = builder.build();
        assert!(validate_produced(&bytes, &rules()).is_ok());
        let error = recompress(&bytes, Compression::None, None, &rules()).expect_err("8 MiB");
        assert_eq!(error.code(), ErrorCode::MessageTooLarge);
    }

    #[test]
    fn attributes_that_are_the_brokers_to_set_are_refused() {
        let good = batch(Compression::None, None);
        let horizon = changed(good.clone(), 21, &0x40i16.to_be_bytes());
        assert_eq!(validate_produced(&horizon, &rules()), Err(BatchError::DeleteHorizon));
        let append_time = changed(good, 21, &0x08i16.to_be_bytes());
        let rules = ProduceRules { timestamps: TimestampType::LogAppendTime, ..rules() };
        assert_eq!(
            validate_produced(&append_time, &rules).expect_err("refused").code(),
            ErrorCode::InvalidTimestamp
        );
    }

    /// Java's readers fail at the sixth byte of a 32-bit number: such a batch would stop every consumer behind it.
    #[test]
    fn numbers_longer_than_clients_read_are_refused() {
        // length 12, attributes, time delta 0, offset delta 0, key null, value null, no headers: one of them in six bytes.
        let long = |value: u8| [value | 0x80, 0x80, 0x80, 0x80, 0x80, 0];
        for place in 0..4 {
            let mut body = vec![0, 0];
            for (at, value) in [0u8, 1, 1, 0].into_iter().enumerate() {
                if at == place { body.extend(long(value)) } else { body.push(value) }
            }
            let mut record = vec![(body.len() * 2) as u8];
            record.extend(&body);
            for codec in Compression::ALL {
                let mut builder = BatchBuilder::new(BatchOptions::default());
                builder.append(NOW, None, None);
                let mut bytes = builder.build();
                bytes.truncate(61);
                bytes.extend(compress(codec, None, &record));
                let length = i32::try_from(bytes.len() - 12).expect("small");
                let bytes =
                    changed(changed(bytes, 8, &length.to_be_bytes()), 21, &codec.bits().to_be_bytes());
                assert_eq!(
                    validate_produced(&bytes, &rules()).map_err(|error| error.code()),
                    Err(ErrorCode::InvalidRecord),
                    "{codec:?}, number {place}"
                );
            }
        }
    }
}
