//! Pipelined connections to other nodes, driven by one thread: a request goes out at once, its answer comes to a callback.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::PeerHelloRequest;
use ottla_protocol::wire::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::dial::Dial;
use super::{Address, Identity};

/// How long the other end may take to accept and to greet.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Who hangs up may be about to end: it is dialled so often, with a pause between, before it is taken for alive.
const ENDING_ATTEMPTS: usize = 20;
const ENDING_PAUSE: Duration = Duration::from_millis(10);
/// An answer may have so many bytes.
const FRAME_BYTES_MAX: usize = 128 << 20;
/// Room for answers of which nothing has come yet, and the most by which the room for one grows at a time.
const READ_BYTES: usize = 16 << 10;
const GROW_BYTES_MAX: usize = 1 << 20;

/// Answers of one connection come in order, so what may take long has one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// The metadata log's messages.
    Quorum,
    /// Commands to the controller.
    Commands,
    /// Heartbeats to the controller.
    Beats,
    /// What clients asked and only the quorum's leader can answer.
    Asked,
}

impl Line {
    /// Who owes answers and has said nothing for so long hangs: the connection is given up, with all that waits in it.
    #[must_use]
    pub fn silence_max(self) -> Duration {
        Duration::from_secs(match self {
            // The last piece of a snapshot is answered once it is installed.
            Self::Quorum => 65,
            Self::Commands | Self::Asked => 35,
            Self::Beats => 5,
        })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The request was not sent.
    #[error("{0} can't be reached: {1}")]
    Unreachable(String, io::Error),
    /// It may have been received, and may have had its effect.
    #[error("the connection to {0} ended before the answer")]
    Lost(String),
    #[error("{0} refuses this node: {1}")]
    Refused(String, String),
    #[error("the answer can't be read: {0}")]
    Unreadable(String),
}

impl LinkError {
    /// Whether the request can't have had an effect.
    #[must_use]
    pub fn was_not_sent(&self) -> bool {
        matches!(self, Self::Unreachable(..) | Self::Refused(..))
    }
}

/// Takes the answer's frame, without its length.
pub type OnAnswer = Box<dyn FnOnce(Result<Bytes, LinkError>) + Send>;

/// How frames get to other nodes and their answers back, and what runs beside: sockets and a thread, or a simulation's.
pub trait Carrier: Send + Sync {
    /// Sends a frame; `on_answer` is called once, after `limit` at the latest.
    fn send(&self, to: &Address, line: Line, frame: Vec<u8>, limit: Duration, on_answer: OnAnswer);
    fn after(&self, delay: Duration, act: Box<dyn FnOnce() + Send>);
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// Whether nobody listens there. Blocks for an attempt to connect.
    fn refuses(&self, host: &str, port: u16) -> bool;
    /// Has something done that blocks.
    fn spawn_blocking(&self, act: Box<dyn FnOnce() + Send>);
    /// What waits for an answer hears that there is none.
    fn stop(&self);
}

struct Outgoing {
    frame: Vec<u8>,
    on_answer: OnAnswer,
}

/// All connections of this node.
pub struct Links {
    carrier: Box<dyn Carrier>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

impl Links {
    /// Over sockets; starts their thread.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn start(identity: Arc<Identity>) -> io::Result<Arc<Self>> {
        Ok(Self::over(Box::new(Sockets::start(identity)?)))
    }

    #[must_use]
    pub fn over(carrier: Box<dyn Carrier>) -> Arc<Self> {
        Arc::new(Self { carrier })
    }

    /// Ends the thread; what waits for an answer hears that there is none.
    pub fn stop(&self) {
        self.carrier.stop();
    }

    /// Calls `act` after a while, on the thread of the links.
    pub fn after(&self, delay: Duration, act: impl FnOnce() + Send + 'static) {
        self.carrier.after(delay, Box::new(act));
    }

    /// Has a task run on the thread of the links.
    pub fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.carrier.spawn(task);
    }

    /// Whether nobody listens there. Blocks for an attempt to connect.
    #[must_use]
    pub fn refuses(&self, host: &str, port: u16) -> bool {
        self.carrier.refuses(host, port)
    }

    /// Has something done that blocks.
    pub fn spawn_blocking(&self, act: impl FnOnce() + Send + 'static) {
        self.carrier.spawn_blocking(Box::new(act));
    }

    /// Sends a request; `answer` is called on the thread of the links, after `limit` at the latest.
    pub fn call<R: Request>(
        &self,
        to: &Address,
        line: Line,
        request: &R,
        limit: Duration,
        answer: impl FnOnce(Result<R::Response, LinkError>) + Send + 'static,
    ) {
        // The correlation id is 0 for all: answers come in order.
        let frame = frame::encode_request(request, 0, 0, None);
        let on_answer = move |outcome: Result<Bytes, LinkError>| {
            answer(outcome.and_then(|frame| {
                let decoded = frame::decode_response::<R>(frame, 0);
                decoded
                    .map(|(_, response)| response)
                    .map_err(|error| LinkError::Unreadable(error.to_string()))
            }));
        };
        self.carrier.send(to, line, frame, limit, Box::new(on_answer));
    }
}

/// Links over sockets, driven by one thread.
struct Sockets {
    shared: Arc<Shared>,
    stop: Mutex<Option<tokio::sync::oneshot::Sender<()>>>,
}

struct Shared {
    identity: Arc<Identity>,
    handle: tokio::runtime::Handle,
    table: Mutex<HashMap<(Address, Line), mpsc::UnboundedSender<Outgoing>>>,
}

impl Sockets {
    fn start(identity: Arc<Identity>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("peers".into()).spawn(move || {
            runtime.block_on(async {
                let _ = stopped.await;
            });
        })?;
        let shared = Arc::new(Shared { identity, handle, table: Mutex::default() });
        Ok(Self { shared, stop: Mutex::new(Some(stop)) })
    }
}

impl Carrier for Sockets {
    fn send(&self, to: &Address, line: Line, frame: Vec<u8>, limit: Duration, on_answer: OnAnswer) {
        let (tell, told) = tokio::sync::oneshot::channel();
        let outgoing = Outgoing {
            frame,
            on_answer: Box::new(move |outcome| {
                let _ = tell.send(outcome);
            }),
        };
        self.shared.send(to, line, outgoing);
        let name = to.to_text();
        self.shared.handle.spawn(async move {
            on_answer(match tokio::time::timeout(limit, told).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err(LinkError::Lost(name)),
            });
        });
    }

    fn after(&self, delay: Duration, act: Box<dyn FnOnce() + Send>) {
        self.shared.handle.spawn(async move {
            tokio::time::sleep(delay).await;
            act();
        });
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.shared.handle.spawn(task);
    }

    fn refuses(&self, host: &str, port: u16) -> bool {
        for attempt in 0..ENDING_ATTEMPTS {
            match Dial::connect(host, port, &self.shared.identity.hello()) {
                Err(error) if error.is_connection_refused() => return true,
                // A process that ends closes its sockets one after the other: its listener may be there a moment longer.
                Err(error) if error.is_hang_up() && attempt + 1 < ENDING_ATTEMPTS => {
                    std::thread::sleep(ENDING_PAUSE);
                }
                _ => return false,
            }
        }
        false
    }

    fn spawn_blocking(&self, act: Box<dyn FnOnce() + Send>) {
        self.shared.handle.spawn_blocking(act);
    }

    fn stop(&self) {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Shared {
    fn send(self: &Arc<Self>, to: &Address, line: Line, outgoing: Outgoing) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (to.clone(), line);
        let outgoing = match table.get(&key) {
            Some(link) => match link.send(outgoing) {
                Ok(()) => return,
                Err(back) => back.0,
            },
            None => outgoing,
        };
        let (link, requests) = mpsc::unbounded_channel();
        let _ = link.send(outgoing);
        table.insert(key, link);
        let links = Arc::clone(self);
        let to = to.clone();
        self.handle.spawn(async move { links.run(to, line, requests).await });
    }

    /// The life of a link: a connection while there is one, made when there is something to send.
    async fn run(self: Arc<Self>, to: Address, line: Line, mut requests: mpsc::UnboundedReceiver<Outgoing>) {
        while let Some(first) = requests.recv().await {
            let connected = tokio::time::timeout(CONNECT_LIMIT, self.connect(&to)).await;
            let stream = match connected
                .unwrap_or_else(|_| Err(LinkError::Unreachable(to.to_text(), io::ErrorKind::TimedOut.into())))
            {
                Ok(stream) => stream,
                Err(error) => {
                    (first.on_answer)(Err(error));
                    // What came meanwhile would fare no better.
                    while let Ok(next) = requests.try_recv() {
                        let gone = io::ErrorKind::NotConnected.into();
                        (next.on_answer)(Err(LinkError::Unreachable(to.to_text(), gone)));
                    }
                    continue;
                }
            };
            let waiting = converse(stream, first, &mut requests, line.silence_max()).await;
            for on_answer in waiting {
                on_answer(Err(LinkError::Lost(to.to_text())));
            }
        }
    }

    async fn connect(&self, to: &Address) -> Result<TcpStream, LinkError> {
        let unreachable = |error: io::Error| LinkError::Unreachable(to.to_text(), error);
        let mut stream = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let hello = frame::encode_request(&self.identity.hello(), 0, 0, None);
        stream.write_all(&hello).await.map_err(unreachable)?;
        let mut buffer = BytesMut::new();
        let frame = read_frame(&mut stream, &mut buffer).await.map_err(unreachable)?;
        let (_, answer) = frame::decode_response::<PeerHelloRequest>(frame, 0)
            .map_err(|error| LinkError::Unreadable(error.to_string()))?;
        match ErrorCode::from_code(answer.error_code).unwrap_or(ErrorCode::UnknownServerError) {
            ErrorCode::None => Ok(stream),
            code => Err(LinkError::Refused(
                to.to_text(),
                format!("{code} {}", answer.error_message.as_deref().unwrap_or_default()),
            )),
        }
    }
}

/// Sends what comes and reads the answers, until the connection ends. Returns who waits for an answer then.
async fn converse(
    mut stream: TcpStream,
    first: Outgoing,
    requests: &mut mpsc::UnboundedReceiver<Outgoing>,
    silence_max: Duration,
) -> VecDeque<OnAnswer> {
    let (mut reader, mut writer) = stream.split();
    let mut waiting = VecDeque::new();
    let mut buffer = BytesMut::new();
    let mut next = Some(first);
    let mut heard = tokio::time::Instant::now();
    loop {
        make_room(&mut buffer);
        if let Some(outgoing) = next.take() {
            if waiting.is_empty() {
                heard = tokio::time::Instant::now();
            }
            waiting.push_back(outgoing.on_answer);
            let written =
                tokio::time::timeout_at(heard + silence_max, writer.write_all(&outgoing.frame)).await;
            if !matches!(written, Ok(Ok(()))) {
                return waiting;
            }
        }
        tokio::select! {
            outgoing = requests.recv() => match outgoing {
                Some(outgoing) => next = Some(outgoing),
                None => return waiting,
            },
            read = reader.read_buf(&mut buffer) => match read {
                Ok(0) | Err(_) => return waiting,
                Ok(_) => {
                    heard = tokio::time::Instant::now();
                    loop {
                        match take_frame(&mut buffer) {
                            Ok(Some(frame)) => match waiting.pop_front() {
                                Some(on_answer) => on_answer(Ok(frame)),
                                None => return waiting,
                            },
                            Ok(None) => break,
                            Err(_) => return waiting,
                        }
                    }
                }
            },
            () = tokio::time::sleep_until(heard + silence_max), if !waiting.is_empty() => return waiting,
        }
    }
}

async fn read_frame(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Bytes> {
    loop {
        if let Some(frame) = take_frame(buffer)? {
            return Ok(frame);
        }
        make_room(buffer);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Room for what is read next: the rest of the frame in progress, so that a large answer comes in few reads.
fn make_room(buffer: &mut BytesMut) {
    let held = buffer.len();
    let missing = buffer.first_chunk::<{ frame::LENGTH_BYTES }>().map_or(0, |length| {
        let bytes = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        (frame::LENGTH_BYTES + bytes).saturating_sub(held).min(GROW_BYTES_MAX)
    });
    if buffer.capacity() - held < missing.max(READ_BYTES / 2) {
        buffer.reserve(missing.max(READ_BYTES));
    }
}

/// A whole frame from the front of what was read.
fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
    let Some(length) = buffer.first_chunk::<{ frame::LENGTH_BYTES }>() else { return Ok(None) };
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let bytes = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| invalid())?;
    if bytes > FRAME_BYTES_MAX {
        return Err(invalid());
    }
    if buffer.len() < frame::LENGTH_BYTES + bytes {
        return Ok(None);
    }
    let mut whole = buffer.split_to(frame::LENGTH_BYTES + bytes);
    Ok(Some(whole.split_off(frame::LENGTH_BYTES).freeze()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use ottla_protocol::messages::{PeerHelloResponse, QuorumRequest, QuorumResponse};
    use ottla_protocol::types::{NodeId, Uuid};
    use ottla_protocol::wire::Writer;

    use super::*;

    fn links() -> Arc<Links> {
        let identity = Identity::new(NodeId(1), Uuid([1; 16]), Uuid([9; 16]), Arc::default());
        Links::start(Arc::new(identity)).expect("a thread")
    }

    /// A node that greets, and answers as many requests as it is told to with what they brought, then hangs up.
    fn node(greeting: i16, answers: usize) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody calls");
            let mut said = Writer::new();
            next_frame(&mut stream).expect("a greeting");
            let hello = PeerHelloResponse { error_code: greeting, ..Default::default() };
            frame::encode_response(&mut said, &hello, 0, 0);
            stream.write_all(&said.into_bytes()).expect("heard");
            for _ in 0..answers {
                let Some(frame) = next_frame(&mut stream) else { return };
                let payload = Bytes::from(vec![frame[frame.len() - 2]]);
                let mut said = Writer::new();
                frame::encode_response(&mut said, &QuorumResponse { error_code: 0, payload }, 0, 0);
                stream.write_all(&said.into_bytes()).expect("heard");
            }
            // What is not read when it closes would take the answers back.
            let _ = next_frame(&mut stream);
        });
        Address { node: NodeId(2), host: "127.0.0.1".into(), port }
    }

    fn next_frame(stream: &mut std::net::TcpStream) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).ok()?;
        Some(frame)
    }

    fn ask(links: &Arc<Links>, to: &Address, byte: u8) -> mpsc::Receiver<Result<Bytes, LinkError>> {
        let (tell, told) = mpsc::channel();
        let request = QuorumRequest { payload: Bytes::from(vec![byte]) };
        links.call(to, Line::Quorum, &request, Duration::from_secs(20), move |answer| {
            tell.send(answer.map(|answer| answer.payload)).expect("the test waits");
        });
        told
    }

    #[test]
    fn requests_are_answered_in_order_and_whoever_is_left_hears_of_the_end() {
        let (links, to) = (links(), node(0, 2));
        let asked = [ask(&links, &to, 7), ask(&links, &to, 8), ask(&links, &to, 9)];
        let answers = asked.map(|told| told.recv().expect("an answer"));
        assert!(matches!(&answers[0], Ok(payload) if payload[..] == [7]), "{answers:?}");
        assert!(matches!(&answers[1], Ok(payload) if payload[..] == [8]), "{answers:?}");
        assert!(matches!(&answers[2], Err(error) if !error.was_not_sent()), "{answers:?}");
        links.stop();
    }

    #[test]
    fn a_process_whose_listener_ends_a_moment_later_is_gone_and_one_that_answers_is_not() {
        let links = links();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        // Two connections are still accepted by the kernel, and closed unanswered.
        std::thread::spawn(move || {
            for _ in 0..2 {
                drop(listener.accept());
            }
        });
        assert!(links.refuses("127.0.0.1", port));
        let alive = node(0, 0);
        assert!(!links.refuses("127.0.0.1", alive.port));
        links.stop();
    }

    #[test]
    fn nobody_there_and_somebody_who_refuses_were_not_sent_anything() {
        let links = links();
        let gone = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            Address { node: NodeId(2), host: "127.0.0.1".into(), port }
        };
        for to in [gone, node(ErrorCode::InconsistentClusterId.code(), 0)] {
            let answer = ask(&links, &to, 1).recv().expect("an answer");
            assert!(matches!(&answer, Err(error) if error.was_not_sent()), "{answer:?}");
        }
        links.stop();
    }
}
