//! What happened in a run: a hash of everything, so that two runs of a seed can be compared, and the last lines for a person.

use std::collections::VecDeque;

/// Lines that are kept where nobody asked for all of them.
const KEPT: usize = 400;

#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    prints: bool,
}

impl Trace {
    #[must_use]
    pub fn new(prints: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), prints }
    }

    /// Takes numbers into the hash: what is too frequent for a line.
    pub fn mix(&mut self, values: &[u64]) {
        for value in values {
            for byte in value.to_le_bytes() {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(&[bytes.len() as u64, u64::from(crc32c::crc32c(bytes))]);
    }

    /// A line that only who reads along is interested in.
    pub fn note(&self, now_us: u64, text: impl FnOnce() -> String) {
        if self.prints {
            eprintln!("{:>11.6} {}", now_us as f64 / 1e6, text());
        }
    }

    /// A line for a person, which counts for the hash too.
    pub fn line(&mut self, now_us: u64, text: &str) {
        self.mix(&[now_us]);
        self.mix_bytes(text.as_bytes());
        let line = format!("{:>11.6} {text}", now_us as f64 / 1e6);
        if self.prints {
            eprintln!("{line}");
        }
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
        }
    }

    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
