//! The header of a stored batch, as far as a log needs it to find its way: where the next batch begins, and what this one spans.

use ottla_protocol::batch::{BatchHeader, HEADER_BYTES};
use ottla_protocol::types::{LeaderEpoch, Offset};

/// The bytes before a batch's first record.
pub(crate) const HEAD_LEN: usize = HEADER_BYTES;
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
        let header = BatchHeader::read(bytes).map_err(|error| error.to_string())?;
        let (base, delta) = (header.base_offset, header.last_offset_delta);
        let last = base.0.checked_add(i64::from(delta));
        let Some(last) = last.filter(|last| base.0 >= 0 && delta >= 0 && *last < i64::MAX) else {
            return Err(format!("offsets from {base} over {delta}"));
        };
        Ok(Self {
            base,
            last: Offset(last),
            size: header.size_bytes() as u64,
            epoch: header.partition_leader_epoch,
            max_timestamp: header.max_timestamp,
        })
    }

    /// The offset after this batch.
    pub(crate) fn next(&self) -> Offset {
        self.last.plus(1)
    }
}

/// Whether a whole batch's checksum is right.
pub(crate) fn is_sound(batch: &[u8]) -> bool {
    let stored = u32::from_be_bytes([batch[17], batch[18], batch[19], batch[20]]);
    crc32c::crc32c(&batch[CHECKED_FROM..]) == stored
}
