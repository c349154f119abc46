//! The thin edges of a node, as the process has them on threads and sockets: links to other nodes, and following a leader. They do
//! what `peers::links` and `replicators::thread` do, event by event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla::peers::Address;
use ottla::peers::links::{Line, LinkError, OnAnswer};
use ottla::replicators::{ANSWER_GRACE_MS, PAUSE_MS, Replicator};
use ottla_protocol::frame;
use ottla_protocol::messages::{PeerHelloRequest, ReplicaFetchRequest};
use ottla_protocol::types::NodeId;

use super::effects::{Effect, SimSender, lost, node_at, unreachable_node};
use super::world::{Event, World};

/// Whose connection it is.
#[derive(Clone, Debug)]
pub enum Owner {
    Nobody,
    Client(usize),
    Link { node: usize, life: u64, to: Address, line: Line },
    Follow { node: usize, life: u64, leader: NodeId },
}

/// A pipelined connection to another node.
#[derive(Default)]
pub struct Link {
    conn: Option<u64>,
    greeted: bool,
    /// Not sent yet.
    queue: VecDeque<(u64, Vec<u8>)>,
    /// Sent, in order.
    waiting: VecDeque<u64>,
    /// When the other end last said something, or was first asked.
    heard_us: u64,
}

/// What a node keeps of its links.
#[derive(Default)]
pub struct Links {
    table: BTreeMap<(Address, u8), Link>,
    calls: BTreeMap<u64, OnAnswer>,
    next: u64,
}

/// One leader that is followed.
pub struct Follow {
    pub replicator: Arc<Replicator>,
    conn: Option<u64>,
    greeted: bool,
    /// Which fetch is under way.
    asked: u64,
    retry_us: u64,
}

/// A connection that was not greeted in time is given up.
const GREETING_US: u64 = 1_000_000;

impl Follow {
    pub(super) fn describe(&self) -> String {
        let wanted = self.replicator.is_wanted();
        format!("connection {:?} greeted {} asked {} wanted {wanted}", self.conn, self.greeted, self.asked)
    }
}

fn silence_us(line: Line) -> u64 {
    u64::try_from(line.silence_max().as_micros()).unwrap_or(u64::MAX / 4)
}

fn line_key(line: Line) -> u8 {
    match line {
        Line::Quorum => 0,
        Line::Commands => 1,
        Line::Beats => 2,
        Line::Asked => 3,
    }
}

impl World {
    /// A node has something for another one.
    pub(super) fn call(
        &mut self,
        node: usize,
        to: &Address,
        line: Line,
        bytes: Vec<u8>,
        limit: Duration,
        on_answer: OnAnswer,
    ) {
        let Some(live) = self.nodes[node].live.as_mut() else { return };
        let (life, id) = (live.life, live.links.next);
        live.links.next += 1;
        live.links.calls.insert(id, on_answer);
        let at = self.now_us + u64::try_from(limit.as_micros()).unwrap_or(u64::MAX / 4);
        let live = self.nodes[node].live.as_mut().expect("it lives");
        let link = live.links.table.entry((to.clone(), line_key(line))).or_default();
        link.queue.push_back((id, bytes));
        self.schedule(at, Event::CallLimit { node, life, call: id });
        self.pump_link(node, to, line);
    }

    pub(super) fn on_call_limit(&mut self, node: usize, call: u64) {
        let live = self.nodes[node].live.as_mut();
        if let Some(on_answer) = live.and_then(|live| live.links.calls.remove(&call)) {
            on_answer(Err(lost()));
        }
    }

    fn pump_link(&mut self, node: usize, to: &Address, line: Line) {
        let Some(live) = self.nodes[node].live.as_mut() else { return };
        let life = live.life;
        let Some(link) = live.links.table.get_mut(&(to.clone(), line_key(line))) else { return };
        match link.conn {
            None if link.queue.is_empty() => {}
            None => {
                let owner = Owner::Link { node, life, to: to.clone(), line };
                let Some(target) = node_at(&to.host) else { return };
                let conn = self.connect(owner, node, target, to.port);
                self.schedule(self.now_us + GREETING_US, Event::GreetLimit { conn });
                if let Some(link) = self.link(node, to, line) {
                    (link.conn, link.greeted) = (Some(conn), false);
                }
            }
            Some(conn) if link.greeted => {
                let queue = std::mem::take(&mut link.queue);
                if link.waiting.is_empty() && !queue.is_empty() {
                    link.heard_us = self.now_us;
                    let at = self.now_us + silence_us(line);
                    self.schedule(at, Event::Silence { conn });
                }
                let Some(link) = self.link(node, to, line) else { return };
                link.waiting.extend(queue.iter().map(|(id, _)| *id));
                for (_, bytes) in queue {
                    self.send(conn, 0, &bytes);
                }
            }
            Some(_) => {}
        }
    }

    fn link(&mut self, node: usize, to: &Address, line: Line) -> Option<&mut Link> {
        self.nodes[node].live.as_mut()?.links.table.get_mut(&(to.clone(), line_key(line)))
    }

    fn answer_call(&mut self, node: usize, call: u64, outcome: Result<Bytes, LinkError>) {
        let live = self.nodes[node].live.as_mut();
        if let Some(on_answer) = live.and_then(|live| live.links.calls.remove(&call)) {
            on_answer(outcome);
        }
    }

    /// A connection is made.
    pub(super) fn on_open(&mut self, conn: u64) {
        let Some(owner) = self.conns.get(&conn).map(|conn| conn.owner.clone()) else { return };
        match owner {
            Owner::Nobody => self.close(conn, 0),
            Owner::Client(client) => self.on_client_open(client, conn),
            Owner::Link { node, life, .. } | Owner::Follow { node, life, .. } => {
                let Some(live) = self.nodes[node].live.as_ref().filter(|live| live.life == life) else {
                    return;
                };
                let hello = frame::encode_request(&live.node.identity.hello(), 0, 0, None);
                self.send(conn, 0, &hello);
            }
        }
    }

    /// A connection has ended, or (`was_open` is false) was never made.
    pub(super) fn on_ended(&mut self, conn: u64, was_open: bool) {
        let Some(owner) = self.conns.get(&conn).map(|conn| conn.owner.clone()) else { return };
        match owner {
            Owner::Nobody => {}
            Owner::Client(client) => self.on_client_ended(client, conn, was_open),
            Owner::Link { node, to, line, .. } => {
                let Some(link) = self.link(node, &to, line).filter(|link| link.conn == Some(conn)) else {
                    return;
                };
                let greeted = link.greeted;
                link.conn = None;
                let mut over: Vec<u64> = std::mem::take(&mut link.waiting).into();
                if !greeted {
                    over.extend(std::mem::take(&mut link.queue).into_iter().map(|(id, _)| id));
                }
                for id in over {
                    self.answer_call(node, id, Err(if greeted { lost() } else { unreachable_node() }));
                }
                self.pump_link(node, &to, line);
                self.drain(node);
            }
            Owner::Follow { node, leader, .. } => {
                self.stop_following(node, leader, conn);
                self.drain(node);
            }
        }
    }

    /// An answer came.
    pub(super) fn on_frame(&mut self, conn: u64, body: Bytes) {
        let Some(owner) = self.conns.get(&conn).map(|conn| conn.owner.clone()) else { return };
        let now = self.now_us;
        match owner {
            Owner::Nobody => {}
            Owner::Client(client) => self.on_client_frame(client, conn, body),
            Owner::Link { node, to, line, .. } => {
                let Some(link) = self.link(node, &to, line).filter(|link| link.conn == Some(conn)) else {
                    return;
                };
                if link.greeted {
                    link.heard_us = now;
                    let Some(call) = link.waiting.pop_front() else { return };
                    self.answer_call(node, call, Ok(body));
                } else if greets(body).is_some() {
                    link.greeted = true;
                    self.pump_link(node, &to, line);
                } else {
                    self.on_ended(conn, true);
                    self.close(conn, 0);
                }
                self.drain(node);
            }
            Owner::Follow { node, leader, .. } => {
                self.on_follow_frame(node, leader, conn, body);
                self.drain(node);
            }
        }
    }

    pub(super) fn begin_to_follow(&mut self, node: usize, replicator: Arc<Replicator>) {
        let now = self.now_us;
        let Some(live) = self.nodes[node].live.as_mut() else { return };
        let leader = replicator.leader();
        let follow = Follow { replicator, conn: None, greeted: false, asked: 0, retry_us: now };
        live.follows.insert(leader, follow);
        self.follow_again(node);
    }

    /// Connects to leaders that are to be followed and are not.
    pub(super) fn follow_again(&mut self, node: usize) {
        let now = self.now_us;
        let Some(live) = self.nodes[node].live.as_ref() else { return };
        let life = live.life;
        let idle: Vec<NodeId> = live
            .follows
            .iter()
            .filter(|(_, follow)| {
                follow.conn.is_none() && follow.retry_us <= now && follow.replicator.is_wanted()
            })
            .map(|(leader, _)| *leader)
            .collect();
        for leader in idle {
            let Some(live) = self.nodes[node].live.as_ref() else { return };
            let image = live.node.image.load_full();
            let endpoint = image.broker(leader).and_then(|broker| broker.endpoint("PLAINTEXT")).cloned();
            let Some(to) = endpoint.and_then(|endpoint| node_at(&endpoint.host)) else { continue };
            let conn = self.connect(Owner::Follow { node, life, leader }, node, to, super::net::BROKER_PORT);
            self.schedule(self.now_us + 2 * GREETING_US, Event::GreetLimit { conn });
            if let Some(follow) = self.follow(node, leader) {
                (follow.conn, follow.greeted) = (Some(conn), false);
            }
        }
    }

    fn follow(&mut self, node: usize, leader: NodeId) -> Option<&mut Follow> {
        self.nodes[node].live.as_mut()?.follows.get_mut(&leader)
    }

    /// The connection to a leader is over.
    pub(super) fn stop_following(&mut self, node: usize, leader: NodeId, conn: u64) {
        let retry = self.now_us + PAUSE_MS * 1_000;
        let Some(follow) = self.follow(node, leader).filter(|follow| follow.conn == Some(conn)) else {
            return;
        };
        (follow.conn, follow.retry_us) = (None, retry);
        follow.replicator.end();
    }

    fn on_follow_frame(&mut self, node: usize, leader: NodeId, conn: u64, body: Bytes) {
        let Some(live) = self.nodes[node].live.as_mut() else { return };
        let Some(follow) = live.follows.get_mut(&leader).filter(|follow| follow.conn == Some(conn)) else {
            return;
        };
        let goes_on = if follow.greeted {
            let answer = frame::decode_response::<ReplicaFetchRequest>(body, 0);
            let (_, answer) = answer.expect("a node's answer can be read");
            follow.replicator.on_answer(&live.replicators, &answer).is_ok()
        } else {
            follow.greeted = true;
            let outbox = live.outbox.clone();
            follow.replicator.begin(Box::new(SimSender { leader, conn, outbox }));
            greets(body) == Some(leader)
        };
        if goes_on && self.ask_leader(node, leader, conn) {
            return;
        }
        self.stop_following(node, leader, conn);
        self.close(conn, 0);
    }

    fn ask_leader(&mut self, node: usize, leader: NodeId, conn: u64) -> bool {
        let Some(live) = self.nodes[node].live.as_mut() else { return false };
        let Some(follow) = live.follows.get_mut(&leader) else { return false };
        let outbox = live.outbox.clone();
        let sent = follow.replicator.ask(&live.replicators, |request| {
            let frame = frame::encode_request(request, 0, 0, None);
            outbox.push(Effect::FollowSend { conn, frame });
            Ok::<(), ()>(())
        });
        follow.asked += 1;
        let (asked, life) = (follow.asked, live.life);
        let patience_ms = 500 + ANSWER_GRACE_MS;
        self.schedule(self.now_us + patience_ms * 1_000, Event::Patience { node, life, leader, conn, asked });
        sent == Ok(true)
    }

    /// A leader has not answered for too long.
    pub(super) fn on_patience(&mut self, node: usize, leader: NodeId, conn: u64, asked: u64) {
        let Some(follow) = self.follow(node, leader) else { return };
        if follow.conn == Some(conn) && follow.asked == asked {
            self.stop_following(node, leader, conn);
            self.close(conn, 0);
        }
    }

    /// Who owes answers and says nothing hangs.
    pub(super) fn on_silence(&mut self, conn: u64) {
        let Some(owner) = self.conns.get(&conn).map(|conn| conn.owner.clone()) else { return };
        let Owner::Link { node, to, line, .. } = owner else { return };
        let (now, silence) = (self.now_us, silence_us(line));
        let Some(link) = self.link(node, &to, line).filter(|link| link.conn == Some(conn)) else { return };
        let (due, owes) = (link.heard_us + silence, !link.waiting.is_empty());
        if !owes {
            return;
        }
        if due > now {
            return self.schedule(due, Event::Silence { conn });
        }
        self.on_ended(conn, true);
        self.close(conn, 0);
    }

    /// The other end should have greeted by now.
    pub(super) fn on_greet_limit(&mut self, conn: u64) {
        let Some(owner) = self.conns.get(&conn).map(|conn| conn.owner.clone()) else { return };
        let greeted = match &owner {
            Owner::Link { node, to, line, .. } => {
                self.link(*node, to, *line).is_none_or(|link| link.conn != Some(conn) || link.greeted)
            }
            Owner::Follow { node, leader, .. } => {
                self.follow(*node, *leader).is_none_or(|follow| follow.conn != Some(conn) || follow.greeted)
            }
            Owner::Nobody | Owner::Client(_) => true,
        };
        if !greeted {
            self.on_ended(conn, false);
            self.close(conn, 0);
        }
    }

    pub(super) fn on_follow_close(&mut self, node: usize, leader: NodeId, conn: u64) {
        self.stop_following(node, leader, conn);
        self.close(conn, 0);
    }
}

/// The node that answered a greeting, if it takes us for a peer.
fn greets(body: Bytes) -> Option<NodeId> {
    let (_, answer) =
        frame::decode_response::<PeerHelloRequest>(body, 0).expect("a node's answer can be read");
    (answer.error_code == 0).then_some(NodeId(answer.node_id))
}
