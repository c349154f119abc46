//! A blocking connection to another node, for a thread that has nothing else to do.

use std::io::{self, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::{PeerHelloRequest, PeerHelloResponse};
use ottla_protocol::wire::Request;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// How long the other end may take to accept, and to answer a greeting.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// An answer may have so many bytes.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// Room for an answer of which nothing has come yet: as much as the last one took, within these.
const ROOM_BYTES_MIN: usize = 16 << 10;
const ROOM_BYTES_MAX: usize = 1 << 20;

/// Why another node did not answer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it refuses this node: {0} {1}")]
    Refused(ErrorCode, String),
    #[error("its answer can't be read: {0}")]
    Unreadable(String),
}

impl DialError {
    /// Nobody listens there: the process is gone.
    #[must_use]
    pub fn is_connection_refused(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Somebody was there, and ended the connection without an answer.
    #[must_use]
    pub fn is_hang_up(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let Self::Io(error) = self else { return false };
        matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Dial {
    stream: TcpStream,
    next_id: i32,
    /// What came after the last answer.
    inbound: Vec<u8>,
    /// Of the last answer.
    last_bytes: usize,
}

impl Dial {
    /// Connects and introduces this node; returns what the other said of itself.
    ///
    /// # Errors
    /// Nobody there, or somebody who does not take this node for a peer.
    pub fn connect(
        host: &str,
        port: u16,
        hello: &PeerHelloRequest,
    ) -> Result<(Self, PeerHelloResponse), DialError> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
                Ok(stream) => return Self::greet(stream, hello),
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn greet(stream: TcpStream, hello: &PeerHelloRequest) -> Result<(Self, PeerHelloResponse), DialError> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CONNECT_LIMIT))?;
        stream.set_write_timeout(Some(CONNECT_LIMIT))?;
        let mut dial = Self { stream, next_id: 0, inbound: Vec::new(), last_bytes: 0 };
        let answer = dial.call(hello)?;
        match ErrorCode::from_code(answer.error_code).unwrap_or(ErrorCode::UnknownServerError) {
            ErrorCode::None => Ok((dial, answer)),
            code => Err(DialError::Refused(code, answer.error_message.unwrap_or_default().to_string())),
        }
    }

    /// How long an answer is waited for.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_patience(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))
    }

    /// Another handle on the connection, which sends only.
    ///
    /// # Errors
    /// The system's.
    pub fn sender(&self) -> io::Result<Sender> {
        Ok(Sender(self.stream.try_clone()?))
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The connection's, or an answer that is none.
    pub fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, DialError> {
        self.send(request)?;
        self.receive::<R>()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The connection's.
    pub fn send<R: Request>(&mut self, request: &R) -> Result<(), DialError> {
        self.next_id = self.next_id.wrapping_add(1);
        self.stream.write_all(&frame::encode_request(request, 0, self.next_id, None))?;
        Ok(())
    }

    /// The next answer, to a request `R`.
    ///
    /// # Errors
    /// The connection's, or an answer that is none.
    pub fn receive<R: Request>(&mut self) -> Result<R::Response, DialError> {
        let (_, response) = frame::decode_response::<R>(self.frame()?, 0)
            .map_err(|error| DialError::Unreadable(error.to_string()))?;
        Ok(response)
    }

    /// The next frame, without its length: one read where it is no larger than the last one.
    fn frame(&mut self) -> Result<Bytes, DialError> {
        let mut bytes = std::mem::take(&mut self.inbound);
        let whole = loop {
            let missing = match bytes.first_chunk::<{ frame::LENGTH_BYTES }>() {
                Some(length) => {
                    let length = i32::from_be_bytes(*length);
                    let body = usize::try_from(length).ok().filter(|body| *body <= FRAME_BYTES_MAX);
                    let body = body.ok_or_else(|| DialError::Unreadable(format!("{length} bytes")))?;
                    let whole = frame::LENGTH_BYTES + body;
                    if bytes.len() >= whole {
                        break whole;
                    }
                    whole - bytes.len()
                }
                None => self.last_bytes.clamp(ROOM_BYTES_MIN, ROOM_BYTES_MAX),
            };
            // Grows as the bytes come: a length alone costs nothing.
            bytes.reserve(missing.min(bytes.len().max(ROOM_BYTES_MAX)));
            match rustix::net::recv(&self.stream, spare_capacity(&mut bytes), RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        };
        self.inbound = bytes.split_off(whole);
        self.last_bytes = whole;
        Ok(Bytes::from(bytes).slice(frame::LENGTH_BYTES..))
    }
}

/// Sends on a connection whose answers somebody else reads.
#[derive(Debug)]
pub struct Sender(TcpStream);

impl Sender {
    /// Sends without ever waiting; `false` if the connection takes no more at the moment. What was sent in part only ends it.
    #[must_use]
    pub fn try_send(&self, frame: &[u8]) -> bool {
        match rustix::net::send(self.0.as_fd(), frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) if sent == frame.len() => true,
            Ok(_) => {
                self.close();
                false
            }
            Err(_) => false,
        }
    }

    /// Ends the connection, also for who reads.
    pub fn close(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A connection that never greeted, and its other end.
    fn pair() -> (Dial, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("accepted");
        let (other, _) = listener.accept().expect("accepted");
        (Dial { stream, next_id: 0, inbound: Vec::new(), last_bytes: 0 }, other)
    }

    #[test]
    fn frames_are_the_same_however_their_bytes_come() {
        let bodies: Vec<Vec<u8>> =
            [1, 20_000, 0, 3, 300_000, 3_000_000, 5].iter().map(|len| vec![*len as u8 | 1; *len]).collect();
        let mut bytes = Vec::new();
        for body in &bodies {
            bytes.extend_from_slice(&i32::try_from(body.len()).expect("small").to_be_bytes());
            bytes.extend_from_slice(body);
        }
        for step in [3_000, 70_001, bytes.len()] {
            let (mut dial, mut other) = pair();
            let bytes = bytes.clone();
            let writer = std::thread::spawn(move || {
                bytes.chunks(step).for_each(|chunk| other.write_all(chunk).expect("open"));
            });
            for body in &bodies {
                assert!(dial.frame().expect("whole") == *body, "{} bytes in steps of {step}", body.len());
            }
            writer.join().expect("written");
            let error = dial.frame().expect_err("the end");
            assert!(error.is_hang_up(), "{error}");
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_and_silence_is_an_error() {
        for length in [-1, i32::MAX] {
            let (mut dial, mut other) = pair();
            other.write_all(&length.to_be_bytes()).expect("open");
            assert!(matches!(dial.frame(), Err(DialError::Unreadable(_))), "{length}");
        }
        let (mut dial, mut other) = pair();
        other.write_all(&[0, 0]).expect("open");
        dial.set_patience(Duration::from_millis(20)).expect("a socket option");
        let error = dial.frame().expect_err("nothing more comes");
        assert!(
            matches!(&error, DialError::Io(error) if error.kind() == io::ErrorKind::WouldBlock),
            "{error}"
        );
    }
}
