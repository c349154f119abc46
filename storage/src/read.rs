//! Reading a log: which bytes answer a read, and whether they can be had without waiting for the disk.
//!
//! One walk serves both ways. The hot way looks at the map, and gives up at the first byte that is not in memory; the cold way is
//! the same walk over bytes fetched with `pread`, where a slow device makes one disk thread wait and a failing one returns an error.

use std::sync::Arc;

use bytes::Bytes;
use ottla_protocol::types::Offset;

use crate::disk::{File, Keep, Map};
use crate::error::StorageError;
use crate::files::Opened;
use crate::head::{HEAD_LEN, Head, is_sound};
use crate::segment::{Segment, read_exactly};

/// Bytes of a log: in memory (a part of the map, without a copy), and, where they also lie in a file, where.
#[derive(Clone, Debug)]
pub struct Slice {
    bytes: Bytes,
    file: Option<(Arc<Opened>, u64)>,
}

impl Slice {
    /// The file and the position in it of these bytes, for `sendfile`; usable as long as the slice lives.
    #[must_use]
    pub fn file(&self) -> Option<(&Arc<dyn File>, u64)> {
        self.file.as_ref().map(|(opened, position)| (opened.file(), *position))
    }

    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl From<Bytes> for Slice {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, file: None }
    }
}

/// The answer to [`crate::Log::read`].
#[derive(Debug)]
pub enum Read {
    /// Whole batches, in order; empty if there is nothing to read. The first may begin below the offset asked for.
    Hot(Vec<Slice>),
    /// The bytes are not in memory, or the way to them is not: call [`ColdRead::load`] on a thread that may wait for the disk,
    /// without the partition's lock.
    Cold(ColdRead),
}

/// What a read asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) from: Offset,
    /// Exclusive.
    pub(crate) end: Offset,
    pub(crate) max_bytes: u64,
    /// The first batch is returned whatever its size.
    pub(crate) at_least_one: bool,
}

/// A read to be done where waiting for the disk is allowed. It reads what the log was when the read was asked for.
#[derive(Debug)]
pub struct ColdRead {
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) wanted: Wanted,
}

impl ColdRead {
    /// Reads with `pread`, checks CRCs. Blocks.
    pub fn load(&self) -> Result<Vec<Slice>, StorageError> {
        match walk_segments(&self.segments, self.wanted, Temperature::Cold)? {
            Some(slices) => Ok(slices),
            None => unreachable!("a cold read does not wait for another"),
        }
    }
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temperature {
    Hot,
    Cold,
}

/// The segment that holds `offset`, or would.
pub(crate) fn segment_at(segments: &[Arc<Segment>], offset: Offset) -> Option<usize> {
    segments.partition_point(|segment| segment.base() <= offset).checked_sub(1)
}

/// Reads from one segment after the other. `None`: the first bytes are not to be had hot.
pub(crate) fn walk_segments(
    segments: &[Arc<Segment>],
    mut wanted: Wanted,
    temperature: Temperature,
) -> Result<Option<Vec<Slice>>, StorageError> {
    let mut slices = Vec::new();
    let Some(first) = segment_at(segments, wanted.from) else { return Ok(Some(slices)) };
    let last = &segments[segments.len() - 1];
    for segment in &segments[first..] {
        if wanted.from >= wanted.end || wanted.max_bytes == 0 && !wanted.at_least_one {
            break;
        }
        let part = match read_segment(segment, wanted, temperature) {
            Ok(part) => part,
            Err(Trouble::Cold) if slices.is_empty() => return Ok(None),
            // What could be read is an answer; the next read begins at the trouble.
            Err(_) if !slices.is_empty() => break,
            Err(Trouble::Cold) => unreachable!("nothing was read yet"),
            Err(Trouble::Corrupt(position, reason)) => return Err(segment.corrupt(position, reason)),
            Err(Trouble::Other(error)) => return Err(error),
        };
        if let Some(slice) = part.slice {
            wanted.max_bytes = wanted.max_bytes.saturating_sub(slice.len() as u64);
            wanted.at_least_one = false;
            slices.push(slice);
        }
        if !part.to_the_end || !segment.is_sealed() {
            break;
        }
        // A segment is named by the end of the one before, so a sealed one ends where the next one begins, or batches are missing.
        let (found, end) = (segment.index().next_offset(), segment.end());
        if found < end {
            if slices.is_empty() {
                let reason = format!("the file ends at offset {found}, but the next begins at {end}");
                return Err(segment.corrupt(segment.size(), reason));
            }
            break;
        }
        wanted.from = wanted.from.max(end);
        if Arc::ptr_eq(segment, last) && wanted.from < wanted.end && slices.is_empty() {
            // Only in a quarantined log.
            let reason = format!("the file that begins at offset {end} is missing");
            return Err(segment.corrupt(segment.size(), reason));
        }
    }
    Ok(Some(slices))
}

enum Trouble {
    /// Touching these bytes might wait for the disk.
    Cold,
    Corrupt(u64, String),
    Other(StorageError),
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Self::Other(error)
    }
}

struct Part {
    slice: Option<Slice>,
    /// Nothing of the segment is left.
    to_the_end: bool,
}

fn read_segment(segment: &Arc<Segment>, wanted: Wanted, temperature: Temperature) -> Result<Part, Trouble> {
    let opened = match temperature {
        Temperature::Hot => segment.opened().ok_or(Trouble::Cold)?,
        Temperature::Cold => segment.open()?,
    };
    // After the file: a truncation sets the size first and lets the file go then.
    let mut size = segment.size();
    if !segment.knows_way_to(wanted.from) {
        if temperature == Temperature::Hot {
            return Err(Trouble::Cold);
        }
        segment.load_index(&opened)?;
        size = segment.size();
    }
    let (low, ahead) = {
        let index = segment.index();
        let low = index.floor(segment.base(), wanted.from).min(size);
        (low, index.after(low).unwrap_or(size).min(size))
    };
    // Enough for the batch looked for, what may be returned, and the header that ends it.
    let high = size.min(ahead.saturating_add(wanted.max_bytes).saturating_add(HEAD_LEN as u64));
    if low == size {
        return Ok(Part { slice: None, to_the_end: true });
    }
    match temperature {
        Temperature::Hot => {
            let map = opened.map(size).map_err(|error| StorageError::io("map", segment.path(), error))?;
            let mut source = HotSource { map, opened, checked: low..low };
            source.check(low, high - low)?;
            pick(segment, &mut source, low, size, wanted)
        }
        Temperature::Cold => {
            let mut source = ColdSource { segment, opened, start: low, buffer: Bytes::new() };
            source.fill(low, high - low)?;
            pick(segment, &mut source, low, size, wanted)
        }
    }
}

/// Walks from `low` to the batch that holds the offset, on to the last batch that fits, and checks what was not checked yet.
fn pick(
    segment: &Segment,
    source: &mut impl Source,
    low: u64,
    size: u64,
    wanted: Wanted,
) -> Result<Part, Trouble> {
    let nothing = |to_the_end| Ok(Part { slice: None, to_the_end });
    let (mut start, mut next) = (low, segment.base());
    let first = loop {
        if start == size {
            return nothing(true);
        }
        let head = head_at(source, start, size)?;
        // The base offset is not covered by the checksum.
        if head.base < next || head.last >= segment.end() {
            let (base, last, end) = (head.base, head.last, segment.end());
            return Err(Trouble::Corrupt(
                start,
                format!("offsets {base} to {last} where {next} to {end} can be"),
            ));
        }
        if head.last >= wanted.from {
            break head;
        }
        next = head.next();
        start += head.size;
    };
    if first.base > wanted.from {
        // A gap, which a compacted leader leaves; or one of the headers that led here is wrong.
        verify(segment, source, low, start, size)?;
    }
    if first.last >= wanted.end {
        verify(segment, source, start, start + first.size, size)?;
        return nothing(false);
    }
    if first.size > wanted.max_bytes && !wanted.at_least_one {
        return nothing(false);
    }
    let mut stop = start + first.size;
    let furthest = start.saturating_add(wanted.max_bytes);
    if let Some(jump) = segment.index().jump(segment.base(), stop, furthest.min(size), wanted.end) {
        stop = jump;
    }
    while stop < size {
        match head_at(source, stop, size) {
            Ok(head) if head.last < wanted.end && stop + head.size <= furthest => stop += head.size,
            Ok(_) => break,
            // What is sound is an answer; the next read begins at the trouble.
            Err(Trouble::Cold | Trouble::Corrupt(..)) => break,
            Err(other) => return Err(other),
        }
    }
    let stop = verify(segment, source, start, stop, size)?;
    let to_the_end = stop == size;
    let slice = source.slice(start, (stop - start) as usize)?;
    Ok(Part { slice: Some(slice), to_the_end })
}

/// Checks the batches from `start` to `stop` that nobody has checked; returns the end of the sound ones. An error if the first is not.
fn verify(
    segment: &Segment,
    source: &mut impl Source,
    start: u64,
    stop: u64,
    size: u64,
) -> Result<u64, Trouble> {
    if !source.always_checked() && segment.verified().covers(start, stop) {
        return Ok(stop);
    }
    let mut at = start;
    while at < stop {
        let checked = head_at(source, at, size).and_then(|head| {
            let bytes = source.slice(at, head.size as usize)?;
            if is_sound(bytes.bytes()) {
                return Ok(head.size);
            }
            Err(Trouble::Corrupt(at, "its checksum does not match".to_owned()))
        });
        match checked {
            Ok(len) => at += len,
            Err(Trouble::Corrupt(..) | Trouble::Cold) if at > start => break,
            Err(trouble) => return Err(trouble),
        }
    }
    segment.verified().insert(start, at);
    Ok(at)
}

fn head_at(source: &mut impl Source, position: u64, size: u64) -> Result<Head, Trouble> {
    let left = size - position;
    if left < HEAD_LEN as u64 {
        return Err(Trouble::Corrupt(position, format!("the data end {left} bytes into a batch")));
    }
    let mut bytes = [0; HEAD_LEN];
    source.read(position, &mut bytes)?;
    let head = Head::parse(&bytes).map_err(|reason| Trouble::Corrupt(position, reason))?;
    if head.size > left {
        return Err(Trouble::Corrupt(
            position,
            format!("the data end {left} bytes into a batch of {}", head.size),
        ));
    }
    Ok(head)
}

/// Where the walk finds bytes.
trait Source {
    fn read(&mut self, position: u64, into: &mut [u8]) -> Result<(), Trouble>;
    fn slice(&mut self, position: u64, len: usize) -> Result<Slice, Trouble>;
    /// Bytes come fresh from the device, so that an earlier check says nothing.
    fn always_checked(&self) -> bool;
}

struct HotSource {
    map: Arc<dyn Map>,
    opened: Arc<Opened>,
    /// Known to be in memory a moment ago.
    checked: std::ops::Range<u64>,
}

impl HotSource {
    fn check(&mut self, position: u64, len: u64) -> Result<(), Trouble> {
        if self.checked.start <= position && position + len <= self.checked.end {
            return Ok(());
        }
        if !self.map.is_resident(position, len as usize) {
            return Err(Trouble::Cold);
        }
        if self.checked.end == position {
            self.checked.end = position + len;
        } else {
            self.checked = position..position + len;
        }
        Ok(())
    }
}

impl Source for HotSource {
    fn read(&mut self, position: u64, into: &mut [u8]) -> Result<(), Trouble> {
        self.check(position, into.len() as u64)?;
        self.map.copy_to(position, into);
        Ok(())
    }

    fn slice(&mut self, position: u64, len: usize) -> Result<Slice, Trouble> {
        self.check(position, len as u64)?;
        let along: Keep = Arc::clone(&self.opened) as Keep;
        let bytes = Arc::clone(&self.map).slice(position, len, along);
        Ok(Slice { bytes, file: Some((Arc::clone(&self.opened), position)) })
    }

    fn always_checked(&self) -> bool {
        false
    }
}

struct ColdSource<'a> {
    segment: &'a Segment,
    opened: Arc<Opened>,
    start: u64,
    buffer: Bytes,
}

impl ColdSource<'_> {
    fn fill(&mut self, position: u64, len: u64) -> Result<(), Trouble> {
        let mut buffer = vec![0; len as usize];
        read_exactly(&**self.opened.file(), &mut buffer, position)
            .map_err(|error| StorageError::io("read", self.segment.path(), error))?;
        self.start = position;
        self.buffer = buffer.into();
        Ok(())
    }

    fn within(&self, position: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let at = usize::try_from(position.checked_sub(self.start)?).ok()?;
        (at + len <= self.buffer.len()).then_some(at..at + len)
    }
}

impl Source for ColdSource<'_> {
    fn read(&mut self, position: u64, into: &mut [u8]) -> Result<(), Trouble> {
        if let Some(range) = self.within(position, into.len()) {
            into.copy_from_slice(&self.buffer[range]);
            return Ok(());
        }
        read_exactly(&**self.opened.file(), into, position)
            .map_err(|error| StorageError::io("read", self.segment.path(), error).into())
    }

    fn slice(&mut self, position: u64, len: usize) -> Result<Slice, Trouble> {
        if self.within(position, len).is_none() {
            self.fill(position, len as u64)?;
        }
        let range = self.within(position, len).expect("the buffer was just filled");
        Ok(Slice::from(self.buffer.slice(range)))
    }

    fn always_checked(&self) -> bool {
        true
    }
}
