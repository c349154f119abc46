//! Every API in every version against a real node: empty requests, and requests that are noise. Whatever comes, the node answers or
//! closes the connection, and goes on.

use std::time::Duration;

use ottla_protocol::api::APIS;
use ottla_protocol::frame::{self, RequestHeader};
use ottla_protocol::messages::*;
use ottla_protocol::wire::{Request, Writer};
use ottla_tests::process::Ottla;
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

fn header(api_key: i16, api_version: i16, correlation_id: i32) -> Vec<u8> {
    let mut w = Writer::new();
    RequestHeader { api_key, api_version, correlation_id, client_id: Some("noise".into()) }.encode(&mut w);
    w.into_bytes()
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = i32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn assert_well(node: &Ottla) {
    assert_eq!(node.connect().call(0, &ApiVersionsRequest::default()).error_code, 0);
}

/// Sends a request as its defaults make it, with every array empty, in every version that the node serves (CVE-2026-83525: an empty
/// array stopped Kafka's controller).
fn call_empty<R: Request + Default>(node: &Ottla) {
    call::<R>(node, &R::default());
}

fn call<R: Request>(node: &Ottla, request: &R) {
    let Some(api) = APIS.iter().find(|api| api.key.code() == R::KEY) else {
        panic!("{} is not served", R::NAME)
    };
    for version in api.min..=api.max {
        let mut client = node.connect();
        client.stream().set_read_timeout(Some(Duration::from_secs(10))).expect("a socket option");
        client.send(version, request);
        let frame = client.read_frame().unwrap_or_else(|error| panic!("{} v{version}: {error}", R::NAME));
        // Closing is an answer too: a client that asks for nothing gets nothing.
        if let Some(frame) = frame {
            frame::decode_response::<R>(frame, version)
                .unwrap_or_else(|error| panic!("the answer to {} v{version}: {error}", R::NAME));
        }
    }
}

#[test]
fn cve_2026_83525_a_request_with_every_array_empty_is_answered() {
    let node = Ottla::start();
    // Without acks there would be no answer.
    call(&node, &ProduceRequest { acks: -1, ..Default::default() });
    call_empty::<FetchRequest>(&node);
    call_empty::<ListOffsetsRequest>(&node);
    call_empty::<MetadataRequest>(&node);
    call_empty::<OffsetCommitRequest>(&node);
    call_empty::<OffsetFetchRequest>(&node);
    call_empty::<FindCoordinatorRequest>(&node);
    call_empty::<JoinGroupRequest>(&node);
    call_empty::<HeartbeatRequest>(&node);
    call_empty::<LeaveGroupRequest>(&node);
    call_empty::<SyncGroupRequest>(&node);
    call_empty::<DescribeGroupsRequest>(&node);
    call_empty::<ListGroupsRequest>(&node);
    call_empty::<ApiVersionsRequest>(&node);
    call_empty::<CreateTopicsRequest>(&node);
    call_empty::<DeleteTopicsRequest>(&node);
    call_empty::<DeleteRecordsRequest>(&node);
    call_empty::<InitProducerIdRequest>(&node);
    call_empty::<OffsetForLeaderEpochRequest>(&node);
    call_empty::<DescribeConfigsRequest>(&node);
    call_empty::<AlterConfigsRequest>(&node);
    call_empty::<AlterReplicaLogDirsRequest>(&node);
    call_empty::<DescribeLogDirsRequest>(&node);
    call_empty::<CreatePartitionsRequest>(&node);
    call_empty::<DeleteGroupsRequest>(&node);
    call_empty::<ElectLeadersRequest>(&node);
    call_empty::<IncrementalAlterConfigsRequest>(&node);
    call_empty::<AlterPartitionReassignmentsRequest>(&node);
    call_empty::<ListPartitionReassignmentsRequest>(&node);
    call_empty::<OffsetDeleteRequest>(&node);
    call_empty::<DescribeQuorumRequest>(&node);
    call_empty::<UpdateFeaturesRequest>(&node);
    call_empty::<DescribeClusterRequest>(&node);
    call_empty::<DescribeProducersRequest>(&node);
    call_empty::<UnregisterBrokerRequest>(&node);
    call_empty::<ListConfigResourcesRequest>(&node);
    call_empty::<DescribeTopicPartitionsRequest>(&node);
    call_empty::<AddRaftVoterRequest>(&node);
    call_empty::<RemoveRaftVoterRequest>(&node);
    assert_well(&node);
}

#[test]
fn noise_in_every_api_and_version_leaves_the_node_well_and_small() {
    let node = Ottla::start();
    assert_well(&node);
    let before = node.rss_anon_bytes();
    let mut rng = SmallRng::seed_from_u64(0x0771a);
    for round in 0..4 {
        for api in APIS {
            for version in api.min..=api.max {
                let mut client = node.connect();
                client.stream().set_read_timeout(Some(Duration::from_millis(1))).expect("a socket option");
                let mut body = header(api.key.code(), version, round);
                let mut noise = vec![0; rng.random_range(0..200)];
                rng.fill_bytes(&mut noise);
                if round % 2 == 0 {
                    // Small numbers make counts and lengths that look honest.
                    noise.iter_mut().for_each(|byte| *byte %= 4);
                }
                body.extend_from_slice(&noise);
                let _ = client.send_bytes(&framed(&body));
                // An answer, a closed connection, or a wait that was asked for: all are fine.
                let _ = client.read_frame();
            }
        }
        assert_well(&node);
    }
    let grown = node.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}

/// CVE-2026-111108: an array whose count is the largest that its bytes allow.
#[test]
fn cve_2026_111108_the_largest_counts_cost_a_small_multiple_of_their_bytes() {
    let node = Ottla::start();
    assert_well(&node);
    let before = node.rss_anon_bytes();
    for api in APIS {
        for version in [api.min, api.max] {
            for filler in [0u8, 1, 0x7f, 0xff] {
                let mut client = node.connect();
                client.stream().set_read_timeout(Some(Duration::from_millis(5))).expect("a socket option");
                let mut body = header(api.key.code(), version, 1);
                let start = body.len();
                body.resize(start + (256 << 10), filler);
                // Both forms of a count of some hundred thousand, where an array may stand first.
                let counts: [u8; 4] =
                    if version == api.max { [0xff, 0xff, 0x0f, 0] } else { [0, 3, 0xff, 0xff] };
                body[start..start + 4].copy_from_slice(&counts);
                let _ = client.send_bytes(&framed(&body));
                let _ = client.read_frame();
            }
        }
    }
    assert_well(&node);
    let grown = node.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}
