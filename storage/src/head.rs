//! The header of a stored batch, as far as a log needs it to find its way: where the next batch begins, and what this one spans.

use ottla_protocol::types::{LeaderEpoch, Offset};

/// The bytes before a batch's first record (the header of RecordBatch v2, KIP-98).
pub(crate) const HEAD_LEN: usize = 61;
/// Base offset and length: what the length field does not count.
const PREFIX_LEN: usize = 12;
/// What the checksum covers begins here, at the attributes.
const CHECKED_FROM: usize = 21;

/// What a log reads of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) base: Offset,
    pub(crate) last: Offset,
    /// Of the whole batch, in bytes.
    pub(crate) size: u64,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) max_timestamp: i64,
}

impl Head {
    /// Reads a header; says what is wrong with it if it cannot be one.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.first_chunk::<HEAD_LEN>() else {
            return Err(format!("{} bytes are too few for a batch", bytes.len()));
        };
        let base = i64::from_be_bytes(array(bytes, 0));
        let length = i32::from_be_bytes(array(bytes, 8));
        if usize::try_from(length).is_ok_and(|length| length < HEAD_LEN - PREFIX_LEN) || length < 0 {
            return Err(format!("a batch length of {length}"));
        }
        if bytes[16] != 2 {
            return Err(format!("magic {}", bytes[16]));
        }
        let last_delta = i32::from_be_bytes(array(bytes, 23));
        let last = base.checked_add(i64::from(last_delta));
        let Some(last) = last.filter(|last| base >= 0 && *last >= base && *last < i64::MAX) else {
            return Err(format!("offsets from {base} over {last_delta}"));
        };
        Ok(Self {
            base: Offset(base),
            last: Offset(last),
            size: length as u64 + PREFIX_LEN as u64,
            epoch: LeaderEpoch(i32::from_be_bytes(array(bytes, 12))),
            max_timestamp: i64::from_be_bytes(array(bytes, 35)),
        })
    }

    /// The offset after this batch.
    pub(crate) fn next(&self) -> Offset {
        self.last.plus(1)
    }
}

fn array<const N: usize>(bytes: &[u8; HEAD_LEN], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk::<N>().expect("the fields lie within the header")
}

/// Whether a whole batch's checksum is right.
pub(crate) fn is_sound(batch: &[u8]) -> bool {
    let stored = u32::from_be_bytes([batch[17], batch[18], batch[19], batch[20]]);
    crc32c::crc32c(&batch[CHECKED_FROM..]) == stored
}
