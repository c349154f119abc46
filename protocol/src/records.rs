//! The records that Kafka's coordinators keep in their internal topics, and the data that members of consumer groups exchange,
//! generated from `schema/records.jsonl` by `build/`.
//!
//! A stored key begins with its record type (an `int16`, [`Message::API_KEY`]), a stored value and a member's data with their version.

use bytes::Bytes;

use crate::wire::{DecodeError, Message, Reader, Writer};

mod prelude {
    pub(super) use bytes::Bytes;
    pub(super) use bytestring::ByteString;

    pub(super) use crate::types::Uuid;
    pub(super) use crate::wire::{DecodeError, Message, Reader, Writer, check_version};
}

include!(concat!(env!("OUT_DIR"), "/records.rs"));

/// A coordinator record's key: its record type, then the key itself, which has only version 0.
#[must_use]
pub fn encode_key<M: Message>(key: &M) -> Vec<u8> {
    let mut w = Writer::with_capacity(64);
    w.i16(M::API_KEY.expect("a coordinator's key has a record type"));
    key.encode(&mut w, 0);
    w.into_bytes()
}

/// The record type with which a stored key begins.
#[must_use]
pub fn key_type(bytes: &[u8]) -> Option<i16> {
    bytes.first_chunk().map(|chunk| i16::from_be_bytes(*chunk))
}

/// Reads what [`encode_key`] wrote; the caller has chosen `M` by [`key_type`].
pub fn decode_key<M: Message>(bytes: Bytes) -> Result<M, DecodeError> {
    let mut r = Reader::new(bytes);
    let record_type = r.i16()?;
    if Some(record_type) != M::API_KEY {
        return Err(DecodeError::Version { name: M::NAME, version: record_type });
    }
    M::decode(&mut r, 0)
}

/// A stored value, or a member's data: its version, then the value in that version.
#[must_use]
pub fn encode_versioned<M: Message>(value: &M, version: i16) -> Vec<u8> {
    let mut w = Writer::with_capacity(128);
    w.i16(version);
    value.encode(&mut w, version);
    w.into_bytes()
}

/// Reads what [`encode_versioned`] wrote, in any version that this build knows.
pub fn decode_versioned<M: Message>(bytes: Bytes) -> Result<M, DecodeError> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    M::decode(&mut r, version)
}

/// Like [`decode_versioned`], but data in a newer version is read as the newest known one: so do Kafka's clients read each
/// other's subscriptions and assignments, whose newer versions only add fields at the end.
pub fn decode_versioned_or_newest<M: Message>(bytes: Bytes) -> Result<M, DecodeError> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?.min(M::MAX_VERSION);
    M::decode(&mut r, version)
}

#[cfg(test)]
mod tests {
    use bytestring::ByteString;

    use super::*;

    #[test]
    fn an_offset_commit_key_has_the_bytes_that_kafka_stores() {
        let key = OffsetCommitKey {
            group: ByteString::from_static("g"),
            topic: ByteString::from_static("t"),
            partition: 3,
        };
        let bytes = encode_key(&key);
        assert_eq!(bytes, [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 3]);
        assert_eq!(key_type(&bytes), Some(1));
        assert_eq!(decode_key::<OffsetCommitKey>(Bytes::from(bytes.clone())), Ok(key));
        assert!(decode_key::<GroupMetadataKey>(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn a_tagged_struct_that_is_null_has_the_bytes_that_kafka_stores() {
        let value = ConsumerGroupMemberMetadataValue { classic_member_metadata: None, ..Default::default() };
        let bytes = encode_versioned(&value, 0);
        // One tagged field, 0, of one byte, which is 0 for null: the field's default is an empty struct.
        assert_eq!(bytes[bytes.len() - 4..], [1, 0, 1, 0]);
        assert_eq!(decode_versioned(Bytes::from(bytes)), Ok(value));
        let bytes = encode_versioned(&ConsumerGroupMemberMetadataValue::default(), 0);
        assert_eq!(bytes.last(), Some(&0));
    }

    #[test]
    fn a_newer_subscription_is_read_as_the_newest_known_version() {
        let subscription =
            ConsumerProtocolSubscription { topics: vec![ByteString::from_static("t")], ..Default::default() };
        let mut bytes = encode_versioned(&subscription, 3);
        bytes[1] = 9;
        bytes.extend_from_slice(b"a field of the future");
        assert!(decode_versioned::<ConsumerProtocolSubscription>(Bytes::from(bytes.clone())).is_err());
        assert_eq!(decode_versioned_or_newest(Bytes::from(bytes)), Ok(subscription));
    }
}
