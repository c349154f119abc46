//! A classic group of many members: how long it takes until all of them have work, when one comes, and when one goes. Members ask for
//! their state more often than real ones, so that the coordinator is measured and not the pause between two heartbeats.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use ottla_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use ottla_protocol::messages::{
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest,
};

use crate::bootstrap::Bootstrap;
use crate::connection::Connection;
use crate::error::{BenchError, name_of};

/// Between two attempts at something that a broker is not ready for.
const AGAIN: Duration = Duration::from_millis(20);
const SESSION_TIMEOUT_MS: i32 = 30_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
/// A thousand members need little stack each.
const STACK_BYTES: usize = 128 << 10;

/// A group, and how it is measured.
#[derive(Clone, Debug)]
pub struct Company {
    pub bootstrap: Bootstrap,
    pub group: String,
    pub topic: String,
    pub members: usize,
    /// One more comes and goes so many times.
    pub rounds: usize,
    /// Between a member's heartbeats.
    pub heartbeat: Duration,
    pub limit: Duration,
}

/// Milliseconds until every member had its assignment.
#[derive(Clone, Debug, Default)]
pub struct Rebalances {
    /// From the first member's coming, all at once. A broker may wait for more members (`group.initial.rebalance.delay.ms`).
    pub first_ms: f64,
    pub join_ms: Vec<f64>,
    pub leave_ms: Vec<f64>,
}

/// A member has its assignment in a generation, or has failed.
type Word = Result<(usize, i32), BenchError>;

/// Measures a group; it is gone afterwards.
///
/// # Errors
/// No coordinator, a member that is refused, or a group that does not settle within its limit.
pub fn measure(company: &Company, stop: &AtomicBool) -> Result<Rebalances, BenchError> {
    let coordinator = coordinator(company)?;
    let (to, from) = channel();
    let leaving: Vec<AtomicBool> =
        (0..company.members + company.rounds).map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        let come = |number: usize| {
            let (to, leave) = (to.clone(), &leaving[number]);
            let member = move || Member::new(company, coordinator, number).live(leave, &to);
            let thread = thread::Builder::new().name(format!("member-{number}")).stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, member).map(drop)
        };
        let outcome = observe(company, &from, &leaving, stop, come);
        leaving.iter().for_each(|leave| leave.store(true, Ordering::Release));
        outcome
    })
}

fn observe(
    company: &Company,
    from: &Receiver<Word>,
    leaving: &[AtomicBool],
    stop: &AtomicBool,
    come: impl Fn(usize) -> std::io::Result<()>,
) -> Result<Rebalances, BenchError> {
    let mut hall = Hall { generations: BTreeMap::new(), from, limit: company.limit, stop };
    let mut rebalances = Rebalances::default();
    let began = Instant::now();
    (0..company.members).try_for_each(&come)?;
    let mut generation = hall.settled(company.members, 0)?;
    let took = |began: Instant| began.elapsed().as_secs_f64() * 1_000.0;
    rebalances.first_ms = took(began);
    for round in 0..company.rounds {
        let newcomer = company.members + round;
        let began = Instant::now();
        come(newcomer)?;
        generation = hall.settled(company.members + 1, generation)?;
        rebalances.join_ms.push(took(began));
        let began = Instant::now();
        leaving[newcomer].store(true, Ordering::Release);
        hall.generations.remove(&newcomer);
        generation = hall.settled(company.members, generation)?;
        rebalances.leave_ms.push(took(began));
    }
    Ok(rebalances)
}

/// Where members say which generation they are in.
struct Hall<'a> {
    generations: BTreeMap<usize, i32>,
    from: &'a Receiver<Word>,
    limit: Duration,
    stop: &'a AtomicBool,
}

impl Hall<'_> {
    /// Waits until so many members are in one generation after `before`; which it is.
    fn settled(&mut self, members: usize, before: i32) -> Result<i32, BenchError> {
        let began = Instant::now();
        loop {
            let newest = self.generations.values().max().copied().unwrap_or(0);
            let there = self.generations.values().filter(|generation| **generation == newest).count();
            if newest > before && there >= members {
                return Ok(newest);
            }
            if began.elapsed() > self.limit || self.stop.load(Ordering::Relaxed) {
                let last = format!("{there} of {members} members are in generation {newest}");
                return Err(BenchError::Patience { what: "a settled group", limit: self.limit, last });
            }
            match self.from.recv_timeout(Duration::from_millis(100)) {
                Ok(word) => {
                    let (member, generation) = word?;
                    self.generations.insert(member, generation);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

fn coordinator(company: &Company) -> Result<SocketAddr, BenchError> {
    let mut connection = company.bootstrap.connect()?;
    let request = FindCoordinatorRequest { key: company.group.as_str().into(), ..Default::default() };
    let began = Instant::now();
    loop {
        let answer = connection.call(3, &request)?;
        let port = u16::try_from(answer.port).unwrap_or(0);
        if answer.error_code == ErrorCode::None.code()
            && let Ok(mut addresses) = (&*answer.host, port).to_socket_addrs()
            && let Some(address) = addresses.next()
        {
            return Ok(address);
        }
        if began.elapsed() > company.limit {
            let last = name_of(answer.error_code).to_owned();
            return Err(BenchError::Patience { what: "a group's coordinator", limit: company.limit, last });
        }
        thread::sleep(AGAIN);
    }
}

struct Member<'a> {
    company: &'a Company,
    coordinator: SocketAddr,
    number: usize,
    id: ByteString,
    generation: i32,
}

impl<'a> Member<'a> {
    fn new(company: &'a Company, coordinator: SocketAddr, number: usize) -> Self {
        Self { company, coordinator, number, id: ByteString::new(), generation: -1 }
    }

    /// Joins, and joins again whenever the group changes, until it is to leave.
    fn live(mut self, leave: &AtomicBool, to: &Sender<Word>) {
        if let Err(error) = self.take_part(leave, to) {
            let _ = to.send(Err(error));
        }
    }

    fn take_part(&mut self, leave: &AtomicBool, to: &Sender<Word>) -> Result<(), BenchError> {
        let mut connection = Connection::open_patiently(self.coordinator, self.company.limit)?;
        while !leave.load(Ordering::Acquire) {
            if !self.join(&mut connection)? {
                thread::sleep(AGAIN);
                continue;
            }
            let _ = to.send(Ok((self.number, self.generation)));
            while !leave.load(Ordering::Acquire) && self.heartbeat(&mut connection)? {
                thread::sleep(self.company.heartbeat);
            }
        }
        let request = LeaveGroupRequest {
            group_id: self.company.group.as_str().into(),
            member_id: self.id.clone(),
            ..Default::default()
        };
        connection.call(2, &request).map(drop)
    }

    /// Joins and gets its assignment. False: again.
    fn join(&mut self, connection: &mut Connection) -> Result<bool, BenchError> {
        let request = JoinGroupRequest {
            group_id: self.company.group.as_str().into(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: self.id.clone(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: subscription(&self.company.topic),
            }],
            ..Default::default()
        };
        let joined = connection.call(5, &request)?;
        match ErrorCode::from_code(joined.error_code) {
            Some(ErrorCode::None) => {}
            Some(ErrorCode::MemberIdRequired) => {
                self.id = joined.member_id;
                return self.join(connection);
            }
            other => return self.again("JoinGroup", other, joined.error_code),
        }
        self.id = joined.member_id;
        self.generation = joined.generation_id;
        let assignments = joined.members.into_iter().map(|member| SyncGroupRequestAssignment {
            member_id: member.member_id,
            assignment: no_partitions(),
        });
        let request = SyncGroupRequest {
            group_id: self.company.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            assignments: assignments.collect(),
            ..Default::default()
        };
        let synced = connection.call(3, &request)?;
        match ErrorCode::from_code(synced.error_code) {
            Some(ErrorCode::None) => Ok(true),
            other => self.again("SyncGroup", other, synced.error_code),
        }
    }

    /// Whether the group is as it was.
    fn heartbeat(&mut self, connection: &mut Connection) -> Result<bool, BenchError> {
        let request = HeartbeatRequest {
            group_id: self.company.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            ..Default::default()
        };
        let answer = connection.call(3, &request)?;
        match ErrorCode::from_code(answer.error_code) {
            Some(ErrorCode::None) => Ok(true),
            other => self.again("Heartbeat", other, answer.error_code),
        }
    }

    /// False for an error that a rebalance explains.
    fn again(&mut self, what: &str, error: Option<ErrorCode>, code: i16) -> Result<bool, BenchError> {
        match error {
            Some(
                ErrorCode::RebalanceInProgress
                | ErrorCode::IllegalGeneration
                | ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator,
            ) => Ok(false),
            Some(ErrorCode::UnknownMemberId) => {
                self.id = ByteString::new();
                Ok(false)
            }
            _ => Err(BenchError::refused(what, code, None)),
        }
    }
}

/// What a consumer says when it joins: version 0, one topic, no data of its own.
fn subscription(topic: &str) -> Bytes {
    let length = u16::try_from(topic.len()).unwrap_or(u16::MAX);
    let parts: [&[u8]; 5] =
        [&[0, 0], &1_i32.to_be_bytes(), &length.to_be_bytes(), topic.as_bytes(), &(-1_i32).to_be_bytes()];
    parts.concat().into()
}

/// An assignment of nothing: how partitions are dealt out is the client's work, not the broker's.
fn no_partitions() -> Bytes {
    let parts: [&[u8]; 3] = [&[0, 0], &0_i32.to_be_bytes(), &(-1_i32).to_be_bytes()];
    parts.concat().into()
}
