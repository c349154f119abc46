//! What a broker checks of a batch before it stores it: Kafka's `LogValidator`, plus a walk over the framing of every record, compressed
//! ones through a small window. One malformed batch with a good checksum would stop every consumer behind it.

use std::io::{BufRead, BufReader, Read};

use crate::batch::{BatchError, BatchHeader, RecordBatch, TimestampType};
use crate::compression::{self, Compression};
use crate::record::{BatchBuilder, BatchOptions, Cursor};

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
    let (count, last_offset_delta) = (header.records_count, header.last_offset_delta);
    if count <= 0 || last_offset_delta != count - 1 {
        return Err(BatchError::BadCount { count, last_offset_delta });
    }
    check_producer(&header)?;
    let walk = Walk { header: &header, rules };
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
}

impl Source for Counted<'_, '_> {
    fn varlong(&mut self) -> Result<i64, Fault> {
        let mut value = 0u64;
        for at in 0..10 {
            let byte = *self.fill()?.first().ok_or("it ends too early")?;
            self.consume(1);
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number in it does not end".into())
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
}

impl Walk<'_> {
    fn all(&self, source: &mut impl Walkable) -> Result<i64, BatchError> {
        source.walk(self)
    }

    fn run<S: Source>(&self, source: &mut S) -> Result<i64, BatchError> {
        let mut max_timestamp = -1;
        for index in 0..self.header.records_count {
            let timestamp = self.record(source, index).map_err(|fault| match fault {
                Fault::Record(what) => BatchError::BadRecord { index, what },
                Fault::Stream(error) => error,
            })??;
            max_timestamp = timestamp.max(max_timestamp);
        }
        match source.at_end() {
            Ok(true) => Ok(max_timestamp),
            Ok(false) => Err(BatchError::BadRecord {
                index: self.header.records_count,
                what: "bytes follow the last record",
            }),
            Err(Fault::Stream(error)) => Err(error),
            Err(Fault::Record(what)) => Err(BatchError::BadRecord { index: self.header.records_count, what }),
        }
    }

    /// Walks one record and returns its timestamp.
    #[inline]
    fn record<S: Source>(&self, source: &mut S, index: i32) -> Result<Result<i64, BatchError>, Fault> {
        let length = u64::try_from(source.varlong()?).map_err(|_| "its length is negative")?;
        if length > i32::MAX as u64 {
            return Err("its length is out of range".into());
        }
        let end = source.left().checked_sub(length).ok_or("it ends too early")?;
        source.skip(1)?;
        let delta = source.varlong()?;
        let offset_delta = source.varlong()?;
        if offset_delta != i64::from(index) {
            return Err("its offset delta is not its place in the batch".into());
        }
        let key_len = source.varlong()?;
        if key_len == -1 && self.rules.compacted {
            return Ok(Err(BatchError::NullKey { index }));
        }
        skip_nullable(source, key_len)?;
        let value_len = source.varlong()?;
        skip_nullable(source, value_len)?;
        let headers = source.varlong()?;
        if headers < 0 {
            return Err("its header count is negative".into());
        }
        for _ in 0..headers {
            let name_len = source.varlong()?;
            if name_len < 0 {
                return Err("a header has no name".into());
            }
            skip_nullable(source, name_len)?;
            let value_len = source.varlong()?;
            skip_nullable(source, value_len)?;
            if source.left() < end {
                return Err("it has fewer headers than it counts".into());
            }
        }
        if source.left() != end {
            return Err("its length does not fit its content".into());
        }
        let timestamp = self.header.base_timestamp.checked_add(delta).ok_or("its timestamp overflows")?;
        Ok(self.check_timestamp(index, timestamp))
    }

    fn check_timestamp(&self, index: i32, timestamp: i64) -> Result<i64, BatchError> {
        let rules = self.rules;
        if rules.timestamps == TimestampType::LogAppendTime || timestamp == -1 {
            return Ok(timestamp);
        }
        let earliest = rules.now_ms.saturating_sub(rules.before_max_ms);
        let latest = rules.now_ms.saturating_add(rules.after_max_ms);
        if timestamp < earliest || timestamp > latest {
            return Err(BatchError::BadTimestamp { index, timestamp, earliest, latest });
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

/// Writes a valid batch anew with another codec: `compression.type` of the topic is not the producer's.
///
/// # Errors
/// Undecodable records.
pub fn recompress(
    bytes: &[u8],
    codec: Compression,
    level: Option<i32>,
    unpacked_bytes_max: usize,
) -> Result<Vec<u8>, BatchError> {
    let (batch, _) = RecordBatch::parse(bytes)?;
    let unpacked = batch.uncompressed(unpacked_bytes_max)?;
    let mut builder =
        BatchBuilder::new(BatchOptions { compression: codec, level, ..BatchOptions::of(batch.header())? });
    for record in batch.records(&unpacked) {
        builder.append_record(&record?);
    }
    Ok(builder.build_with_max_timestamp(Some(batch.header().max_timestamp)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::renew_crc;
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
    fn a_compacted_topic_needs_keys_and_names_the_record() {
        let rules = ProduceRules { compacted: true, ..rules() };
        for codec in Compression::ALL {
            assert_eq!(validate_produced(&batch(codec, None), &rules), Err(BatchError::NullKey { index: 0 }));
            assert!(validate_produced(&batch(codec, Some(b"k")), &rules).is_ok());
        }
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
                // Offset and epoch lie outside the checksum: the broker writes both itself.
                let harmless = at < 8 || (12..16).contains(&at);
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
            let packed = recompress(&plain, codec, None, 1 << 24).expect("valid");
            assert_eq!(recompress(&packed, Compression::None, None, 1 << 24), Ok(plain.clone()));
        }
    }
}
