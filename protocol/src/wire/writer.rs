//! Writes the primitive forms.

use super::reader::STRING_BYTES_MAX;
use crate::types::Uuid;

/// A growing buffer of encoded bytes.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes) }
    }

    /// Goes on behind what `bytes` already holds.
    #[must_use]
    pub fn append_to(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
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

    /// Overwrites four bytes written before: for lengths that are known only afterwards.
    pub fn set_i32(&mut self, position: usize, value: i32) {
        self.bytes[position..position + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Bytes without a length before them.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.raw(&value.to_be_bytes());
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.raw(&value.0);
    }

    /// An unsigned variable-length integer.
    pub fn varint(&mut self, value: u32) {
        let (bytes, len) = varint_bytes(value);
        self.raw(&bytes[..len]);
    }

    fn length(&mut self, len: usize, flexible: bool) {
        let len = i32::try_from(len).expect("an encoded length fits into 31 bits: frames are far smaller");
        if flexible {
            self.varint(len.unsigned_abs() + 1);
        } else {
            self.i32(len);
        }
    }

    /// A string, cut to the longest that the protocol can carry. A string that was read is never longer; a message for people that
    /// this process composed might be.
    pub fn string(&mut self, value: &str, flexible: bool) {
        let value = &value[..value.floor_char_boundary(STRING_BYTES_MAX)];
        if flexible {
            self.length(value.len(), true);
        } else {
            self.i16(i16::try_from(value.len()).expect("it was cut to what fits"));
        }
        self.raw(value.as_bytes());
    }

    pub fn null_string(&mut self, flexible: bool) {
        if flexible { self.varint(0) } else { self.i16(-1) }
    }

    pub fn bytes(&mut self, value: &[u8], flexible: bool) {
        self.length(value.len(), flexible);
        self.raw(value);
    }

    pub fn null_bytes(&mut self, flexible: bool) {
        if flexible { self.varint(0) } else { self.i32(-1) }
    }

    /// The length before bytes that the caller sends by other ways, such as slices of the log.
    pub fn bytes_len(&mut self, len: usize, flexible: bool) {
        self.length(len, flexible);
    }

    pub fn array_len(&mut self, count: usize, flexible: bool) {
        self.length(count, flexible);
    }

    pub fn null_array(&mut self, flexible: bool) {
        self.null_bytes(flexible);
    }

    /// Begins a tagged field; returns what [`Writer::end_tag`] needs.
    pub fn begin_tag(&mut self, tag: u32) -> usize {
        self.varint(tag);
        self.len()
    }

    /// Ends the tagged field that began at `start`: its size goes before its content.
    pub fn end_tag(&mut self, start: usize) {
        let size = u32::try_from(self.len() - start).expect("an encoded length fits into 31 bits");
        let (bytes, len) = varint_bytes(size);
        self.raw(&bytes[..len]);
        self.bytes[start..].rotate_right(len);
    }
}

fn varint_bytes(mut value: u32) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let mut len = 0;
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes[len] = if value == 0 { low } else { low | 0x80 };
        len += 1;
        if value == 0 {
            return (bytes, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::Reader;

    #[test]
    fn a_varint_is_read_as_it_was_written() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 1 << 21, (1 << 28) - 1, 1 << 28, u32::MAX] {
            let mut w = Writer::new();
            w.varint(value);
            assert_eq!(Reader::new(Bytes::from(w.into_bytes())).varint(), Ok(value));
        }
    }

    #[test]
    fn a_tagged_fields_size_stands_before_its_content() {
        let mut w = Writer::new();
        let start = w.begin_tag(5);
        w.raw(&[9; 200]);
        w.end_tag(start);
        assert_eq!(w.as_bytes()[..4], [5, 0xc8, 0x01, 9]);
        assert_eq!(w.len(), 203);
    }

    #[test]
    fn a_string_that_is_too_long_is_cut_between_characters() {
        let mut w = Writer::new();
        w.string(&"\u{e4}".repeat(20_000), false);
        assert_eq!(w.len(), 2 + 32_766);
    }
}
