//! The sparse index of a segment: for a batch every few kibibytes, its offset, its position, and the largest timestamp before it.
//! All three rise, so one table answers for offsets and for times.
//!
//! An index is disposable: whatever is missing or does not fit the data is built from the data. The file:
//!
//! ```text
//! "OTTLAIDX" | version u16 | 6 zero bytes | base offset i64        then chunks, one per save:
//! count u32 | crc32c u32 of the entries | entries: offset - base u32, position u32, largest timestamp before i64
//! ```

use ottla_protocol::types::Offset;

use crate::head::Head;

const MAGIC: &[u8; 8] = b"OTTLAIDX";
const VERSION: u16 = 1;
pub(crate) const FILE_HEADER_LEN: usize = 24;
const CHUNK_HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 16;
/// Entries lie at least this part of the segment's length apart, which keeps the index of a full 1 GiB segment under 1 MiB.
const SPACING_SHIFT: u32 = 14;

/// "No record": below every timestamp.
pub(crate) const NO_TIMESTAMP: i64 = i64::MIN;

/// A batch that the index knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The batch's base offset, less the segment's.
    pub(crate) delta: u32,
    pub(crate) position: u32,
    /// Over all batches of the segment before this one; may be too large, never too small.
    pub(crate) max_timestamp_before: i64,
}

/// The index of the bytes from `start` to `end` of a segment. Empty at the end of a sealed segment that was not looked at yet.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    start: u64,
    /// The offset that begins at `start`.
    start_offset: Offset,
    end: u64,
    /// The offset after the last batch taken in.
    next_offset: Offset,
    /// Of the batches between `start` and `end`.
    max_timestamp: i64,
    /// Entries, from the first on, that the file has, and the file's length with them.
    saved: usize,
    saved_len: u64,
}

impl Index {
    /// An index of nothing, at a place where a batch begins or the data end.
    pub(crate) fn at(start: u64, start_offset: Offset) -> Self {
        Self {
            entries: Vec::new(),
            start,
            start_offset,
            end: start,
            next_offset: start_offset,
            max_timestamp: NO_TIMESTAMP,
            saved: 0,
            saved_len: 0,
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.start == 0
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Whether it knows the way to `offset`, given that it reaches to the end of the data.
    pub(crate) fn covers(&self, offset: Offset) -> bool {
        self.start == 0 || offset >= self.start_offset
    }

    /// The offset that follows `end`; too low between a truncation and the walk after it.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Over everything between `start` and `end`.
    pub(crate) fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes in the batch at `end`.
    pub(crate) fn push(&mut self, head: &Head, base: Offset, interval: u32) {
        let last = self.entries.last().map_or(self.start, |entry| u64::from(entry.position));
        let spacing = u64::from(interval).max(self.end >> SPACING_SHIFT);
        if self.end > self.start && self.end - last >= spacing {
            let delta = u32::try_from(head.base.0 - base.0).expect("a segment spans less than 2^31 offsets");
            let position = u32::try_from(self.end).expect("a segment is shorter than 2^32 bytes");
            self.entries.push(Entry { delta, position, max_timestamp_before: self.max_timestamp });
        }
        self.max_timestamp = self.max_timestamp.max(head.max_timestamp);
        self.end += head.size;
        self.next_offset = head.next();
    }

    /// Where to start walking for `offset`, which the index covers: the start of a batch at or below it.
    pub(crate) fn floor(&self, base: Offset, offset: Offset) -> u64 {
        let delta = offset.0 - base.0;
        let after = self.entries.partition_point(|entry| i64::from(entry.delta) <= delta);
        after.checked_sub(1).map_or(self.start, |at| u64::from(self.entries[at].position))
    }

    /// The last known batch start before `position`, or the start.
    pub(crate) fn before(&self, position: u64) -> u64 {
        let after = self.entries.partition_point(|entry| u64::from(entry.position) < position);
        after.checked_sub(1).map_or(self.start, |at| u64::from(self.entries[at].position))
    }

    /// The first known batch start past `position`, if any.
    pub(crate) fn after(&self, position: u64) -> Option<u64> {
        let after = self.entries.partition_point(|entry| u64::from(entry.position) <= position);
        self.entries.get(after).map(|entry| u64::from(entry.position))
    }

    /// The last known batch start in `from..=to` whose batch lies below `end`: batches before it need no look.
    pub(crate) fn jump(&self, base: Offset, from: u64, to: u64, end: Offset) -> Option<u64> {
        let (delta, below) = (end.0 - base.0, |entry: &Entry| u64::from(entry.position) <= to);
        let after = self.entries.partition_point(|entry| below(entry) && i64::from(entry.delta) < delta);
        let position = u64::from(self.entries[after.checked_sub(1)?].position);
        (position > from).then_some(position)
    }

    /// Where to start walking for the first batch with a timestamp at or after `timestamp`: the last known batch before which all
    /// are older.
    pub(crate) fn floor_time(&self, timestamp: i64) -> u64 {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp);
        after.checked_sub(1).map_or(self.start, |at| u64::from(self.entries[at].position))
    }

    /// Puts an index of the bytes before in front of this one. Both know whole batches.
    pub(crate) fn prepend(&mut self, before: Index) {
        assert_eq!(before.end, self.start, "an index continues the one before it");
        let mut entries = before.entries;
        if self.end > self.start && self.start > 0 {
            // The place where the two meet is a batch start too.
            let delta = (self.start_offset.0 - before.start_offset.0) as u32;
            let max_timestamp_before = before.max_timestamp;
            entries.push(Entry { delta, position: self.start as u32, max_timestamp_before });
        }
        entries.extend(self.entries.drain(..).map(|entry| Entry {
            max_timestamp_before: entry.max_timestamp_before.max(before.max_timestamp),
            ..entry
        }));
        self.entries = entries;
        self.start = before.start;
        self.start_offset = before.start_offset;
        self.max_timestamp = self.max_timestamp.max(before.max_timestamp);
        self.saved = before.saved;
        self.saved_len = before.saved_len;
    }

    /// Cuts the index at a batch start. It may then end earlier: from there on the data is to be walked again, for the largest
    /// timestamp of what is left.
    pub(crate) fn truncate(&mut self, end: u64) {
        if end >= self.end {
            return;
        }
        let keep = self.entries.partition_point(|entry| u64::from(entry.position) < end);
        self.entries.truncate(keep);
        if let Some(last) = self.entries.last() {
            self.end = u64::from(last.position);
            self.max_timestamp = last.max_timestamp_before;
        } else {
            self.end = self.start;
            self.max_timestamp = NO_TIMESTAMP;
        }
        self.next_offset = self.start_offset;
        self.saved = 0;
        self.saved_len = 0;
    }

    /// In memory.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    pub(crate) fn is_saved(&self) -> bool {
        self.start == 0 && self.saved == self.entries.len()
    }

    /// What is to be written to the file, and where, so that it has all entries; `None` if it has. Only for a whole index.
    pub(crate) fn unsaved(&self, base: Offset) -> Option<Unsaved> {
        assert!(self.is_whole(), "only an index from the segment's start on is saved");
        if self.saved == self.entries.len() {
            return None;
        }
        let mut bytes = Vec::new();
        if self.saved_len == 0 {
            bytes.extend_from_slice(MAGIC);
            bytes.extend_from_slice(&VERSION.to_be_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&base.0.to_be_bytes());
        }
        let chunk = bytes.len();
        let entries = &self.entries[self.saved..];
        bytes.resize(chunk + CHUNK_HEADER_LEN, 0);
        for entry in entries {
            bytes.extend_from_slice(&entry.delta.to_be_bytes());
            bytes.extend_from_slice(&entry.position.to_be_bytes());
            bytes.extend_from_slice(&entry.max_timestamp_before.to_be_bytes());
        }
        let crc = crc32c::crc32c(&bytes[chunk + CHUNK_HEADER_LEN..]);
        bytes[chunk..chunk + 4].copy_from_slice(&(entries.len() as u32).to_be_bytes());
        bytes[chunk + 4..chunk + 8].copy_from_slice(&crc.to_be_bytes());
        Some(Unsaved { bytes, position: self.saved_len, saved: self.saved, count: self.entries.len() })
    }

    /// Notes that `unsaved` was written.
    pub(crate) fn note_saved(&mut self, unsaved: &Unsaved) {
        // Not if the index was cut or filled in between.
        if self.saved == unsaved.saved && self.saved_len == unsaved.position {
            self.saved = unsaved.count;
            self.saved_len = unsaved.position + unsaved.bytes.len() as u64;
        }
    }

    /// Reads an index file: entries of batches that begin before byte `limit` and offset `end`. `end()` of the answer is the last
    /// entry's position: from there on the data is to be walked. An unreadable file is an empty index.
    pub(crate) fn parse(file: &[u8], base: Offset, limit: u64, end: Offset) -> Self {
        let mut index = Self::at(0, base);
        let Some((header, mut rest)) = file.split_first_chunk::<FILE_HEADER_LEN>() else { return index };
        if !header.starts_with(MAGIC)
            || header[8..10] != VERSION.to_be_bytes()
            || header[16..] != base.0.to_be_bytes()
        {
            return index;
        }
        let mut all_kept = true;
        index.saved_len = FILE_HEADER_LEN as u64;
        while let Some(([c0, c1, c2, c3, crc @ ..], entries)) = rest.split_first_chunk::<CHUNK_HEADER_LEN>() {
            let len = u32::from_be_bytes([*c0, *c1, *c2, *c3]) as usize;
            let Some(entries) = len.checked_mul(ENTRY_LEN).and_then(|len| entries.get(..len)) else { break };
            if crc32c::crc32c(entries) != u32::from_be_bytes(*crc) {
                break;
            }
            for bytes in entries.chunks_exact(ENTRY_LEN) {
                let entry = Entry {
                    delta: u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                    position: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                    max_timestamp_before: i64::from_be_bytes(
                        bytes[8..].try_into().expect("an entry has 16 bytes"),
                    ),
                };
                let fits = u64::from(entry.position) < limit && base.0 + i64::from(entry.delta) < end.0;
                let rises = index.entries.last().is_none_or(|last| {
                    last.delta < entry.delta
                        && last.position < entry.position
                        && last.max_timestamp_before <= entry.max_timestamp_before
                });
                if fits && rises && all_kept {
                    index.entries.push(entry);
                } else {
                    all_kept = false;
                }
            }
            let chunk_len = CHUNK_HEADER_LEN + entries.len();
            index.saved_len += chunk_len as u64;
            rest = &rest[chunk_len..];
        }
        index.saved = index.entries.len();
        if !all_kept {
            // The file says more than there is: it is written anew.
            index.saved = 0;
            index.saved_len = 0;
        }
        if let Some(last) = index.entries.last() {
            index.end = u64::from(last.position);
            index.max_timestamp = last.max_timestamp_before;
        }
        index
    }
}

/// Bytes to write to an index file.
#[derive(Debug)]
pub(crate) struct Unsaved {
    pub(crate) bytes: Vec<u8>,
    pub(crate) position: u64,
    saved: usize,
    count: usize,
}
