//! A record's way through every room: topics, produce, fetch, and what is left of it after a crash.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_protocol::batch::batches;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use ottla_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use ottla_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use ottla_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use ottla_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_tests::client::Client;
use ottla_tests::process::{Ottla, eventually};

const METADATA: i16 = 12;
const CREATE_TOPICS: i16 = 7;
const PRODUCE: i16 = 9;
const FETCH: i16 = 11;
const LIST_OFFSETS: i16 = 7;

fn create_request(name: &str, partitions: i32) -> CreateTopicsRequest {
    CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        }],
        timeout_ms: 10_000,
        ..Default::default()
    }
}

fn create(client: &mut Client, name: &str, partitions: i32) {
    let response = client.call(CREATE_TOPICS, &create_request(name, partitions));
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
}

fn metadata_request(name: &str) -> MetadataRequest {
    MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }]),
        allow_auto_topic_creation: false,
        ..Default::default()
    }
}

fn produce_request(topic: &str, values: &[&str], acks: i16) -> ProduceRequest {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    for value in values {
        batch.append(1_700_000_000_000, None, Some(value.as_bytes()));
    }
    ProduceRequest {
        acks,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: vec![PartitionProduceData {
                index: 0,
                records: Some(Bytes::from(batch.build())),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Produces and gives the base offset.
fn produce(client: &mut Client, topic: &str, values: &[&str]) -> i64 {
    let response = client.call(PRODUCE, &produce_request(topic, values, -1));
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, 0, "{:?}", partition.error_message);
    partition.base_offset
}

fn fetch_request(topic: &str, offset: i64, max_wait_ms: i32) -> FetchRequest {
    FetchRequest {
        max_wait_ms,
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

/// The values from `offset` on.
fn values(response: &ottla_protocol::messages::FetchResponse, offset: i64) -> Vec<String> {
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    let mut values = Vec::new();
    for batch in batches(partition.records.as_deref().unwrap_or_default()) {
        let batch = batch.expect("a whole batch");
        batch.verify_crc().expect("the batch that was sent");
        let payload = batch.uncompressed(1 << 30).expect("readable");
        for record in batch.records(&payload) {
            let record = record.expect("readable");
            if record.offset.0 >= offset {
                values.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
            }
        }
    }
    values
}

fn fetch(client: &mut Client, topic: &str, offset: i64) -> Vec<String> {
    let response = client.call(FETCH, &fetch_request(topic, offset, 0));
    values(&response, offset)
}

fn latest_offset(client: &mut Client, topic: &str) -> Result<i64, i16> {
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: topic.into(),
            partitions: vec![ListOffsetsPartition {
                timestamp: -1,
                current_leader_epoch: -1,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let response = client.call(LIST_OFFSETS, &request);
    let partition = &response.topics[0].partitions[0];
    if partition.error_code == 0 { Ok(partition.offset) } else { Err(partition.error_code) }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let node = Ottla::start();
    let mut client = node.connect();
    create(&mut client, "t", 1);
    assert_eq!(produce(&mut client, "t", &["a", "b"]), 0);
    assert_eq!(produce(&mut client, "t", &["c"]), 2);
    assert_eq!(fetch(&mut client, "t", 0), ["a", "b", "c"]);
    assert_eq!(fetch(&mut client, "t", 1), ["b", "c"]);
    assert_eq!(fetch(&mut client, "t", 3), [""; 0]);
    assert_eq!(latest_offset(&mut client, "t"), Ok(3));
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill_and_after_a_stop() {
    let mut node = Ottla::start();
    let mut written: Vec<String> = Vec::new();
    create(&mut node.connect(), "t", 1);
    for round in 0..6 {
        let mut client = node.connect();
        for n in 0..20 {
            let value = format!("{round}-{n}");
            assert_eq!(produce(&mut client, "t", &[&value]), written.len() as i64);
            written.push(value);
        }
        if round % 2 == 0 {
            node.kill();
        } else {
            assert!(node.stop().success());
        }
        node.restart();
        let mut client = node.connect();
        eventually("the end is known again", || match latest_offset(&mut client, "t") {
            Ok(end) => {
                assert_eq!(end, written.len() as i64, "round {round}");
                true
            }
            Err(code) => {
                assert_eq!(code, 78, "OFFSET_NOT_AVAILABLE, until what was left is on the disk");
                false
            }
        });
        assert_eq!(fetch(&mut client, "t", 0), written, "round {round}");
    }
}

#[test]
fn a_fetch_that_finds_nothing_waits_until_there_is_something_or_its_time_is_over() {
    let node = Ottla::start();
    let mut consumer = node.connect();
    create(&mut consumer, "t", 1);
    let began = Instant::now();
    let response = consumer.call(FETCH, &fetch_request("t", 0, 300));
    assert!(began.elapsed() >= Duration::from_millis(299), "{:?}", began.elapsed());
    assert_eq!(values(&response, 0), [""; 0]);

    consumer.send(FETCH, &fetch_request("t", 0, 20_000));
    let mut producer = node.connect();
    // The answer of another request on the producer's connection says that the fetch has been read meanwhile.
    producer.call(METADATA, &metadata_request("t"));
    let began = Instant::now();
    produce(&mut producer, "t", &["at last"]);
    let (_, response) = consumer.receive::<FetchRequest>(FETCH);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(values(&response, 0), ["at last"]);
}

#[test]
fn requests_may_be_sent_without_waiting_and_are_answered_in_order() {
    let node = Ottla::start();
    let mut client = node.connect();
    // CreateTopics is a barrier: what follows it sees the topic.
    let create = client.send(CREATE_TOPICS, &create_request("t", 1));
    let metadata = client.send(METADATA, &metadata_request("t"));
    let produces: Vec<i32> =
        (0..20).map(|n| client.send(PRODUCE, &produce_request("t", &[&n.to_string()], -1))).collect();
    let (id, response) = client.receive::<CreateTopicsRequest>(CREATE_TOPICS);
    assert_eq!((id, response.topics[0].error_code), (create, 0));
    let (id, response) = client.receive::<MetadataRequest>(METADATA);
    assert_eq!((id, response.topics[0].error_code), (metadata, 0));
    for (n, expected) in produces.into_iter().enumerate() {
        let (id, response) = client.receive::<ProduceRequest>(PRODUCE);
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((id, partition.error_code, partition.base_offset), (expected, 0, n as i64));
    }
}

#[test]
fn large_answers_arrive_whole_on_a_slow_reader() {
    let node = Ottla::start();
    let mut client = node.connect();
    create(&mut client, "t", 1);
    let value = "x".repeat(900_000);
    for _ in 0..20 {
        produce(&mut client, "t", &[&value]);
    }
    // Several answers of 18 MB are under way before the first is read.
    for _ in 0..3 {
        client.send(FETCH, &fetch_request("t", 0, 0));
    }
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..3 {
        let (_, response) = client.receive::<FetchRequest>(FETCH);
        let values = values(&response, 0);
        assert_eq!(values.len(), 20);
        assert!(values.iter().all(|seen| *seen == value));
    }
}

#[test]
fn produce_without_acks_is_not_answered_and_what_follows_is() {
    let node = Ottla::start();
    let mut client = node.connect();
    create(&mut client, "t", 1);
    for n in 0..5 {
        client.send(PRODUCE, &produce_request("t", &[&n.to_string()], 0));
    }
    let last = produce(&mut client, "t", &["last"]);
    assert_eq!(last, 5);
    assert_eq!(fetch(&mut client, "t", 0).len(), 6);
}

/// Producers tell their callers which records were refused, and send the others again (KIP-467).
#[test]
fn an_answer_names_every_record_that_a_compacted_topic_refuses() {
    let node = Ottla::start();
    let mut client = node.connect();
    let mut request = create_request("latest", 1);
    let policy = CreatableTopicConfig { name: "cleanup.policy".into(), value: Some("compact".into()) };
    request.topics[0].configs.push(policy);
    assert_eq!(client.call(CREATE_TOPICS, &request).topics[0].error_code, 0);

    let response = client.call(PRODUCE, &produce_request("latest", &["a", "b", "c"], -1));
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, ErrorCode::InvalidRecord.code());
    let named: Vec<_> = partition.record_errors.iter().map(|record| record.batch_index).collect();
    assert_eq!(named, [0, 1, 2]);
    assert!(
        partition.record_errors[2].batch_index_error_message.as_ref().is_some_and(|m| m.contains("no key"))
    );
}
