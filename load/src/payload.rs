//! The records that are sent: batches that are built, and packed, once.

use bytes::Bytes;
use ottla_protocol::batch::HEADER_BYTES;
use ottla_protocol::compression::Compression;
use ottla_protocol::record::{BatchBuilder, BatchOptions};

/// All batches that are built beforehand together, so that they stay in the processor's cache or close to it.
const BYTES_MAX: usize = 16 << 20;

/// How records are cut into batches.
#[derive(Clone, Copy, Debug)]
pub struct BatchShape {
    /// Bytes of each record's value.
    pub value_bytes: usize,
    pub records: usize,
}

impl BatchShape {
    /// As many records of `value_bytes` as `batch_bytes` hold, one at least.
    #[must_use]
    pub fn filling(value_bytes: usize, batch_bytes: usize) -> Self {
        Self { value_bytes, records: (batch_bytes / value_bytes.max(1)).max(1) }
    }
}

/// What batches are made of.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub shape: BatchShape,
    pub codec: Compression,
    /// So many distinct keys; 0 for records without keys.
    pub keys: usize,
    pub timestamp_ms: i64,
}

impl Content {
    /// Records without keys, unpacked.
    #[must_use]
    pub fn plain(shape: BatchShape, timestamp_ms: i64) -> Self {
        Self { shape, codec: Compression::None, keys: 0, timestamp_ms }
    }

    /// The batches that are sent in turn: one, or as many as hold all keys.
    #[must_use]
    pub fn batches(&self) -> Vec<Batch> {
        let wanted = self.keys.div_ceil(self.shape.records).max(1);
        let affordable = BYTES_MAX / (self.shape.records * (self.shape.value_bytes + 16)).max(1);
        (0..wanted.min(affordable.max(1))).map(|number| self.batch(number)).collect()
    }

    /// The distinct keys that these batches have; fewer than were asked for where they would take too much memory.
    #[must_use]
    pub fn distinct_keys(&self, batches: usize) -> usize {
        self.keys.min(batches * self.shape.records)
    }

    fn batch(&self, number: usize) -> Batch {
        let mut builder =
            BatchBuilder::new(BatchOptions { compression: self.codec, ..BatchOptions::default() });
        for record in 0..self.shape.records {
            let at = number * self.shape.records + record;
            let key = (self.keys > 0).then(|| format!("key-{:08}", at % self.keys));
            let value = value(at, self.shape.value_bytes, self.codec != Compression::None);
            builder.append(self.timestamp_ms, key.as_ref().map(String::as_bytes), Some(&value));
        }
        let whole = Bytes::from(builder.build());
        Batch { bytes: whole, records: self.shape.records }
    }
}

/// One batch as it is sent.
#[derive(Clone, Debug)]
pub struct Batch {
    bytes: Bytes,
    pub records: usize,
}

impl Batch {
    /// Header and records.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

/// Bytes that differ from record to record: neither side compresses them, and a page of equal ones would be a special case. Where a codec
/// is to have work, words that compress as text does.
fn value(number: usize, bytes: usize, words: bool) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "{\"id\":",
        "\"event\":",
        "click",
        "purchase",
        "session",
        "\"user\":",
        "\"amount\":",
        "19.99",
        "true",
        "null",
        "\"path\":",
        "/index",
        "/orders",
        "\"agent\":",
        "mobile",
        "},",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::try_from(number).unwrap_or_default();
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    if !words {
        return std::iter::repeat_with(|| next().to_le_bytes()).flatten().take(bytes).collect();
    }
    let mut text = Vec::with_capacity(bytes + 32);
    while text.len() < bytes {
        let chance = next();
        let word = WORDS[usize::try_from(chance % 16).unwrap_or(0)];
        text.extend_from_slice(word.as_bytes());
        if chance & 0x100 != 0 {
            text.extend_from_slice(format!("{:x}", (chance >> 16) & 0xffff_ffff).as_bytes());
        }
    }
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::batch::RecordBatch;

    #[test]
    fn a_batch_holds_one_record_at_least() {
        assert_eq!(BatchShape::filling(1_024, 1).records, 1);
        assert_eq!(BatchShape::filling(0, 8).records, 8);
    }

    #[test]
    fn every_key_is_there_as_often_as_another() {
        let shape = BatchShape { value_bytes: 10, records: 4 };
        let content = Content { keys: 6, ..Content::plain(shape, 0) };
        let batches = content.batches();
        assert_eq!((batches.len(), content.distinct_keys(batches.len())), (2, 6));
        let mut keys = Vec::new();
        for batch in &batches {
            let (parsed, _) = RecordBatch::parse(batch.bytes()).expect("a batch");
            for record in parsed.records(batch.payload()) {
                keys.push(record.expect("a record").key.expect("a key").to_vec());
            }
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn values_are_packed_where_a_codec_is_wanted() {
        let content =
            |codec| Content { codec, ..Content::plain(BatchShape { value_bytes: 1_000, records: 16 }, 0) };
        let plain = content(Compression::None).batches()[0].payload().len();
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let packed = content(codec).batches()[0].payload().len();
            assert!(packed * 4 < plain * 3 && packed * 10 > plain, "{codec:?}: {packed} of {plain}");
        }
    }
}
