//! One blocking connection to a broker.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::frame;
use ottla_protocol::wire::Request;

use crate::error::BenchError;

/// How the generator names itself to brokers.
pub const CLIENT_ID: &str = "ottla-load";

/// How long an answer may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest answer that is read.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    next_id: i32,
}

impl Connection {
    /// # Errors
    /// Nobody listens there, or not yet.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::open_patiently(address, PATIENCE)
    }

    /// Opens one on which nothing may take longer than `patience`.
    ///
    /// # Errors
    /// As of [`Connection::open`].
    pub fn open_patiently(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, next_id: 1 })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The connection ended, or the answer is none.
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, BenchError> {
        let id = self.next_id;
        self.next_id += 1;
        self.stream.write_all(&frame::encode_request(request, version, id, Some(CLIENT_ID)))?;
        let (answered, response) = frame::decode_response::<R>(self.read_frame()?, version)?;
        if answered == id { Ok(response) } else { Err(BenchError::Order { expected: id, got: answered }) }
    }

    fn read_frame(&mut self) -> Result<Bytes, BenchError> {
        let mut length = [0; frame::LENGTH_BYTES];
        self.stream.read_exact(&mut length)?;
        let bytes = frame::frame_bytes(length, FRAME_BYTES_MAX)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut frame = vec![0; bytes];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// The socket, for those who write and read frames of their own.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}
