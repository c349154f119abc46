//! The bytes of metadata entries and snapshots. `docs/metadata-records.md` is the specification.
//!
//! Every record says its type, the version of its fields and its length. A type or version that this program does not know is
//! an error that stops the node: going on without a fact would make its image differ from its peers'.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use ottla_protocol::types::{
    BrokerEpoch, LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId, Uuid,
};

use super::image::{Broker, ConfigKind, ConfigResource, Endpoint, Image, Nodes, PartitionState};
use super::record::{ApplyError, Record};

/// The format of entries that this program writes, and the newest it reads.
const ENTRY_FORMAT: u16 = 1;
/// The same for snapshots.
const SNAPSHOT_FORMAT: u16 = 1;

/// One entry of the metadata log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The version of the image on which it was decided.
    pub base_version: u64,
    pub records: Vec<Record>,
}

/// Why bytes of the metadata log could not be read. Each stops the node.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a metadata {what} ends too early")]
    Truncated { what: &'static str },
    #[error(
        "a metadata {what} has format {found}; this version of Ottla reads up to {known}: start a newer one"
    )]
    NewerFormat { what: &'static str, found: u16, known: u16 },
    #[error(
        "a metadata record has type {kind} version {version}, which this version of Ottla does not know: start a newer one"
    )]
    UnknownRecord { kind: u16, version: u16 },
    #[error("a metadata record of type {kind} has an invalid {what}")]
    Invalid { kind: u16, what: &'static str },
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// The type of a record as a number on disk; never reused.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Kind {
    Cluster = 1,
    Feature = 2,
    Broker = 3,
    BrokerState = 4,
    BrokerRemoved = 5,
    BrokerEpochs = 6,
    Topic = 7,
    Partition = 8,
    TopicRemoved = 9,
    Config = 10,
    ProducerIds = 11,
}

/// Writes an entry.
#[must_use]
pub fn encode_entry(base_version: u64, records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + records.len() * 64);
    out.put_u16(ENTRY_FORMAT);
    out.put_u64(base_version);
    out.put_u32(u32::try_from(records.len()).expect("an entry has fewer than 2^32 records"));
    for record in records {
        put_record(&mut out, record);
    }
    out
}

/// Reads an entry.
///
/// # Errors
/// What this program cannot read, see [`DecodeError`].
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    let mut input = Input { bytes, what: "entry" };
    input.format(ENTRY_FORMAT)?;
    let base_version = input.u64()?;
    let records = input.records()?;
    Ok(Entry { base_version, records })
}

/// Writes an image as a snapshot.
#[must_use]
pub fn encode_snapshot(image: &Image) -> Vec<u8> {
    let records: Vec<Record> = image.to_records().collect();
    let mut out = Vec::with_capacity(16 + records.len() * 64);
    out.put_u16(SNAPSHOT_FORMAT);
    out.put_u64(image.version);
    out.put_u32(u32::try_from(records.len()).expect("a snapshot has fewer than 2^32 records"));
    for record in &records {
        put_record(&mut out, record);
    }
    out
}

/// Rebuilds an image from a snapshot.
///
/// # Errors
/// What this program cannot read, see [`DecodeError`].
pub fn decode_snapshot(bytes: &[u8]) -> Result<Image, DecodeError> {
    let mut input = Input { bytes, what: "snapshot" };
    input.format(SNAPSHOT_FORMAT)?;
    let version = input.u64()?;
    let mut image = Image::default();
    for record in input.records()? {
        image.apply(&record)?;
    }
    image.version = version;
    Ok(image)
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    let start = out.len();
    out.put_u16(kind_of(record) as u16);
    out.put_u16(version_of(record));
    out.put_u32(0);
    match record {
        Record::Cluster { cluster_id } => out.put_slice(&cluster_id.0),
        Record::Feature { name, level } => {
            put_text(out, name);
            out.put_i16(*level);
        }
        Record::Broker(broker) => put_broker(out, broker),
        Record::BrokerState { id, epoch, fenced, shutting_down } => {
            out.put_i32(id.0);
            out.put_i64(epoch.0);
            out.put_u8(flags(*fenced, *shutting_down));
        }
        Record::BrokerRemoved { id, epoch } => {
            out.put_i32(id.0);
            out.put_i64(epoch.0);
        }
        Record::BrokerEpochs { next } | Record::ProducerIds { next } => out.put_i64(*next),
        Record::Topic { id, name } => {
            out.put_slice(&id.0);
            put_text(out, name);
        }
        Record::Partition { topic, index, state } => {
            out.put_slice(&topic.0);
            out.put_i32(index.0);
            put_partition(out, state);
            if state.is_reassigning() {
                put_nodes(out, &state.adding);
                put_nodes(out, &state.removing);
            }
        }
        Record::TopicRemoved { id } => out.put_slice(&id.0),
        Record::Config { resource, key, value } => {
            out.put_i8(resource.kind.code());
            put_text(out, &resource.name);
            put_text(out, key);
            put_optional_text(out, value.as_deref());
        }
    }
    let length = u32::try_from(out.len() - start - 8).expect("a record is smaller than 4 GiB");
    out[start + 4..start + 8].copy_from_slice(&length.to_be_bytes());
}

fn kind_of(record: &Record) -> Kind {
    match record {
        Record::Cluster { .. } => Kind::Cluster,
        Record::Feature { .. } => Kind::Feature,
        Record::Broker(_) => Kind::Broker,
        Record::BrokerState { .. } => Kind::BrokerState,
        Record::BrokerRemoved { .. } => Kind::BrokerRemoved,
        Record::BrokerEpochs { .. } => Kind::BrokerEpochs,
        Record::Topic { .. } => Kind::Topic,
        Record::Partition { .. } => Kind::Partition,
        Record::TopicRemoved { .. } => Kind::TopicRemoved,
        Record::Config { .. } => Kind::Config,
        Record::ProducerIds { .. } => Kind::ProducerIds,
    }
}

/// The oldest version of its fields that can say the record: so that an older node can follow as long as possible.
fn version_of(record: &Record) -> u16 {
    match record {
        Record::Partition { state, .. } if state.is_reassigning() => 2,
        Record::Broker(broker) if broker.last_served != implied_last_served(broker) => 2,
        _ => 1,
    }
}

/// What version 1 says of it without a field.
fn implied_last_served(broker: &Broker) -> BrokerEpoch {
    if broker.fenced { BrokerEpoch(-1) } else { broker.epoch }
}

fn put_broker(out: &mut Vec<u8>, broker: &Broker) {
    out.put_i32(broker.id.0);
    out.put_i64(broker.epoch.0);
    out.put_slice(&broker.directory.0);
    out.put_u32(u32::try_from(broker.endpoints.len()).expect("a broker has fewer than 2^32 endpoints"));
    for endpoint in &broker.endpoints {
        put_text(out, &endpoint.listener);
        put_text(out, &endpoint.host);
        out.put_u16(endpoint.port);
        out.put_i16(endpoint.security_protocol);
    }
    put_optional_text(out, broker.rack.as_deref());
    out.put_u8(flags(broker.fenced, broker.shutting_down));
    if broker.last_served != implied_last_served(broker) {
        out.put_i64(broker.last_served.0);
    }
}

fn put_partition(out: &mut Vec<u8>, state: &PartitionState) {
    for nodes in [&state.replicas, &state.isr, &state.elr, &state.last_known_elr] {
        put_nodes(out, nodes);
    }
    out.put_i32(state.leader.0);
    out.put_i32(state.leader_epoch.0);
    out.put_i32(state.partition_epoch.0);
}

fn put_nodes(out: &mut Vec<u8>, nodes: &Nodes) {
    out.put_u16(u16::try_from(nodes.len()).expect("a partition has fewer than 65,536 replicas"));
    for node in nodes {
        out.put_i32(node.0);
    }
}

fn flags(fenced: bool, shutting_down: bool) -> u8 {
    u8::from(fenced) | u8::from(shutting_down) << 1
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u32(u32::try_from(text.len()).expect("a text is smaller than 4 GiB"));
    out.put_slice(text.as_bytes());
}

fn put_optional_text(out: &mut Vec<u8>, text: Option<&str>) {
    out.put_u8(u8::from(text.is_some()));
    if let Some(text) = text {
        put_text(out, text);
    }
}

/// Bytes to read from, and what they are for error messages.
struct Input<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

macro_rules! read_number {
    ($($name:ident $get:ident: $type:ty),*) => {
        $(fn $name(&mut self) -> Result<$type, DecodeError> {
            self.take(size_of::<$type>()).map(|mut bytes| bytes.$get())
        })*
    };
}

impl<'a> Input<'a> {
    read_number!(u8 get_u8: u8, u16 get_u16: u16, u32 get_u32: u32, u64 get_u64: u64);
    read_number!(i8 get_i8: i8, i16 get_i16: i16, i32 get_i32: i32, i64 get_i64: i64);

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) =
            self.bytes.split_at_checked(length).ok_or(DecodeError::Truncated { what: self.what })?;
        self.bytes = rest;
        Ok(head)
    }

    fn format(&mut self, known: u16) -> Result<(), DecodeError> {
        let found = self.u16()?;
        if found == 0 || found > known {
            return Err(DecodeError::NewerFormat { what: self.what, found, known });
        }
        Ok(())
    }

    fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        let bytes = self.take(16)?;
        Ok(Uuid(bytes.try_into().expect("16 bytes were taken")))
    }

    fn text(&mut self, kind: u16) -> Result<Arc<str>, DecodeError> {
        let length = self.u32()?;
        let bytes = self.take(length as usize)?;
        std::str::from_utf8(bytes)
            .map(Arc::from)
            .map_err(|_| DecodeError::Invalid { kind, what: "text (not UTF-8)" })
    }

    fn optional_text(&mut self, kind: u16) -> Result<Option<Arc<str>>, DecodeError> {
        Ok(if self.u8()? == 0 { None } else { Some(self.text(kind)?) })
    }

    fn nodes(&mut self) -> Result<Nodes, DecodeError> {
        let count = self.u16()?;
        (0..count).map(|_| self.i32().map(NodeId)).collect()
    }

    fn records(&mut self) -> Result<Vec<Record>, DecodeError> {
        let count = self.u32()?;
        // A record takes eight bytes at least: what is believed of the count is bounded by what is there.
        let mut records = Vec::with_capacity((count as usize).min(self.bytes.len() / 8));
        for _ in 0..count {
            records.push(self.record()?);
        }
        if !self.bytes.is_empty() {
            return Err(DecodeError::Invalid { kind: 0, what: "length (bytes follow the last record)" });
        }
        Ok(records)
    }

    fn record(&mut self) -> Result<Record, DecodeError> {
        let (kind, version, length) = (self.u16()?, self.u16()?, self.u32()?);
        let mut fields = Input { bytes: self.take(length as usize)?, what: "record" };
        let newest = if kind == Kind::Partition as u16 || kind == Kind::Broker as u16 { 2 } else { 1 };
        if version == 0 || version > newest {
            return Err(DecodeError::UnknownRecord { kind, version });
        }
        let mut record = fields.fields(kind)?;
        match &mut record {
            Record::Partition { state, .. } if version == 2 => {
                state.adding = fields.nodes()?;
                state.removing = fields.nodes()?;
            }
            Record::Broker(broker) if version == 2 => broker.last_served = BrokerEpoch(fields.i64()?),
            _ => {}
        }
        if !fields.bytes.is_empty() {
            return Err(DecodeError::Invalid { kind, what: "length" });
        }
        Ok(record)
    }

    fn fields(&mut self, kind: u16) -> Result<Record, DecodeError> {
        const CLUSTER: u16 = Kind::Cluster as u16;
        const FEATURE: u16 = Kind::Feature as u16;
        const BROKER: u16 = Kind::Broker as u16;
        const BROKER_STATE: u16 = Kind::BrokerState as u16;
        const BROKER_REMOVED: u16 = Kind::BrokerRemoved as u16;
        const BROKER_EPOCHS: u16 = Kind::BrokerEpochs as u16;
        const TOPIC: u16 = Kind::Topic as u16;
        const PARTITION: u16 = Kind::Partition as u16;
        const TOPIC_REMOVED: u16 = Kind::TopicRemoved as u16;
        const CONFIG: u16 = Kind::Config as u16;
        const PRODUCER_IDS: u16 = Kind::ProducerIds as u16;
        Ok(match kind {
            CLUSTER => Record::Cluster { cluster_id: self.uuid()? },
            FEATURE => Record::Feature { name: self.text(kind)?, level: self.i16()? },
            BROKER => Record::Broker(self.broker(kind)?),
            BROKER_STATE => {
                let (id, epoch, flags) = (NodeId(self.i32()?), BrokerEpoch(self.i64()?), self.u8()?);
                Record::BrokerState { id, epoch, fenced: flags & 1 != 0, shutting_down: flags & 2 != 0 }
            }
            BROKER_REMOVED => {
                Record::BrokerRemoved { id: NodeId(self.i32()?), epoch: BrokerEpoch(self.i64()?) }
            }
            BROKER_EPOCHS => Record::BrokerEpochs { next: self.i64()? },
            TOPIC => Record::Topic { id: self.uuid()?, name: self.text(kind)? },
            PARTITION => {
                let (topic, index): (TopicId, _) = (self.uuid()?, PartitionIndex(self.i32()?));
                Record::Partition { topic, index, state: self.partition()? }
            }
            TOPIC_REMOVED => Record::TopicRemoved { id: self.uuid()? },
            CONFIG => {
                let code = self.i8()?;
                let config_kind = ConfigKind::from_code(code)
                    .ok_or(DecodeError::Invalid { kind, what: "kind of resource" })?;
                let resource = ConfigResource { kind: config_kind, name: self.text(kind)? };
                Record::Config { resource, key: self.text(kind)?, value: self.optional_text(kind)? }
            }
            PRODUCER_IDS => Record::ProducerIds { next: self.i64()? },
            _ => return Err(DecodeError::UnknownRecord { kind, version: 1 }),
        })
    }

    fn broker(&mut self, kind: u16) -> Result<Broker, DecodeError> {
        let (id, epoch, directory) = (NodeId(self.i32()?), BrokerEpoch(self.i64()?), self.uuid()?);
        let count = self.u32()?;
        let mut endpoints = Vec::new();
        for _ in 0..count {
            endpoints.push(Endpoint {
                listener: self.text(kind)?,
                host: self.text(kind)?,
                port: self.u16()?,
                security_protocol: self.i16()?,
            });
        }
        let (rack, flags) = (self.optional_text(kind)?, self.u8()?);
        let mut broker = Broker {
            id,
            epoch,
            directory,
            endpoints,
            rack,
            fenced: flags & 1 != 0,
            shutting_down: flags & 2 != 0,
            last_served: epoch,
        };
        broker.last_served = implied_last_served(&broker);
        Ok(broker)
    }

    fn partition(&mut self) -> Result<PartitionState, DecodeError> {
        Ok(PartitionState {
            replicas: self.nodes()?,
            adding: Nodes::new(),
            removing: Nodes::new(),
            isr: self.nodes()?,
            elr: self.nodes()?,
            last_known_elr: self.nodes()?,
            leader: NodeId(self.i32()?),
            leader_epoch: LeaderEpoch(self.i32()?),
            partition_epoch: PartitionEpoch(self.i32()?),
        })
    }
}
