//! Reads partitions from their leaders, from given offsets on. One request is always on its way to each leader, so that a broker works
//! while the caller does.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_protocol::batch::{BatchHeader, RecordBatch, TimestampType};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ottla_protocol::messages::fetch_response::{AbortedTransaction, PartitionData};
use ottla_protocol::record::Record;

use crate::cluster::Cluster;
use crate::connection::Sent;
use crate::error::{Error, Result, is_retriable};
use crate::metadata::TopicPartition;
use crate::offsets::At;

/// Topics are named by name up to here, later by id.
const FETCH: std::ops::RangeInclusive<i16> = 4..=12;
const FETCH_BYTES_MAX: i32 = 16 << 20;
const PARTITION_BYTES_MAX: i32 = 4 << 20;
/// A batch unpacks to no more: larger ones are refused by their error.
const UNPACKED_BYTES_MAX: usize = 512 << 20;
/// How long one leader may be waited for. With several, each is waited for in turn: shorter, lest one's silence delays another's records.
const WAIT_ALONE: Duration = Duration::from_millis(500);
const WAIT_AMONG_OTHERS: Duration = Duration::from_millis(100);
const BACKOFF: Duration = Duration::from_millis(100);

/// Whether records of open and aborted transactions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    Uncommitted,
    Committed,
}

/// Batches of one partition.
#[derive(Debug)]
pub struct Fetched {
    pub partition: TopicPartition,
    /// Records below are not wanted: a batch is read as a whole.
    from: i64,
    /// Behind the last batch.
    pub next: i64,
    pub high_watermark: i64,
    pub log_start: i64,
    /// By whom it was answered.
    pub broker: i32,
    records: Bytes,
    aborted: Vec<AbortedTransaction>,
}

/// Reads partitions.
pub struct Consumer {
    cluster: Cluster,
    /// For what is asked beside: on the connections of `cluster` fetches are awaited.
    questions: Cluster,
    isolation: Isolation,
    /// What is read, and where the next request begins.
    positions: BTreeMap<TopicPartition, i64>,
    leaders: BTreeMap<TopicPartition, i32>,
    /// By broker; with the offsets that were asked for: an answer to an older question is dropped.
    in_flight: BTreeMap<i32, (Sent<FetchRequest>, BTreeMap<TopicPartition, i64>)>,
    /// Since when no leader could be asked.
    failing_since: Option<Instant>,
    notices: Vec<String>,
}

impl Consumer {
    #[must_use]
    pub fn new(cluster: Cluster, isolation: Isolation) -> Self {
        Self {
            questions: cluster.another(),
            cluster,
            isolation,
            positions: BTreeMap::new(),
            leaders: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            failing_since: None,
            notices: Vec::new(),
        }
    }

    /// For questions beside reading.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.questions
    }

    /// Reads these from now on, and nothing else.
    pub fn assign(&mut self, positions: BTreeMap<TopicPartition, i64>) {
        self.positions = positions;
        self.leaders.clear();
    }

    /// Reads this partition no longer.
    pub fn drop_partition(&mut self, partition: &TopicPartition) {
        self.positions.remove(partition);
    }

    /// The next offset of each partition.
    #[must_use]
    pub fn positions(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.positions
    }

    /// What the caller should tell a person, since this was last asked: records that were gone, for example.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// What has come; may be nothing, after half a second.
    ///
    /// # Errors
    /// One that does not pass, or has not passed within the patience.
    pub fn poll(&mut self) -> Result<Vec<Fetched>> {
        if self.positions.is_empty() {
            sleep(BACKOFF);
            return Ok(Vec::new());
        }
        if let Err(error) = self.request() {
            self.endure(error)?;
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        let waiting: Vec<i32> = self.in_flight.keys().copied().collect();
        for leader in waiting {
            match self.receive(leader) {
                Ok(fetched) => {
                    self.failing_since = None;
                    all.extend(fetched);
                }
                Err(error) => self.endure(error)?,
            }
        }
        // The next answers are prepared while the caller works on these.
        if !all.is_empty() && self.request().is_err() {
            self.leaders.clear();
        }
        Ok(all)
    }

    /// An error that may pass is waited for.
    fn endure(&mut self, error: Error) -> Result<()> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if !error.is_retriable() || since.elapsed() > self.cluster.options().patience {
            return Err(error);
        }
        self.leaders.clear();
        sleep(BACKOFF);
        Ok(())
    }

    /// Asks each leader that owes no answer.
    fn request(&mut self) -> Result<()> {
        if self.positions.keys().any(|partition| !self.leaders.contains_key(partition)) {
            self.find_leaders()?;
        }
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for partition in self.positions.keys() {
            if let Some(leader) = self.leaders.get(partition) {
                by_leader.entry(*leader).or_default().push(partition.clone());
            }
        }
        let wait = if by_leader.len() > 1 { WAIT_AMONG_OTHERS } else { WAIT_ALONE };
        for (leader, partitions) in by_leader {
            if self.in_flight.contains_key(&leader) {
                continue;
            }
            let request = self.fetch_request(&partitions, wait);
            match self.cluster.ask(leader, |node| node.send(FETCH, &request)) {
                Ok(sent) => {
                    let asked = partitions.into_iter().map(|partition| {
                        let offset = self.positions[&partition];
                        (partition, offset)
                    });
                    self.in_flight.insert(leader, (sent, asked.collect()));
                }
                Err(error) => {
                    self.leaders.retain(|_, id| *id != leader);
                    if !error.is_retriable() {
                        return Err(error);
                    }
                }
            }
        }
        if self.in_flight.is_empty() {
            return Err(Error::refused("the partitions", ErrorCode::LeaderNotAvailable.code(), None));
        }
        Ok(())
    }

    fn find_leaders(&mut self) -> Result<()> {
        let names: BTreeSet<&str> = self.positions.keys().map(|partition| partition.topic.as_str()).collect();
        let metadata = self.cluster.metadata(Some(&names.into_iter().collect::<Vec<_>>()), false)?;
        self.leaders.clear();
        for partition in self.positions.keys() {
            if let Some(leader) = metadata.leader(partition) {
                self.leaders.insert(partition.clone(), leader);
            }
        }
        Ok(())
    }

    fn fetch_request(&self, partitions: &[TopicPartition], wait: Duration) -> FetchRequest {
        let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for partition in partitions {
            topics.entry(&partition.topic).or_default().push(FetchPartition {
                partition: partition.partition,
                fetch_offset: self.positions[partition],
                partition_max_bytes: PARTITION_BYTES_MAX,
                ..Default::default()
            });
        }
        FetchRequest {
            max_wait_ms: i32::try_from(wait.as_millis()).expect("short"),
            min_bytes: 1,
            max_bytes: FETCH_BYTES_MAX,
            isolation_level: i8::from(self.isolation == Isolation::Committed),
            session_epoch: -1,
            topics: topics
                .into_iter()
                .map(|(name, partitions)| FetchTopic { topic: name.into(), partitions, ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }

    fn receive(&mut self, leader: i32) -> Result<Vec<Fetched>> {
        let Some((sent, asked)) = self.in_flight.remove(&leader) else { return Ok(Vec::new()) };
        let answer = self.cluster.ask(leader, |node| node.receive(sent))?;
        Error::check(format!("the fetch from broker {leader}"), answer.error_code, None)?;
        let (mut all, mut failed) = (Vec::new(), None);
        for topic in answer.responses {
            for partition in topic.partitions {
                let name = TopicPartition::new(&*topic.topic, partition.partition_index);
                // It may have been taken away meanwhile, or given back from another offset on.
                let Some(position) = self.positions.get(&name).copied() else { continue };
                if asked.get(&name) != Some(&position) {
                    continue;
                }
                match self.take(name, position, leader, partition) {
                    Ok(fetched) => all.extend(fetched),
                    Err(error) => failed = Some(error),
                }
            }
        }
        match failed {
            // What came is given first; the error comes again.
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    fn take(
        &mut self,
        name: TopicPartition,
        position: i64,
        broker: i32,
        partition: PartitionData,
    ) -> Result<Option<Fetched>> {
        let code = ErrorCode::from_code(partition.error_code).unwrap_or(ErrorCode::UnknownServerError);
        match code {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                self.move_into_range(&name, position)?;
                return Ok(None);
            }
            code if is_retriable(code) => {
                self.leaders.remove(&name);
                return Err(Error::refused(name.to_string(), partition.error_code, None));
            }
            _ => return Err(Error::refused(name.to_string(), partition.error_code, None)),
        }
        let records = partition.records.unwrap_or_default();
        let next = next_offset(&records).filter(|next| *next > position);
        let Some(next) = next else { return Ok(None) };
        self.positions.insert(name.clone(), next);
        Ok(Some(Fetched {
            partition: name,
            from: position,
            next,
            high_watermark: partition.high_watermark,
            log_start: partition.log_start_offset,
            broker,
            records,
            aborted: partition.aborted_transactions.unwrap_or_default(),
        }))
    }

    /// Records that are gone are passed over, and what is not there yet is waited for at the end: both are said.
    fn move_into_range(&mut self, name: &TopicPartition, position: i64) -> Result<()> {
        let one = std::slice::from_ref(name);
        let start = self.questions.offsets_of_all(At::Earliest, one)?[name].offset;
        let end = self.questions.offsets_of_all(At::Latest, one)?[name].offset;
        let to = position.clamp(start, end.max(start));
        if position < start {
            self.notices.push(format!(
                "{name}: offset {position} is gone, the log begins at {start}: {} records are passed over",
                start - position
            ));
        } else {
            self.notices.push(format!(
                "{name}: offset {position} is not there, the log ends at {end}: going on from there"
            ));
        }
        self.positions.insert(name.clone(), to);
        Ok(())
    }
}

/// Behind the last whole batch of `records`.
fn next_offset(records: &[u8]) -> Option<i64> {
    let mut rest = records;
    let mut next = None;
    while let Ok(header) = BatchHeader::read(rest) {
        if rest.len() < header.size_bytes() {
            break;
        }
        next = Some(header.next_offset().0);
        rest = &rest[header.size_bytes()..];
    }
    next
}

impl Fetched {
    /// Gives each record to `each`, which may end it by `Ok(false)`.
    ///
    /// # Errors
    /// A batch that can't be read, or the error of `each`.
    pub fn each<E: From<Error>>(
        &self,
        mut each: impl FnMut(&Record<'_>, TimestampType) -> std::result::Result<bool, E>,
    ) -> std::result::Result<(), E> {
        let mut aborted: BTreeSet<i64> = BTreeSet::new();
        let mut open = self.aborted.clone();
        open.sort_by_key(|transaction| transaction.first_offset);
        let mut open = open.into_iter().peekable();
        let mut rest = &self.records[..];
        while !rest.is_empty() {
            // A batch that is cut off comes whole with the next answer.
            let Ok((batch, after)) = RecordBatch::parse(rest) else { return Ok(()) };
            rest = after;
            let header = batch.header();
            let corrupt = |error: &dyn std::fmt::Display| {
                Error::Corrupt(self.partition.to_string(), header.base_offset.0, error.to_string())
            };
            while let Some(begun) =
                open.next_if(|transaction| transaction.first_offset <= header.last_offset().0)
            {
                aborted.insert(begun.producer_id);
            }
            if header.is_control() {
                // A marker ends the producer's transaction; the next may be another matter.
                aborted.remove(&header.producer_id.0);
                continue;
            }
            if header.is_transactional() && aborted.contains(&header.producer_id.0) {
                continue;
            }
            batch.verify_crc().map_err(|error| corrupt(&error))?;
            let unpacked = batch.uncompressed(UNPACKED_BYTES_MAX).map_err(|error| corrupt(&error))?;
            for record in batch.records(&unpacked) {
                let record = record.map_err(|error| corrupt(&error))?;
                if record.offset.0 >= self.from && !each(&record, header.timestamp_type())? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// The timestamp of the first record from each offset on, where there is one within reach of one short look.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn timestamps_at(
        &mut self,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        let names: BTreeSet<&str> = offsets.keys().map(|partition| partition.topic.as_str()).collect();
        let metadata = self.metadata(Some(&names.into_iter().collect::<Vec<_>>()), false)?;
        let mut found = BTreeMap::new();
        for (partition, offset) in offsets {
            let Some(leader) = metadata.leader(partition) else { continue };
            let asked = FetchPartition {
                partition: partition.partition,
                fetch_offset: *offset,
                // The first batch comes however large it is.
                partition_max_bytes: 1,
                ..Default::default()
            };
            let request = FetchRequest {
                max_wait_ms: 0,
                min_bytes: 0,
                max_bytes: 1,
                session_epoch: -1,
                topics: vec![FetchTopic {
                    topic: partition.topic.as_str().into(),
                    partitions: vec![asked],
                    ..Default::default()
                }],
                ..Default::default()
            };
            let answer = match self.ask(leader, |node| node.call(FETCH, &request)) {
                Ok(answer) => answer,
                Err(error) if error.is_absence() => continue,
                Err(error) => return Err(error),
            };
            let records = answer.responses.into_iter().flat_map(|topic| topic.partitions);
            let records = records.filter_map(|partition| partition.records).next().unwrap_or_default();
            if let Some(timestamp) = timestamp_at(&records, *offset) {
                found.insert(partition.clone(), timestamp);
            }
        }
        Ok(found)
    }
}

/// Of the record at `offset` or the next one; of its batch, where that can't be unpacked.
fn timestamp_at(records: &[u8], offset: i64) -> Option<i64> {
    let header = BatchHeader::read(records).ok()?;
    let exact = || {
        let (batch, _) = RecordBatch::parse(records).ok()?;
        let unpacked = batch.uncompressed(UNPACKED_BYTES_MAX).ok()?;
        let timestamp = batch.records(&unpacked).filter_map(std::result::Result::ok);
        timestamp.filter(|record| record.offset.0 >= offset).map(|record| record.timestamp).next()
    };
    exact().or(Some(header.max_timestamp).filter(|timestamp| *timestamp >= 0))
}
