//! Clients as the real ones are: idempotent producers with several batches in flight, which send again after every failure, and
//! consumers that follow the leader, each on one partition; and members of groups (`member`).

use std::collections::VecDeque;

use bytes::Bytes;
use ottla_protocol::batch;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame;
use ottla_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use ottla_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use ottla_protocol::messages::{
    FetchRequest, FindCoordinatorRequest, HeartbeatRequest, InitProducerIdRequest, InitProducerIdResponse,
    JoinGroupRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, OffsetCommitRequest,
    OffsetFetchRequest, ProduceRequest, SyncGroupRequest,
};
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_protocol::types::{ProducerEpoch, ProducerId, Uuid};
use ottla_protocol::wire::Request;
use rand::Rng as _;

use super::edges::Owner;
use super::effects::node_at;
use super::member::{self, Member};
use super::net::{BROKER_PORT, CLIENTS};
use super::world::{Event, TOPIC, World};

const PRODUCE_VERSION: i16 = 11;
const FETCH_VERSION: i16 = 12;
const METADATA_VERSION: i16 = 12;
const INIT_VERSION: i16 = 4;
const LIST_VERSION: i16 = 7;
/// Stands for the first offset that there is.
const EARLIEST: i64 = -2;
/// Batches in flight: what brokers remember of a producer.
const IN_FLIGHT_MAX: usize = 5;
/// Between an error and the next attempt.
pub(super) const BACKOFF_US: u64 = 50_000;

/// One client.
pub struct Client {
    pub partition: i32,
    pub(super) role: Role,
    /// To whoever answers questions about the cluster.
    pub(super) guide: Option<u64>,
    /// To the leader, and whether it is made.
    pub(super) conn: Option<u64>,
    pub(super) is_open: bool,
    leader: Option<usize>,
    pub(super) leader_epoch: i32,
    pub(super) asks_metadata: bool,
    next_id: i32,
    /// Requests on the way to the leader, in order; and to the guide.
    asked: VecDeque<(i32, Asked, u64)>,
    guide_asked: VecDeque<(i32, Asked, u64)>,
    pub(super) not_before_us: u64,
    /// For a person.
    pub(super) last_error: String,
}

pub(super) enum Role {
    Producer(Producer),
    Consumer(Consumer),
    Member(Member),
}

pub struct Producer {
    pub index: usize,
    /// Everything that it was told is there has a lower sequence.
    acknowledged: i32,
    id: i64,
    epoch: i16,
    next_value: u64,
    next_sequence: i32,
    pending: VecDeque<Batch>,
    /// After an error: nothing is sent before everything on its way has been answered.
    settles: bool,
    next_us: u64,
}

struct Batch {
    sequence: i32,
    first: u64,
    count: u64,
    bytes: Bytes,
    sent: bool,
}

pub struct Consumer {
    pub position: i64,
    fetching: bool,
    /// It reads for a member of a group, and only while that member has its partition.
    of: Option<usize>,
    rests: bool,
}

impl Consumer {
    /// Reads from here on, for this member.
    pub(super) fn begin(&mut self, member: usize, position: i64) {
        (self.of, self.rests, self.position) = (Some(member), false, position);
    }

    pub(super) fn rest(&mut self) {
        self.rests = true;
    }
}

/// What a request is about.
pub(super) enum Asked {
    Metadata,
    Init,
    Produce(i32),
    Fetch(i64),
    /// Where the partition begins now.
    Start,
    Coordinator,
    /// Of which attempt to be in the group.
    Join(u64),
    Sync(u64),
    Beat(u64),
    Leave,
    /// And when.
    Offsets(u64, u64),
    /// As the checks know it; generation, partitions and offsets.
    Commit(u64, i32, Vec<(i32, i64)>),
}

impl Client {
    fn new(partition: i32, role: Role) -> Self {
        Self {
            partition,
            role,
            guide: None,
            conn: None,
            is_open: false,
            leader: None,
            leader_epoch: -1,
            asks_metadata: true,
            next_id: 0,
            asked: VecDeque::new(),
            guide_asked: VecDeque::new(),
            not_before_us: 0,
            last_error: String::new(),
        }
    }

    #[must_use]
    pub fn producer(partition: i32, index: usize) -> Self {
        let producer = Producer {
            index,
            acknowledged: 0,
            id: -1,
            epoch: -1,
            next_value: 0,
            next_sequence: 0,
            pending: VecDeque::new(),
            settles: false,
            next_us: 0,
        };
        Self::new(partition, Role::Producer(producer))
    }

    #[must_use]
    pub fn consumer(partition: i32) -> Self {
        Self::new(
            partition,
            Role::Consumer(Consumer { position: 0, fetching: false, of: None, rests: false }),
        )
    }

    /// One that reads for a member of a group.
    #[must_use]
    pub fn fetcher(partition: i32) -> Self {
        Self::new(partition, Role::Consumer(Consumer { position: 0, fetching: false, of: None, rests: true }))
    }

    #[must_use]
    pub fn member(member: Member) -> Self {
        Self::new(-1, Role::Member(member))
    }

    /// For a member: which group it is in.
    #[must_use]
    pub fn group(&self) -> Option<usize> {
        match &self.role {
            Role::Member(member) => Some(member.group),
            Role::Producer(_) | Role::Consumer(_) => None,
        }
    }

    /// There is nothing for it to do.
    fn is_off(&self, now_us: u64) -> bool {
        match &self.role {
            Role::Producer(_) => false,
            Role::Consumer(consumer) => consumer.rests,
            Role::Member(member) => member.is_away(now_us),
        }
    }

    /// For a producer: how many records it made, and how many batches are not acknowledged yet.
    #[must_use]
    pub fn made(&self) -> Option<(usize, u64, usize)> {
        match &self.role {
            Role::Producer(producer) => Some((producer.index, producer.next_value, producer.pending.len())),
            Role::Consumer(_) | Role::Member(_) => None,
        }
    }

    /// How it stands, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let settles = matches!(&self.role, Role::Producer(producer) if producer.settles);
        let role = match &self.role {
            Role::Producer(_) => "a producer".to_owned(),
            Role::Consumer(consumer) => format!("a consumer at {}", consumer.position),
            Role::Member(member) => member.describe(),
        };
        format!(
            "{role}: partition {} leader {:?} epoch {} guide {:?} ({} asked) connection {:?} open {} ({} asked), wants metadata {}, settles {settles}, last error {}",
            self.partition,
            self.leader.map(|leader| leader + 1),
            self.leader_epoch,
            self.guide,
            self.guide_asked.len(),
            self.conn,
            self.is_open,
            self.asked.len(),
            self.asks_metadata,
            self.last_error
        )
    }

    /// For a consumer that belongs to no group: how far it has read.
    #[must_use]
    pub fn position(&self) -> Option<i64> {
        match &self.role {
            Role::Consumer(consumer) if consumer.of.is_none() && !consumer.rests => Some(consumer.position),
            _ => None,
        }
    }
}

impl World {
    /// A client looks around.
    pub(super) fn on_client(&mut self, c: usize) {
        let every = self.plan.client_us;
        let every = self.rng.random_range(every / 2..every / 2 * 3);
        self.schedule(self.now_us + every, Event::Client { client: c });
        self.give_up_late(c);
        if self.now_us < self.clients[c].not_before_us || self.clients[c].is_off(self.now_us) {
            return;
        }
        let client = &self.clients[c];
        let wants_id = matches!(&client.role, Role::Producer(producer) if producer.id < 0);
        if (client.asks_metadata || wants_id || client.leader.is_none()) && client.guide_asked.is_empty() {
            self.ask_guide(c, wants_id);
        }
        let client = &self.clients[c];
        let Some(leader) = client.leader.filter(|_| !client.asks_metadata) else { return };
        match client.conn {
            None => {
                let conn = self.connect(Owner::Client(c), CLIENTS, leader, BROKER_PORT);
                let client = &mut self.clients[c];
                (client.conn, client.is_open) = (Some(conn), false);
                client.asked.push_back((-1, Asked::Metadata, self.now_us));
            }
            Some(_) if client.is_open => self.work(c),
            Some(_) => {}
        }
    }

    fn ask_guide(&mut self, c: usize, wants_id: bool) {
        let Some(guide) = self.clients[c].guide else {
            let to = self.rng.random_range(0..self.nodes.len());
            let guide = self.connect(Owner::Client(c), CLIENTS, to, BROKER_PORT);
            self.clients[c].guide = Some(guide);
            self.clients[c].guide_asked.push_back((-1, Asked::Metadata, self.now_us));
            return;
        };
        if matches!(self.clients[c].role, Role::Member(_)) {
            return self.find_coordinator(c, guide);
        }
        let topic = MetadataRequestTopic { topic_id: Uuid::ZERO, name: Some(TOPIC.into()) };
        let request = MetadataRequest {
            topics: Some(vec![topic]),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        self.ask(c, guide, METADATA_VERSION, &request, Asked::Metadata);
        if wants_id {
            let request = InitProducerIdRequest {
                transactional_id: None,
                transaction_timeout_ms: i32::MAX,
                producer_id: -1,
                producer_epoch: -1,
                ..InitProducerIdRequest::default()
            };
            self.ask(c, guide, INIT_VERSION, &request, Asked::Init);
        }
    }

    pub(super) fn ask<R: Request>(&mut self, c: usize, conn: u64, version: i16, request: &R, asked: Asked) {
        let now = self.now_us;
        let client = &mut self.clients[c];
        client.next_id += 1;
        let id = client.next_id;
        let bytes = frame::encode_request(request, version, id, Some("sim"));
        let list = if client.guide == Some(conn) { &mut client.guide_asked } else { &mut client.asked };
        list.push_back((id, asked, now));
        self.send(conn, 0, &bytes);
    }

    /// Answers that do not come end the connection, as in every client.
    fn give_up_late(&mut self, c: usize) {
        let (limit, join_us) = (self.plan.request_us, self.plan.groups.join_us());
        let late = |list: &VecDeque<(i32, Asked, u64)>, now: u64| {
            list.front().is_some_and(|(_, asked, since)| {
                // The others of a group may take their time.
                let limit = if matches!(asked, Asked::Join(_)) { limit + join_us } else { limit };
                now - since > limit
            })
        };
        let client = &self.clients[c];
        let (guide, conn) = (client.guide, client.conn);
        if late(&client.guide_asked, self.now_us)
            && let Some(guide) = guide
        {
            self.on_client_ended(c, guide, true);
            self.close(guide, 0);
        }
        if late(&self.clients[c].asked, self.now_us)
            && let Some(conn) = conn
        {
            self.on_client_ended(c, conn, true);
            self.close(conn, 0);
        }
    }

    pub(super) fn on_client_open(&mut self, c: usize, conn: u64) {
        let client = &mut self.clients[c];
        if client.guide == Some(conn) {
            client.guide_asked.clear();
            let wants_id = matches!(&client.role, Role::Producer(producer) if producer.id < 0);
            self.ask_guide(c, wants_id);
        } else if client.conn == Some(conn) {
            client.asked.clear();
            client.is_open = true;
            self.work(c);
        }
    }

    pub(super) fn on_client_ended(&mut self, c: usize, conn: u64, _was_open: bool) {
        let client = &mut self.clients[c];
        let backoff = self.now_us + BACKOFF_US;
        if client.guide == Some(conn) {
            client.guide = None;
            client.guide_asked.clear();
            client.not_before_us = backoff;
        } else if client.conn == Some(conn) {
            client.conn = None;
            client.is_open = false;
            client.asked.clear();
            client.asks_metadata = true;
            client.not_before_us = backoff;
            match &mut client.role {
                Role::Producer(producer) => {
                    producer.settles = false;
                    producer.pending.iter_mut().for_each(|batch| batch.sent = false);
                }
                Role::Consumer(consumer) => consumer.fetching = false,
                Role::Member(member) => member.on_ended(),
            }
        }
    }

    /// What a client with a connection to its leader does.
    fn work(&mut self, c: usize) {
        let Some(conn) = self.clients[c].conn else { return };
        let (now, wall_ms) =
            (self.now_us, i64::try_from(1_750_000_000_000 + self.now_us / 1_000).expect("small"));
        let produces = self.produces && (self.is_calm || !self.plan.rests(self.now_us));
        let plan = (self.plan.batch_records_max, self.plan.value_bytes_max, self.plan.produce_us);
        let client = &mut self.clients[c];
        let partition = client.partition;
        match &mut client.role {
            Role::Producer(producer) if producer.id >= 0 => {
                if produces && now >= producer.next_us && producer.pending.len() < IN_FLIGHT_MAX {
                    let count = self.rng.random_range(1..=plan.0);
                    producer.make(count, plan.1, wall_ms, &mut self.rng);
                    producer.next_us = now + self.rng.random_range(plan.2 / 2..plan.2 * 2);
                }
                if producer.settles {
                    return;
                }
                let mut requests = Vec::new();
                for batch in producer.pending.iter_mut().filter(|batch| !batch.sent) {
                    batch.sent = true;
                    let data = PartitionProduceData { index: partition, records: Some(batch.bytes.clone()) };
                    let topic = TopicProduceData {
                        name: TOPIC.into(),
                        partition_data: vec![data],
                        ..Default::default()
                    };
                    let request = ProduceRequest {
                        transactional_id: None,
                        acks: -1,
                        timeout_ms: 2_000,
                        topic_data: vec![topic],
                    };
                    requests.push((request, batch.sequence));
                }
                for (request, sequence) in requests {
                    self.ask(c, conn, PRODUCE_VERSION, &request, Asked::Produce(sequence));
                }
            }
            Role::Producer(_) => {}
            Role::Member(_) => self.work_member(c, conn),
            Role::Consumer(consumer) => {
                if consumer.fetching || consumer.rests {
                    return;
                }
                consumer.fetching = true;
                let position = consumer.position;
                let part = FetchPartition {
                    partition,
                    current_leader_epoch: client.leader_epoch,
                    fetch_offset: position,
                    last_fetched_epoch: -1,
                    log_start_offset: -1,
                    partition_max_bytes: 1 << 20,
                    ..FetchPartition::default()
                };
                let topic =
                    FetchTopic { topic: TOPIC.into(), partitions: vec![part], ..FetchTopic::default() };
                let request = FetchRequest {
                    replica_id: -1,
                    max_wait_ms: self.plan.fetch_wait_ms,
                    min_bytes: 1,
                    max_bytes: 1 << 20,
                    session_id: 0,
                    session_epoch: -1,
                    topics: vec![topic],
                    ..FetchRequest::default()
                };
                self.ask(c, conn, FETCH_VERSION, &request, Asked::Fetch(position));
            }
        }
    }

    pub(super) fn on_client_frame(&mut self, c: usize, conn: u64, body: Bytes) {
        let client = &mut self.clients[c];
        let list = if client.guide == Some(conn) { &mut client.guide_asked } else { &mut client.asked };
        let Some((id, asked, _)) = list.pop_front() else {
            return self.violation("order", format!("client {c} got an answer to nothing"));
        };
        let got = i32::from_be_bytes(*body.first_chunk::<4>().expect("an answer has a header"));
        if got != id {
            return self.violation("order", format!("client {c} got answer {got} where {id} was next"));
        }
        match asked {
            Asked::Metadata => self.on_metadata(c, &answer_to::<MetadataRequest>(body, METADATA_VERSION)),
            Asked::Init => self.on_producer_id(c, &answer_to::<InitProducerIdRequest>(body, INIT_VERSION)),
            Asked::Produce(sequence) => {
                let answer = answer_to::<ProduceRequest>(body, PRODUCE_VERSION);
                let Some(part) = answer.responses.first().and_then(|topic| topic.partition_responses.first())
                else {
                    return self.violation("order", format!("client {c} got an empty answer to a produce"));
                };
                self.on_produced(c, sequence, ErrorCode::from_code(part.error_code), part.base_offset);
            }
            Asked::Fetch(position) => {
                let answer = answer_to::<FetchRequest>(body, FETCH_VERSION);
                let Some(part) = answer.responses.first().and_then(|topic| topic.partitions.first()) else {
                    return self.refresh(c);
                };
                let records = part.records.clone().unwrap_or_default();
                let code = ErrorCode::from_code(part.error_code);
                self.on_fetched(c, position, code, &records);
            }
            Asked::Start => {
                let answer = answer_to::<ListOffsetsRequest>(body, LIST_VERSION);
                let part = answer.topics.first().and_then(|topic| topic.partitions.first());
                match part.filter(|part| part.error_code == 0) {
                    Some(part) => self.on_start(c, part.offset),
                    None => self.begin_again(c),
                }
            }
            Asked::Coordinator => {
                self.on_coordinator(c, &answer_to::<FindCoordinatorRequest>(body, member::FIND_VERSION));
            }
            Asked::Join(attempt)
            | Asked::Sync(attempt)
            | Asked::Beat(attempt)
            | Asked::Offsets(attempt, _)
                if !self.is_attempt(c, attempt) => {}
            Asked::Join(_) => {
                self.on_joined(c, conn, &answer_to::<JoinGroupRequest>(body, member::JOIN_VERSION))
            }
            Asked::Sync(_) => {
                self.on_synced(c, conn, &answer_to::<SyncGroupRequest>(body, member::SYNC_VERSION))
            }
            Asked::Beat(_) => {
                self.on_beat(c, conn, &answer_to::<HeartbeatRequest>(body, member::BEAT_VERSION))
            }
            Asked::Leave => {}
            Asked::Offsets(_, since) => {
                self.on_offsets(c, since, &answer_to::<OffsetFetchRequest>(body, member::OFFSETS_VERSION));
            }
            Asked::Commit(began, generation, news) => {
                let answer = answer_to::<OffsetCommitRequest>(body, member::COMMIT_VERSION);
                self.on_committed(c, (began, generation, news), &answer);
            }
        }
    }

    /// This guide may not know better for long.
    pub(super) fn try_other_guide(&mut self, c: usize) {
        self.clients[c].not_before_us = self.now_us + BACKOFF_US;
        if self.rng.random_range(0..4) == 0
            && let Some(guide) = self.clients[c].guide.take()
        {
            self.clients[c].guide_asked.clear();
            self.close(guide, 0);
        }
    }

    /// A client has found out whom to talk to.
    pub(super) fn go_to(&mut self, c: usize, node: usize) {
        let client = &mut self.clients[c];
        client.asks_metadata = false;
        if client.leader != Some(node) {
            client.leader = Some(node);
            if let Some(conn) = client.conn {
                self.on_client_ended(c, conn, true);
                self.clients[c].asks_metadata = false;
                self.close(conn, 0);
            }
        }
    }

    fn on_metadata(&mut self, c: usize, answer: &MetadataResponse) {
        let client = &mut self.clients[c];
        let part =
            answer.topics.first().filter(|topic| topic.error_code == 0).and_then(|topic| {
                topic.partitions.iter().find(|part| part.partition_index == client.partition)
            });
        let backoff = self.now_us + BACKOFF_US;
        let Some(part) = part.filter(|part| part.leader_id >= 0 && part.leader_epoch >= client.leader_epoch)
        else {
            return self.try_other_guide(c);
        };
        let broker = answer.brokers.iter().find(|broker| broker.node_id == part.leader_id);
        let Some(leader) = broker.and_then(|broker| node_at(&broker.host)) else {
            client.not_before_us = backoff;
            return;
        };
        client.leader_epoch = part.leader_epoch;
        self.go_to(c, leader);
    }

    fn on_producer_id(&mut self, c: usize, answer: &InitProducerIdResponse) {
        let client = &mut self.clients[c];
        if let Role::Producer(producer) = &mut client.role
            && answer.error_code == 0
        {
            (producer.id, producer.epoch) = (answer.producer_id, answer.producer_epoch);
            let id = answer.producer_id;
            self.check_producer_id(id);
        } else {
            client.not_before_us = self.now_us + BACKOFF_US;
        }
    }

    pub(super) fn refresh(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.asks_metadata = true;
        client.not_before_us = self.now_us + BACKOFF_US;
    }

    fn on_produced(&mut self, c: usize, sequence: i32, code: Option<ErrorCode>, base_offset: i64) {
        let partition = self.clients[c].partition;
        let outstanding = !self.clients[c].asked.is_empty();
        let Role::Producer(producer) = &mut self.clients[c].role else { return };
        let is_head = producer.pending.front().is_some_and(|batch| batch.sequence == sequence);
        match code {
            // Of a batch that took too long, and that more than five have followed, brokers know only that it is not the next one; it was
            // there before those (as librdkafka has it).
            Some(ErrorCode::OutOfOrderSequenceNumber) if sequence < producer.acknowledged => {
                self.on_produced(c, sequence, Some(ErrorCode::DuplicateSequenceNumber), -1);
            }
            Some(ErrorCode::None | ErrorCode::DuplicateSequenceNumber) => {
                let Some(at) = producer.pending.iter().position(|batch| batch.sequence == sequence) else {
                    return;
                };
                // One before it may have been told that it took too long, and is sent again.
                let batch = producer.pending.remove(at).expect("found above");
                let end = batch.sequence + i32::try_from(batch.count).expect("a small batch");
                producer.acknowledged = producer.acknowledged.max(end);
                let index = producer.index;
                let settles = producer.settles;
                if settles && !outstanding {
                    producer.settles = false;
                    producer.pending.iter_mut().for_each(|batch| batch.sent = false);
                }
                self.trace.note(self.now_us, || {
                    format!("producer {index}: batch {sequence} is at {partition}:{base_offset}")
                });
                self.acknowledged(index, partition, batch.first, batch.count, base_offset);
            }
            Some(code) => {
                let index = producer.index;
                self.clients[c].last_error = format!("{} us: batch {sequence}: {code}", self.now_us);
                let Role::Producer(producer) = &mut self.clients[c].role else { return };
                producer.settles = outstanding;
                if !outstanding {
                    producer.pending.iter_mut().for_each(|batch| batch.sent = false);
                }
                if is_fatal(code) || is_head && code == ErrorCode::OutOfOrderSequenceNumber {
                    let text = format!(
                        "producer {index} on partition {partition}: its first batch (sequence {sequence}) is refused with {code}"
                    );
                    return self.violation("idempotence", text);
                }
                self.trace.mix(&[self.now_us, index as u64, u64::from(code.code().unsigned_abs())]);
                self.trace
                    .note(self.now_us, || format!("producer {index}: batch {sequence} is refused: {code}"));
                self.stats.refusals += 1;
                self.refresh(c);
            }
            None => self.violation("order", format!("client {c}: a produce has an unknown error")),
        }
    }

    fn on_fetched(&mut self, c: usize, position: i64, code: Option<ErrorCode>, records: &[u8]) {
        let partition = self.clients[c].partition;
        let Role::Consumer(consumer) = &mut self.clients[c].role else { return };
        consumer.fetching = false;
        if consumer.rests || consumer.position != position {
            // The member that it read for has given the partition back since.
            return;
        }
        let of = consumer.of;
        match code {
            Some(ErrorCode::None) => {
                let mut next = position;
                let mut read = Vec::new();
                for batch in batch::batches(records).map_while(Result::ok) {
                    let header = *batch.header();
                    if batch.verify_crc().is_err() {
                        let text = format!(
                            "a consumer of partition {partition} was given a damaged batch at {next}"
                        );
                        return self.violation("damage is never served", text);
                    }
                    if header.next_offset().0 <= next {
                        continue;
                    }
                    let payload = batch.uncompressed(1 << 26).expect("a batch of ours");
                    for record in batch.records(&payload) {
                        let record = record.expect("a batch of ours");
                        if record.offset.0 >= next {
                            read.push((
                                record.offset.0,
                                record.value.map(<[u8]>::to_vec).unwrap_or_default(),
                            ));
                        }
                    }
                    next = header.next_offset().0;
                }
                consumer.position = next;
                self.consumed(partition, position, &read);
                if let Some(member) = of.filter(|_| next > position) {
                    self.on_processed(member, partition, position, next);
                }
                if self.clients[c].is_open {
                    self.work(c);
                }
            }
            Some(ErrorCode::OffsetOutOfRange) if self.plan.retains => {
                consumer.fetching = true;
                let Some(conn) = self.clients[c].conn else { return };
                let part = ListOffsetsPartition {
                    partition_index: partition,
                    current_leader_epoch: -1,
                    timestamp: EARLIEST,
                };
                let topic = ListOffsetsTopic { name: TOPIC.into(), partitions: vec![part] };
                let request = ListOffsetsRequest {
                    replica_id: -1,
                    topics: vec![topic],
                    ..ListOffsetsRequest::default()
                };
                self.ask(c, conn, LIST_VERSION, &request, Asked::Start);
            }
            Some(ErrorCode::OffsetOutOfRange) => {
                let text =
                    format!("a consumer of partition {partition} has read up to {position}, which is gone");
                self.violation("acknowledged", text);
            }
            _ => self.refresh(c),
        }
    }
}

impl World {
    /// What a consumer wanted is gone: it goes on where the partition begins now.
    fn on_start(&mut self, c: usize, start: i64) {
        let partition = self.clients[c].partition;
        let Role::Consumer(consumer) = &mut self.clients[c].role else { return };
        consumer.fetching = false;
        if consumer.rests || start <= consumer.position {
            // Another leader may not have let go of it yet, or what has changed is what this client reads for.
            return;
        }
        consumer.position = start;
        if let Some(member) = consumer.of {
            self.on_passed_over(member, partition, start);
        }
    }

    /// The consumers of a partition that belong to no group begin anew.
    pub(super) fn read_again(&mut self, partition: i32) {
        for client in self.clients.iter_mut().filter(|client| client.partition == partition) {
            if let Role::Consumer(consumer) = &mut client.role
                && consumer.of.is_none()
                && !consumer.rests
            {
                consumer.position = 0;
            }
        }
    }

    fn begin_again(&mut self, c: usize) {
        if let Role::Consumer(consumer) = &mut self.clients[c].role {
            consumer.fetching = false;
        }
        self.refresh(c);
    }
}

impl Producer {
    fn make(&mut self, count: u64, bytes_max: usize, wall_ms: i64, rng: &mut rand::rngs::SmallRng) {
        let mut builder = BatchBuilder::new(BatchOptions {
            producer_id: ProducerId(self.id),
            producer_epoch: ProducerEpoch(self.epoch),
            base_sequence: self.next_sequence,
            ..BatchOptions::default()
        });
        for at in 0..count {
            let mut value = value_of(self.index, self.next_value + at);
            value.resize(value.len() + rng.random_range(0..bytes_max.max(1)), b'.');
            builder.append(wall_ms, None, Some(&value));
        }
        let batch = Batch {
            sequence: self.next_sequence,
            first: self.next_value,
            count,
            bytes: builder.build().into(),
            sent: false,
        };
        self.next_value += count;
        self.next_sequence += i32::try_from(count).expect("a small batch");
        self.pending.push_back(batch);
    }
}

/// The value of a producer's record, before what fills it up.
#[must_use]
pub fn value_of(producer: usize, number: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(12);
    value.extend_from_slice(&u32::try_from(producer).expect("few producers").to_be_bytes());
    value.extend_from_slice(&number.to_be_bytes());
    value
}

/// The reverse.
#[must_use]
pub fn read_value(value: &[u8]) -> Option<(usize, u64)> {
    let producer = u32::from_be_bytes(*value.first_chunk::<4>()?);
    let number = u64::from_be_bytes(*value.get(4..)?.first_chunk::<8>()?);
    Some((producer as usize, number))
}

fn answer_to<R: Request>(body: Bytes, version: i16) -> R::Response {
    frame::decode_response::<R>(body, version).expect("a broker's answer can be read").1
}

/// What ends a real producer.
fn is_fatal(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::CorruptMessage
            | ErrorCode::UnknownServerError
            | ErrorCode::InvalidRecord
    )
}
