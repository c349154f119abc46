//! The answer of a request: given at once, given later from any thread, or given when something that it waits for has happened.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ottla_protocol::wire::{Message, Writer};
use ottla_storage::Slice;
use smallvec::SmallVec;

use super::RequestContext;
use crate::session::mailbox::{ConnectionId, Mail, Mailbox, RequestSequence};

/// What a handler returns.
pub enum Reply<R> {
    /// The answer.
    Now(R),
    /// The answer as bytes and slices of a log: the body, without the response header.
    Pieces(Output),
    /// A [`ReplySlot`] was taken from the context and will be completed.
    Later,
    /// The client wants no answer (Produce with acks=0).
    None,
    /// The request waits on this connection's worker until it is woken or its deadline passes.
    Park(Box<dyn Parked>),
    /// The connection is closed without an answer, with one log line that says `why`.
    Close(&'static str),
}

/// A response body in the order in which it leaves.
#[derive(Default)]
pub struct Output {
    pub pieces: SmallVec<[Piece; 2]>,
}

/// A part of a response.
pub enum Piece {
    Bytes(Bytes),
    /// Record batches, as they lie in a log.
    Slice(Slice),
    /// The length of the frame and the response header.
    Prefix(Prefix),
}

/// Length, correlation id and, in flexible versions, an empty set of tagged fields.
#[derive(Clone, Copy)]
pub struct Prefix {
    bytes: [u8; 9],
    len: u8,
}

impl Piece {
    pub(crate) fn prefix(body_bytes: usize, correlation_id: i32, flexible: bool) -> Self {
        let len = if flexible { 9 } else { 8 };
        let frame_bytes = i32::try_from(body_bytes + len - 4).expect("responses are limited far below 2 GiB");
        let mut bytes = [0; 9];
        bytes[..4].copy_from_slice(&frame_bytes.to_be_bytes());
        bytes[4..8].copy_from_slice(&correlation_id.to_be_bytes());
        Self::Prefix(Prefix { bytes, len: if flexible { 9 } else { 8 } })
    }

    /// The bytes, as they lie in memory (for a slice of a log: in its map).
    #[must_use]
    pub fn memory(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Slice(slice) => slice.bytes(),
            Self::Prefix(prefix) => &prefix.bytes[..usize::from(prefix.len)],
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Slice(slice) => slice.len(),
            Self::Prefix(prefix) => usize::from(prefix.len),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Output {
    /// Encodes a whole message.
    #[must_use]
    pub fn of<R: Message>(response: &R, version: i16) -> Self {
        let mut writer = Writer::new();
        response.encode(&mut writer, version);
        Self::from(Bytes::from(writer.into_bytes()))
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `bytes`, if there are any.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.pieces.push(Piece::Bytes(bytes));
        }
    }
}

impl Output {
    /// Appends a slice of a log, if it is not empty.
    pub fn push_slice(&mut self, slice: Slice) {
        if !slice.is_empty() {
            self.pieces.push(Piece::Slice(slice));
        }
    }
}

impl From<Bytes> for Output {
    fn from(bytes: Bytes) -> Self {
        let mut output = Self::default();
        output.push(bytes);
        output
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes in {} pieces)", self.len(), self.pieces.len())
    }
}

/// Where an answer goes: a request of a connection of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) connection: ConnectionId,
    pub(crate) sequence: RequestSequence,
}

/// The duty to answer one request later, from any thread. Dropped without an answer it closes the connection: a client must never
/// wait for a reply that nobody owes it any more.
#[must_use = "a slot that is dropped closes the connection"]
pub struct ReplySlot<R> {
    origin: Origin,
    version: i16,
    answered: bool,
    response: PhantomData<fn(R)>,
}

impl<R: Message> ReplySlot<R> {
    /// Encodes the answer in the request's version and hands it to the connection, which sends it when its turn has come.
    pub fn complete(self, response: &R) {
        let output = Output::of(response, self.version);
        self.complete_with(output);
    }
}

impl<R> ReplySlot<R> {
    pub(crate) fn new(origin: Origin, version: i16) -> Self {
        Self { origin, version, answered: false, response: PhantomData }
    }

    /// The version in which the request came, and the answer must leave.
    #[must_use]
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Hands over a body that was encoded by the caller.
    pub fn complete_with(mut self, output: Output) {
        self.answered = true;
        self.post(Some(output));
    }

    fn post(&self, answer: Option<Output>) {
        let Origin { mailbox, connection, sequence } = &self.origin;
        mailbox.post(Mail::Completed { connection: *connection, sequence: *sequence, answer });
    }
}

impl<R> Drop for ReplySlot<R> {
    fn drop(&mut self) {
        if !self.answered {
            self.post(None);
        }
    }
}

impl<R> fmt::Debug for ReplySlot<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplySlot").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// What a request is told whose answer did not come in time.
pub(crate) struct Overdue {
    pub(crate) deadline_ms: u64,
    pub(crate) answer: Box<dyn FnOnce() -> Output + Send>,
}

/// A request that waits on its connection's worker, such as a fetch that found too little. It is dropped when its connection closes.
pub trait Parked {
    /// The tick (see [`crate::clock::Clock::tick_ms`]) at which it is resumed with [`Resume::TimedOut`].
    fn deadline_ms(&self) -> u64;

    /// Looks again. `None` goes on waiting, for which the context's wake-up (the same as before) stays valid; not allowed once timed out.
    fn resume(&mut self, cx: &mut RequestContext<'_>, why: Resume) -> Option<Output>;
}

/// Why a parked request is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    Woken,
    TimedOut,
}

/// A handle by which a partition resumes a parked request. Cheap to clone and to call: while a wake-up is under way, more of them
/// cost one atomic read.
#[derive(Clone, Debug)]
pub struct Wakeup {
    state: Arc<WakeupState>,
    place: u32,
}

#[derive(Debug)]
struct WakeupState {
    origin: Origin,
    phase: AtomicU8,
    /// The places that woke it since it last looked.
    woken: Mutex<Vec<u32>>,
}

const WAITING: u8 = 0;
const WOKEN: u8 = 1;
const ANSWERED: u8 = 2;

impl Wakeup {
    pub(crate) fn new(origin: Origin) -> Self {
        let state = WakeupState { origin, phase: AtomicU8::new(WAITING), woken: Mutex::default() };
        Self { state: Arc::new(state), place: 0 }
    }

    /// The same request, woken by what it looks for at one of its places: it need look at nothing else then.
    #[must_use]
    pub fn at(&self, place: usize) -> Self {
        Self { state: Arc::clone(&self.state), place: u32::try_from(place).unwrap_or(u32::MAX) }
    }

    /// The places that woke the request since this was last asked.
    #[must_use]
    pub fn take_woken(&self) -> Vec<u32> {
        std::mem::take(&mut *self.state.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the request looked at again, soon, on its own worker.
    pub fn wake(&self) {
        let WakeupState { origin, phase, woken } = &*self.state;
        woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.place);
        if phase.compare_exchange(WAITING, WOKEN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            origin.mailbox.post(Mail::Woken { connection: origin.connection, sequence: origin.sequence });
        }
    }

    /// The request was answered or its connection is gone: the handle may be forgotten.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state.phase.load(Ordering::Acquire) == ANSWERED
    }

    /// Called before the request looks again, so that what happens from here on wakes it once more.
    pub(crate) fn rearm(&self) {
        let _ = self.state.phase.compare_exchange(WOKEN, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn finish(&self) {
        self.state.phase.store(ANSWERED, Ordering::Release);
    }
}
