//! Cuts the frames out of a connection's bytes. A length is judged the moment its four bytes are there, and the buffer grows only as
//! bytes arrive: what a client declares is never reserved.

use bytes::buf::Limit;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ottla_protocol::frame::{FrameError, LENGTH_BYTES, frame_bytes};

/// Smallest step by which the buffer of a large frame grows; doubled from there on, so that copies stay linear.
const GROW_MIN_BYTES: usize = 64 * 1024;

/// The bytes that came in and are not a whole request yet, or may not run yet.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    buffer: BytesMut,
}

/// Other protocols on a Kafka port show as lengths; naming them saves the reader an hour.
pub(crate) fn hint(length: i32) -> &'static str {
    let first = length.to_be_bytes();
    match &first {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"OPTI" | b"PRI " | b"DELE" | b"CONN" | b"HTTP" => {
            " (the bytes are HTTP: this port speaks the Kafka protocol only)"
        }
        [0x16, 0x03, 0x00..=0x04, _] => {
            " (the bytes are a TLS handshake: this listener is plain text; the client needs security.protocol=PLAINTEXT)"
        }
        b"SSH-" => " (the bytes are SSH)",
        _ => "",
    }
}

impl Inbound {
    /// Takes the next whole frame, without its length, off the front.
    pub(crate) fn next_frame(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.frame_length(limit)? else { return Ok(None) };
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The length of the frame at the front, once its four bytes are there.
    fn frame_length(&self, limit: usize) -> Result<Option<usize>, FrameError> {
        let Some(bytes) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        frame_bytes(*bytes, limit).map(Some)
    }

    /// Lends a worker's read buffer for the frames that are whole in it; [`Inbound::keep_rest`] gives it back.
    pub(crate) fn lend(&mut self, chunk: BytesMut) {
        if self.buffer.is_empty() {
            self.buffer = chunk;
        } else {
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// Copies what is left of a lent buffer, so that a connection in the middle of a frame holds its own few bytes and not the
    /// worker's whole read buffer; an empty one holds nothing.
    pub(crate) fn keep_rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        } else {
            let mut own = BytesMut::with_capacity(self.buffer.len());
            own.extend_from_slice(&self.buffer);
            self.buffer = own;
        }
    }

    /// Room to read the rest of the frame in progress directly into place, and no more: what follows it comes with the next read, by the
    /// worker's large buffer. (With room for more, every read would end within a frame again, and each would get a single one.)
    /// `None` where none is in progress.
    pub(crate) fn space(&mut self, limit: usize) -> Option<Limit<&mut BytesMut>> {
        let held = self.buffer.len();
        if held == 0 {
            return None;
        }
        let whole = match self.frame_length(limit) {
            Ok(Some(length)) => LENGTH_BYTES + length,
            // Not even the length is there (or it is wrong, which the next cut reports).
            _ => held + GROW_MIN_BYTES,
        };
        let missing = whole.saturating_sub(held).max(1);
        let room = missing.min(GROW_MIN_BYTES.max(held));
        self.buffer.reserve(room);
        Some((&mut self.buffer).limit(room))
    }

    /// Gives memory back once everything has run.
    pub(crate) fn release_if_empty(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = i32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn frames_are_the_same_however_the_bytes_were_cut() {
        let bodies: Vec<Vec<u8>> =
            [8usize, 9, 100, 70_000, 8, 300_000].iter().map(|len| vec![*len as u8; *len]).collect();
        let stream: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        for step in [1, 3, 4, 5, 1_000, 65_536, stream.len()] {
            let mut inbound = Inbound::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(step) {
                let mut rest = chunk;
                while !rest.is_empty() {
                    if let Some(mut space) = inbound.space(LIMIT) {
                        let (now, later) = rest.split_at(rest.len().min(space.remaining_mut()));
                        space.put_slice(now);
                        rest = later;
                    } else {
                        inbound.lend(BytesMut::from(std::mem::take(&mut rest)));
                    }
                    while let Some(frame) = inbound.next_frame(LIMIT).expect("lengths are fine") {
                        seen.push(frame.to_vec());
                    }
                    inbound.keep_rest();
                }
            }
            assert_eq!(seen, bodies, "cut into steps of {step}");
            assert!(inbound.is_empty());
        }
    }

    #[test]
    fn a_read_into_place_ends_where_the_frame_does() {
        let mut inbound = Inbound::default();
        let frame = framed(&[7; 1_000]);
        inbound.lend(BytesMut::from(&frame[..600]));
        assert_eq!(inbound.next_frame(LIMIT), Ok(None));
        inbound.keep_rest();
        assert_eq!(inbound.space(LIMIT).expect("in progress").remaining_mut(), 404);
    }

    #[test]
    fn a_wrong_length_is_refused_before_its_bytes_arrive() {
        let cases: [(&[u8], &str); 8] = [
            (&[0, 0, 0, 0], "shorter than any"),
            (&[0, 0, 0, 3], "shorter than any"),
            (&[0, 0, 0, 7], "shorter than any"),
            (&[0xff, 0xff, 0xff, 0xff], "shorter than any"),
            (&[0x80, 0, 0, 0], "shorter than any"),
            (&[0x7f, 0xff, 0xff, 0xff], "longer than the limit"),
            (b"GET / HTTP/1.1", "HTTP"),
            (&[0x16, 0x03, 0x01, 0x02, 0x00], "TLS"),
        ];
        for (bytes, says) in cases {
            let mut inbound = Inbound::default();
            inbound.lend(BytesMut::from(bytes));
            let error = inbound.next_frame(LIMIT).expect_err("refused");
            let text =
                format!("{error}{}", hint(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_declared_length_is_never_reserved() {
        let mut inbound = Inbound::default();
        let limit = 100 << 20;
        inbound.lend(BytesMut::from(&(100i32 << 20).to_be_bytes()[..]));
        inbound.keep_rest();
        assert_eq!(inbound.next_frame(limit), Ok(None));
        let capacity = inbound.space(limit).expect("in progress").get_ref().capacity();
        assert!(capacity <= 2 * GROW_MIN_BYTES, "{capacity} bytes reserved for four that came");
    }
}
