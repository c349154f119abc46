//! One connection without its socket: bytes in become requests, replies become bytes out in the order of the requests.
//!
//! ```text
//!            on_bytes                          slots (one per request, in order)
//!  socket ------------> inbound --frames--> [ ready | parked | owed | ready ... ] --front ready?--> outbound --> socket
//!                          |                    ^         ^                                             |
//!                          |  stops while:      | on_mail (woken, completed)                            |
//!                          |  a barrier is unanswered, too many slots, too many unsent bytes <----------+
//! ```
//!
//! A session never blocks, owns no socket, thread or timer, and asks no clock but the node's: the network edge and the simulator
//! drive the same code. Whoever drives it calls, after every input, [`Session::outbound`] for what to send, [`Session::wants_bytes`]
//! for whether to read on, [`Session::next_deadline_ms`] for when to call [`Session::on_tick`], and [`Session::is_over`].

pub mod mailbox;

mod inbound;
mod limits;
mod memory;
mod outbound;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::buf::Limit;
use bytes::{Bytes, BytesMut};
use ottla_machine::sabotage::{Bug, is_on};
use ottla_protocol::api::ApiKey;
use ottla_protocol::frame::{self, FrameError, Prefix, RequestHeader};
use ottla_protocol::types::NodeId;
use ottla_protocol::wire::{DecodeError, Reader};

use crate::api::{
    self, Answer, ConnectionState, Origin, Output, Overdue, Parked, Piece, RequestContext, Resume, Wakeup,
    api_versions,
};
use crate::node::Node;
use inbound::Inbound;
use mailbox::{ConnectionId, Mail, Mailbox, RequestSequence};

pub use limits::Limits;
pub use memory::RequestMemory;
pub use outbound::{Next, Outbound};

/// Why a connection ends. Its text is the log line's.
#[derive(Debug, thiserror::Error)]
pub enum Ending {
    #[error("the client closed the connection")]
    ByClient,
    /// Not a frame, or not a request of an API that is served.
    #[error("{error}{hint}", hint = length_hint(.0), error = .0)]
    Frame(FrameError),
    #[error("a {api:?} request of version {version} can't be read: {error}")]
    Malformed { api: ApiKey, version: i16, error: DecodeError },
    #[error("{api:?}: {why}")]
    Refused { api: ApiKey, why: &'static str },
    #[error("the answer to a request was given up")]
    GivenUp,
    #[error("idle for more than connections.max.idle.ms = {0}")]
    Idle(u64),
    #[error("a request was begun and not finished in time")]
    SlowFrame,
    #[error("the client did not read its answers for {0} ms")]
    SlowReader(u64),
    #[error("outstanding answers took too long")]
    Grace,
    #[error("the broker stops")]
    Stopping,
}

/// Other protocols on a Kafka port show as lengths; naming them saves somebody an hour.
fn length_hint(error: &FrameError) -> &'static str {
    match error {
        FrameError::TooShort(length) | FrameError::TooLong { length, .. } => inbound::hint(*length),
        _ => "",
    }
}

impl Ending {
    /// Ends that come in the ordinary course and are worth no line in the log.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        matches!(self, Self::ByClient | Self::Idle(_) | Self::Stopping)
    }
}

/// A request whose answer has not gone to `outbound` yet.
enum Slot {
    /// Somebody holds the `ReplySlot`.
    Owed(Reply, Option<Overdue>),
    Parked(ParkedSlot),
    Ready(Output),
    /// The client wants no answer.
    Silent,
}

impl Slot {
    /// The tick at which it is answered, whatever has happened by then.
    fn deadline_ms(&self) -> Option<u64> {
        match self {
            Self::Owed(_, overdue) => overdue.as_ref().map(|overdue| overdue.deadline_ms),
            Self::Parked(slot) => Some(slot.parked.deadline_ms()),
            Self::Ready(_) | Self::Silent => None,
        }
    }

    /// It will not be answered: nobody need wake it any more.
    fn forget(self) {
        if let Self::Parked(ParkedSlot { wakeup: Some(wakeup), .. }) = self {
            wakeup.finish();
        }
    }
}

struct ParkedSlot {
    parked: Box<dyn Parked>,
    wakeup: Option<Wakeup>,
    reply: Reply,
}

/// What the header of a response is made from.
#[derive(Clone, Copy)]
struct Reply {
    api: ApiKey,
    version: i16,
    correlation_id: i32,
}

impl Reply {
    fn framed(self, body: Output) -> Output {
        let mut framed = Output::default();
        framed.pieces.push(Piece::prefix(
            body.len(),
            self.correlation_id,
            frame::response_header_version(self.api.code(), self.version) >= 1,
        ));
        framed.pieces.extend(body.pieces);
        framed
    }
}

/// What runs a request: the table of APIs, or a test's own.
type Dispatch = fn(&mut RequestContext<'_>, &mut Reader) -> Result<Answer, DecodeError>;

/// See the module.
pub struct Session {
    state: ConnectionState,
    dispatch: Dispatch,
    mailbox: Arc<Mailbox>,
    limits: Arc<Limits>,
    inbound: Inbound,
    /// Bytes of `inbound` that are charged to the limit of all connections.
    charged_bytes: usize,
    slots: VecDeque<Slot>,
    /// Sequence of the first of `slots`.
    first: u64,
    /// No request runs before this one is answered.
    barrier: Option<RequestSequence>,
    outbound: Outbound,
    /// Bytes of answers that are ready but wait for an earlier one.
    held_bytes: usize,
    /// Set once no more requests are taken; what was taken is still answered.
    ending: Option<Ending>,
    ending_since_ms: u64,
    active_ms: u64,
    /// When the frame in progress began.
    frame_since_ms: u64,
    /// When output last made progress, or began to wait.
    sent_ms: u64,
    /// The monotonic clock at the latest input.
    tick_ms: u64,
}

impl Session {
    #[must_use]
    pub fn new(state: ConnectionState, mailbox: Arc<Mailbox>, limits: Arc<Limits>, tick_ms: u64) -> Self {
        Self {
            state,
            dispatch: api::dispatch,
            mailbox,
            limits,
            inbound: Inbound::default(),
            charged_bytes: 0,
            slots: VecDeque::new(),
            first: 0,
            barrier: None,
            outbound: Outbound::default(),
            held_bytes: 0,
            ending: None,
            ending_since_ms: 0,
            active_ms: tick_ms,
            frame_since_ms: tick_ms,
            sent_ms: tick_ms,
            tick_ms,
        }
    }

    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.state.id
    }

    #[must_use]
    pub fn state(&self) -> &ConnectionState {
        &self.state
    }

    /// Bytes came in. Runs every request that is whole.
    pub fn on_bytes(&mut self, node: &Arc<Node>, chunk: BytesMut) {
        if self.ending.is_some() {
            return;
        }
        self.tick_ms = node.clock.tick_ms();
        self.active_ms = self.tick_ms;
        if self.inbound.is_empty() {
            self.frame_since_ms = self.tick_ms;
        }
        self.inbound.lend(chunk);
        self.run_requests(node);
        self.inbound.keep_rest();
        self.charge();
    }

    /// The buffer of a frame in progress, for the driver to read into directly; [`Session::on_space_filled`] must follow.
    pub fn space(&mut self) -> Option<Limit<&mut BytesMut>> {
        self.inbound.space(self.limits.request_bytes_max)
    }

    /// The driver read into [`Session::space`].
    pub fn on_space_filled(&mut self, node: &Arc<Node>) {
        self.tick_ms = node.clock.tick_ms();
        self.active_ms = self.tick_ms;
        self.run_requests(node);
        self.inbound.release_if_empty();
        self.charge();
    }

    /// The client sends no more. What it asked before is still answered.
    pub fn on_end_of_bytes(&mut self, node: &Arc<Node>) {
        self.end(node, Ending::ByClient);
    }

    /// The broker stops: no more requests, what was taken is answered.
    pub fn on_stop(&mut self, node: &Arc<Node>) {
        self.end(node, Ending::Stopping);
    }

    /// Something about one of the session's requests came through the mailbox.
    pub fn on_mail(&mut self, node: &Arc<Node>, mail: Mail) {
        self.tick_ms = node.clock.tick_ms();
        match mail {
            Mail::Completed { sequence, answer: Some(output), .. } => self.on_completed(sequence, output),
            Mail::Completed { sequence, answer: None, .. } => self.on_given_up(node, sequence),
            Mail::Woken { sequence, .. } => self.resume(node, sequence, Resume::Woken),
            Mail::Readable { .. } => {}
        }
        self.pump(node);
    }

    /// The driver sent bytes of [`Session::outbound`]: requests that waited for room may run.
    pub fn on_sent(&mut self, node: &Arc<Node>) {
        self.tick_ms = node.clock.tick_ms();
        self.sent_ms = self.tick_ms;
        self.active_ms = self.tick_ms;
        self.pump(node);
    }

    /// Deadlines: parked and overdue requests are answered with what there is, slow and idle connections end.
    pub fn on_tick(&mut self, node: &Arc<Node>) {
        self.tick_ms = node.clock.tick_ms();
        let tick_ms = self.tick_ms;
        for index in 0..self.slots.len() {
            let sequence = RequestSequence(self.first + index as u64);
            match self.slots.get(index).and_then(Slot::deadline_ms) {
                Some(deadline_ms) if deadline_ms <= tick_ms => {}
                _ => continue,
            }
            self.answer_overdue(sequence);
            self.resume(node, sequence, Resume::TimedOut);
        }
        self.pump(node);
        if let Some((deadline_ms, due)) = self.connection_deadline()
            && deadline_ms <= tick_ms
        {
            self.slots.drain(..).for_each(Slot::forget);
            self.held_bytes = 0;
            self.outbound = Outbound::default();
            self.ending = Some(due);
        }
    }

    /// The tick at which [`Session::on_tick`] has something to do.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if self.is_over().is_some() {
            return None;
        }
        let slots = self.slots.iter().filter_map(Slot::deadline_ms);
        slots.chain(self.connection_deadline().map(|(deadline_ms, _)| deadline_ms)).min()
    }

    /// When the connection itself is overdue, and for what.
    fn connection_deadline(&self) -> Option<(u64, Ending)> {
        let limits = &self.limits;
        if !self.outbound.is_empty() {
            return Some((self.sent_ms + limits.write_stall_ms, Ending::SlowReader(limits.write_stall_ms)));
        }
        match &self.ending {
            Some(Ending::Stopping) => {
                return Some((self.ending_since_ms + limits.stop_grace_ms, Ending::Stopping));
            }
            Some(_) => return Some((self.ending_since_ms + limits.grace_ms, Ending::Grace)),
            None => {}
        }
        if !self.slots.is_empty() {
            return None;
        }
        if !self.inbound.is_empty() {
            // A frame may take its time as long as its bytes keep coming.
            let earned_ms = self.inbound.len() as u64 * 1_000 / limits.frame_bytes_per_s_min;
            return Some((self.frame_since_ms + limits.frame_ms + earned_ms, Ending::SlowFrame));
        }
        limits.idle_ms.map(|idle_ms| (self.active_ms + idle_ms, Ending::Idle(idle_ms)))
    }

    /// Whether the driver should read from the socket.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        self.ending.is_none()
            && self.may_run()
            && self.limits.memory.admit(self.state.id, self.inbound.len(), &self.mailbox)
    }

    /// The node whose signs of life came over this connection.
    #[must_use]
    pub fn living_node(&self) -> Option<NodeId> {
        self.state.node.as_deref().filter(|peer| peer.is_sign_of_life).map(|peer| peer.node)
    }

    /// What is to be sent.
    pub fn outbound(&mut self) -> &mut Outbound {
        &mut self.outbound
    }

    /// The reason, once everything that will be sent has been: the driver closes the socket.
    #[must_use]
    pub fn is_over(&self) -> Option<&Ending> {
        self.ending.as_ref().filter(|_| self.slots.is_empty() && self.outbound.is_empty())
    }

    fn may_run(&self) -> bool {
        self.barrier.is_none()
            && self.slots.len() < self.limits.in_flight_max
            && self.outbound.unsent_bytes() + self.held_bytes < self.limits.unsent_bytes_max
    }

    /// Runs what waited for a barrier, a slot or room.
    fn pump(&mut self, node: &Arc<Node>) {
        self.release();
        if self.ending.is_none() && !self.inbound.is_empty() {
            self.run_requests(node);
            self.inbound.release_if_empty();
            self.charge();
        }
    }

    fn run_requests(&mut self, node: &Arc<Node>) {
        let (now_ms, tick_ms) = (node.clock.now_ms(), self.tick_ms);
        while self.ending.is_none() && self.may_run() {
            let frame = match self.inbound.next_frame(self.limits.request_bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    self.end(node, Ending::Frame(error));
                    break;
                }
            };
            // What is left belongs to the next frame.
            self.frame_since_ms = tick_ms;
            if let Err(ending) = self.run(node, frame, now_ms, tick_ms) {
                self.end(node, ending);
            }
            self.release();
        }
        if !self.may_run() {
            // The client must not pay for our own pause.
            self.frame_since_ms = tick_ms;
        }
    }

    /// Runs one request and gives it its slot.
    fn run(&mut self, node: &Arc<Node>, frame: Bytes, now_ms: i64, tick_ms: u64) -> Result<(), Ending> {
        // Key and version decide before anything else of the frame is believed.
        let prefix = Prefix::peek(&frame).map_err(|error| Ending::Frame(error.into()))?;
        let Prefix { api_version: version, correlation_id, .. } = prefix;
        let api = match prefix.api() {
            // What nodes say to each other is nobody else's: a client hears what any unknown key gets.
            Ok(api) if api.api().peer && api != ApiKey::PeerHello && self.state.node.is_none() => {
                return Err(Ending::Frame(FrameError::UnknownApi(prefix)));
            }
            Ok(api) if api::SERVED.contains(&api) => api,
            Ok(_) => return Err(Ending::Frame(FrameError::UnknownApi(prefix))),
            Err(_) if prefix.api_key == ApiKey::ApiVersions.code() => {
                // KIP-511: the one request that is answered in a version the client did not ask for.
                let reply = Reply { api: ApiKey::ApiVersions, version: 0, correlation_id };
                self.push_ready(reply.framed(api_versions::unsupported_version()));
                return Ok(());
            }
            Err(error) => return Err(Ending::Frame(error)),
        };
        let malformed = |error| Ending::Malformed { api, version, error };
        let mut body = Reader::new(frame);
        let header = RequestHeader::decode(&mut body).map_err(|error| match error {
            FrameError::Decode(error) => malformed(error),
            error => Ending::Frame(error),
        })?;
        self.remember_client_id(header.client_id.as_deref());

        let sequence = RequestSequence(self.first + self.slots.len() as u64);
        let reply = Reply { api, version, correlation_id };
        let dispatch = self.dispatch;
        let mut cx = self.context(node, sequence, reply, now_ms, tick_ms);
        let answer = dispatch(&mut cx, &mut body).map_err(malformed)?;
        let (wakeup, overdue) = (cx.wakeup.take(), cx.overdue.take());
        let slot = match answer {
            Answer::Now(output) => {
                self.push_ready(reply.framed(output));
                return Ok(());
            }
            Answer::None => {
                self.slots.push_back(Slot::Silent);
                return Ok(());
            }
            Answer::Close(why) => return Err(Ending::Refused { api, why }),
            Answer::Later => Slot::Owed(reply, overdue),
            Answer::Park(parked) => Slot::Parked(ParkedSlot { parked, wakeup, reply }),
        };
        if api.api().barrier {
            self.barrier = Some(sequence);
        }
        self.slots.push_back(slot);
        Ok(())
    }

    fn push_ready(&mut self, output: Output) {
        self.held_bytes += output.len();
        self.slots.push_back(Slot::Ready(output));
    }

    fn context<'a>(
        &'a mut self,
        node: &'a Arc<Node>,
        sequence: RequestSequence,
        reply: Reply,
        now_ms: i64,
        tick_ms: u64,
    ) -> RequestContext<'a> {
        let origin = Origin { mailbox: Arc::clone(&self.mailbox), connection: self.state.id, sequence };
        RequestContext {
            node,
            connection: &mut self.state,
            api: reply.api,
            version: reply.version,
            correlation_id: reply.correlation_id,
            now_ms,
            tick_ms,
            origin,
            wakeup: None,
            overdue: None,
            deferred: false,
        }
    }

    fn remember_client_id(&mut self, client_id: Option<&str>) {
        if self.state.client_id.as_deref() != client_id {
            self.state.client_id = client_id.map(Arc::from);
        }
    }

    fn on_completed(&mut self, sequence: RequestSequence, output: Output) {
        // Others have no slot any more, for their connection has ended, or were answered when their time was over.
        let Some(Slot::Owed(reply, _)) = self.slot(sequence) else { return };
        let reply = *reply;
        self.answer_owed(sequence, reply, output);
    }

    /// Nobody answered in the time that the request gave: it is told so.
    fn answer_overdue(&mut self, sequence: RequestSequence) {
        let Some(Slot::Owed(reply, overdue)) = self.slot(sequence) else { return };
        let reply = *reply;
        if let Some(overdue) = overdue.take() {
            self.answer_owed(sequence, reply, (overdue.answer)());
        }
    }

    fn answer_owed(&mut self, sequence: RequestSequence, reply: Reply, output: Output) {
        let framed = reply.framed(output);
        let slot = self.slot(sequence).expect("the caller has seen it");
        if is_on(Bug::AnswerWhenReady) {
            *slot = Slot::Silent;
            self.outbound.push(framed);
            return self.lift_barrier(sequence);
        }
        let len = framed.len();
        *slot = Slot::Ready(framed);
        self.held_bytes += len;
        self.lift_barrier(sequence);
    }

    /// An answer will never come: the connection ends at that request. Replies leave in order, so those before it still do, and none after it.
    fn on_given_up(&mut self, node: &Arc<Node>, sequence: RequestSequence) {
        if !matches!(self.slot(sequence), Some(Slot::Owed(..))) {
            return;
        }
        let index = usize::try_from(sequence.0 - self.first).expect("an index of `slots`");
        for slot in self.slots.drain(index..) {
            if let Slot::Ready(output) = &slot {
                self.held_bytes -= output.len();
            }
            slot.forget();
        }
        self.end(node, Ending::GivenUp);
    }

    fn resume(&mut self, node: &Arc<Node>, sequence: RequestSequence, why: Resume) {
        let Some(slot) = self.slot(sequence) else { return };
        if !matches!(slot, Slot::Parked(_)) {
            // Woken while its answer was being made.
            return;
        }
        let Slot::Parked(ParkedSlot { mut parked, wakeup, reply }) = std::mem::replace(slot, Slot::Silent)
        else {
            unreachable!("matched above")
        };
        if let Some(wakeup) = &wakeup {
            wakeup.rearm();
        }
        let (now_ms, tick_ms) = (node.clock.now_ms(), node.clock.tick_ms());
        let mut cx = self.context(node, sequence, reply, now_ms, tick_ms);
        cx.wakeup = wakeup;
        let answer = parked.resume(&mut cx, why);
        let wakeup = cx.wakeup.take();
        let slot = match answer {
            Some(output) => {
                if let Some(wakeup) = wakeup {
                    wakeup.finish();
                }
                let framed = reply.framed(output);
                self.held_bytes += framed.len();
                self.lift_barrier(sequence);
                Slot::Ready(framed)
            }
            None => {
                assert!(why == Resume::Woken, "{:?} must answer when its time is over", reply.api);
                Slot::Parked(ParkedSlot { parked, wakeup, reply })
            }
        };
        *self.slot(sequence).expect("its slot is still there: only release() takes slots away") = slot;
    }

    fn slot(&mut self, sequence: RequestSequence) -> Option<&mut Slot> {
        let index = sequence.0.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(index).ok()?)
    }

    fn lift_barrier(&mut self, sequence: RequestSequence) {
        if self.barrier == Some(sequence) {
            self.barrier = None;
        }
    }

    /// Moves answers whose turn has come to `outbound`.
    fn release(&mut self) {
        while matches!(self.slots.front(), Some(Slot::Ready(_) | Slot::Silent)) {
            self.first += 1;
            if let Some(Slot::Ready(output)) = self.slots.pop_front() {
                self.held_bytes -= output.len();
                if self.outbound.is_empty() {
                    self.sent_ms = self.tick_ms;
                }
                self.outbound.push(output);
            }
        }
        if self.slots.is_empty() {
            self.slots.shrink_to(4);
        }
    }

    /// Takes no more requests. Parked ones are answered with what there is; owed ones have a little time left.
    fn end(&mut self, node: &Arc<Node>, why: Ending) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(why);
        self.tick_ms = node.clock.tick_ms();
        self.ending_since_ms = self.tick_ms;
        self.inbound = Inbound::default();
        self.charge();
        for index in 0..self.slots.len() {
            self.resume(node, RequestSequence(self.first + index as u64), Resume::TimedOut);
        }
        self.release();
    }

    fn charge(&mut self) {
        let holds = self.inbound.len();
        self.limits.memory.changed(self.state.id, self.charged_bytes, holds);
        self.charged_bytes = holds;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.limits.memory.changed(self.state.id, self.charged_bytes, 0);
        self.slots.drain(..).for_each(Slot::forget);
    }
}
