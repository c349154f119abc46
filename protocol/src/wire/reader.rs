//! Reads the primitive forms.

use bytes::Bytes;
use bytestring::ByteString;

use crate::types::Uuid;

/// The longest string that Kafka reads or writes, in bytes, in either form.
pub(super) const STRING_BYTES_MAX: usize = 0x7fff;

/// What an unknown tagged field costs. It is skipped and never stored, but a flood of them is nobody's honest message.
const UNKNOWN_TAG_COST: usize = 64;

/// Why bytes are not the message that they should be. The connection that sent them is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the message ends {missing} bytes too early")]
    Truncated { missing: usize },
    #[error("a length or count of {0} is negative")]
    NegativeLength(i32),
    #[error("null where the version allows none")]
    Null,
    #[error("an array of {count} elements in {left} bytes")]
    Count { count: usize, left: usize },
    #[error("a string of {0} bytes; at most 32767 are allowed")]
    StringLength(usize),
    #[error("a variable-length integer of more than 5 bytes or 32 bits")]
    Varint,
    #[error("a tagged field's size is not that of its content")]
    TagSize,
    #[error("the message would need far more memory than its {0} bytes warrant")]
    Budget(usize),
    #[error("{name} has no version {version}")]
    Version { name: &'static str, version: i16 },
}

/// A cursor over the bytes of one message. Strings and bytes that it returns are slices of those bytes, not copies: what outlives
/// the request must be copied, or it keeps the whole frame alive.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    position: usize,
    budget: usize,
}

impl Reader {
    /// The memory that decoding `len` bytes may take, beside them: 16 times as much (the most that honest messages with very short
    /// strings need), 64 KiB more for small ones, and never above 64 MiB.
    #[must_use]
    pub fn budget_of(len: usize) -> usize {
        const FLOOR: usize = 64 * 1024;
        const CEILING: usize = 64 * 1024 * 1024;
        len.saturating_mul(16).saturating_add(FLOOR).min(CEILING)
    }

    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let budget = Self::budget_of(bytes.len());
        Self { bytes, position: 0, budget }
    }

    /// A reader that may allocate `budget` bytes: for a peer that is not yet authenticated, and for tests.
    #[must_use]
    pub fn with_budget(bytes: Bytes, budget: usize) -> Self {
        Self { bytes, position: 0, budget }
    }

    /// How many bytes are not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// How many bytes have been read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// What may still be allocated, in bytes.
    #[must_use]
    pub fn budget_left(&self) -> usize {
        self.budget
    }

    /// Pays for `cost` bytes of memory.
    #[inline]
    pub fn charge(&mut self, cost: usize) -> Result<(), DecodeError> {
        match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(DecodeError::Budget(self.bytes.len())),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match rest.first_chunk::<N>() {
            Some(chunk) => {
                self.position += N;
                Ok(*chunk)
            }
            None => Err(DecodeError::Truncated { missing: N - rest.len() }),
        }
    }

    /// The next `len` bytes, shared with the message.
    pub fn slice(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        self.check_left(len)?;
        let start = self.position;
        self.position += len;
        Ok(self.bytes.slice(start..self.position))
    }

    pub fn skip(&mut self, len: usize) -> Result<(), DecodeError> {
        self.check_left(len)?;
        self.position += len;
        Ok(())
    }

    fn check_left(&self, len: usize) -> Result<(), DecodeError> {
        match len.checked_sub(self.remaining()) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(DecodeError::Truncated { missing }),
        }
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.array::<1>()?[0] != 0)
    }

    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid(self.array()?))
    }

    /// An unsigned variable-length integer of at most 32 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        let first = self.array::<1>()?[0];
        if first < 0x80 {
            return Ok(u32::from(first));
        }
        self.long_varint(first)
    }

    fn long_varint(&mut self, first: u8) -> Result<u32, DecodeError> {
        let mut value = u32::from(first & 0x7f);
        for shift in [7, 14, 21, 28] {
            let byte = self.array::<1>()?[0];
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::Varint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    /// A length or count in the flexible form, which is one more than the number, zero for null; or in the old form, -1 for null.
    #[inline]
    fn length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        if flexible {
            return Ok((self.varint()? as usize).checked_sub(1));
        }
        optional(self.i32()?)
    }

    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<ByteString>, DecodeError> {
        let len = if flexible { self.length(true)? } else { optional(i32::from(self.i16()?))? };
        let Some(len) = len else { return Ok(None) };
        if len > STRING_BYTES_MAX {
            return Err(DecodeError::StringLength(len));
        }
        let bytes = self.slice(len)?;
        match ByteString::try_from(bytes.clone()) {
            Ok(string) => Ok(Some(string)),
            // As Kafka does: what is not UTF-8 becomes U+FFFD, and the name's own rules refuse it where it matters.
            Err(_) => {
                self.charge(len.saturating_mul(3))?;
                Ok(Some(ByteString::from(String::from_utf8_lossy(&bytes).into_owned())))
            }
        }
    }

    pub fn string(&mut self, flexible: bool) -> Result<ByteString, DecodeError> {
        self.nullable_string(flexible)?.ok_or(DecodeError::Null)
    }

    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, DecodeError> {
        let Some(len) = self.length(flexible)? else { return Ok(None) };
        self.slice(len).map(Some)
    }

    pub fn bytes(&mut self, flexible: bool) -> Result<Bytes, DecodeError> {
        self.nullable_bytes(flexible)?.ok_or(DecodeError::Null)
    }

    /// The count of an array whose elements take `element_bytes` each in memory. The memory of all of them is paid here, so that
    /// the caller may reserve it; each element also takes at least one byte of the message.
    pub fn nullable_array_len(
        &mut self,
        flexible: bool,
        element_bytes: usize,
    ) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.length(flexible)? else { return Ok(None) };
        let left = self.remaining();
        if count > left {
            return Err(DecodeError::Count { count, left });
        }
        self.charge(count.saturating_mul(element_bytes))?;
        Ok(Some(count))
    }

    pub fn array_len(&mut self, flexible: bool, element_bytes: usize) -> Result<usize, DecodeError> {
        self.nullable_array_len(flexible, element_bytes)?.ok_or(DecodeError::Null)
    }

    /// Before a struct that may be null: -1 for null.
    pub fn is_struct_present(&mut self) -> Result<bool, DecodeError> {
        match self.i8()? {
            -1 => Ok(false),
            marker if marker < 0 => Err(DecodeError::NegativeLength(i32::from(marker))),
            _ => Ok(true),
        }
    }

    /// Before a tagged struct that may be null: zero for null. Kafka's generator marks it otherwise than one that is not tagged.
    pub fn is_tagged_struct_present(&mut self) -> Result<bool, DecodeError> {
        Ok(self.varint()? > 0)
    }

    /// How many tagged fields follow (KIP-482). Each takes at least two bytes.
    pub fn tag_count(&mut self) -> Result<u32, DecodeError> {
        let count = self.varint()?;
        let left = self.remaining();
        if count as usize > left / 2 {
            return Err(DecodeError::Count { count: count as usize, left });
        }
        Ok(count)
    }

    /// The next tagged field's tag, and the position at which it ends.
    pub fn tag(&mut self) -> Result<(u32, usize), DecodeError> {
        let tag = self.varint()?;
        let size = self.varint()? as usize;
        self.check_left(size)?;
        Ok((tag, self.position + size))
    }

    /// After a known tagged field.
    pub fn end_of_tag(&self, end: usize) -> Result<(), DecodeError> {
        if self.position == end { Ok(()) } else { Err(DecodeError::TagSize) }
    }

    /// Passes an unknown tagged field by; Kafka accepts them in any order, and so does this.
    pub fn skip_tag(&mut self, end: usize) -> Result<(), DecodeError> {
        self.charge(UNKNOWN_TAG_COST)?;
        assert!(
            (self.position..=self.bytes.len()).contains(&end),
            "a tag's end was checked when it was read"
        );
        self.position = end;
        Ok(())
    }

    /// The tagged fields of a struct that knows none.
    pub fn skip_tags(&mut self) -> Result<(), DecodeError> {
        for _ in 0..self.tag_count()? {
            let (_, end) = self.tag()?;
            self.skip_tag(end)?;
        }
        Ok(())
    }
}

fn optional(length: i32) -> Result<Option<usize>, DecodeError> {
    match usize::try_from(length) {
        Ok(length) => Ok(Some(length)),
        Err(_) if length == -1 => Ok(None),
        Err(_) => Err(DecodeError::NegativeLength(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::FetchRequest;
    use crate::wire::Message as _;

    fn reader(bytes: &[u8]) -> Reader {
        Reader::new(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn a_varint_has_at_most_five_bytes_and_32_bits() {
        for (bytes, value) in [
            (&[0x00][..], Ok(0)),
            (&[0x7f], Ok(127)),
            (&[0x80, 0x01], Ok(128)),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(u32::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], Err(DecodeError::Varint)),
            (&[0x80, 0x80, 0x80, 0x80, 0x80], Err(DecodeError::Varint)),
            (&[0x80], Err(DecodeError::Truncated { missing: 1 })),
        ] {
            assert_eq!(reader(bytes).varint(), value, "{bytes:?}");
        }
    }

    #[test]
    fn a_length_below_minus_one_is_an_error_and_minus_one_is_null() {
        assert_eq!(reader(&[0xff, 0xff]).nullable_string(false), Ok(None));
        assert_eq!(reader(&[0xff, 0xff]).string(false), Err(DecodeError::Null));
        assert_eq!(reader(&[0xff, 0xfe]).nullable_string(false), Err(DecodeError::NegativeLength(-2)));
        assert_eq!(
            reader(&[0xff, 0xff, 0xff, 0xfe]).nullable_bytes(false),
            Err(DecodeError::NegativeLength(-2))
        );
        assert_eq!(reader(&[0]).nullable_bytes(true), Ok(None));
    }

    #[test]
    fn a_string_that_is_not_utf8_is_read_with_replacement_characters() {
        assert_eq!(reader(&[0, 2, b'a', 0xff]).string(false), Ok(ByteString::from_static("a\u{fffd}")));
    }

    #[test]
    fn a_string_is_at_most_32767_bytes_long_in_the_flexible_form_too() {
        let mut bytes = vec![0x81, 0x80, 0x02];
        bytes.resize(3 + 0x8000, b'x');
        assert_eq!(reader(&bytes).string(true), Err(DecodeError::StringLength(0x8000)));
    }

    #[test]
    fn a_count_is_checked_against_the_bytes_left_and_against_the_budget() {
        let huge = [0x7f, 0xff, 0xff, 0xff];
        assert_eq!(
            reader(&huge).array_len(false, 8),
            Err(DecodeError::Count { count: 0x7fff_ffff, left: 0 })
        );
        let mut r = Reader::with_budget(Bytes::from_static(&[0, 0, 0, 3, 1, 2, 3]), 23);
        assert_eq!(r.array_len(false, 8), Err(DecodeError::Budget(7)));
    }

    #[test]
    fn unknown_tags_are_passed_by_in_any_order_and_paid_for() {
        let mut r = reader(&[2, 9, 1, 0xaa, 3, 0, 7]);
        let before = r.budget_left();
        assert_eq!(r.skip_tags(), Ok(()));
        assert_eq!((r.remaining(), before - r.budget_left()), (1, 2 * UNKNOWN_TAG_COST));
    }

    #[test]
    fn a_known_tagged_field_takes_exactly_its_size() {
        let request = |size: u8| {
            // FetchRequest v12 with no topics, then its one tagged field 0, the cluster id "x".
            let mut bytes = vec![0; 4 + 4 + 4 + 4 + 1 + 4 + 4];
            bytes.extend([1, 1, 1, 1, 0, size, 2, b'x']);
            bytes
        };
        let decode = |bytes: &[u8]| FetchRequest::decode(&mut reader(bytes), 12);
        let plain = decode(&request(2)).expect("a request");
        assert_eq!(plain.cluster_id.as_deref(), Some("x"));
        assert_eq!(decode(&request(1)), Err(DecodeError::TagSize));
        let mut longer = request(3);
        longer.push(0);
        assert_eq!(decode(&longer), Err(DecodeError::TagSize));
    }

    #[test]
    fn a_slice_shares_the_memory_of_the_message() {
        let message = Bytes::from(vec![0, 0, 0, 2, 8, 9]);
        let slice = Reader::new(message.clone()).bytes(false).expect("two bytes");
        assert_eq!(slice.as_ptr(), message[4..].as_ptr());
    }
}
