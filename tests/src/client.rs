//! A client of one connection that sends what a test wants sent, right or wrong, and panics where the broker's answer is unreadable.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::frame;
use ottla_protocol::wire::Request;

/// How long a test waits for an answer before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    stream: TcpStream,
    client_id: Option<String>,
    next_id: i32,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the broker accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Self { stream, client_id: Some("ottla-tests".to_owned()), next_id: 1 }
    }

    /// For a broker that may not be there, or may not answer within `patience`.
    ///
    /// # Errors
    /// It is not there.
    pub fn try_connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, client_id: Some("ottla-tests".to_owned()), next_id: 1 })
    }

    /// Sends a request and reads its answer, if the broker lives so long.
    ///
    /// # Errors
    /// It does not, or takes too long.
    pub fn try_call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        let id = self.next_id;
        self.next_id += 1;
        self.stream.write_all(&frame::encode_request(request, version, id, self.client_id.as_deref()))?;
        let frame = self.read_frame()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (answered, response) = frame::decode_response::<R>(frame, version)
            .unwrap_or_else(|error| panic!("the answer to {} v{version} can't be read: {error}", R::NAME));
        assert_eq!(answered, id, "the answer belongs to another request");
        Ok(response)
    }

    #[must_use]
    pub fn with_client_id(mut self, client_id: Option<&str>) -> Self {
        self.client_id = client_id.map(str::to_owned);
        self
    }

    /// Sends a request and reads its answer.
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let id = self.send(version, request);
        let (answered, response) = self.receive::<R>(version);
        assert_eq!(answered, id, "the answer belongs to another request");
        response
    }

    /// Sends a request; its correlation id.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        let id = self.next_id;
        self.next_id += 1;
        let frame = frame::encode_request(request, version, id, self.client_id.as_deref());
        self.stream.write_all(&frame).expect("the broker takes the request");
        id
    }

    /// The next answer, which must be one to a request `R` of `version`.
    pub fn receive<R: Request>(&mut self, version: i16) -> (i32, R::Response) {
        let frame = self.read_frame().expect("an answer in time").expect("the broker closed the connection");
        frame::decode_response::<R>(frame, version)
            .unwrap_or_else(|error| panic!("the answer to {} v{version} can't be read: {error}", R::NAME))
    }

    /// Sends bytes as they are. The broker may have closed the connection already, which is no failure here.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame without its length; `None` once the broker has closed the connection.
    pub fn read_frame(&mut self) -> io::Result<Option<Bytes>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if is_closed(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a length that is not negative");
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(Some(frame.into()))
    }

    /// Waits until the broker closes the connection; answers that come before are dropped.
    pub fn wait_closed(&mut self) {
        let mut sink = [0; 4_096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if is_closed(&error) => return,
                Err(error) => panic!("the broker did not close the connection: {error}"),
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open connection");
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
