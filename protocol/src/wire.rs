//! The primitive forms of the protocol, read within a budget and written without failing.
//!
//! Nothing that a peer claims is believed before it is checked: a length must fit into the bytes that are left, and an array is
//! allocated only after its whole size in memory has been paid from the message's [budget](Reader::new). So decoding costs at most
//! a small multiple of the bytes received, whatever they say (CVE-2026-111108, CVE-2026-111115).

mod reader;
mod writer;

pub use reader::{DecodeError, Reader};
pub use writer::Writer;

/// A message of the protocol, or a record that a coordinator stores, in all of its versions.
pub trait Message: Sized {
    /// The API of a request or response; the record type of a coordinator's key or value.
    const API_KEY: Option<i16>;
    /// Kafka's own name, such as `MetadataRequest`.
    const NAME: &'static str;
    const MIN_VERSION: i16;
    const MAX_VERSION: i16;
    /// The first version with compact lengths and tagged fields (KIP-482).
    const FLEXIBLE_FROM: Option<i16>;

    /// Reads the message from where `r` stands; bytes behind it are left.
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError>;

    /// Never fails: a field that `version` lacks is left out, and a null where that version allows none is written as empty.
    /// `version` must be one of the message's (asserted in debug builds).
    fn encode(&self, w: &mut Writer, version: i16);

    #[must_use]
    fn is_flexible(version: i16) -> bool {
        Self::FLEXIBLE_FROM.is_some_and(|first| version >= first)
    }
}

/// What a client sends, and what it gets back.
pub trait Request: Message {
    const KEY: i16;
    type Response: Message;
}

/// For generated code: the check that stands before each message.
pub(crate) fn check_version(name: &'static str, min: i16, max: i16, version: i16) -> Result<(), DecodeError> {
    if (min..=max).contains(&version) { Ok(()) } else { Err(DecodeError::Version { name, version }) }
}
