//! A topic as clients see it: made, described, written and read through any node.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::batch::batches;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::DeleteTopicsRequest;
use ottla_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use ottla_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ottla_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ottla_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ottla_protocol::record::{BatchBuilder, BatchOptions};

use crate::client::Client;
use crate::process::eventually;
use crate::servers::Servers;

const METADATA: i16 = 12;
const CREATE_TOPICS: i16 = 7;
const DELETE_TOPICS: i16 = 5;
const PRODUCE: i16 = 9;
const FETCH: i16 = 11;
/// A node that does not answer within this is asked again, or another is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a partition stands, as one node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    /// In order of the ids.
    pub isr: Vec<i32>,
}

/// Makes a topic through node `via`, with one partition per entry of `replicas`, or one of factor 3.
pub fn create(cluster: &Servers, via: i32, name: &str, replicas: &[&[i32]], configs: &[(&str, &str)]) {
    let assignment = |(index, nodes): (usize, &&[i32])| CreatableReplicaAssignment {
        partition_index: i32::try_from(index).expect("few"),
        broker_ids: nodes.to_vec(),
    };
    let configs = configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig { name: (*name).into(), value: Some((*value).into()) });
    let by_hand = !replicas.is_empty();
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: if by_hand { -1 } else { 1 },
        replication_factor: if by_hand { -1 } else { 3 },
        assignments: replicas.iter().enumerate().map(assignment).collect(),
        configs: configs.collect(),
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    let response = cluster.connect(via).call(CREATE_TOPICS, &request);
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
}

/// Deletes a topic through node `via`, and waits until every node that answers knows.
pub fn delete(cluster: &Servers, via: i32, name: &str) {
    let request = DeleteTopicsRequest {
        topic_names: vec![name.to_owned().into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    let response = cluster.connect(via).call(DELETE_TOPICS, &request);
    assert_eq!(response.responses[0].error_code, 0, "{response:?}");
    eventually("the topic is gone everywhere", || {
        cluster.addresses().values().all(|address| placed(*address, name, 0).is_none())
    });
}

/// Makes a topic of two replicas, if there are two nodes to hold it and somebody to decide; whether it is there.
pub fn try_create(cluster: &Servers, via: i32, name: &str) -> bool {
    let topic = CreatableTopic {
        name: name.to_owned().into(),
        num_partitions: 1,
        replication_factor: 2,
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5_000, validate_only: false };
    let answer = Client::try_connect(cluster.address(via), PATIENCE)
        .and_then(|mut client| client.try_call(CREATE_TOPICS, &request));
    answer.is_ok_and(|answer| {
        [ErrorCode::None.code(), ErrorCode::TopicAlreadyExists.code()].contains(&answer.topics[0].error_code)
    })
}

/// Where partition 0 of a topic stands, as the node says; `None` if it does not answer, or does not know the topic.
pub fn placed(address: SocketAddr, topic: &str, partition: i32) -> Option<Placed> {
    let request = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: Some(topic.into()), ..Default::default() }]),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let answer =
        Client::try_connect(address, PATIENCE).and_then(|mut client| client.try_call(METADATA, &request));
    let topic = answer.ok()?.topics.into_iter().next()?;
    let found = topic.partitions.into_iter().find(|found| found.partition_index == partition)?;
    let mut isr = found.isr_nodes;
    isr.sort_unstable();
    Some(Placed {
        leader: found.leader_id,
        leader_epoch: found.leader_epoch,
        replicas: found.replica_nodes,
        isr,
    })
}

/// Waits until partition 0 stands as it should, as node `via` says.
pub fn wait_placed(
    cluster: &Servers,
    via: i32,
    topic: &str,
    what: &str,
    wanted: impl Fn(&Placed) -> bool,
) -> Placed {
    let mut last = None;
    eventually(&format!("{topic}: {what}"), || {
        last = placed(cluster.address(via), topic, 0);
        last.as_ref().is_some_and(&wanted)
    });
    last.expect("just seen")
}

/// One record, to the partition's leader or whom one takes for it.
pub struct Write<'a> {
    pub topic: &'a str,
    pub value: &'a str,
    pub options: BatchOptions,
    pub timeout_ms: i32,
}

impl Write<'_> {
    /// Sends it with acks=all; its offset, or the broker's error.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(&self, client: &mut Client) -> io::Result<Result<i64, ErrorCode>> {
        let mut batch = BatchBuilder::new(self.options);
        batch.append(1_700_000_000_000, None, Some(self.value.as_bytes()));
        let data = PartitionProduceData { index: 0, records: Some(Bytes::from(batch.build())) };
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: self.timeout_ms,
            topic_data: vec![TopicProduceData {
                name: self.topic.into(),
                partition_data: vec![data],
                ..Default::default()
            }],
            ..Default::default()
        };
        let response = client.try_call(PRODUCE, &request)?;
        let partition = &response.responses[0].partition_responses[0];
        Ok(match ErrorCode::from_code(partition.error_code).expect("a known code") {
            ErrorCode::None => Ok(partition.base_offset),
            code => Err(code),
        })
    }
}

/// Everything that is committed in partition 0, by offset, read from its leader.
pub fn read_all(cluster: &Servers, via: i32, topic: &str) -> BTreeMap<i64, String> {
    let leader = wait_placed(cluster, via, topic, "a leader", |placed| placed.leader >= 0).leader;
    let mut client = cluster.connect(leader);
    let (mut found, mut next) = (BTreeMap::new(), 0);
    loop {
        let response = client.call(FETCH, &fetch_request(topic, next));
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0, "{topic} at {next}");
        for batch in batches(partition.records.as_deref().unwrap_or_default()) {
            let batch = batch.expect("a whole batch");
            batch.verify_crc().expect("the batch that was sent");
            let payload = batch.uncompressed(1 << 30).expect("readable");
            for record in batch.records(&payload) {
                let record = record.expect("readable");
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                found.insert(record.offset.0, value);
                next = record.offset.0 + 1;
            }
        }
        if next >= partition.high_watermark {
            return found;
        }
    }
}

fn fetch_request(topic: &str, offset: i64) -> FetchRequest {
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic: topic.into(),
            partitions: vec![FetchPartition {
                fetch_offset: offset,
                partition_max_bytes: 50 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}
