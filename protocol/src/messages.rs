//! Kafka 4.3.1's requests, responses and headers, generated from `schema/messages.jsonl` by `build/`.
//!
//! One module per message holds its structs, named as in Kafka; the message itself is also here, such as
//! [`MetadataRequest`]. `Default` gives Kafka's defaults. Strings and bytes of a decoded message are slices of its frame.

mod prelude {
    pub(super) use bytes::Bytes;
    pub(super) use bytestring::ByteString;

    pub(super) use crate::types::Uuid;
    pub(super) use crate::wire::{DecodeError, Message, Reader, Request, Writer, check_version};
}

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
