//! The generated messages by their names.

use bytes::Bytes;
use ottla_protocol::wire::{DecodeError, Message, Reader, Writer};

/// One generated message, as functions over bytes.
pub struct Codec {
    pub name: &'static str,
    pub api_key: Option<i16>,
    pub is_request: bool,
    pub versions: (i16, i16),
    pub flexible_from: Option<i16>,
    /// Reads one message and forgets it.
    pub decode: fn(&mut Reader, i16) -> Result<(), DecodeError>,
    /// Reads one message from all of the bytes, writes it again, and checks that what it wrote is read as the same.
    pub recode: fn(Bytes, i16) -> Result<Vec<u8>, DecodeError>,
}

const fn codec<M: Message + PartialEq + std::fmt::Debug>(is_request: bool) -> Codec {
    Codec {
        name: M::NAME,
        api_key: M::API_KEY,
        is_request,
        versions: (M::MIN_VERSION, M::MAX_VERSION),
        flexible_from: M::FLEXIBLE_FROM,
        decode: |r, version| M::decode(r, version).map(drop),
        recode: recode::<M>,
    }
}

fn recode<M: Message + PartialEq + std::fmt::Debug>(
    bytes: Bytes,
    version: i16,
) -> Result<Vec<u8>, DecodeError> {
    let mut r = Reader::new(bytes);
    let message = M::decode(&mut r, version)?;
    assert_eq!(r.remaining(), 0, "{} v{version} leaves bytes: {message:?}", M::NAME);
    let mut w = Writer::new();
    message.encode(&mut w, version);
    let written = w.into_bytes();
    let again = M::decode(&mut Reader::new(Bytes::from(written.clone())), version)?;
    assert_eq!(again, message, "{} v{version}", M::NAME);
    Ok(written)
}

include!(concat!(env!("OUT_DIR"), "/registry.rs"));
