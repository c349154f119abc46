//! Record batches as the tests write them: a header that a log reads, a right checksum, and a body that nobody does.

use ottla_protocol::types::{LeaderEpoch, Offset};

/// A batch of `count` records with `body` bytes after its header.
pub(crate) fn batch(
    base: Offset,
    count: i32,
    epoch: LeaderEpoch,
    max_timestamp: i64,
    body: usize,
) -> Vec<u8> {
    let mut bytes = vec![0; 61];
    bytes[0..8].copy_from_slice(&base.0.to_be_bytes());
    bytes[8..12].copy_from_slice(&(49 + body as i32).to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.0.to_be_bytes());
    bytes[16] = 2;
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[27..35].copy_from_slice(&max_timestamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    bytes[43..51].copy_from_slice(&(-1_i64).to_be_bytes());
    bytes[51..53].copy_from_slice(&(-1_i16).to_be_bytes());
    bytes[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    bytes.extend((0..body).map(|at| (base.0 as usize * 31 + epoch.0 as usize * 7 + at) as u8));
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// A batch of one record in epoch 0.
pub(crate) fn single(base: i64, timestamp: i64, body: usize) -> Vec<u8> {
    batch(Offset(base), 1, LeaderEpoch(0), timestamp, body)
}
