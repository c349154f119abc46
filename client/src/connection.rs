//! One connection to one broker, in the versions that both sides know.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::frame;
use ottla_protocol::messages::ApiVersionsRequest;
use ottla_protocol::wire::{Message as _, Request};

use crate::cluster::Options;
use crate::error::{Error, Result};

/// Larger answers are not believed: a fetch asks for far less.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// What a connection asks first. 3 is what every broker since 2.4 reads; an older one says so in the form of version 0.
const API_VERSIONS: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;

/// A connection whose versions are settled. Answers come in the order of the requests.
#[derive(Debug)]
pub struct Connection {
    /// For messages: as it was named, not as it was resolved.
    name: String,
    stream: TcpStream,
    client_id: String,
    next_id: i32,
    patience: Duration,
    /// By API key.
    served: BTreeMap<i16, (i16, i16)>,
    awaited: VecDeque<i32>,
}

/// A request whose answer has not been read.
#[derive(Debug)]
pub struct Sent<R> {
    id: i32,
    version: i16,
    request: PhantomData<fn() -> R>,
}

impl<R> Sent<R> {
    /// The version in which it was asked.
    #[must_use]
    pub fn version(&self) -> i16 {
        self.version
    }
}

impl Connection {
    /// Connects to `HOST:PORT` and asks what is served there.
    ///
    /// # Errors
    /// Nobody is there, or it is no broker.
    pub fn open(name: &str, options: &Options) -> Result<Self> {
        let mut connection = Self {
            stream: dial(name, options.connect_timeout)?,
            name: name.to_owned(),
            client_id: options.client_id.clone(),
            next_id: 0,
            patience: options.patience,
            served: BTreeMap::new(),
            awaited: VecDeque::new(),
        };
        connection.set_patience(options.connect_timeout)?;
        connection.negotiate()?;
        connection.set_patience(options.patience)?;
        Ok(connection)
    }

    fn negotiate(&mut self) -> Result<()> {
        let request = ApiVersionsRequest {
            client_software_name: "ottla".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        let mut version = API_VERSIONS;
        let mut answer = self.negotiate_in(&request, version)?;
        if answer.error_code == UNSUPPORTED_VERSION {
            version = 0;
            answer = self.negotiate_in(&request, version)?;
        }
        Error::check(format!("{}: ApiVersions", self.name), answer.error_code, None)?;
        self.served =
            answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(())
    }

    fn negotiate_in(
        &mut self,
        request: &ApiVersionsRequest,
        version: i16,
    ) -> Result<<ApiVersionsRequest as Request>::Response> {
        let sent = self.send_in(version, request)?;
        let frame = self.receive_frame(sent.id, ApiVersionsRequest::NAME)?;
        // The error code stands behind the correlation id in every version; with error 35 the rest has the form of version 0.
        let refused = frame.get(4..6) == Some(&UNSUPPORTED_VERSION.to_be_bytes());
        self.decode::<ApiVersionsRequest>(frame, if refused { 0 } else { version })
    }

    /// `HOST:PORT`, as it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address on the other side.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// The versions of an API that the broker names.
    #[must_use]
    pub fn served(&self, api_key: i16) -> Option<(i16, i16)> {
        self.served.get(&api_key).copied()
    }

    /// How long an answer is waited for.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        self.patience = patience;
        let set = self
            .stream
            .set_read_timeout(Some(patience))
            .and_then(|()| self.stream.set_write_timeout(Some(patience)));
        set.map_err(|source| Error::Lost { address: self.name.clone(), api: "a socket option", source })
    }

    /// The newest version of `within` that both sides know.
    ///
    /// # Errors
    /// There is none.
    pub fn version_of<R: Request>(&self, within: &RangeInclusive<i16>) -> Result<i16> {
        let served = self.served(R::KEY);
        let (least, most) = (R::MIN_VERSION.max(*within.start()), R::MAX_VERSION.min(*within.end()));
        match served {
            Some((min, max)) if max.min(most) >= min.max(least) => Ok(max.min(most)),
            _ => Err(Error::NotServed {
                address: self.name.clone(),
                api: R::NAME.trim_end_matches("Request"),
                needs: (least, most),
                serves: served,
            }),
        }
    }

    /// Asks in the newest version of `within` that both know, and waits for the answer.
    ///
    /// # Errors
    /// No such version, or no readable answer in time; the connection is of no use then.
    pub fn call<R: Request>(&mut self, within: RangeInclusive<i16>, request: &R) -> Result<R::Response> {
        let sent = self.send(within, request)?;
        self.receive(sent)
    }

    /// Asks without waiting: [`Connection::receive`] takes the answers in the order of the requests.
    ///
    /// # Errors
    /// No such version, or the connection broke.
    pub fn send<R: Request>(&mut self, within: RangeInclusive<i16>, request: &R) -> Result<Sent<R>> {
        let version = self.version_of::<R>(&within)?;
        self.send_in(version, request)
    }

    fn send_in<R: Request>(&mut self, version: i16, request: &R) -> Result<Sent<R>> {
        let sent = self.write(version, request)?;
        self.awaited.push_back(sent.id);
        Ok(sent)
    }

    /// Sends what is never answered (a produce with acks=0).
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn tell<R: Request>(&mut self, within: RangeInclusive<i16>, request: &R) -> Result<()> {
        let version = self.version_of::<R>(&within)?;
        self.write(version, request).map(|_| ())
    }

    fn write<R: Request>(&mut self, version: i16, request: &R) -> Result<Sent<R>> {
        self.next_id = self.next_id.wrapping_add(1);
        let bytes = frame::encode_request(request, version, self.next_id, Some(&self.client_id));
        self.stream.write_all(&bytes).map_err(|source| self.broken(R::NAME, source))?;
        Ok(Sent { id: self.next_id, version, request: PhantomData })
    }

    /// Waits for the answer to `sent`, which must be the oldest that is awaited.
    ///
    /// # Errors
    /// No readable answer in time.
    pub fn receive<R: Request>(&mut self, sent: Sent<R>) -> Result<R::Response> {
        let frame = self.receive_frame(sent.id, R::NAME)?;
        self.decode::<R>(frame, sent.version)
    }

    fn receive_frame(&mut self, id: i32, api: &'static str) -> Result<Bytes> {
        let oldest = self.awaited.pop_front();
        assert_eq!(oldest, Some(id), "answers are taken in the order of the requests");
        let mut length = [0; frame::LENGTH_BYTES];
        self.stream.read_exact(&mut length).map_err(|source| self.broken(api, source))?;
        let unreadable = |why: String| Error::Unreadable { address: self.name.clone(), api: bare(api), why };
        let bytes =
            frame::frame_bytes(length, FRAME_BYTES_MAX).map_err(|error| unreadable(error.to_string()))?;
        // Grows as the bytes come: a length alone costs nothing.
        let mut body = Vec::with_capacity(bytes.min(1 << 20));
        let read = (&mut self.stream).take(bytes as u64).read_to_end(&mut body);
        read.map_err(|source| self.broken(api, source))?;
        if body.len() < bytes {
            return Err(self.broken(api, io::ErrorKind::UnexpectedEof.into()));
        }
        let answered = body.first_chunk().map(|id| i32::from_be_bytes(*id));
        if answered != Some(id) {
            return Err(unreadable(format!("it answers request {answered:?}, not {id}")));
        }
        Ok(body.into())
    }

    fn decode<R: Request>(&self, frame: Bytes, version: i16) -> Result<R::Response> {
        let decoded = frame::decode_response::<R>(frame, version);
        let (_, response) = decoded.map_err(|error| Error::Unreadable {
            address: self.name.clone(),
            api: bare(R::NAME),
            why: error.to_string(),
        })?;
        Ok(response)
    }

    fn broken(&self, api: &'static str, source: io::Error) -> Error {
        let (address, api) = (self.name.clone(), bare(api));
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Error::TimedOut { address, api, patience: self.patience }
            }
            io::ErrorKind::UnexpectedEof => {
                let source = io::Error::new(source.kind(), "the broker closed it");
                Error::Lost { address, api, source }
            }
            _ => Error::Lost { address, api, source },
        }
    }
}

/// `Metadata` for `MetadataRequest`: what people know.
fn bare(name: &'static str) -> &'static str {
    name.trim_end_matches("Request")
}

/// Tries every address that the name stands for.
fn dial(name: &str, timeout: Duration) -> Result<TcpStream> {
    if name.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(Error::BadAddress(name.to_owned()));
    }
    let failed = |why: String| Error::Unreachable { tried: vec![(name.to_owned(), why)] };
    let addresses = name.to_socket_addrs().map_err(|error| failed(format!("no such host: {error}")))?;
    let mut last = failed("the name has no address".to_owned());
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                return match stream.set_nodelay(true) {
                    Ok(()) => Ok(stream),
                    Err(error) => Err(failed(error.to_string())),
                };
            }
            Err(error) => last = failed(why(&error, timeout)),
        }
    }
    Err(last)
}

fn why(error: &io::Error, timeout: Duration) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            format!("no answer within {} s", timeout.as_secs_f64())
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use ottla_protocol::frame::RequestHeader;
    use ottla_protocol::messages::api_versions_response::{ApiVersion, ApiVersionsResponse};
    use ottla_protocol::messages::{DescribeClusterRequest, MetadataRequest, MetadataResponse};
    use ottla_protocol::wire::{Reader, Writer};

    use super::*;

    fn options() -> Options {
        let patience = Duration::from_secs(30);
        Options { client_id: "test".to_owned(), connect_timeout: patience, patience }
    }

    /// Serves one connection: `answer` gets each request's header and a writer that holds nothing yet.
    fn broker(
        answer: impl Fn(&RequestHeader, &mut Writer) + Send + 'static,
    ) -> (String, JoinHandle<Vec<i16>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = listener.local_addr().expect("an address").to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut versions = Vec::new();
            let mut length = [0; 4];
            while stream.read_exact(&mut length).is_ok() {
                let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("small")];
                stream.read_exact(&mut frame).expect("a whole request");
                // The version is read by hand: the header of one that is too new can't be.
                versions.push(i16::from_be_bytes([frame[2], frame[3]]));
                let mut r = Reader::new(frame.into());
                let header = RequestHeader::decode(&mut r).expect("a header");
                let mut w = Writer::new();
                answer(&header, &mut w);
                stream.write_all(&w.into_bytes()).expect("the client reads");
            }
            versions
        });
        (name, thread)
    }

    fn versions(of: &[(i16, i16, i16)], error_code: i16) -> ApiVersionsResponse {
        let api_keys = of.iter().map(|(api_key, min_version, max_version)| ApiVersion {
            api_key: *api_key,
            min_version: *min_version,
            max_version: *max_version,
        });
        ApiVersionsResponse { error_code, api_keys: api_keys.collect(), ..Default::default() }
    }

    #[test]
    fn an_old_broker_is_asked_again_in_the_form_that_it_knows() {
        let (name, broker) = broker(|header, w| {
            let error = if header.api_version > 0 { UNSUPPORTED_VERSION } else { 0 };
            frame::encode_response(w, &versions(&[(3, 0, 5), (18, 0, 0)], error), 0, header.correlation_id);
        });
        let connection = Connection::open(&name, &options()).expect("it agrees");
        assert_eq!(connection.served(3), Some((0, 5)));
        assert_eq!(connection.version_of::<MetadataRequest>(&(4..=12)).expect("both know it"), 5);
        drop(connection);
        assert_eq!(broker.join().expect("it ends"), [3, 0]);
    }

    #[test]
    fn the_newest_version_that_both_know_is_spoken_and_none_is_an_error_that_says_so() {
        let (name, broker) = broker(|header, w| match header.api_key {
            18 => {
                let answer = versions(&[(3, 2, 9), (18, 0, 4)], 0);
                frame::encode_response(w, &answer, header.api_version, header.correlation_id);
            }
            _ => frame::encode_response(
                w,
                &MetadataResponse::default(),
                header.api_version,
                header.correlation_id,
            ),
        });
        let mut connection = Connection::open(&name, &options()).expect("it agrees");
        let request = MetadataRequest::default();
        connection.call(4..=12, &request).expect("an answer");
        connection.call(0..=7, &request).expect("an answer");
        let error = connection.call(10..=12, &request).expect_err("too new for it");
        assert!(
            error
                .to_string()
                .ends_with("serves Metadata in versions 2 to 9, and this needs version 10 to 12")
        );
        let error = connection.call(0..=2, &DescribeClusterRequest::default()).expect_err("it has none");
        assert!(error.to_string().contains("does not serve DescribeCluster"), "{error}");
        // Answers come in the order of the requests.
        let first = connection.send(4..=12, &request).expect("sent");
        let second = connection.send(4..=5, &request).expect("sent");
        connection.receive(first).expect("an answer");
        connection.receive(second).expect("an answer");
        drop(connection);
        assert_eq!(broker.join().expect("it ends"), [3, 9, 7, 9, 5]);
    }

    #[test]
    fn what_is_no_broker_is_an_error_that_names_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = listener.local_addr().expect("an address").to_string();
        let web = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("the client reads");
        });
        let error = Connection::open(&name, &options()).expect_err("it is no broker");
        assert!(
            error.to_string().starts_with(&format!("{name}: the answer to ApiVersions can't be read")),
            "{error}"
        );
        web.join().expect("it ends");
        for wrong in ["localhost", ":9092", "localhost:port", ""] {
            assert!(matches!(Connection::open(wrong, &options()), Err(Error::BadAddress(_))), "{wrong}");
        }
    }
}
