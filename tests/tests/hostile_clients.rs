//! Hostile and clumsy clients against a real node: each gets an error or a closed connection, and the node stays small and well.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ottla_protocol::messages::ApiVersionsRequest;
use ottla_tests::client::Client;
use ottla_tests::process::{Ottla, eventually};

fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest { client_software_name: "ottla-tests".into(), client_software_version: "1.0".into() }
}

/// The node still answers.
fn assert_well(node: &Ottla) {
    let response = node.connect().call(3, &api_versions());
    assert_eq!(response.error_code, 0);
}

/// A whole ApiVersions v0 frame.
fn small_request() -> Vec<u8> {
    vec![0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff]
}

#[test]
fn frames_of_impossible_lengths_close_the_connection_and_cost_nothing() {
    let node = Ottla::start();
    let before = node.rss_anon_bytes();
    let lengths: [i32; 9] = [0, 1, 3, 7, -1, -2, i32::MIN, i32::MAX, (100 << 20) + 1];
    for round in 0..20 {
        for length in lengths {
            let mut client = node.connect();
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.resize(if round % 2 == 0 { 4 } else { 400 }, 7);
            client.send_bytes(&bytes).expect("taken");
            client.wait_closed();
        }
    }
    assert_well(&node);
    let grown = node.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
}

#[test]
fn other_protocols_on_the_port_are_turned_away() {
    let node = Ottla::start();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        b"SSH-2.0-x\r\n",
    ] {
        let mut client = node.connect();
        client.send_bytes(bytes).expect("taken");
        client.wait_closed();
    }
    assert_well(&node);
}

#[test]
fn a_declared_length_is_not_allocated() {
    let node = Ottla::start();
    let before = node.rss_anon_bytes();
    let clients: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = node.connect();
            client.send_bytes(&(100i32 << 20).to_be_bytes()).expect("taken");
            client
        })
        .collect();
    assert_well(&node);
    let grown = node.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for 200 promises of 100 MiB");
    drop(clients);
}

#[test]
fn trailing_bytes_are_ignored_and_truncated_requests_close() {
    let node = Ottla::start();
    let mut client = node.connect();
    let mut frame = small_request();
    frame.extend_from_slice(&[1, 2, 3, 4]);
    frame[3] += 4;
    client.send_bytes(&frame).expect("taken");
    assert!(
        client.read_frame().expect("in time").is_some(),
        "bytes behind the body are accepted, as in Kafka"
    );
    // A client id that claims more bytes than there are.
    client.send_bytes(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 2, 0x7f, 0xff]).expect("taken");
    client.wait_closed();
    assert_well(&node);
}

/// CVE-2026-111115: a request header with millions of unknown tagged fields.
#[test]
fn cve_2026_111115_a_flood_of_tagged_fields_costs_no_memory() {
    let node = Ottla::start();
    assert_well(&node);
    let before = node.rss_anon_bytes();
    let count = 20_000_000u32;
    let mut body = vec![0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff];
    let mut left = count;
    while left >= 0x80 {
        body.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    body.push(left as u8);
    // Ascending tags would need more bytes; equal ones are the attacker's cheapest: tag 1 of 0 bytes, again and again.
    body.resize(body.len() + 2 * count as usize, 0);
    let mut frame = i32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    let mut client = node.connect();
    let _ = client.send_bytes(&frame);
    client.wait_closed();
    assert_well(&node);
    eventually("the frame's own bytes are given back", || {
        node.rss_anon_bytes().saturating_sub(before) < 4 << 20
    });
}

#[test]
fn unknown_apis_and_versions_close_and_only_api_versions_answers() {
    let node = Ottla::start();
    for (key, version) in [(4, 0), (7, 0), (999, 0), (-1, 0), (i16::MAX, 0), (0, 2), (3, 99), (3, -1)] {
        let mut client = node.connect();
        let mut frame = small_request();
        frame[4..6].copy_from_slice(&i16::to_be_bytes(key));
        frame[6..8].copy_from_slice(&i16::to_be_bytes(version));
        client.send_bytes(&frame).expect("taken");
        client.wait_closed();
    }
    let mut client = node.connect();
    for version in [5, 99, -1, i16::MAX] {
        let mut frame = small_request();
        frame[6..8].copy_from_slice(&i16::to_be_bytes(version));
        client.send_bytes(&frame).expect("taken");
        let answer = client.read_frame().expect("in time").expect("an answer");
        assert_eq!(&answer[..6], &[0, 0, 0, 1, 0, 35], "version {version}");
    }
    assert_eq!(client.call(4, &api_versions()).error_code, 0, "the connection goes on");
}

#[test]
fn a_client_that_gives_no_name_of_its_software_is_told_so() {
    let node = Ottla::start();
    let mut client = node.connect();
    for name in ["", " ", "a b", "-", "\u{e9}"] {
        let request = ApiVersionsRequest { client_software_name: name.into(), ..api_versions() };
        assert_eq!(client.call(3, &request).error_code, 42, "{name:?}");
    }
    assert_eq!(client.call(3, &api_versions()).error_code, 0);
}

#[test]
fn a_half_closed_socket_gets_its_answers() {
    let node = Ottla::start();
    let mut client = node.connect();
    for _ in 0..10 {
        client.send(3, &api_versions());
    }
    client.half_close();
    for id in 1..=10 {
        assert_eq!(client.receive::<ApiVersionsRequest>(3).0, id);
    }
    client.wait_closed();
    assert_well(&node);
}

#[test]
fn ten_thousand_idle_connections_are_cheap_and_do_not_slow_others() {
    // Both ends of each connection count against this machine's limit of descriptors.
    let node = Ottla::start_with(&["max.connections=20000", "max.connections.per.ip=20000"]);
    let wanted = 10_000.min(descriptor_limit().saturating_sub(200));
    assert_well(&node);
    let before = node.rss_anon_bytes();
    let idle: Vec<TcpStream> =
        (0..wanted).map(|_| TcpStream::connect(node.address()).expect("accepted")).collect();
    // The last of them is served, so all are.
    let mut last = node.connect();
    assert_eq!(last.call(3, &api_versions()).error_code, 0);
    let per_connection = node.rss_anon_bytes().saturating_sub(before) / wanted;
    assert!(per_connection < 4_096, "{per_connection} bytes for an idle connection");
    let began = Instant::now();
    for _ in 0..200 {
        last.call(3, &api_versions());
    }
    assert!(began.elapsed() < Duration::from_secs(2), "200 calls took {:?}", began.elapsed());
    drop(idle);
    assert_well(&node);
}

fn descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    match rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        Ok(()) => most,
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

#[test]
fn a_client_that_never_reads_is_not_served_further_and_costs_little() {
    let node = Ottla::start();
    let before = node.rss_anon_bytes();
    let requests: Vec<u8> = small_request().repeat(1_000);
    let mut clients: Vec<(Client, usize)> = (0..20).map(|_| (node.connect(), 0)).collect();
    for (client, _) in &mut clients {
        client.stream().set_nonblocking(true).expect("a socket option");
    }
    // Until no socket takes any more requests: the node has stopped reading.
    let mut quiet_rounds = 0;
    while quiet_rounds < 10 {
        let mut taken = false;
        for (client, sent) in &mut clients {
            while let Ok(bytes) = client.stream().write(&requests[*sent % requests.len()..]) {
                *sent += bytes;
                taken = true;
            }
        }
        quiet_rounds = if taken { 0 } else { quiet_rounds + 1 };
        std::thread::sleep(Duration::from_millis(10));
    }
    let grown = node.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes for 20 clients that don't read");
    assert_well(&node);
}

#[test]
fn connections_past_the_limits_are_refused_and_room_is_made_when_one_closes() {
    let node = Ottla::start_with(&["max.connections=5"]);
    let mut held: Vec<Client> = (0..5).map(|_| node.connect()).collect();
    for client in &mut held {
        assert_eq!(client.call(3, &api_versions()).error_code, 0);
    }
    node.connect().wait_closed();
    held.pop();
    eventually("a closed connection makes room", || {
        let mut client = node.connect();
        client.send_bytes(&small_request()).is_ok() && matches!(client.read_frame(), Ok(Some(_)))
    });

    let node = Ottla::start_with(&["max.connections.per.ip=2"]);
    let mut held: Vec<Client> = (0..2).map(|_| node.connect()).collect();
    for client in &mut held {
        assert_eq!(client.call(3, &api_versions()).error_code, 0);
    }
    node.connect().wait_closed();
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() {
    let node = Ottla::start_with(&["connections.max.idle.ms=300"]);
    let mut idle = node.connect();
    assert_eq!(idle.call(3, &api_versions()).error_code, 0);
    let mut busy = node.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        assert_eq!(busy.call(3, &api_versions()).error_code, 0);
        std::thread::sleep(Duration::from_millis(50));
    }
    idle.wait_closed();
}

#[test]
fn requests_above_the_size_limit_are_refused_and_those_at_it_are_taken() {
    let node = Ottla::start_with(&["socket.request.max.bytes=1000"]);
    let mut frame = small_request();
    frame.resize(4 + 1_000, 0);
    frame[..4].copy_from_slice(&1_000i32.to_be_bytes());
    let mut client = node.connect();
    client.send_bytes(&frame).expect("taken");
    assert!(client.read_frame().expect("in time").is_some());
    frame[..4].copy_from_slice(&1_001i32.to_be_bytes());
    client.send_bytes(&frame).expect("taken");
    client.wait_closed();
}

#[test]
fn half_sent_requests_are_bounded_in_all_by_queued_max_request_bytes() {
    let node = Ottla::start_with(&["queued.max.request.bytes=8388608"]);
    let before = node.rss_anon_bytes();
    let mut clients: Vec<Client> = (0..40).map(|_| node.connect()).collect();
    let chunk = vec![0; 1 << 20];
    for client in &mut clients {
        client.stream().set_nonblocking(true).expect("a socket option");
        client.send_bytes(&(64i32 << 20).to_be_bytes()).expect("taken");
        client.send_bytes(&[0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff]).expect("taken");
    }
    let mut quiet_rounds = 0;
    while quiet_rounds < 20 {
        let mut taken = false;
        for client in &mut clients {
            taken |= client.send_bytes(&chunk).is_ok();
        }
        quiet_rounds = if taken { 0 } else { quiet_rounds + 1 };
        std::thread::sleep(Duration::from_millis(5));
    }
    let grown = node.rss_anon_bytes().saturating_sub(before);
    // One connection may finish its frame of 64 MiB; growing it by doubling may hold twice as much for a moment.
    assert!(grown < 160 << 20, "{grown} bytes for 40 half-sent requests of 64 MiB");
    assert_well(&node);
}

#[test]
fn a_stopped_node_closes_its_connections_and_ends_soon() {
    let mut node = Ottla::start();
    let mut client = node.connect();
    assert_eq!(client.call(3, &api_versions()).error_code, 0);
    let began = Instant::now();
    let status = node.stop();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    client.wait_closed();
    node.restart();
    assert_well(&node);
}
