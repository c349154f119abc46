//! Records on their way into one partition, kept until somebody has them: a retry may need them in smaller pieces.

use std::ops::Range;
use std::time::Instant;

use ottla_protocol::compression::Compression;
use ottla_protocol::record::{BatchBuilder, BatchOptions, Record};
use ottla_protocol::types::Offset;

use crate::error::Error;
use crate::identity::Identity;

/// A record to be sent. `tag` is the caller's name for it (a line number), which comes back if it can't be delivered.
#[derive(Clone, Debug, Default)]
pub struct Outgoing<'a> {
    pub tag: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
    /// Chosen by the caller; else by the key, else by turns.
    pub partition: Option<i32>,
}

impl Outgoing<'_> {
    /// Roughly what it takes in a batch.
    pub(crate) fn bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len) + 4).sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers + 16
    }
}

type Place = Range<u32>;

#[derive(Clone, Debug)]
struct Entry {
    tag: u64,
    timestamp: i64,
    key: Option<Place>,
    value: Option<Place>,
    /// Of `headers`.
    headers: Place,
}

/// One batch to be. All bytes of its records lie in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) partition: i32,
    /// Where its sequence begins, once it has been sent under an identity.
    pub(crate) sequence: Option<i32>,
    pub(crate) since: Instant,
    /// It, or what it is a part of, was sent before and came back.
    pub(crate) again: bool,
    /// Why.
    pub(crate) why: Option<String>,
    data: Vec<u8>,
    headers: Vec<(Place, Option<Place>)>,
    entries: Vec<Entry>,
}

impl Pending {
    pub(crate) fn new(partition: i32, capacity: usize) -> Self {
        Self {
            partition,
            sequence: None,
            since: Instant::now(),
            again: false,
            why: None,
            data: Vec::with_capacity(capacity),
            headers: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// To be sent again.
    pub(crate) fn because(mut self, error: &Error) -> Self {
        self.again = true;
        self.why = Some(error.to_string());
        self
    }

    fn keep(&mut self, bytes: &[u8]) -> Place {
        let start = u32::try_from(self.data.len()).expect("a batch is far smaller than 4 GiB");
        self.data.extend_from_slice(bytes);
        start..u32::try_from(self.data.len()).expect("a batch is far smaller than 4 GiB")
    }

    pub(crate) fn push(&mut self, record: &Outgoing<'_>) {
        let key = record.key.map(|key| self.keep(key));
        let value = record.value.map(|value| self.keep(value));
        let first = u32::try_from(self.headers.len()).expect("few");
        for (name, value) in &record.headers {
            let name = self.keep(name);
            let value = value.map(|value| self.keep(value));
            self.headers.push((name, value));
        }
        let headers = first..u32::try_from(self.headers.len()).expect("few");
        self.entries.push(Entry { tag: record.tag, timestamp: record.timestamp, key, value, headers });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Of its records, before they are packed.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() + 16 * self.entries.len()
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|entry| entry.tag)
    }

    pub(crate) fn tag(&self, index: usize) -> Option<u64> {
        self.entries.get(index).map(|entry| entry.tag)
    }

    fn slice(&self, place: &Place) -> &[u8] {
        &self.data[place.start as usize..place.end as usize]
    }

    fn outgoing(&self, entry: &Entry) -> Outgoing<'_> {
        let headers = &self.headers[entry.headers.start as usize..entry.headers.end as usize];
        Outgoing {
            tag: entry.tag,
            timestamp: entry.timestamp,
            key: entry.key.as_ref().map(|place| self.slice(place)),
            value: entry.value.as_ref().map(|place| self.slice(place)),
            headers: headers
                .iter()
                .map(|(name, value)| (self.slice(name), value.as_ref().map(|place| self.slice(place))))
                .collect(),
            partition: None,
        }
    }

    /// The bytes of the batch.
    pub(crate) fn build(&self, compression: Compression, level: Option<i32>, identity: Identity) -> Vec<u8> {
        let mut batch = BatchBuilder::new(BatchOptions {
            compression,
            level,
            producer_id: identity.id,
            producer_epoch: identity.epoch,
            base_sequence: self.sequence.unwrap_or(-1),
            ..BatchOptions::default()
        });
        for (offset, entry) in (0..).zip(&self.entries) {
            let Outgoing { timestamp, key, value, headers, .. } = self.outgoing(entry);
            batch.append_record(&Record { offset: Offset(offset), timestamp, key, value, headers });
        }
        batch.build()
    }

    /// Two batches of half the records each; `None` for a single record. The sequence goes on from one to the other.
    pub(crate) fn split(&self) -> Option<(Self, Self)> {
        if self.len() < 2 {
            return None;
        }
        let middle = self.len() / 2;
        let first = self.keeping(|index| index < middle);
        let mut second = self.keeping(|index| index >= middle);
        second.sequence = self.sequence.map(|sequence| {
            ottla_protocol::batch::add_sequence(sequence, i32::try_from(middle).expect("few"))
        });
        Some((first, second))
    }

    /// The batch that came back, with some of its records.
    pub(crate) fn keeping(&self, wanted: impl Fn(usize) -> bool) -> Self {
        let mut kept = Self::new(self.partition, self.data.len());
        (kept.sequence, kept.since, kept.again) = (self.sequence, self.since, true);
        for (_, entry) in self.entries.iter().enumerate().filter(|(index, _)| wanted(*index)) {
            kept.push(&self.outgoing(entry));
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::batch::RecordBatch;

    use super::*;

    fn pending(count: u8) -> Pending {
        let mut pending = Pending::new(0, 0);
        for n in 0..count {
            let value = [n; 3];
            pending.push(&Outgoing {
                tag: 100 + u64::from(n),
                timestamp: 1_000 + i64::from(n),
                key: (n % 2 == 0).then_some(&value[..1]),
                value: (n != 3).then_some(&value[..]),
                headers: vec![(b"a", Some(&value[..2])), (b"a", None)],
                partition: None,
            });
        }
        pending
    }

    /// Each record as (timestamp, key, value, headers), and the first sequence.
    fn built(pending: &Pending) -> (Vec<String>, i32) {
        let bytes = pending.build(Compression::Lz4, None, Identity::NONE);
        let (batch, rest) = RecordBatch::parse(&bytes).expect("whole");
        assert!(rest.is_empty());
        batch.verify_crc().expect("the checksum");
        let unpacked = batch.uncompressed(1 << 20).expect("unpacks");
        let records = batch.records(&unpacked).map(|record| {
            let record = record.expect("readable");
            format!("{} {:?} {:?} {:?}", record.timestamp, record.key, record.value, record.headers)
        });
        (records.collect(), batch.header().base_sequence)
    }

    #[test]
    fn halves_hold_the_same_records_in_the_same_order_with_sequences_that_go_on() {
        let mut whole = pending(7);
        whole.sequence = Some(i32::MAX - 1);
        let (first, second) = whole.split().expect("more than one record");
        assert_eq!((first.len(), second.len()), (3, 4));
        let (records, sequence) = built(&whole);
        let ((mut halves, first_sequence), (rest, second_sequence)) = (built(&first), built(&second));
        halves.extend(rest);
        assert_eq!(halves, records);
        // After 2^31 - 1 comes 0.
        assert_eq!((sequence, first_sequence, second_sequence), (i32::MAX - 1, i32::MAX - 1, 1));
        assert_eq!(second.tags().collect::<Vec<_>>(), [103, 104, 105, 106]);
        assert!(pending(1).split().is_none());
    }

    #[test]
    fn some_records_can_be_left_out() {
        let whole = pending(5);
        let kept = whole.keeping(|index| index != 2);
        let (mut records, _) = built(&whole);
        records.remove(2);
        assert_eq!(built(&kept).0, records);
        assert_eq!(kept.tags().collect::<Vec<_>>(), [100, 101, 103, 104]);
    }
}
