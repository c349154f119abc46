//! A blocking connection to another node, for a thread that has nothing else to do.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::{PeerHelloRequest, PeerHelloResponse};
use ottla_protocol::wire::Request;
use rustix::net::SendFlags;

/// How long the other end may take to accept, and to answer a greeting.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// An answer may have so many bytes.
const FRAME_BYTES_MAX: usize = 256 << 20;

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
        let mut dial = Self { stream, next_id: 0 };
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
        let mut length = [0; frame::LENGTH_BYTES];
        self.stream.read_exact(&mut length)?;
        let unreadable = |error: &dyn std::fmt::Display| DialError::Unreadable(error.to_string());
        let bytes = usize::try_from(i32::from_be_bytes(length)).map_err(|error| unreadable(&error))?;
        if bytes > FRAME_BYTES_MAX {
            return Err(DialError::Unreadable(format!("{bytes} bytes")));
        }
        // Grows as the bytes come: a length alone costs nothing.
        let mut body = Vec::with_capacity(bytes.min(1 << 20));
        (&mut self.stream).take(bytes as u64).read_to_end(&mut body)?;
        if body.len() < bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let (_, response) =
            frame::decode_response::<R>(Bytes::from(body), 0).map_err(|error| unreadable(&error))?;
        Ok(response)
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
