//! What clients and tools see of a cluster of three nodes: reassignments, elections, nodes that are gone, the quorum, reads from the
//! nearest replica.

use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use ottla_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use ottla_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use ottla_protocol::messages::delete_topics_request::DeleteTopicState;
use ottla_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use ottla_protocol::messages::describe_quorum_response::PartitionData as Quorum;
use ottla_protocol::messages::elect_leaders_request::TopicPartitions;
use ottla_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use ottla_protocol::messages::fetch_response::{FetchResponse, PartitionData as Fetched};
use ottla_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use ottla_protocol::messages::produce_response::ProduceResponse;
use ottla_protocol::messages::update_features_request::FeatureUpdateKey;
use ottla_protocol::messages::*;
use ottla_protocol::record::{BatchBuilder, BatchOptions};
use ottla_tests::cluster::Cluster;
use ottla_tests::process::eventually;

const TOPIC: &str = "t";
const RACK_AWARE: &str = "replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// Makes the topic, on three nodes, with these replicas for each partition.
fn create(cluster: &Cluster, partitions: &[&[i32]], configs: &[(&str, &str)]) {
    let topic = CreatableTopic {
        name: TOPIC.into(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: (0..)
            .zip(partitions)
            .map(|(partition_index, ids)| CreatableReplicaAssignment {
                partition_index,
                broker_ids: ids.to_vec(),
            })
            .collect(),
        configs: configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).into(), value: Some((*value).into()) })
            .collect(),
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    let response = cluster.connect(1).call(7, &request);
    assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    // The other nodes hear of it a moment later.
    for node in 1..=3 {
        eventually("every node knows the topic", || !topic_id(cluster, node).is_zero());
    }
}

/// One record, acknowledged by all in-sync replicas.
fn produce(cluster: &Cluster, node: usize, value: &[u8]) -> ProduceResponse {
    produce_batch(cluster, node, &[value])
}

/// Records in one batch.
fn produce_batch(cluster: &Cluster, node: usize, values: &[&[u8]]) -> ProduceResponse {
    let mut batch = BatchBuilder::new(BatchOptions::default());
    for value in values {
        batch.append(1, None, Some(value));
    }
    let data = PartitionProduceData { index: 0, records: Some(batch.build().into()) };
    let topic = TopicProduceData { name: TOPIC.into(), partition_data: vec![data], ..Default::default() };
    let request =
        ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 10_000, topic_data: vec![topic] };
    cluster.connect(node).call(12, &request)
}

fn produced(response: &ProduceResponse) -> i16 {
    response.responses[0].partition_responses[0].error_code
}

fn fetch_at(cluster: &Cluster, node: usize, version: i16, rack: &str, offset: i64) -> FetchResponse {
    let partition = FetchPartition {
        current_leader_epoch: -1,
        fetch_offset: offset,
        log_start_offset: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic_id = topic_id(cluster, node);
    let topic = FetchTopic { topic: TOPIC.into(), topic_id, partitions: vec![partition] };
    let request = FetchRequest {
        max_wait_ms: 100,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        rack_id: rack.into(),
        replica_id: -1,
        topics: vec![topic],
        ..Default::default()
    };
    cluster.connect(node).call(version, &request)
}

fn fetch(cluster: &Cluster, node: usize, rack: &str, offset: i64) -> Fetched {
    fetch_at(cluster, node, 16, rack, offset).responses.remove(0).partitions.remove(0)
}

fn topic_id(cluster: &Cluster, node: usize) -> ottla_protocol::types::TopicId {
    let asked = metadata_request::MetadataRequestTopic { name: Some(TOPIC.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![asked]), ..Default::default() };
    cluster.connect(node).call(12, &request).topics[0].topic_id
}

fn reassign(cluster: &Cluster, node: usize, replicas: Option<&[i32]>) -> i16 {
    reassign_topic(cluster, node, TOPIC, replicas)
}

fn reassign_topic(cluster: &Cluster, node: usize, topic: &str, replicas: Option<&[i32]>) -> i16 {
    let partition = ReassignablePartition { partition_index: 0, replicas: replicas.map(<[i32]>::to_vec) };
    let topic = ReassignableTopic { name: topic.to_owned().into(), partitions: vec![partition] };
    let request =
        AlterPartitionReassignmentsRequest { timeout_ms: 10_000, topics: vec![topic], ..Default::default() };
    let response = cluster.connect(node).call(1, &request);
    assert_eq!(response.error_code, 0, "{response:?}");
    response.responses[0].partitions[0].error_code
}

fn elect(cluster: &Cluster, election_type: i8) -> i16 {
    elect_at(cluster, 1, election_type)
}

fn elect_at(cluster: &Cluster, node: usize, election_type: i8) -> i16 {
    let topic = TopicPartitions { topic: TOPIC.into(), partitions: vec![0] };
    let request =
        ElectLeadersRequest { election_type, topic_partitions: Some(vec![topic]), timeout_ms: 10_000 };
    let response = cluster.connect(node).call(2, &request);
    assert_eq!(response.error_code, 0, "{response:?}");
    response.replica_election_results[0].partition_result[0].error_code
}

/// Whether a node holds files of the partition, as its DescribeLogDirs says.
fn holds(cluster: &Cluster, node: usize) -> bool {
    let response = cluster.connect(node).call(4, &DescribeLogDirsRequest { topics: None });
    response.results[0].topics.iter().any(|topic| &*topic.name == TOPIC)
}

fn quorum(cluster: &Cluster, node: usize) -> Quorum {
    let partitions = vec![PartitionData { partition_index: 0 }];
    let topic = TopicData { topic_name: "__cluster_metadata".into(), partitions };
    let response = cluster.connect(node).call(2, &DescribeQuorumRequest { topics: vec![topic] });
    assert_eq!(response.error_code, 0, "{response:?}");
    response.topics.into_iter().next().expect("one topic").partitions.remove(0)
}

#[test]
fn a_reassigned_partition_moves_with_its_records_and_leaves_no_files() {
    let cluster = Cluster::up(3, &[]);
    create(&cluster, &[&[1, 2]], &[]);
    assert_eq!(produced(&produce(&cluster, 1, b"kept")), 0);
    let moving = "REASSIGNMENT: 1,2 -> 3,2";
    assert_eq!(reassign(&cluster, 2, Some(&[3, 2])), 0, "asked of a node that need not be the controller");
    eventually(moving, || {
        let placed = cluster.partition(1, TOPIC, 0);
        placed.replica_nodes == [3, 2] && placed.isr_nodes.len() == 2
    });
    let list = ListPartitionReassignmentsRequest { timeout_ms: 10_000, topics: None };
    assert_eq!(cluster.connect(2).call(0, &list).topics, vec![]);
    assert_eq!(reassign(&cluster, 1, None), ErrorCode::NoReassignmentInProgress.code());
    eventually("node 1 lets go of its files", || !holds(&cluster, 1));
    assert!(holds(&cluster, 3));
    let leader = usize::try_from(cluster.partition(1, TOPIC, 0).leader_id).expect("a leader");
    let found = fetch(&cluster, leader, "", 0);
    assert_eq!((found.error_code, found.high_watermark), (0, 1));
    assert!(found.records.is_some_and(|records| records.windows(4).any(|bytes| bytes == b"kept")));

    // And back again, to a node that held it before.
    assert_eq!(reassign(&cluster, 3, Some(&[1, 3])), 0);
    eventually("1,3 hold it", || cluster.partition(2, TOPIC, 0).isr_nodes.len() == 2 && holds(&cluster, 1));
    assert_eq!(fetch(&cluster, 1, "", 0).high_watermark, 1);
}

#[test]
fn a_new_replica_of_a_log_that_starts_within_a_batch_gets_it_and_is_in_sync() {
    let cluster = Cluster::up(3, &[]);
    create(&cluster, &[&[1]], &[]);
    assert_eq!(produced(&produce_batch(&cluster, 1, &[b"a", b"b", b"c", b"last"])), 0);
    let partition = delete_records_request::DeleteRecordsPartition { partition_index: 0, offset: 2 };
    let topic =
        delete_records_request::DeleteRecordsTopic { name: TOPIC.into(), partitions: vec![partition] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 10_000 };
    assert_eq!(cluster.connect(1).call(2, &request).topics[0].partitions[0].error_code, 0);
    assert_eq!(reassign(&cluster, 1, Some(&[2, 3])), 0);
    eventually("2,3 hold it", || {
        let placed = cluster.partition(2, TOPIC, 0);
        placed.replica_nodes == [2, 3] && placed.isr_nodes.len() == 2
    });
    let leader = usize::try_from(cluster.partition(1, TOPIC, 0).leader_id).expect("a leader");
    let found = fetch(&cluster, leader, "", 2);
    assert_eq!((found.error_code, found.log_start_offset, found.high_watermark), (0, 2, 4));
    assert!(found.records.is_some_and(|records| records.windows(4).any(|bytes| bytes == b"last")));
    assert_eq!(fetch(&cluster, leader, "", 1).error_code, ErrorCode::OffsetOutOfRange.code());
}

#[test]
fn groups_and_their_offsets_move_with_the_partition_that_holds_them() {
    let cluster = Cluster::up(3, &["--set", "offsets.topic.num.partitions=1"]);
    create(&cluster, &[&[1, 2]], &[]);
    let coordinator = |node: usize| {
        let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
        let found = cluster.connect(node).call(4, &request).coordinators.remove(0);
        usize::try_from(found.node_id).ok().filter(|_| found.error_code == 0)
    };
    let mut first = None;
    eventually("there is a coordinator", || {
        first = coordinator(1);
        first.is_some()
    });
    let first = first.expect("found");
    let commit = |node: usize, committed_offset: i64| {
        let partition = offset_commit_request::OffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset,
            committed_leader_epoch: -1,
            committed_metadata: None,
        };
        let topic = offset_commit_request::OffsetCommitRequestTopic {
            name: TOPIC.into(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        cluster.connect(node).call(8, &request).topics[0].partitions[0].error_code
    };
    eventually("the offset is committed", || commit(first, 42) == 0);
    // To the two others, and no replica stays.
    let others: Vec<i32> = (1..=3).filter(|id| usize::try_from(*id) != Ok(first)).collect();
    assert_eq!(reassign_topic(&cluster, 1, "__consumer_offsets", Some(&others)), 0);
    let mut next = None;
    eventually("another node coordinates", || {
        next = coordinator(first).filter(|node| *node != first);
        next.is_some()
    });
    let next = next.expect("found");
    let fetched = || {
        let group = offset_fetch_request::OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: None,
            ..Default::default()
        };
        let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
        let group = cluster.connect(next).call(8, &request).groups.remove(0);
        (group.error_code == 0).then(|| group.topics[0].partitions[0].committed_offset)
    };
    eventually("it knows the offset", || fetched() == Some(42));
    assert_eq!(commit(next, 43), 0);
    assert_eq!(commit(first, 44), ErrorCode::NotCoordinator.code());
    assert_eq!(fetched(), Some(43));
}

#[test]
fn a_throttle_slows_the_copying_and_its_removal_ends_that() {
    let cluster = Cluster::up(3, &["--set", "leader.replication.throttled.rate=100000"]);
    create(&cluster, &[&[1, 2]], &[("leader.replication.throttled.replicas", "0:1,0:2")]);
    let record = vec![b'x'; 200_000];
    for _ in 0..10 {
        assert_eq!(produced(&produce(&cluster, 1, &record)), 0, "who is in sync is not held up");
    }
    assert_eq!(reassign(&cluster, 1, Some(&[1, 3])), 0);
    // 2 MB at 100 kB a second would take twenty seconds.
    let list = ListPartitionReassignmentsRequest { timeout_ms: 10_000, topics: None };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(cluster.connect(1).call(0, &list).topics.len(), 1, "it is under way");
    }
    let config = incremental_alter_configs_request::AlterableConfig {
        name: "leader.replication.throttled.replicas".into(),
        config_operation: 1,
        value: None,
    };
    let resource = incremental_alter_configs_request::AlterConfigsResource {
        resource_type: 2,
        resource_name: TOPIC.into(),
        configs: vec![config],
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    assert_eq!(cluster.connect(1).call(1, &request).responses[0].error_code, 0);
    let freed = Instant::now();
    eventually("it is complete", || cluster.connect(1).call(0, &list).topics.is_empty());
    assert!(freed.elapsed() < Duration::from_secs(10), "{:?}", freed.elapsed());
}

#[test]
fn a_reassignment_that_waits_for_a_dead_node_is_listed_and_can_be_cancelled() {
    let cluster = Cluster::up(3, &[]);
    create(&cluster, &[&[1, 2]], &[]);
    cluster.run(&["kill", "3"]);
    assert_eq!(reassign(&cluster, 1, Some(&[1, 3])), 0);
    let list = ListPartitionReassignmentsRequest { timeout_ms: 10_000, topics: None };
    let listed = cluster.connect(1).call(0, &list).topics.remove(0).partitions.remove(0);
    assert_eq!(
        (listed.replicas, listed.adding_replicas, listed.removing_replicas),
        (vec![1, 3, 2], vec![3], vec![2])
    );
    assert_eq!(reassign(&cluster, 2, None), 0);
    assert_eq!(cluster.partition(2, TOPIC, 0).replica_nodes, [1, 2]);
    for (replicas, expected) in [
        (&[1, 9][..], ErrorCode::InvalidReplicaAssignment),
        (&[1, 1], ErrorCode::InvalidReplicaAssignment),
        (&[], ErrorCode::InvalidReplicaAssignment),
    ] {
        assert_eq!(reassign(&cluster, 1, Some(replicas)), expected.code(), "{replicas:?}");
    }
}

#[test]
fn leaders_are_elected_on_demand() {
    let (preferred, unclean) = (0, 1);
    let cluster = Cluster::up(3, &[]);
    create(&cluster, &[&[1, 2]], &[]);
    assert_eq!(elect(&cluster, preferred), ErrorCode::ElectionNotNeeded.code());
    // The leader stays where it is, and is not the first replica any more.
    assert_eq!(reassign(&cluster, 1, Some(&[2, 1])), 0);
    assert_eq!(cluster.partition(1, TOPIC, 0).leader_id, 1);
    assert_eq!(elect(&cluster, preferred), 0);
    assert_eq!(cluster.partition(1, TOPIC, 0).leader_id, 2);
    assert_eq!(elect(&cluster, unclean), ErrorCode::ElectionNotNeeded.code());
    cluster.run(&["kill", "2"]);
    eventually("node 1 leads", || cluster.partition(1, TOPIC, 0).leader_id == 1);
    assert_eq!(elect(&cluster, preferred), ErrorCode::PreferredLeaderNotAvailable.code());
    let nothing = ElectLeadersRequest { election_type: 5, ..Default::default() };
    assert_eq!(cluster.connect(1).call(2, &nothing).error_code, ErrorCode::InvalidRequest.code());
}

#[test]
fn leadership_goes_back_to_the_preferred_replica_by_itself() {
    let cluster = Cluster::up(3, &["--set", "leader.imbalance.check.interval.seconds=1"]);
    create(&cluster, &[&[1, 2]], &[]);
    cluster.run(&["kill", "1"]);
    eventually("node 2 leads", || cluster.partition(2, TOPIC, 0).leader_id == 2);
    cluster.run(&["start", "1"]);
    eventually("node 1 leads again", || cluster.partition(2, TOPIC, 0).leader_id == 1);
}

#[test]
fn where_it_is_allowed_a_replica_that_is_not_in_sync_leads() {
    let unclean = 1;
    let cluster = Cluster::up(3, &[]);
    create(&cluster, &[&[1, 2]], &[("min.insync.replicas", "1")]);
    cluster.run(&["kill", "2"]);
    eventually("node 2 is not in sync", || cluster.partition(1, TOPIC, 0).isr_nodes == [1]);
    assert_eq!(produced(&produce(&cluster, 1, b"lost")), 0);
    cluster.run(&["kill", "1"]);
    // Two of three nodes are needed for anything to be decided.
    cluster.run(&["start", "2"]);
    eventually("nobody leads", || cluster.partition(3, TOPIC, 0).leader_id == -1);
    assert_eq!(elect_at(&cluster, 3, 0), ErrorCode::PreferredLeaderNotAvailable.code());
    assert_eq!(elect_at(&cluster, 3, unclean), 0);
    assert_eq!(cluster.partition(3, TOPIC, 0).leader_id, 2);
}

#[test]
fn a_node_that_is_gone_is_shown_offline_and_fenced_until_it_is_unregistered() {
    let cluster = Cluster::up(3, &["--set", "min.insync.replicas=2"]);
    create(&cluster, &[&[3, 1], &[1, 2]], &[]);
    cluster.run(&["kill", "3"]);
    let shown = |include_fenced_brokers| {
        let request =
            DescribeClusterRequest { include_fenced_brokers, endpoint_type: 1, ..Default::default() };
        let brokers = cluster.connect(1).call(2, &request).brokers;
        brokers.iter().map(|broker| (broker.broker_id, broker.is_fenced)).collect::<Vec<_>>()
    };
    eventually("node 3 is fenced", || shown(false) == [(1, false), (2, false)]);
    assert_eq!(shown(true), [(1, false), (2, false), (3, true)]);
    let placed = cluster.partition(1, TOPIC, 0);
    assert_eq!((placed.leader_id, placed.offline_replicas), (1, vec![3]));
    assert_eq!(cluster.partition(1, TOPIC, 1).offline_replicas, Vec::<i32>::new());
    let all = DescribeTopicPartitionsRequest { response_partition_limit: 10, ..Default::default() };
    let described = cluster.connect(2).call(0, &all).topics.remove(0).partitions.remove(0);
    assert_eq!(
        (described.isr_nodes, described.eligible_leader_replicas, described.offline_replicas),
        (vec![1], Some(vec![3]), vec![3])
    );
    let unregister =
        |broker_id| cluster.connect(2).call(0, &UnregisterBrokerRequest { broker_id }).error_code;
    assert_eq!(unregister(3), 0);
    assert_eq!(unregister(3), ErrorCode::BrokerIdNotRegistered.code());
    assert_eq!(shown(true), [(1, false), (2, false)]);
}

#[test]
fn the_quorum_is_the_same_whoever_is_asked_and_voters_leave_and_come() {
    let cluster = Cluster::up(3, &[]);
    let ids = |replicas: &[describe_quorum_response::ReplicaState]| {
        replicas.iter().map(|replica| replica.replica_id).collect::<Vec<_>>()
    };
    let first = quorum(&cluster, 1);
    for node in 1..=3 {
        let seen = quorum(&cluster, node);
        assert_eq!((seen.leader_id, ids(&seen.current_voters)), (first.leader_id, vec![1, 2, 3]));
        assert_eq!(seen.observers, vec![]);
        assert!(seen.current_voters.iter().all(|voter| !voter.replica_directory_id.is_zero()));
    }
    let leader = first.leader_id;
    let voter = first.current_voters.iter().find(|voter| voter.replica_id != leader).expect("two of them");
    let (voter_id, voter_directory_id) = (voter.replica_id, voter.replica_directory_id);
    let remove = RemoveRaftVoterRequest { cluster_id: None, voter_id, voter_directory_id };
    assert_eq!(cluster.connect(1).call(0, &remove).error_code, 0);
    let seen = quorum(&cluster, 2);
    assert_eq!((seen.current_voters.len(), ids(&seen.observers)), (2, vec![voter_id]));
    assert_eq!(cluster.connect(2).call(0, &remove).error_code, ErrorCode::VoterNotFound.code());
    let listener =
        add_raft_voter_request::Listener { name: "CONTROLLER".into(), host: "localhost".into(), port: 1 };
    let add = AddRaftVoterRequest {
        cluster_id: None,
        timeout_ms: 10_000,
        voter_id,
        voter_directory_id,
        listeners: vec![listener],
        ..Default::default()
    };
    assert_eq!(cluster.connect(3).call(1, &add).error_code, 0);
    assert_eq!(ids(&quorum(&cluster, 1).current_voters), [1, 2, 3]);
    assert_eq!(cluster.connect(3).call(1, &add).error_code, ErrorCode::DuplicateVoter.code());
    let foreign = AddRaftVoterRequest { cluster_id: Some("another".into()), ..add };
    assert_eq!(cluster.connect(3).call(1, &foreign).error_code, ErrorCode::InconsistentClusterId.code());
}

#[test]
fn the_quorum_is_described_while_its_leader_hangs() {
    let cluster = Cluster::up(3, &[]);
    let hung = quorum(&cluster, 1).leader_id;
    let other = if hung == 1 { 2 } else { 1 };
    cluster.run(&["pause", &hung.to_string()]);
    let seen = quorum(&cluster, other);
    assert_ne!(seen.leader_id, hung);
    assert!(seen.current_voters.iter().any(|voter| voter.replica_id == hung), "it has its vote");
    cluster.run(&["resume", &hung.to_string()]);
    eventually("it follows", || {
        let seen = quorum(&cluster, other);
        let ends = seen.current_voters.iter().map(|voter| voter.log_end_offset);
        ends.collect::<std::collections::BTreeSet<_>>().len() == 1
    });
}

#[test]
fn without_a_majority_admin_requests_are_answered_when_their_time_is_over() {
    let cluster = Cluster::up(3, &[]);
    create(&cluster, &[&[1, 2]], &[]);
    let mut client = cluster.connect(1);
    cluster.run(&["pause", "2", "3"]);
    let timeout_ms = 500;
    let timed_out = ErrorCode::RequestTimedOut.code();
    let begun = Instant::now();

    let topics = vec![CreatableTopic {
        name: "new".into(),
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    }];
    let made =
        client.call(7, &CreateTopicsRequest { topics, timeout_ms, ..Default::default() }).topics.remove(0);
    assert_eq!((&*made.name, made.error_code, made.num_partitions), ("new", timed_out, -1));

    let topics = vec![DeleteTopicState { name: Some(TOPIC.into()), ..Default::default() }];
    let gone =
        client.call(6, &DeleteTopicsRequest { topics, timeout_ms, ..Default::default() }).responses.remove(0);
    assert_eq!((gone.name.as_deref(), gone.error_code, gone.error_message), (Some(TOPIC), timed_out, None));

    let topics = vec![CreatePartitionsTopic { name: TOPIC.into(), count: 9, ..Default::default() }];
    let grown = client
        .call(3, &CreatePartitionsRequest { topics, timeout_ms, ..Default::default() })
        .results
        .remove(0);
    assert_eq!((&*grown.name, grown.error_code, grown.error_message), (TOPIC, timed_out, None));

    let topic_partitions = Some(vec![TopicPartitions { topic: TOPIC.into(), partitions: vec![0] }]);
    let elected = client.call(2, &ElectLeadersRequest { topic_partitions, timeout_ms, ..Default::default() });
    let of_partition = elected.replica_election_results[0].partition_result[0].error_code;
    assert_eq!((elected.error_code, of_partition), (timed_out, timed_out));

    let partitions = vec![ReassignablePartition { partition_index: 0, replicas: Some(vec![2, 3]) }];
    let topics = vec![ReassignableTopic { name: TOPIC.into(), partitions }];
    let moved =
        client.call(1, &AlterPartitionReassignmentsRequest { topics, timeout_ms, ..Default::default() });
    assert_eq!((moved.error_code, moved.responses[0].partitions[0].error_code), (timed_out, timed_out));

    let feature_updates = vec![FeatureUpdateKey {
        feature: "metadata.version".into(),
        max_version_level: 1,
        upgrade_type: 1,
        ..Default::default()
    }];
    let updated =
        client.call(2, &UpdateFeaturesRequest { feature_updates, timeout_ms, ..Default::default() });
    assert_eq!(updated.error_code, timed_out);

    // Without the limit each of the six would have taken a quarter of a minute at the least.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    cluster.run(&["resume", "2", "3"]);
    eventually("there is a controller again", || {
        let topics = vec![CreatableTopic {
            name: "later".into(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        }];
        let request = CreateTopicsRequest { topics, timeout_ms: 10_000, ..Default::default() };
        [0, ErrorCode::TopicAlreadyExists.code()]
            .contains(&cluster.connect(1).call(7, &request).topics[0].error_code)
    });
}

#[test]
fn a_consumer_reads_from_the_follower_in_its_rack() {
    let cluster = Cluster::up(3, &["--set", RACK_AWARE]);
    create(&cluster, &[&[1, 2]], &[]);
    assert_eq!(produced(&produce(&cluster, 1, b"near")), 0);
    let sent_on = |node, rack| fetch(&cluster, node, rack, 0).preferred_read_replica;
    eventually("the leader sends rack r2 to node 2", || sent_on(1, "r2") == 2);
    let empty = fetch(&cluster, 1, "r2", 0);
    assert_eq!((empty.error_code, empty.high_watermark, empty.records), (0, 1, Some(Default::default())));
    // To itself, to nobody, and to nobody that has what is asked for.
    assert_eq!((sent_on(1, "r1"), sent_on(1, "r3"), sent_on(1, "")), (-1, -1, -1));
    assert_eq!(fetch(&cluster, 1, "r2", 5).error_code, ErrorCode::OffsetOutOfRange.code());

    eventually("the follower knows what is committed", || fetch(&cluster, 2, "r2", 0).high_watermark == 1);
    let found = fetch(&cluster, 2, "r2", 0);
    assert_eq!((found.error_code, found.preferred_read_replica), (0, -1));
    assert!(found.records.is_some_and(|records| records.windows(4).any(|bytes| bytes == b"near")));
    assert_eq!(fetch(&cluster, 2, "r2", 5).error_code, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(fetch(&cluster, 3, "r3", 0).error_code, ErrorCode::NotLeaderOrFollower.code());
    // Clients of before KIP-392 are for leaders.
    let old = fetch_at(&cluster, 2, 10, "", 0).responses.remove(0).partitions.remove(0);
    assert_eq!(old.error_code, ErrorCode::NotLeaderOrFollower.code());
}

#[test]
fn who_asks_the_wrong_node_is_told_where_the_leader_is() {
    let cluster = Cluster::up(3, &[]);
    create(&cluster, &[&[1, 2]], &[]);
    let answer = produce(&cluster, 3, b"x");
    assert_eq!(produced(&answer), ErrorCode::NotLeaderOrFollower.code());
    let partition = &answer.responses[0].partition_responses[0];
    let port = i32::from(cluster.address(1).port());
    assert_eq!((partition.current_leader.leader_id, partition.current_leader.leader_epoch), (1, 0));
    let told: Vec<_> = answer.node_endpoints.iter().map(|node| (node.node_id, node.port)).collect();
    assert_eq!(told, [(1, port)]);

    let answer = fetch_at(&cluster, 3, 16, "", 0);
    assert_eq!(answer.responses[0].partitions[0].current_leader.leader_id, 1);
    let told: Vec<_> = answer.node_endpoints.iter().map(|node| (node.node_id, node.port)).collect();
    assert_eq!(told, [(1, port)]);
}

#[test]
fn a_broker_answers_for_its_own_settings_only() {
    let cluster = Cluster::up(3, &[]);
    let alter = |node: usize, broker: &str| {
        let config = incremental_alter_configs_request::AlterableConfig {
            name: "leader.replication.throttled.rate".into(),
            config_operation: 0,
            value: Some("1000".into()),
        };
        let resource = incremental_alter_configs_request::AlterConfigsResource {
            resource_type: 4,
            resource_name: broker.into(),
            configs: vec![config],
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
        cluster.connect(node).call(1, &request).responses[0].error_code
    };
    assert_eq!(alter(1, "2"), ErrorCode::InvalidRequest.code());
    assert_eq!((alter(2, "2"), alter(1, "")), (0, 0));
}
