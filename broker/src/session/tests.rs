//! A session driven by hand: what it answers, in which order, and when it ends.

mod hostile;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use ottla_protocol::api::ApiKey;
use ottla_protocol::wire::{DecodeError, Reader};

use super::mailbox::{ConnectionId, Mail, Mailbox};
use super::{Ending, Limits, RequestMemory, Session};
use crate::api::{
    Answer, ConnectionState, Output, Overdue, Parked, ReplySlot, RequestContext, Resume, Wakeup,
};
use crate::clock::Clock;
use crate::node::Node;

/// What the correlation id of a test's request asks for, in its thousands.
const NOW: i32 = 0;
const LATER: i32 = 1_000;
const PARK: i32 = 2_000;
const SILENT: i32 = 3_000;
const DROP: i32 = 4_000;
const CLOSE: i32 = 5_000;
const LARGE: i32 = 6_000;
const OVERDUE: i32 = 7_000;

thread_local! {
    static OWED: RefCell<HashMap<i32, ReplySlot<()>>> = RefCell::default();
    static WAKEUPS: RefCell<HashMap<i32, Wakeup>> = RefCell::default();
    static RAN: RefCell<Vec<i32>> = RefCell::default();
}

struct Waits {
    deadline_ms: u64,
    wakes_left: u32,
}

impl Parked for Waits {
    fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    fn resume(&mut self, _: &mut RequestContext<'_>, why: Resume) -> Option<Output> {
        self.wakes_left = self.wakes_left.saturating_sub(1);
        let text = match why {
            Resume::TimedOut => "late",
            Resume::Woken if self.wakes_left == 0 => "woken",
            Resume::Woken => return None,
        };
        Some(Output::from(Bytes::from_static(text.as_bytes())))
    }
}

fn dispatch(cx: &mut RequestContext<'_>, _: &mut Reader) -> Result<Answer, DecodeError> {
    let id = cx.correlation_id;
    RAN.with_borrow_mut(|ran| ran.push(id));
    Ok(match id / 1_000 * 1_000 {
        NOW => Answer::Now(Output::from(Bytes::from_static(b"now"))),
        LATER => {
            let slot = cx.defer();
            OWED.with_borrow_mut(|owed| owed.insert(id, slot));
            Answer::Later
        }
        PARK => {
            let wakeup = cx.wakeup();
            WAKEUPS.with_borrow_mut(|wakeups| wakeups.insert(id, wakeup));
            Answer::Park(Box::new(Waits { deadline_ms: cx.tick_ms + 500, wakes_left: 2 }))
        }
        SILENT => Answer::None,
        DROP => {
            drop(cx.defer::<()>());
            Answer::Later
        }
        CLOSE => Answer::Close("asked to"),
        LARGE => Answer::Now(Output::from(Bytes::from(vec![b'x'; 10_000]))),
        OVERDUE => {
            let answer = Box::new(|| Output::from(Bytes::from_static(b"overdue")));
            cx.overdue = Some(Overdue { deadline_ms: cx.tick_ms + 300, answer });
            let slot = cx.defer();
            OWED.with_borrow_mut(|owed| owed.insert(id, slot));
            Answer::Later
        }
        other => panic!("no such behaviour: {other}"),
    })
}

struct Rig {
    node: Arc<Node>,
    mailbox: Arc<Mailbox>,
    session: Session,
}

impl Rig {
    fn new() -> Self {
        Self::with(Limits { unsent_bytes_max: 25_000, in_flight_max: 8, ..Limits::default() })
    }

    fn with(limits: Limits) -> Self {
        let node = Arc::new(Node::for_tests(Clock::manual(1_700_000_000_000)));
        let mailbox = Arc::new(Mailbox::new(|| {}));
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9092);
        let state = ConnectionState {
            id: ConnectionId(7),
            peer: address,
            local: address,
            listener: "PLAINTEXT".into(),
            client_id: None,
            client_software: None,
            node: None,
        };
        let tick_ms = node.clock.tick_ms();
        let mut session = Session::new(state, Arc::clone(&mailbox), Arc::new(limits), tick_ms);
        session.dispatch = dispatch;
        Self { node, mailbox, session }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.session.on_bytes(&self.node, BytesMut::from(bytes));
    }

    /// As the network's edge reads: the rest of a frame in progress into place, the others' bytes by a buffer of its own.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(mut space) = self.session.space() else { return self.send(bytes) };
            let (now, later) = bytes.split_at(bytes.len().min(space.remaining_mut()));
            space.put_slice(now);
            self.session.on_space_filled(&self.node);
            bytes = later;
        }
    }

    fn request(&mut self, id: i32) {
        self.send(&request(id));
    }

    fn complete(&mut self, id: i32) {
        let slot = OWED.with_borrow_mut(|owed| owed.remove(&id)).expect("owed");
        slot.complete_with(Output::from(Bytes::from_static(b"later")));
        self.deliver();
    }

    fn wake(&mut self, id: i32) {
        WAKEUPS.with_borrow(|wakeups| wakeups[&id].wake());
        self.deliver();
    }

    fn deliver(&mut self) {
        let mut mail = VecDeque::new();
        self.mailbox.drain_into(&mut mail);
        for letter in mail {
            self.session.on_mail(&self.node, letter);
        }
    }

    fn advance(&mut self, by_ms: u64) {
        self.node.clock.advance_ms(by_ms);
        self.session.on_tick(&self.node);
    }

    /// Correlation ids and bodies of what was sent.
    fn received(&mut self) -> Vec<(i32, String)> {
        let mut bytes = Bytes::from(self.session.outbound().take_bytes());
        self.session.on_sent(&self.node);
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let len = u32::from_be_bytes(bytes[..4].try_into().expect("four")) as usize;
            let frame = bytes.split_to(4 + len);
            let id = i32::from_be_bytes(frame[4..8].try_into().expect("four"));
            answers.push((id, String::from_utf8_lossy(&frame[8..]).into_owned()));
        }
        answers
    }

    fn ids(&mut self) -> Vec<i32> {
        self.received().into_iter().map(|(id, _)| id).collect()
    }

    fn ending(&self) -> String {
        self.session.is_over().map(ToString::to_string).unwrap_or_default()
    }
}

/// An ApiVersions request of version 0, whose response header is the plain one.
fn request(id: i32) -> Vec<u8> {
    request_of(ApiKey::ApiVersions.code(), 0, id)
}

fn request_of(key: i16, version: i16, id: i32) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 10];
    frame.extend_from_slice(&key.to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&[0xff, 0xff]);
    frame
}

fn ran() -> Vec<i32> {
    RAN.take()
}

#[test]
fn answers_leave_in_request_order_whatever_order_they_are_ready_in() {
    let mut rig = Rig::new();
    let ids = [LATER + 1, NOW + 2, PARK + 3, LATER + 4, SILENT + 5, NOW + 6];
    for id in ids {
        rig.request(id);
    }
    assert_eq!(ran(), ids, "nothing waits for what is not answered yet");
    assert!(rig.ids().is_empty());
    rig.complete(LATER + 4);
    assert!(rig.ids().is_empty());
    rig.complete(LATER + 1);
    assert_eq!(rig.ids(), [LATER + 1, NOW + 2]);
    rig.wake(PARK + 3);
    assert!(rig.ids().is_empty(), "woken once, but it looks twice");
    rig.wake(PARK + 3);
    assert_eq!(
        rig.received(),
        [(PARK + 3, "woken".into()), (LATER + 4, "later".into()), (NOW + 6, "now".into())]
    );
    assert!(WAKEUPS.with_borrow(|wakeups| wakeups[&(PARK + 3)].is_done()));
}

#[test]
fn a_parked_request_is_answered_when_its_time_is_over() {
    let mut rig = Rig::new();
    rig.request(PARK + 1);
    assert_eq!(rig.session.next_deadline_ms(), Some(500));
    rig.advance(499);
    assert_eq!(rig.received(), []);
    rig.advance(1);
    assert_eq!(rig.received(), [(PARK + 1, "late".into())]);
}

#[test]
fn bytes_cut_anywhere_make_the_same_requests() {
    let stream: Vec<u8> = (0..5).flat_map(|n| request(NOW + n)).collect();
    for step in 1..=stream.len() {
        let mut rig = Rig::new();
        for chunk in stream.chunks(step) {
            rig.read(chunk);
        }
        assert_eq!(rig.ids(), [0, 1, 2, 3, 4], "steps of {step}");
        assert_eq!(rig.session.limits.memory.used(), 0);
    }
}

#[test]
fn unsent_answers_hold_further_requests_back_until_they_are_sent() {
    let mut rig = Rig::new();
    let stream: Vec<u8> = (0..6).flat_map(|n| request(LARGE + n)).collect();
    rig.send(&stream);
    assert_eq!(ran(), [LARGE, LARGE + 1, LARGE + 2], "the third passes the limit");
    assert!(!rig.session.wants_bytes());
    assert_eq!(rig.ids(), [LARGE, LARGE + 1, LARGE + 2]);
    assert_eq!(ran(), [LARGE + 3, LARGE + 4, LARGE + 5], "sending makes room");
}

#[test]
fn too_many_unanswered_requests_hold_further_ones_back() {
    let mut rig = Rig::new();
    let stream: Vec<u8> = (0..10).flat_map(|n| request(LATER + n)).collect();
    rig.send(&stream);
    assert_eq!(ran().len(), 8);
    assert!(!rig.session.wants_bytes());
    rig.complete(LATER);
    assert_eq!(ran(), [LATER + 8]);
}

#[test]
fn wrong_requests_end_the_connection_after_what_came_before_was_answered() {
    let cases: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (&[0, 0, 0, 2, 0, 0], "shorter than any"),
        (&request_of(4, 0, 1), "API key 4"),
        (&request_of(9_999, 0, 1), "API key 9999"),
        (&request_of(18, 0, CLOSE), "asked to"),
        // A client id of 32,767 bytes in a frame that ends before it.
        (&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0x7f, 0xff], "ends"),
    ];
    for (bytes, says) in cases {
        let mut rig = Rig::new();
        rig.request(LATER + 1);
        rig.send(bytes);
        rig.request(NOW + 2);
        assert!(!rig.session.wants_bytes());
        assert_eq!(rig.ending(), "", "an answer is owed");
        rig.complete(LATER + 1);
        assert_eq!(rig.ids(), [LATER + 1], "and nothing after the wrong one");
        assert!(rig.ending().contains(says), "{}", rig.ending());
    }
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_and_the_connection_goes_on() {
    let mut rig = Rig::new();
    rig.send(&request_of(18, 99, 5));
    rig.request(NOW + 6);
    let answers = rig.session.outbound().take_bytes();
    assert_eq!(&answers[4..10], &[0, 0, 0, 5, 0, 35]);
    assert_eq!(&answers[10..20], &[0, 0, 0, 1, 0, 18, 0, 0, 0, 4], "with our own line, in version 0");
    assert_eq!(&answers[24..28], &[0, 0, 0, 6]);
    assert!(rig.session.wants_bytes());
}

#[test]
fn an_answer_that_was_given_up_closes_the_connection() {
    let mut rig = Rig::new();
    rig.request(DROP + 1);
    rig.deliver();
    assert!(matches!(rig.session.is_over(), Some(Ending::GivenUp)));
}

#[test]
fn what_stands_before_an_answer_that_was_given_up_is_answered_and_nothing_after_it() {
    let mut rig = Rig::new();
    rig.request(LATER + 1);
    rig.request(NOW + 2);
    rig.request(PARK + 3);
    rig.request(DROP + 4);
    rig.request(NOW + 5);
    rig.request(PARK + 6);
    rig.deliver();
    rig.request(NOW + 7);
    assert_eq!(rig.ending(), "", "an answer is owed");
    assert!(WAKEUPS.with_borrow(|wakeups| wakeups[&(PARK + 6)].is_done()));
    rig.complete(LATER + 1);
    assert_eq!(
        rig.received(),
        [(LATER + 1, "later".into()), (NOW + 2, "now".into()), (PARK + 3, "late".into())]
    );
    assert!(matches!(rig.session.is_over(), Some(Ending::GivenUp)));
}

#[test]
fn an_answer_that_was_given_up_ends_a_half_closed_connection_too() {
    let mut rig = Rig::new();
    rig.request(LATER + 1);
    rig.request(LATER + 2);
    rig.session.on_end_of_bytes(&rig.node);
    rig.complete(LATER + 1);
    OWED.with_borrow_mut(|owed| owed.remove(&(LATER + 2)));
    rig.deliver();
    assert_eq!(rig.ids(), [LATER + 1]);
    assert!(rig.session.is_over().is_some(), "nothing more will come");
}

#[test]
fn an_answer_that_is_overdue_is_given_in_its_owners_stead() {
    let mut rig = Rig::new();
    rig.request(OVERDUE + 1);
    rig.request(OVERDUE + 2);
    rig.request(NOW + 3);
    rig.complete(OVERDUE + 2);
    assert_eq!(rig.session.next_deadline_ms(), Some(300));
    rig.advance(299);
    assert_eq!(rig.received(), []);
    rig.advance(1);
    assert_eq!(
        rig.received(),
        [(OVERDUE + 1, "overdue".into()), (OVERDUE + 2, "later".into()), (NOW + 3, "now".into())]
    );
    rig.request(OVERDUE + 4);
    rig.request(LATER + 5);
    rig.advance(300);
    rig.complete(OVERDUE + 1);
    assert_eq!(rig.ids(), [OVERDUE + 4]);
    // What comes too late, behind an answer that is still awaited, or is given up then, changes nothing.
    rig.request(OVERDUE + 6);
    rig.request(OVERDUE + 7);
    rig.advance(300);
    rig.complete(OVERDUE + 6);
    OWED.with_borrow_mut(|owed| owed.remove(&(OVERDUE + 7)));
    rig.deliver();
    rig.complete(LATER + 5);
    assert_eq!(rig.ids(), [LATER + 5, OVERDUE + 6, OVERDUE + 7]);
    assert!(rig.session.wants_bytes());
}

#[test]
fn a_half_closed_connection_gets_its_answers_and_ends() {
    let mut rig = Rig::new();
    rig.request(PARK + 1);
    rig.request(LATER + 2);
    rig.session.on_end_of_bytes(&rig.node);
    assert_eq!(rig.received(), [(PARK + 1, "late".into())], "a parked one waits no longer");
    assert!(rig.session.is_over().is_none());
    rig.complete(LATER + 2);
    assert_eq!(rig.ids(), [LATER + 2]);
    assert!(matches!(rig.session.is_over(), Some(Ending::ByClient)));

    let mut rig = Rig::new();
    rig.request(LATER + 3);
    rig.session.on_end_of_bytes(&rig.node);
    rig.advance(rig.session.limits.grace_ms);
    assert!(matches!(rig.session.is_over(), Some(Ending::Grace)), "an answer that never comes");
}

#[test]
fn a_stopping_broker_gives_owed_answers_a_little_time_and_no_more() {
    let mut rig = Rig::new();
    rig.request(LATER + 1);
    rig.request(PARK + 2);
    rig.session.on_stop(&rig.node);
    assert!(!rig.session.wants_bytes());
    assert_eq!(rig.session.next_deadline_ms(), Some(rig.session.limits.stop_grace_ms));
    rig.advance(rig.session.limits.stop_grace_ms);
    assert!(matches!(rig.session.is_over(), Some(Ending::Stopping)));
    assert_eq!(rig.session.next_deadline_ms(), None, "what is over is due no more");
    // The answer that comes too late finds nobody.
    rig.complete(LATER + 1);
    assert_eq!(rig.ids(), [] as [i32; 0]);
}

#[test]
fn idle_slow_and_stalled_connections_end() {
    let idle_ms = Limits::default().idle_ms.expect("finite");
    let mut rig = Rig::new();
    rig.advance(idle_ms - 1);
    assert!(rig.session.is_over().is_none());
    rig.request(NOW + 1);
    rig.received();
    rig.advance(idle_ms - 1);
    assert!(rig.session.is_over().is_none(), "a request counts as life");
    rig.advance(1);
    assert!(rig.ending().contains("idle"), "{}", rig.ending());

    let mut rig = Rig::new();
    rig.request(LATER + 1);
    rig.advance(10 * idle_ms);
    assert!(rig.session.is_over().is_none(), "a client that waits for us is not idle");

    let mut rig = Rig::new();
    rig.send(&[0, 0, 1]);
    rig.advance(30_001);
    assert!(rig.ending().contains("not finished"), "{}", rig.ending());

    let mut rig = Rig::new();
    rig.request(NOW + 1);
    rig.advance(60_000);
    assert!(rig.ending().contains("did not read"), "{}", rig.ending());
}

#[test]
fn a_large_frame_may_take_the_time_that_its_bytes_earn() {
    let mut rig = Rig::new();
    rig.send(&(1i32 << 20).to_be_bytes());
    for _ in 0..100 {
        // 5 KiB a second is slow, but not too slow.
        rig.read(&[0; 5 * 1024]);
        rig.advance(1_000);
        assert!(rig.session.is_over().is_none());
    }
    rig.advance(60_000);
    assert!(rig.ending().contains("not finished"), "{}", rig.ending());
}

#[test]
fn half_read_frames_are_bounded_over_all_connections() {
    let limits = Limits { memory: RequestMemory::new(1_000), ..Limits::default() };
    let mut rig = Rig::with(limits);
    let mut frame = request(NOW + 1);
    frame[2] = 8;
    frame.resize(4 + 2_058, 0);
    rig.send(&frame[..1_200]);
    assert_eq!(rig.session.limits.memory.used(), 1_200);
    assert!(rig.session.wants_bytes(), "whoever asks first may finish");
    let other = ConnectionId(8);
    assert!(!rig.session.limits.memory.admit(other, 0, &rig.mailbox));
    rig.read(&frame[1_200..]);
    assert_eq!(rig.ids(), [NOW + 1]);
    assert_eq!(rig.session.limits.memory.used(), 0);
    let mut mail = VecDeque::new();
    rig.mailbox.drain_into(&mut mail);
    assert!(matches!(mail.pop_front(), Some(Mail::Readable { connection }) if connection == other));
}
