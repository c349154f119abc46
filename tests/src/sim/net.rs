//! The network: byte streams that are cut anywhere, kept in order on each connection and in no order across them, held back by cut
//! links as TCP holds them back, and ended as kernels end them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};

use bytes::BytesMut;
use ottla::api::ConnectionState;
use ottla::session::mailbox::ConnectionId;
use ottla::session::{Limits, Session};
use rand::Rng as _;

use super::edges::Owner;
use super::effects::take_frame;
use super::world::{Event, World};

/// The port of the brokers' listener, open once a node is registered; and the controllers', open as long as its process runs.
pub const BROKER_PORT: u16 = 9092;
pub const CONTROLLER_PORT: u16 = 9093;
/// All clients are one party.
pub const CLIENTS: usize = 3;
pub const PARTIES: usize = 4;

/// How long a connection may take to be made.
const CONNECT_US: u64 = 1_000_000;
/// Retransmissions begin after so long, and each takes twice as long as the one before, up to a limit; as Linux does.
const RETRANSMIT_US: u64 = 200_000;
const RETRANSMIT_MAX_US: u64 = 120_000_000;

/// One connection.
pub struct Conn {
    pub owner: Owner,
    pub from: usize,
    pub to: usize,
    port: u16,
    began_us: u64,
    pub is_open: bool,
    /// From the one that connected, and to it.
    dirs: [Dir; 2],
    /// What the one that connected has not made whole frames of.
    received: Vec<u8>,
    /// The end that accepted, while its process lives.
    pub session: Option<Session>,
    /// What the session does not want yet.
    held: VecDeque<Vec<u8>>,
}

#[derive(Default)]
struct Dir {
    /// On their way; an empty one is the end.
    chunks: VecDeque<Vec<u8>>,
    last_us: u64,
    /// What was not received is sent again then, and after twice as long each time.
    retry_us: u64,
    backoff_us: u64,
    ended: bool,
}

impl World {
    /// Begins to connect; the owner hears of the outcome.
    pub(super) fn connect(&mut self, owner: Owner, from: usize, to: usize, port: u16) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let conn = Conn {
            owner,
            from,
            to,
            port,
            began_us: self.now_us,
            is_open: false,
            dirs: Default::default(),
            received: Vec::new(),
            session: None,
            held: VecDeque::new(),
        };
        self.conns.insert(id, conn);
        let at = self.now_us + self.latency_us();
        self.schedule(at, Event::Connect { conn: id });
        id
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner).cut[from][to]
    }

    fn has_machine(&self, party: usize) -> bool {
        party == CLIENTS || self.nodes[party].has_machine
    }

    pub(super) fn on_connect(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (from, to, port, began) = (conn.from, conn.to, conn.port, conn.began_us);
        if self.is_cut(from, to) || self.is_cut(to, from) || !self.has_machine(to) {
            if self.now_us >= began + CONNECT_US {
                return self.fail(id);
            }
            return self.schedule(self.now_us + 100_000, Event::Connect { conn: id });
        }
        let listens = self.nodes[to].live.as_ref().is_some_and(|live| match port {
            CONTROLLER_PORT => true,
            _ => live.serves,
        });
        if !listens {
            return self.fail(id);
        }
        let live = self.nodes[to].live.as_ref().expect("it listens");
        let host = |party: usize| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, party as u8 + 1)), port);
        let state = ConnectionState {
            id: ConnectionId(id),
            peer: host(from),
            local: host(to),
            listener: if port == CONTROLLER_PORT { "CONTROLLER".into() } else { "PLAINTEXT".into() },
            client_id: None,
            client_software: None,
            node: None,
        };
        let session = Session::new(
            state,
            Arc::clone(&live.mailbox),
            Arc::new(Limits::default()),
            live.node.clock.tick_ms(),
        );
        let conn = self.conns.get_mut(&id).expect("looked up above");
        (conn.session, conn.is_open) = (Some(session), true);
        self.on_open(id);
    }

    fn fail(&mut self, id: u64) {
        self.on_ended(id, false);
        self.conns.remove(&id);
    }

    /// Sends bytes in one direction (0: from the one that connected).
    pub(super) fn send(&mut self, id: u64, dir: usize, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = match self.rng.random_range(0..6) {
                0 => self.rng.random_range(1..=rest.len()),
                1 => self.rng.random_range(1..=rest.len().min(7)),
                _ => rest.len(),
            };
            // Not too many events for one large answer.
            let size = size.max(rest.len() / 8);
            let (chunk, left) = rest.split_at(size);
            rest = left;
            self.enqueue(id, dir, chunk.to_vec());
        }
    }

    fn enqueue(&mut self, id: u64, dir: usize, chunk: Vec<u8>) {
        let at = self.now_us + self.latency_us();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let way = &mut conn.dirs[dir];
        if way.ended {
            return;
        }
        way.ended = chunk.is_empty();
        way.last_us = way.last_us.max(at);
        way.chunks.push_back(chunk);
        let at = way.last_us;
        self.schedule(at, Event::Arrive { conn: id, dir });
    }

    /// One end closes; the other hears of it after what is on its way.
    pub(super) fn close(&mut self, id: u64, dir: usize) {
        self.enqueue(id, dir, Vec::new());
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !conn.is_open {
            self.conns.remove(&id);
        } else if dir == 0 {
            conn.owner = Owner::Nobody;
        } else {
            self.drop_session(id);
        }
    }

    pub(super) fn drop_session(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let to = conn.to;
        let Some(session) = conn.session.take() else { return };
        let living = session.living_node();
        drop(session);
        if let (Some(gone), Some(live)) = (living, self.nodes[to].live.as_ref()) {
            let node = Arc::clone(&live.node);
            live.node.flusher.run_job(move || node.controller.on_peer_gone(gone));
        }
    }

    /// A process or a machine has ended: its connections.
    pub(super) fn end_conns_of(&mut self, node: usize, is_power_loss: bool) {
        let ids: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.from == node || conn.to == node)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if !conn.is_open && conn.from == node {
                self.conns.remove(&id);
                continue;
            }
            let dir = usize::from(conn.to == node);
            if dir == 1 {
                conn.session = None;
                conn.held.clear();
            } else {
                conn.owner = Owner::Nobody;
            }
            if is_power_loss {
                // What the machine had not sent is lost; the events that would bring it find the end.
                conn.dirs[dir].chunks.clear();
                conn.dirs[dir].ended = false;
            }
            self.enqueue(id, dir, Vec::new());
        }
    }

    pub(super) fn on_arrive(&mut self, id: u64, dir: usize) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (sender, receiver) = if dir == 0 { (conn.from, conn.to) } else { (conn.to, conn.from) };
        let is_end = conn.dirs[dir].chunks.front().is_some_and(Vec::is_empty);
        if self.is_cut(sender, receiver) || is_end && !self.has_machine(sender) {
            let calm = self.is_calm;
            let way = &mut self.conns.get_mut(&id).expect("looked up above").dirs[dir];
            // However much is on its way, it is tried again once.
            if self.now_us >= way.retry_us {
                way.backoff_us = (way.backoff_us * 2).clamp(RETRANSMIT_US, RETRANSMIT_MAX_US);
                way.retry_us = self.now_us + if calm { RETRANSMIT_US } else { way.backoff_us };
            }
            let at = way.retry_us;
            return self.schedule(at, Event::Arrive { conn: id, dir });
        }
        if let Some(at) = self.paused_until(receiver) {
            return self.schedule(at, Event::Arrive { conn: id, dir });
        }
        let way = &mut self.conns.get_mut(&id).expect("looked up above").dirs[dir];
        way.backoff_us = 0;
        let Some(chunk) = way.chunks.pop_front() else { return };
        self.trace.mix(&[self.now_us, id, dir as u64]);
        self.trace.mix_bytes(&chunk);
        self.stats.messages += 1;
        if dir == 1 { self.on_answer_bytes(id, &chunk) } else { self.on_request_bytes(id, chunk) }
    }

    fn on_answer_bytes(&mut self, id: u64, chunk: &[u8]) {
        if chunk.is_empty() {
            self.on_ended(id, true);
            self.conns.remove(&id);
            return;
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.received.extend_from_slice(chunk);
        while let Some(conn) = self.conns.get_mut(&id) {
            let Some(frame) = take_frame(&mut conn.received) else { break };
            self.on_frame(id, frame);
        }
    }

    fn on_request_bytes(&mut self, id: u64, chunk: Vec<u8>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let to = conn.to;
        if conn.session.is_none() {
            // Nobody is there any more: a reset.
            if chunk.is_empty() {
                self.conns.remove(&id);
            } else {
                self.enqueue(id, 1, Vec::new());
            }
            return;
        }
        conn.held.push_back(chunk);
        self.feed(id);
        self.drain(to);
    }

    /// Gives a session what it wants to read, and sends what it has to say.
    pub(super) fn feed(&mut self, id: u64) {
        loop {
            self.send_answers(id);
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let (Some(session), Some(live)) = (&mut conn.session, &self.nodes[conn.to].live) else { return };
            if conn.held.front().is_some_and(Vec::is_empty) {
                session.on_end_of_bytes(&live.node);
                conn.held.clear();
            } else if conn.held.is_empty() || !session.wants_bytes() {
                return;
            } else if let Some(chunk) = conn.held.pop_front() {
                session.on_bytes(&live.node, BytesMut::from(&chunk[..]));
            }
        }
    }

    pub(super) fn send_answers(&mut self, id: u64) {
        loop {
            let Some(conn) = self.conns.get_mut(&id) else { return };
            let (Some(session), Some(live)) = (&mut conn.session, &self.nodes[conn.to].live) else { return };
            let bytes = session.outbound().take_bytes();
            if bytes.is_empty() {
                if session.is_over().is_some() {
                    self.close(id, 1);
                }
                return;
            }
            session.on_sent(&live.node);
            self.send(id, 1, &bytes);
        }
    }
}
