//! Frames: a length of four bytes, a header, a message. Both directions, for the broker and for those who call it.

use bytes::Bytes;
use bytestring::ByteString;

use crate::api::ApiKey;
use crate::wire::{DecodeError, Message, Reader, Request, Writer};

/// The length before every frame, in bytes.
pub const LENGTH_BYTES: usize = 4;

/// What every request begins with, whatever its version: key, version, correlation id.
pub const PREFIX_BYTES: usize = 8;

struct SchemaVersions {
    api_key: i16,
    min: i16,
    max: i16,
    flexible_from: i16,
}

include!(concat!(env!("OUT_DIR"), "/schema_versions.rs"));

/// Why a frame is not a request. All of them close the connection, except for an unknown version of ApiVersions, which has an answer
/// (error 35 in the form of version 0).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is shorter than any message")]
    TooShort(i32),
    #[error("a frame of {length} bytes is longer than the limit of {limit}")]
    TooLong { length: i32, limit: usize },
    #[error("unknown API key {}", .0.api_key)]
    UnknownApi(Prefix),
    #[error("API key {} is not served in version {}", .0.api_key, .0.api_version)]
    UnsupportedVersion(Prefix),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// How many bytes follow the four of `length`. Checked before any of them is stored: HTTP or TLS on this port reads as a length of
/// hundreds of megabytes.
pub fn frame_bytes(length: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(length);
    match usize::try_from(length) {
        Ok(bytes) if bytes < PREFIX_BYTES => Err(FrameError::TooShort(length)),
        Err(_) => Err(FrameError::TooShort(length)),
        Ok(bytes) if bytes > limit => Err(FrameError::TooLong { length, limit }),
        Ok(bytes) => Ok(bytes),
    }
}

/// The part of a request that never changes its form. Unknown keys and versions are recognised by it, before anything else of the
/// request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
}

impl Prefix {
    /// Reads it from the first bytes of a frame, without its length.
    pub fn peek(frame: &[u8]) -> Result<Self, DecodeError> {
        let Some(&[k0, k1, v0, v1, c0, c1, c2, c3]) = frame.first_chunk::<PREFIX_BYTES>() else {
            return Err(DecodeError::Truncated { missing: PREFIX_BYTES.saturating_sub(frame.len()) });
        };
        Ok(Self {
            api_key: i16::from_be_bytes([k0, k1]),
            api_version: i16::from_be_bytes([v0, v1]),
            correlation_id: i32::from_be_bytes([c0, c1, c2, c3]),
        })
    }

    /// The API, if it is served in this version.
    pub fn api(self) -> Result<ApiKey, FrameError> {
        let key = ApiKey::from_code(self.api_key).ok_or(FrameError::UnknownApi(self))?;
        if key.api().serves(self.api_version) { Ok(key) } else { Err(FrameError::UnsupportedVersion(self)) }
    }
}

/// What stands before a request's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    /// A name that the client chose, for logs and quotas.
    pub client_id: Option<ByteString>,
}

impl RequestHeader {
    /// Reads the header in the form that its own key and version call for; `r` then stands at the message. A key or version that no
    /// schema knows is an error; whether it is *served* is [`Prefix::api`]'s question.
    pub fn decode(r: &mut Reader) -> Result<Self, FrameError> {
        let prefix = Prefix { api_key: r.i16()?, api_version: r.i16()?, correlation_id: r.i32()? };
        let (min, max) = schema_versions(prefix.api_key).ok_or(FrameError::UnknownApi(prefix))?;
        if !(min..=max).contains(&prefix.api_version) {
            return Err(FrameError::UnsupportedVersion(prefix));
        }
        // The client id keeps its old form in the flexible header: a broker must be able to read it before it knows the rest.
        let client_id = r.nullable_string(false)?;
        if request_header_version(prefix.api_key, prefix.api_version) >= 2 {
            r.skip_tags()?;
        }
        Ok(Self {
            api_key: prefix.api_key,
            api_version: prefix.api_version,
            correlation_id: prefix.correlation_id,
            client_id,
        })
    }

    pub fn encode(&self, w: &mut Writer) {
        w.i16(self.api_key);
        w.i16(self.api_version);
        w.i32(self.correlation_id);
        match &self.client_id {
            Some(id) => w.string(id, false),
            None => w.null_string(false),
        }
        if request_header_version(self.api_key, self.api_version) >= 2 {
            w.varint(0);
        }
    }
}

/// The oldest and newest version for which there are messages, served or not.
#[must_use]
pub fn schema_versions(api_key: i16) -> Option<(i16, i16)> {
    find(api_key).map(|schema| (schema.min, schema.max))
}

fn find(api_key: i16) -> Option<&'static SchemaVersions> {
    let place = SCHEMA_VERSIONS.binary_search_by_key(&api_key, |schema| schema.api_key).ok()?;
    SCHEMA_VERSIONS.get(place)
}

fn is_flexible(api_key: i16, api_version: i16) -> bool {
    find(api_key).is_some_and(|schema| api_version >= schema.flexible_from)
}

/// 2 (with tagged fields) for a flexible request, else 1.
#[must_use]
pub fn request_header_version(api_key: i16, api_version: i16) -> i16 {
    if is_flexible(api_key, api_version) { 2 } else { 1 }
}

/// 1 (with tagged fields) for the response to a flexible request, else 0. ApiVersions always has 0: its client does not know yet what
/// the broker speaks (KIP-511).
#[must_use]
pub fn response_header_version(api_key: i16, api_version: i16) -> i16 {
    if is_flexible(api_key, api_version) && api_key != ApiKey::ApiVersions.code() { 1 } else { 0 }
}

/// Writes the header of a response.
pub fn encode_response_header(w: &mut Writer, api_key: i16, api_version: i16, correlation_id: i32) {
    w.i32(correlation_id);
    if response_header_version(api_key, api_version) >= 1 {
        w.varint(0);
    }
}

/// Reads the header of a response to a request of `api_key` and `api_version`; gives the correlation id.
pub fn decode_response_header(r: &mut Reader, api_key: i16, api_version: i16) -> Result<i32, DecodeError> {
    let correlation_id = r.i32()?;
    if response_header_version(api_key, api_version) >= 1 {
        r.skip_tags()?;
    }
    Ok(correlation_id)
}

/// Reserves the length of a frame; [`end_frame`] fills it in.
#[must_use]
pub fn begin_frame(w: &mut Writer) -> usize {
    let start = w.len();
    w.i32(0);
    start
}

/// Ends the frame that began at `start`, of which `elsewhere` further bytes are sent by other ways (slices of the log).
pub fn end_frame(w: &mut Writer, start: usize, elsewhere: usize) {
    let bytes = w.len() - start - LENGTH_BYTES + elsewhere;
    w.set_i32(start, i32::try_from(bytes).expect("responses are limited far below 2 GiB"));
}

/// A whole request frame, its length included.
#[must_use]
pub fn encode_request<R: Request>(
    request: &R,
    api_version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Vec<u8> {
    let mut w = Writer::with_capacity(256);
    let start = begin_frame(&mut w);
    let client_id = client_id.map(ByteString::from);
    RequestHeader { api_key: R::KEY, api_version, correlation_id, client_id }.encode(&mut w);
    request.encode(&mut w, api_version);
    end_frame(&mut w, start, 0);
    w.into_bytes()
}

/// Appends a whole response frame, its length included, to what `w` holds.
pub fn encode_response<M: Message>(w: &mut Writer, response: &M, api_version: i16, correlation_id: i32) {
    let api_key = M::API_KEY.expect("a response has an API key");
    let start = begin_frame(w);
    encode_response_header(w, api_key, api_version, correlation_id);
    response.encode(w, api_version);
    end_frame(w, start, 0);
}

/// Reads the response to a request `R` of `api_version` from a frame without its length; gives the correlation id beside it.
pub fn decode_response<R: Request>(
    frame: Bytes,
    api_version: i16,
) -> Result<(i32, R::Response), DecodeError> {
    let mut r = Reader::new(frame);
    let correlation_id = decode_response_header(&mut r, R::KEY, api_version)?;
    let response = R::Response::decode(&mut r, api_version)?;
    Ok((correlation_id, response))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, MetadataResponse};

    #[test]
    fn a_length_is_refused_before_anything_is_stored() {
        let limit = 100 << 20;
        for (bytes, expected) in [
            (*b"GET ", FrameError::TooLong { length: 1_195_725_856, limit }),
            ([0x16, 3, 1, 0], FrameError::TooLong { length: 369_295_616, limit }),
            ([0xff; 4], FrameError::TooShort(-1)),
            ([0; 4], FrameError::TooShort(0)),
            ([0, 0, 0, 7], FrameError::TooShort(7)),
            ([0x7f, 0xff, 0xff, 0xff], FrameError::TooLong { length: i32::MAX, limit }),
        ] {
            assert_eq!(frame_bytes(bytes, limit), Err(expected));
        }
        assert_eq!(frame_bytes([0, 0, 0, 8], limit), Ok(8));
    }

    #[test]
    fn a_request_is_read_as_it_was_written_with_either_header() {
        for version in [0, 8, 9, 13] {
            let frame = encode_request(&MetadataRequest::default(), version, 77, Some("a client"));
            assert_eq!(frame_bytes([frame[0], frame[1], frame[2], frame[3]], 1 << 20), Ok(frame.len() - 4));
            let mut r = Reader::new(Bytes::from(frame).slice(4..));
            let header = RequestHeader::decode(&mut r).expect("a header");
            assert_eq!((header.api_key, header.api_version, header.correlation_id), (3, version, 77));
            assert_eq!(header.client_id.as_deref(), Some("a client"));
            assert_eq!(MetadataRequest::decode(&mut r, version), Ok(MetadataRequest::default()));
            assert_eq!(r.remaining(), 0);
        }
    }

    #[test]
    fn the_header_of_an_api_versions_response_is_never_flexible() {
        for version in 0..=4 {
            assert_eq!(response_header_version(18, version), 0);
        }
        assert_eq!(response_header_version(3, 8), 0);
        assert_eq!(response_header_version(3, 9), 1);
    }

    #[test]
    fn a_response_is_read_as_it_was_written() {
        let mut w = Writer::new();
        encode_response(&mut w, &ApiVersionsResponse::default(), 4, 5);
        encode_response(&mut w, &MetadataResponse::default(), 12, 6);
        let bytes = Bytes::from(w.into_bytes());
        let first = frame_bytes([bytes[0], bytes[1], bytes[2], bytes[3]], 1 << 20).expect("a length");
        let (id, response) =
            decode_response::<ApiVersionsRequest>(bytes.slice(4..4 + first), 4).expect("a response");
        assert_eq!((id, response), (5, ApiVersionsResponse::default()));
        let (id, response) =
            decode_response::<MetadataRequest>(bytes.slice(8 + first..), 12).expect("a response");
        assert_eq!((id, response), (6, MetadataResponse::default()));
    }

    #[test]
    fn unknown_keys_and_versions_are_recognised_by_the_prefix_alone() {
        let frame = [0, 18, 0, 99, 0, 0, 0, 1];
        let prefix = Prefix::peek(&frame).expect("eight bytes");
        assert_eq!(prefix.api(), Err(FrameError::UnsupportedVersion(prefix)));
        let prefix = Prefix::peek(&[0x7f, 0, 0, 0, 0, 0, 0, 1]).expect("eight bytes");
        assert_eq!(prefix.api(), Err(FrameError::UnknownApi(prefix)));
        assert_eq!(Prefix::peek(&frame[..7]), Err(DecodeError::Truncated { missing: 1 }));
        for version in 0..3 {
            let prefix = Prefix { api_key: 0, api_version: version, correlation_id: 1 };
            assert_eq!(prefix.api(), Err(FrameError::UnsupportedVersion(prefix)), "Produce");
        }
    }
}
