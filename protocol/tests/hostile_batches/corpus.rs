//! One batch for every answer that damage ever led to, in `corpus.txt`: each is judged as it was, whatever changes.
//!
//! `OTTLA_FUZZ_KEEP=1` adds those whose answer is not there yet.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ottla_protocol::batch::{BatchError, BatchHeader, TimestampType};
use ottla_protocol::validate::{ProduceRules, validate_produced};

use crate::{LIMIT, NOW};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile_batches/corpus.txt");

/// An answer, and the bytes that got it.
pub(crate) struct Corpus {
    batches: BTreeMap<String, Vec<u8>>,
    known: usize,
}

impl Corpus {
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        let batches: BTreeMap<_, _> = text
            .lines()
            .map(|line| {
                let (hex, answer) = line.split_once(' ').expect("bytes and an answer");
                (answer.to_owned(), from_hex(hex))
            })
            .collect();
        Self { known: batches.len(), batches }
    }

    /// Keeps a batch whose answer is new, or which is smaller than the one there.
    pub(crate) fn offer(&mut self, bytes: &[u8]) {
        let kept = self.batches.entry(answer(bytes)).or_insert_with(|| bytes.to_vec());
        if bytes.len() < kept.len() {
            *kept = bytes.to_vec();
        }
    }

    pub(crate) fn write(&self) {
        let mut text = String::new();
        for (answer, bytes) in &self.batches {
            bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("into memory"));
            writeln!(text, " {answer}").expect("into memory");
        }
        std::fs::write(FILE, text).expect("the corpus is writable");
        println!("the corpus has {} batches, and had {}", self.batches.len(), self.known);
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// The codec and what is said about the batch, without its numbers.
fn answer(bytes: &[u8]) -> String {
    let rules = ProduceRules {
        bytes_max: 4_000,
        unpacked_bytes_max: LIMIT,
        compacted: true,
        timestamps: TimestampType::LogAppendTime,
        before_max_ms: i64::MAX,
        after_max_ms: 3_600_000,
        now_ms: NOW,
        produce_version: 13,
    };
    let codec = BatchHeader::read(bytes).ok().and_then(|header| header.compression().ok());
    let codec = codec.map_or("no codec".to_owned(), |codec| format!("{codec:?}"));
    let said = match validate_produced(bytes, &rules) {
        Ok(_) => "accepted".to_owned(),
        // The words are a library's, and the numbers of checksums have letters.
        Err(BatchError::Undecodable(_)) => "cannot be unpacked".to_owned(),
        Err(BatchError::BadCrc { .. }) => "another checksum".to_owned(),
        Err(error) => format!("{:?}: {error}", error.code()),
    };
    let said: String = said.chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{codec}: {said}")
}

#[test]
fn batches_of_the_corpus_are_judged_as_they_were() {
    let corpus = Corpus::read();
    assert!(corpus.known > 50, "there is a corpus");
    for (before, bytes) in &corpus.batches {
        assert_eq!(answer(bytes), *before);
    }
}
