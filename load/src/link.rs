//! A socket that never waits: what can't be sent now is kept, and what comes is cut into frames.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::TcpStream;

use bytes::Bytes;
use ottla_protocol::frame;

use crate::connection::FRAME_BYTES_MAX;

/// Room for some hundred short answers; long ones make more.
const INBOX_BYTES: usize = 64 << 10;
/// So many frames leave in one call to the system.
const FRAMES_AT_ONCE: usize = 64;

/// One frame that leaves: what is its own, and what it shares with others.
#[derive(Debug)]
pub(crate) struct Outgoing {
    own: Vec<u8>,
    shared: Bytes,
    written: usize,
}

impl Outgoing {
    pub(crate) fn new(own: Vec<u8>, shared: Bytes) -> Self {
        Self { own, shared, written: 0 }
    }

    fn bytes(&self) -> usize {
        self.own.len() + self.shared.len()
    }

    fn slices(&self) -> [IoSlice<'_>; 2] {
        let own = self.own.get(self.written..).unwrap_or_default();
        let shared = &self.shared[self.written.saturating_sub(self.own.len())..];
        [IoSlice::new(own), IoSlice::new(shared)]
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    outbox: VecDeque<Outgoing>,
    inbox: Vec<u8>,
    filled: usize,
}

impl Link {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, outbox: VecDeque::new(), inbox: vec![0; INBOX_BYTES], filled: 0 })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Puts a frame behind those that wait; [`Link::flush`] sends it.
    pub(crate) fn push(&mut self, frame: Outgoing) {
        self.outbox.push_back(frame);
    }

    /// Whether something waits for the socket to take more.
    pub(crate) fn is_backed_up(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let mut slices = Vec::with_capacity(self.outbox.len().min(FRAMES_AT_ONCE) * 2);
            for frame in self.outbox.iter().take(FRAMES_AT_ONCE) {
                slices.extend(frame.slices());
            }
            let mut written = match self.stream.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            while let Some(front) = self.outbox.front_mut() {
                let left = front.bytes() - front.written;
                if written < left {
                    front.written += written;
                    break;
                }
                written -= left;
                self.outbox.pop_front();
            }
        }
        Ok(())
    }

    /// Takes what came and hands over each whole frame, without its length.
    pub(crate) fn receive(&mut self, mut on_frame: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let came = match self.stream.read(&mut self.inbox[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.filled += came;
            let full = self.filled == self.inbox.len();
            self.cut(&mut on_frame)?;
            // A short read has emptied the socket.
            if !full {
                return Ok(());
            }
        }
    }

    fn cut(&mut self, on_frame: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut at = 0;
        while let Some(length) = self.inbox[at..self.filled].first_chunk::<{ frame::LENGTH_BYTES }>() {
            let bytes = frame::frame_bytes(*length, FRAME_BYTES_MAX)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let (start, end) = (at + frame::LENGTH_BYTES, at + frame::LENGTH_BYTES + bytes);
            if end > self.filled {
                if end - at > self.inbox.len() {
                    self.inbox.resize(end - at, 0);
                }
                break;
            }
            on_frame(&self.inbox[start..end]);
            at = end;
        }
        if at > 0 {
            self.inbox.copy_within(at..self.filled, 0);
            self.filled -= at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (Link, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
        let here = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (there, _) = listener.accept().expect("a connection");
        (Link::new(here).expect("a link"), there)
    }

    #[test]
    fn what_the_socket_does_not_take_is_sent_later_and_whole() {
        let (mut link, mut there) = pair();
        let shared = Bytes::from((0..1 << 20).map(|byte: u32| byte.to_le_bytes()[0]).collect::<Vec<u8>>());
        for number in 0..40_u8 {
            link.push(Outgoing::new(vec![number; 100], shared.clone()));
        }
        link.flush().expect("nothing is wrong");
        assert!(link.is_backed_up(), "40 MiB fit into no socket");
        let reader = std::thread::spawn(move || {
            let mut whole = vec![0; 40 * (100 + (1 << 20))];
            there.read_exact(&mut whole).expect("all of it comes");
            whole
        });
        while link.is_backed_up() {
            link.flush().expect("nothing is wrong");
        }
        let whole = reader.join().expect("it reads");
        for (number, frame) in (0..40_u8).zip(whole.chunks(100 + (1 << 20))) {
            assert!(frame[..100].iter().all(|byte| *byte == number) && frame[100..] == shared[..]);
        }
    }

    #[test]
    fn frames_are_cut_wherever_they_were_torn() {
        let (mut link, mut there) = pair();
        let frames: Vec<Vec<u8>> = [12_usize, 200_000, 19].iter().map(|bytes| vec![7; *bytes]).collect();
        let mut sent = Vec::new();
        for frame in &frames {
            sent.extend_from_slice(&u32::try_from(frame.len()).expect("short").to_be_bytes());
            sent.extend_from_slice(frame);
        }
        let writer = std::thread::spawn(move || {
            for piece in sent.chunks(40_001) {
                there.write_all(piece).expect("it is read");
            }
            there
        });
        let mut came = Vec::new();
        while came.len() < frames.len() {
            link.receive(|frame| came.push(frame.to_vec())).expect("nothing is wrong");
        }
        assert_eq!(came, frames);
        drop(writer.join().expect("it wrote"));
    }
}
