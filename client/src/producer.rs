//! Writes records into one topic: batched by partition, several requests in flight to each leader, in order, and with acks=all without
//! writing twice.
//!
//! A batch that fails for a reason that passes goes again, once everything of its partition that was in flight is back: so the order
//! and the sequences stay. One that fails for good is reported with the tags of its records. A producer id whose sequence has a gap by
//! that is given up for a fresh one.

use std::collections::{BTreeMap, VecDeque};
use std::thread::sleep;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::batch::add_sequence;
use ottla_protocol::compression::Compression;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ottla_protocol::messages::produce_response::PartitionProduceResponse;

use crate::cluster::Cluster;
use crate::connection::Sent;
use crate::error::{Error, Result, is_retriable};
use crate::identity::Identity;
use crate::partitioner::partition_of;
use crate::pending::{Outgoing, Pending};

/// What an idempotent producer may have in flight (KAFKA-5494): brokers remember five batches.
const IN_FLIGHT_MAX: usize = 5;
/// So many bytes wait for room before the caller is held up.
const QUEUED_BYTES_MAX: usize = 8 << 20;
const BACKOFF: Duration = Duration::from_millis(100);
/// Topics are named by name up to here, later by id.
const PRODUCE: std::ops::RangeInclusive<i16> = 3..=12;

/// Who must have a record before it counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Nobody is asked: nothing is known of what became of it.
    None,
    Leader,
    /// All replicas in sync.
    All,
}

#[derive(Clone, Debug)]
pub struct ProducerOptions {
    pub acks: Acks,
    pub compression: Compression,
    pub level: Option<i32>,
    /// Bytes of records in a batch, before they are packed.
    pub batch_bytes: usize,
    /// How long a record is tried.
    pub delivery_timeout: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            compression: Compression::None,
            level: None,
            // The largest batch that a topic takes unless told otherwise is 1 MiB, packed.
            batch_bytes: 256 << 10,
            delivery_timeout: Duration::from_secs(30),
        }
    }
}

/// Records that are not written, or of which nobody knows.
#[derive(Clone, Debug)]
pub struct Failure {
    pub partition: i32,
    pub tags: Vec<u64>,
    pub why: String,
    pub code: Option<ErrorCode>,
}

#[derive(Debug, Default)]
struct Lane {
    /// Batches to be sent, in order.
    queue: VecDeque<Pending>,
    open: Option<Pending>,
    /// Came back to be sent again; nothing else of the partition is sent before.
    again: Vec<Pending>,
    in_flight: usize,
    /// What is in flight has come back before: nothing follows until its fate is known.
    in_recovery: bool,
    leader: Option<i32>,
    next_sequence: i32,
}

impl Lane {
    fn has_returned(&mut self) {
        self.in_flight -= 1;
        self.in_recovery &= self.in_flight > 0;
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.again.is_empty() && self.in_flight == 0
    }
}

struct InFlight {
    sent: Sent<ProduceRequest>,
    batches: Vec<Pending>,
}

/// Writes into one topic.
pub struct Producer {
    cluster: Cluster,
    topic: String,
    options: ProducerOptions,
    lanes: Vec<Lane>,
    in_flight: BTreeMap<i32, VecDeque<InFlight>>,
    identity: Identity,
    /// The sequence of this identity has a gap.
    identity_spent: bool,
    queued_bytes: usize,
    /// Where records without a key go until their batch is full.
    sticky: usize,
    delivered: u64,
    delivered_bytes: u64,
    failures: Vec<Failure>,
}

impl Producer {
    /// Opens the topic, which the cluster may make.
    ///
    /// # Errors
    /// The topic is not there, or nobody answers.
    pub fn open(mut cluster: Cluster, topic: &str, options: ProducerOptions) -> Result<Self> {
        let found = cluster.topic_or_create(topic, true)?;
        let identity = match options.acks {
            Acks::All => Identity::fetch_if_given(&mut cluster)?,
            Acks::Leader | Acks::None => Identity::NONE,
        };
        let lanes =
            found.partitions.iter().map(|partition| Lane { leader: partition.leader, ..Lane::default() });
        Ok(Self {
            lanes: lanes.collect(),
            cluster,
            topic: topic.to_owned(),
            options,
            in_flight: BTreeMap::new(),
            identity,
            identity_spent: false,
            queued_bytes: 0,
            sticky: 0,
            delivered: 0,
            delivered_bytes: 0,
            failures: Vec::new(),
        })
    }

    #[must_use]
    pub fn partitions(&self) -> usize {
        self.lanes.len()
    }

    /// Records that are written.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Their bytes, before they were packed.
    #[must_use]
    pub fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }

    /// What failed since this was last asked.
    pub fn take_failures(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.failures)
    }

    /// Takes a record; sends what has become a whole batch.
    ///
    /// # Errors
    /// The topic has no such partition.
    pub fn send(&mut self, record: &Outgoing<'_>) -> Result<()> {
        let lane = self.lane_of(record)?;
        let bytes = record.bytes();
        if self.lanes[lane].open.as_ref().is_some_and(|open| open.bytes() + bytes > self.options.batch_bytes)
        {
            self.seal(lane);
            self.pump();
            while self.queued_bytes > QUEUED_BYTES_MAX {
                self.receive_oldest();
                self.pump();
            }
        }
        let partition = i32::try_from(lane).expect("few");
        let capacity = bytes.max(1 << 12);
        self.lanes[lane].open.get_or_insert_with(|| Pending::new(partition, capacity)).push(record);
        Ok(())
    }

    fn lane_of(&self, record: &Outgoing<'_>) -> Result<usize> {
        let count = i32::try_from(self.lanes.len()).expect("few");
        let partition = match (record.partition, record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, count),
            (None, None) => i32::try_from(self.sticky).expect("few"),
        };
        usize::try_from(partition).ok().filter(|lane| *lane < self.lanes.len()).ok_or_else(|| {
            Error::NoPartition { topic: self.topic.clone(), partition, count: self.lanes.len() }
        })
    }

    fn seal(&mut self, lane: usize) {
        if let Some(batch) = self.lanes[lane].open.take() {
            self.queued_bytes += batch.bytes();
            self.lanes[lane].queue.push_back(batch);
            if lane == self.sticky {
                self.sticky = (self.sticky + 1) % self.lanes.len();
            }
        }
    }

    /// Sends everything, and waits until it is written or has failed.
    pub fn flush(&mut self) {
        for lane in 0..self.lanes.len() {
            self.seal(lane);
        }
        loop {
            self.pump();
            if self.in_flight.values().all(VecDeque::is_empty) {
                if self.lanes.iter().all(Lane::is_idle) {
                    return;
                }
                // Nobody to send to at the moment.
                sleep(BACKOFF);
                self.refresh();
            } else {
                self.receive_oldest();
            }
        }
    }

    /// Sends what may be sent.
    fn pump(&mut self) {
        self.bring_back();
        self.expire();
        loop {
            let mut batches: BTreeMap<i32, Vec<Pending>> = BTreeMap::new();
            for lane in &mut self.lanes {
                let Some(leader) = lane.leader else { continue };
                let busy = self.in_flight.get(&leader).map_or(0, VecDeque::len);
                // What has come back goes alone: its outcome decides what may follow.
                let recovering = lane.queue.front().is_some_and(|front| front.again);
                if busy >= IN_FLIGHT_MAX
                    || (recovering && lane.in_flight > 0)
                    || lane.in_recovery
                    || !lane.again.is_empty()
                    || self.identity_spent
                {
                    continue;
                }
                let Some(mut batch) = lane.queue.pop_front() else { continue };
                self.queued_bytes = self.queued_bytes.saturating_sub(batch.bytes());
                if self.identity != Identity::NONE && batch.sequence.is_none() {
                    batch.sequence = Some(lane.next_sequence);
                    let count = i32::try_from(batch.len()).expect("few");
                    lane.next_sequence = add_sequence(lane.next_sequence, count);
                }
                lane.in_flight += 1;
                lane.in_recovery = recovering;
                batches.entry(leader).or_default().push(batch);
            }
            if batches.is_empty() {
                return;
            }
            for (leader, batches) in batches {
                self.transmit(leader, batches);
            }
        }
    }

    fn transmit(&mut self, leader: i32, batches: Vec<Pending>) {
        let (options, identity) = (&self.options, self.identity);
        let partition_data = batches.iter().map(|batch| PartitionProduceData {
            index: batch.partition,
            records: Some(Bytes::from(batch.build(options.compression, options.level, identity))),
        });
        let topic = TopicProduceData {
            name: self.topic.as_str().into(),
            partition_data: partition_data.collect(),
            ..Default::default()
        };
        let acks = match options.acks {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        };
        let request = ProduceRequest {
            acks,
            // Its own answer is to come before we give up on it.
            timeout_ms: i32::try_from((options.delivery_timeout * 2 / 3).as_millis()).unwrap_or(i32::MAX),
            topic_data: vec![topic],
            ..Default::default()
        };
        if options.acks == Acks::None {
            match self.cluster.ask(leader, |node| node.tell(PRODUCE, &request)) {
                Ok(()) => batches.iter().for_each(|batch| self.count(batch)),
                Err(error) => self.come_back(batches, &error),
            }
            return;
        }
        match self.cluster.node(leader).and_then(|node| node.send(PRODUCE, &request)) {
            Ok(sent) => self.in_flight.entry(leader).or_default().push_back(InFlight { sent, batches }),
            Err(error) => {
                self.lose(leader, &error);
                self.come_back(batches, &error);
            }
        }
    }

    /// Waits for the answer that is due first at the busiest leader.
    fn receive_oldest(&mut self) {
        let busiest =
            self.in_flight.iter().max_by_key(|(_, waiting)| waiting.len()).map(|(leader, _)| *leader);
        let Some(leader) = busiest else {
            sleep(BACKOFF);
            self.refresh();
            return;
        };
        let Some(oldest) = self.in_flight.get_mut(&leader).and_then(VecDeque::pop_front) else {
            sleep(BACKOFF);
            self.refresh();
            return;
        };
        let InFlight { sent, batches } = oldest;
        match self.cluster.node(leader).and_then(|node| node.receive(sent)) {
            Ok(answer) => {
                let mut answers: BTreeMap<i32, PartitionProduceResponse> = answer
                    .responses
                    .into_iter()
                    .flat_map(|topic| topic.partition_responses)
                    .map(|partition| (partition.index, partition))
                    .collect();
                for batch in batches {
                    let answer = answers.remove(&batch.partition);
                    self.settle(batch, answer);
                }
            }
            Err(error) => {
                // In the order in which they were sent.
                self.come_back(batches, &error);
                self.lose(leader, &error);
            }
        }
    }

    fn count(&mut self, batch: &Pending) {
        self.lane(batch).has_returned();
        self.delivered += batch.len() as u64;
        self.delivered_bytes += batch.bytes() as u64;
    }

    fn lane(&mut self, batch: &Pending) -> &mut Lane {
        &mut self.lanes[usize::try_from(batch.partition).expect("an index of the topic")]
    }

    fn settle(&mut self, batch: Pending, answer: Option<PartitionProduceResponse>) {
        let Some(answer) = answer else {
            let why = Error::refused("the answer", ErrorCode::UnknownServerError.code(), None);
            self.lane(&batch).has_returned();
            self.fail(&batch, format!("its partition is missing in {why}"), None);
            return;
        };
        let code = ErrorCode::from_code(answer.error_code).unwrap_or(ErrorCode::UnknownServerError);
        if matches!(code, ErrorCode::None | ErrorCode::DuplicateSequenceNumber) {
            self.count(&batch);
            return;
        }
        let error = Error::refused(
            format!("{}-{}", self.topic, batch.partition),
            answer.error_code,
            answer.error_message.as_deref(),
        );
        let spent = self.identity_spent;
        let lane = self.lane(&batch);
        lane.has_returned();
        // One that was refused takes those behind it along: they are out of order until it has gone again, or for ever.
        let follows = code == ErrorCode::OutOfOrderSequenceNumber && (spent || !lane.again.is_empty());
        if is_retriable(code) || follows {
            lane.again.push(batch.because(&error));
        } else if code == ErrorCode::MessageTooLarge
            && let Some((first, second)) = batch.split()
        {
            lane.again.extend([first, second]);
        } else if !answer.record_errors.is_empty() && answer.record_errors.len() < batch.len() {
            let bad: Vec<usize> = answer
                .record_errors
                .iter()
                .filter_map(|record| usize::try_from(record.batch_index).ok())
                .collect();
            for record in &answer.record_errors {
                let tag = usize::try_from(record.batch_index).ok().and_then(|index| batch.tag(index));
                let why = record.batch_index_error_message.as_deref();
                self.failures.push(Failure {
                    partition: batch.partition,
                    tags: tag.into_iter().collect(),
                    why: why.map_or_else(|| error.to_string(), |why| format!("{why} ({code})")),
                    code: Some(code),
                });
            }
            let mut kept = batch.keeping(|index| !bad.contains(&index));
            kept.sequence = None;
            self.lane(&kept).again.push(kept);
            self.identity_spent = self.identity != Identity::NONE;
        } else {
            self.fail(&batch, error.to_string(), Some(code));
        }
    }

    /// Batches whose fate is unknown are sent again, if the error passes.
    fn come_back(&mut self, batches: Vec<Pending>, error: &Error) {
        for batch in batches {
            let lane = self.lane(&batch);
            lane.has_returned();
            if error.is_retriable() {
                lane.again.push(batch.because(error));
            } else {
                self.fail(&batch, error.to_string(), error.code());
            }
        }
    }

    /// A connection that broke takes all that was in flight on it along.
    fn lose(&mut self, leader: i32, error: &Error) {
        self.cluster.forget(leader);
        for lost in self.in_flight.remove(&leader).unwrap_or_default() {
            self.come_back(lost.batches, error);
        }
    }

    fn fail(&mut self, batch: &Pending, why: String, code: Option<ErrorCode>) {
        self.failures.push(Failure { partition: batch.partition, tags: batch.tags().collect(), why, code });
        // What was numbered and never arrives leaves a gap.
        self.identity_spent |= batch.sequence.is_some();
    }

    /// Puts what came back in front of what has not been sent, once all of its partition is there.
    fn bring_back(&mut self) {
        let mut any = false;
        for lane in &mut self.lanes {
            if lane.again.is_empty() || lane.in_flight > 0 {
                continue;
            }
            any = true;
            let again = std::mem::take(&mut lane.again);
            // In the order in which they were sent: answers come in that order.
            for batch in again.into_iter().rev() {
                self.queued_bytes += batch.bytes();
                lane.queue.push_front(batch);
            }
        }
        if self.identity_spent && self.lanes.iter().all(|lane| lane.in_flight == 0) {
            self.renew_identity();
        } else if any {
            sleep(BACKOFF);
            self.refresh();
        }
    }

    fn renew_identity(&mut self) {
        let Ok(identity) = Identity::fetch(&mut self.cluster) else { return };
        self.identity = identity;
        self.identity_spent = false;
        for lane in &mut self.lanes {
            lane.next_sequence = 0;
            lane.queue.iter_mut().for_each(|batch| batch.sequence = None);
        }
    }

    /// Gives up what has been tried for too long.
    fn expire(&mut self) {
        let limit = self.options.delivery_timeout;
        let mut late = Vec::new();
        for lane in &mut self.lanes {
            while lane.in_flight == 0 && lane.queue.front().is_some_and(|batch| batch.since.elapsed() > limit)
            {
                late.extend(lane.queue.pop_front().map(|batch| (batch, lane.leader)));
            }
        }
        for (batch, leader) in late {
            self.queued_bytes = self.queued_bytes.saturating_sub(batch.bytes());
            let place = format!("{}-{}", self.topic, batch.partition);
            let why = match leader {
                None => format!("{place}: it had no leader for {} s", limit.as_secs_f64()),
                Some(leader) => {
                    format!("{place}: broker {leader} did not take them within {} s", limit.as_secs_f64())
                }
            };
            let why = match &batch.why {
                Some(last) => format!("{why}, at last: {last}"),
                None => why,
            };
            self.fail(&batch, why, Some(ErrorCode::RequestTimedOut));
        }
    }

    /// Who leads what now.
    fn refresh(&mut self) {
        let topic = self.topic.clone();
        match self.cluster.metadata(Some(&[&topic]), false) {
            Ok(metadata) => {
                if let Some(found) = metadata.topic(&topic).filter(|topic| topic.error_code == 0) {
                    for (lane, partition) in self.lanes.iter_mut().zip(&found.partitions) {
                        lane.leader = partition.leader;
                    }
                }
            }
            Err(_) => self.cluster.forget_all_idle(&self.in_flight.keys().copied().collect::<Vec<_>>()),
        }
    }
}
