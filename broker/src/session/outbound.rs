//! What a connection has to send, in order. The edge takes pieces off the front as the socket accepts them.

use std::collections::VecDeque;
use std::sync::Arc;

use ottla_storage::File;

use crate::api::{Output, Piece};

/// Pieces up to this size are copied together: that costs less than a buffer of their own in memory and in the system call.
const COPY_BYTES_MAX: usize = 2 * 1024;

/// How far copied pieces are gathered in one buffer.
const GATHER_BYTES_MAX: usize = 64 * 1024;

#[derive(Default)]
pub struct Outbound {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have left.
    sent_of_first: usize,
    unsent_bytes: usize,
}

enum Chunk {
    Gathered(Vec<u8>),
    Piece(Piece),
}

/// What the socket is given next.
pub enum Next<'a> {
    /// Bytes in memory. `more` says that bytes of a file follow at once.
    Memory {
        buffers: Vec<&'a [u8]>,
        more: bool,
    },
    File {
        file: &'a Arc<dyn File>,
        position: u64,
        len: usize,
    },
}

impl Chunk {
    /// The file and position of bytes that are worth sending straight from their file.
    fn in_file(&self, bytes_min: usize) -> Option<(&Arc<dyn File>, u64)> {
        match self {
            Self::Piece(Piece::Slice(slice)) if slice.len() >= bytes_min => {
                slice.file().filter(|(file, _)| file.as_fd().is_some())
            }
            _ => None,
        }
    }

    fn memory(&self) -> &[u8] {
        match self {
            Self::Gathered(bytes) => bytes,
            Self::Piece(piece) => piece.memory(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Gathered(bytes) => bytes.len(),
            Self::Piece(piece) => piece.len(),
        }
    }
}

impl Outbound {
    pub(crate) fn push(&mut self, output: Output) {
        let small = output.pieces.iter().map(Piece::len).filter(|len| *len <= COPY_BYTES_MAX).sum();
        for piece in output.pieces {
            let len = piece.len();
            self.unsent_bytes += len;
            if len > COPY_BYTES_MAX {
                self.chunks.push_back(Chunk::Piece(piece));
            } else if len > 0 {
                self.gather(piece.memory(), small);
            }
        }
    }

    fn gather(&mut self, bytes: &[u8], expected: usize) {
        match self.chunks.back_mut() {
            Some(Chunk::Gathered(last)) if last.len() + bytes.len() <= GATHER_BYTES_MAX => {
                last.extend_from_slice(bytes);
            }
            _ => {
                let mut gathered = Vec::with_capacity(expected);
                gathered.extend_from_slice(bytes);
                self.chunks.push_back(Chunk::Gathered(gathered));
            }
        }
    }

    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What is to be sent next: at most `buffers_max` buffers, or one slice of a file that has at least `file_bytes_min` bytes.
    #[must_use]
    pub fn next(&self, buffers_max: usize, file_bytes_min: usize) -> Next<'_> {
        let first = self.chunks.front();
        if let Some((file, position)) = first.and_then(|first| first.in_file(file_bytes_min)) {
            let len = first.map_or(0, Chunk::len) - self.sent_of_first;
            return Next::File { file, position: position + self.sent_of_first as u64, len };
        }
        let memory = || self.chunks.iter().take_while(|chunk| chunk.in_file(file_bytes_min).is_none());
        let buffers: Vec<_> =
            self.buffers().zip(memory()).map(|(buffer, _)| buffer).take(buffers_max).collect();
        let more = buffers.len() < buffers_max && buffers.len() < self.chunks.len();
        Next::Memory { buffers, more }
    }

    /// Everything that waits, in order, as it lies in memory.
    fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        let skip = |index| if index == 0 { self.sent_of_first } else { 0 };
        self.chunks.iter().enumerate().map(move |(index, chunk)| &chunk.memory()[skip(index)..])
    }

    /// `bytes` more have left.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.unsent_bytes, "no more leaves than there is");
        self.unsent_bytes -= bytes;
        let mut left = self.sent_of_first + bytes;
        while let Some(first) = self.chunks.front() {
            if left < first.len() {
                break;
            }
            left -= first.len();
            self.chunks.pop_front();
        }
        self.sent_of_first = left;
        if self.chunks.is_empty() {
            // A connection that was busy once does not keep a long queue for ever.
            self.chunks.shrink_to(4);
        }
    }

    /// Everything that waits as one buffer: for simulations and tests.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        let bytes = self.buffers().collect::<Vec<_>>().concat();
        self.advance(bytes.len());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn partial_writes_of_any_size_send_every_byte_once() {
        let large = "x".repeat(COPY_BYTES_MAX + 1);
        let texts = ["abc", "", "d", &large, &large, "efghijk", "l"];
        for step in [1, 2, 3, 7, 100, 2_048, 2_049, 5_000] {
            let mut outbound = Outbound::default();
            for text in texts {
                outbound.push(Output::from(Bytes::copy_from_slice(text.as_bytes())));
            }
            let mut sent = Vec::new();
            while !outbound.is_empty() {
                let all = outbound.buffers().collect::<Vec<_>>().concat();
                assert_eq!(all.len(), outbound.unsent_bytes());
                let now = step.min(all.len());
                sent.extend_from_slice(&all[..now]);
                outbound.advance(now);
            }
            assert_eq!(sent, texts.concat().as_bytes(), "steps of {step}");
        }
    }

    #[test]
    fn small_answers_share_a_buffer_and_large_pieces_are_not_copied() {
        let large = Bytes::from(vec![7; COPY_BYTES_MAX + 1]);
        let mut outbound = Outbound::default();
        for _ in 0..100 {
            outbound.push(Output::from(Bytes::from_static(b"small")));
        }
        outbound.push(Output::from(large.clone()));
        let buffers: Vec<_> = outbound.buffers().collect();
        assert_eq!(buffers.len(), 2);
        assert_eq!(buffers[1].as_ptr(), large.as_ptr());
    }
}
