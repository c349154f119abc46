//! Record batches and compressed streams damaged at random, with their checksums made good again: nothing panics, nothing unpacks beyond its
//! limit, and what is accepted can be read, and packed anew, by everyone behind.
//!
//! `OTTLA_FUZZ_FACTOR` makes each test so many times as long, `OTTLA_FUZZ_SEED` says where it begins.

#![allow(clippy::print_stdout)] // The counts are the report of a long run.

mod corpus;

use ottla_protocol::batch::{BatchHeader, RecordBatch, TimestampType, batches, set_max_timestamp};
use ottla_protocol::compression::{Compression, compress, decompress};
use ottla_protocol::record::{BatchBuilder, BatchOptions, Record};
use ottla_protocol::types::{Offset, ProducerEpoch, ProducerId};
use ottla_protocol::validate::{ProduceRules, recompress, validate_produced};

const NOW: i64 = 1_700_000_000_000;
const LIMIT: usize = 256 << 10;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn runs() -> u64 {
    20_000 * variable("OTTLA_FUZZ_FACTOR", 1)
}

/// SplitMix64: enough chance for this, the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A few changes: bits, bytes that matter to length fields, whole words, cuts, insertions, copies of a part.
    fn damage(&mut self, bytes: &mut Vec<u8>, from: usize) {
        for _ in 0..=self.below(4) {
            if bytes.len() <= from {
                bytes.push(self.next() as u8);
                continue;
            }
            let at = from + self.below(bytes.len() - from);
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => {
                    let word = [0u32, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX][self.below(5)].to_be_bytes();
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].copy_from_slice(&word[..end - at]);
                }
                3 => bytes.truncate(at),
                4 => {
                    let count = self.below(8);
                    let more = self.bytes(count);
                    bytes.splice(at..at, more);
                }
                5 => {
                    let end = at + self.below((bytes.len() - at).min(64));
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => bytes[at] = self.next() as u8,
            }
        }
    }

    fn batch(&mut self) -> Vec<u8> {
        let compression = Compression::ALL[self.below(5)];
        let mut options = BatchOptions { compression, ..BatchOptions::default() };
        if self.below(3) == 0 {
            options.producer_id = ProducerId(self.next() as i64 & i64::MAX);
            options.producer_epoch = ProducerEpoch(3);
            options.base_sequence = (self.next() as i32) & i32::MAX;
            options.transactional = self.below(2) == 0;
        }
        let mut builder = BatchBuilder::new(options);
        for offset in 0..=self.below(6) {
            let (key, value, name) = (self.below(20), self.below(200), self.below(6));
            let (key, value, name) = (self.bytes(key), vec![self.next() as u8; value], self.bytes(name));
            let record = Record {
                offset: Offset(offset as i64),
                timestamp: NOW + self.below(100_000) as i64 - 50_000,
                key: (self.below(4) > 0).then_some(&key[..]),
                value: (self.below(4) > 0).then_some(&value[..]),
                headers: (0..self.below(3)).map(|_| (&name[..], Some(&key[..]))).collect(),
            };
            builder.append_record(&record);
        }
        builder.build()
    }
}

/// Sets length and checksum right, as a hostile client would.
fn made_good(bytes: &mut [u8]) {
    if bytes.len() < 61 {
        return;
    }
    let length = i32::try_from(bytes.len() - 12).expect("small");
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    let attributes = i16::from_be_bytes([bytes[21], bytes[22]]);
    let kind = if attributes & 8 == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime };
    let max_timestamp = i64::from_be_bytes(bytes[35..43].try_into().expect("eight bytes"));
    set_max_timestamp(bytes, kind, max_timestamp);
}

#[test]
fn a_damaged_batch_is_refused_or_serves_every_reader() {
    let seed = variable("OTTLA_FUZZ_SEED", 1);
    let mut accepted = 0u64;
    let mut corpus = std::env::var_os("OTTLA_FUZZ_KEEP").map(|_| corpus::Corpus::read());
    for run in 0..runs() {
        let mut random = Random(seed.wrapping_mul(1 << 40).wrapping_add(run));
        let mut bytes = random.batch();
        // The header's own fields in a quarter of the runs, the records in the others.
        let from = if random.below(4) == 0 { 0 } else { 61 };
        random.damage(&mut bytes, from);
        if random.below(8) > 0 {
            made_good(&mut bytes);
        }
        if let Some(corpus) = &mut corpus {
            corpus.offer(&bytes);
        }
        let rules = ProduceRules {
            bytes_max: 64 << 10,
            unpacked_bytes_max: LIMIT,
            compacted: random.below(4) == 0,
            timestamps: if random.below(4) == 0 {
                TimestampType::LogAppendTime
            } else {
                TimestampType::CreateTime
            },
            before_max_ms: i64::MAX,
            after_max_ms: 3_600_000,
            now_ms: NOW,
            produce_version: 3 + random.below(11) as i16,
        };
        for batch in batches(&bytes).flatten() {
            // What a reader of the log meets, where nothing was judged before.
            if let Ok(unpacked) = batch.uncompressed(LIMIT) {
                assert!(unpacked.len() <= LIMIT || batch.payload().len() > LIMIT, "run {run}");
                let _ = batch.records(&unpacked).count();
            }
        }
        let Ok(facts) = validate_produced(&bytes, &rules) else { continue };
        accepted += 1;
        let (batch, rest) = RecordBatch::parse(&bytes).expect("accepted");
        assert!(rest.is_empty(), "run {run}");
        let unpacked = batch.uncompressed(LIMIT).expect("accepted");
        let records: Vec<_> = batch.records(&unpacked).map(|record| record.expect("accepted")).collect();
        assert_eq!(records.len(), facts.header.records_count as usize, "run {run}");
        assert!(records.iter().zip(0..).all(|(record, offset)| record.offset == Offset(offset)), "run {run}");
        assert!(!rules.compacted || records.iter().all(|record| record.key.is_some()), "run {run}");
        let codec = Compression::ALL[random.below(5)];
        match recompress(&bytes, codec, None, &rules) {
            Ok(packed) => {
                let again = validate_produced(&packed, &ProduceRules { produce_version: 13, ..rules })
                    .unwrap_or_else(|error| panic!("run {run}: {error}"));
                assert_eq!((again.max_timestamp, again.compression), (facts.max_timestamp, codec));
                let header = BatchHeader::read(&packed).expect("written");
                assert_eq!(header.size_bytes(), packed.len(), "run {run}");
            }
            Err(error) => {
                assert_eq!(error.code(), ottla_protocol::error::ErrorCode::MessageTooLarge, "run {run}")
            }
        }
    }
    if let Some(corpus) = corpus {
        corpus.write();
    }
    println!("{} executions, {accepted} accepted", runs());
    assert!(accepted > 0, "nothing was accepted, so nothing was tried");
}

#[test]
fn a_damaged_stream_of_any_codec_ends_within_its_limit() {
    let seed = variable("OTTLA_FUZZ_SEED", 1);
    let mut unpacked = 0u64;
    for run in 0..runs() {
        let mut random = Random(seed.wrapping_mul(1 << 41).wrapping_add(run));
        let codec = Compression::ALL[1 + random.below(4)];
        let size = random.below(2000);
        let mut plain = random.bytes(size);
        let repeat = random.below(40);
        plain.extend(std::iter::repeat_n(7, repeat * repeat));
        let mut packed = match random.below(16) {
            0 => plain,
            // Linked blocks, which lead through the decoder's dictionary.
            1..=4 if codec == Compression::Lz4 => linked_lz4(&plain, random.below(4)),
            1..=2 if codec == Compression::Snappy => {
                snap::raw::Encoder::new().compress_vec(&plain).expect("small")
            }
            _ => compress(codec, None, &plain),
        };
        for _ in 0..random.below(3) {
            random.damage(&mut packed, 0);
        }
        let limit = random.below(LIMIT);
        if let Ok(bytes) = decompress(codec, &packed, limit) {
            unpacked += 1;
            assert!(bytes.len() <= limit, "run {run}");
        }
    }
    println!("{} executions, {unpacked} unpacked", runs());
    assert!(unpacked > 0, "nothing was unpacked, so nothing was tried");
}

fn linked_lz4(bytes: &[u8], copies: usize) -> Vec<u8> {
    use std::io::Write as _;
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Linked)
        .content_checksum(copies == 1)
        .block_checksums(copies == 2);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    for _ in 0..=copies {
        encoder.write_all(bytes).expect("into memory");
        encoder.flush().expect("into memory");
    }
    encoder.finish().expect("into memory")
}
