//! The generator against a server that answers as it is told to.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ottla_load::figures::Figures;
use ottla_load::payload::{BatchShape, Content};
use ottla_load::plan::{Pace, Plan, Span, Writers};
use ottla_load::timeline::Stream;
use ottla_load::{Watch, run};
use ottla_protocol::error::ErrorCode;
use ottla_protocol::frame::{self, RequestHeader};
use ottla_protocol::messages::ProduceResponse;
use ottla_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use ottla_protocol::wire::{Reader, Writer};

/// What the server does with the requests of a connection, by their number.
#[derive(Clone, Copy)]
enum Manners {
    /// Before it reads this one it waits.
    Stalls { at: u32, pause: Duration },
    /// Every tenth is refused.
    Refuses,
    /// It closes the connection there.
    HangsUp { at: u32 },
}

/// A server for produce requests; how many it has read.
fn server(manners: Manners) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
    let address = listener.local_addr().expect("bound");
    let read = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&read);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, counted) = (stream.expect("a connection"), Arc::clone(&counted));
            thread::spawn(move || serve(stream, manners, &counted));
        }
    });
    (address, read)
}

/// Until the connection ends.
fn serve(mut stream: TcpStream, manners: Manners, counted: &AtomicU32) -> Option<()> {
    for number in 0_u32.. {
        match manners {
            Manners::Stalls { at, pause } if number == at => thread::sleep(pause),
            Manners::HangsUp { at } if number == at => return None,
            _ => {}
        }
        let mut length = [0; frame::LENGTH_BYTES];
        stream.read_exact(&mut length).ok()?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).ok()?];
        stream.read_exact(&mut request).ok()?;
        counted.fetch_add(1, Ordering::Relaxed);
        let header = RequestHeader::decode(&mut Reader::new(Bytes::from(request))).ok()?;
        let refused = matches!(manners, Manners::Refuses) && number % 10 == 9;
        let error = if refused { ErrorCode::NotEnoughReplicas } else { ErrorCode::None };
        let partition = PartitionProduceResponse {
            error_code: error.code(),
            base_offset: i64::from(number),
            ..Default::default()
        };
        let topic = TopicProduceResponse { partition_responses: vec![partition], ..Default::default() };
        let response = ProduceResponse { responses: vec![topic], ..Default::default() };
        let mut w = Writer::new();
        frame::encode_response(&mut w, &response, header.api_version, header.correlation_id);
        stream.write_all(&w.into_bytes()).ok()?;
    }
    Some(())
}

fn plan(address: SocketAddr, pace: Pace, span: Span) -> Plan {
    let content = Content::plain(BatchShape { value_bytes: 100, records: 1 }, 0);
    Plan {
        topic: "t".to_owned(),
        leaders: vec![address],
        writers: Some(Writers { connections: 1, content, acks: -1, idempotent: false, pace }),
        followers: None,
        readers: None,
        warmup: Duration::ZERO,
        span,
        threads: 1,
    }
}

fn produced(plan: &Plan, watch: &Watch) -> Figures {
    run(plan, watch).expect("it runs").produce.expect("it wrote")
}

#[test]
fn a_stall_is_charged_to_all_that_should_have_been_answered_meanwhile() {
    let pause = Duration::from_millis(500);
    let (address, read) = server(Manners::Stalls { at: 50, pause });
    let duration = Duration::from_secs(1);
    let watch = Watch::over(duration);
    let figures = produced(&plan(address, Pace::Rate(200.0), Span::Elapsed(duration)), &watch);
    assert_eq!((figures.records, figures.failed(), read.load(Ordering::Relaxed)), (200, 0, 200));
    // Of 200 requests in a second 100 were due while nothing was read. A closed loop would have seen one slow answer.
    assert!(figures.latency.p99_us > 450_000.0, "{figures:?}");
    let slow = figures.curve.iter().find(|(_, us)| *us > 100_000.0).expect("slow answers");
    assert!(slow.0 < 0.75, "at least a quarter waited: {figures:?}");
    // And it shows where they were due, not where they were answered.
    let points = watch.timeline.points(Stream::Produce);
    let stalled = points.iter().filter(|point| point.max_us > 100_000).count();
    assert!(stalled >= 5, "{points:?}");
}

#[test]
fn in_a_closed_loop_one_answer_alone_is_late() {
    let (address, _) = server(Manners::Stalls { at: 50, pause: Duration::from_millis(300) });
    let figures =
        produced(&plan(address, Pace::InFlight(1), Span::Records(200)), &Watch::over(Duration::from_secs(1)));
    assert_eq!((figures.records, figures.offered_per_second), (200, None));
    assert!(figures.latency.max_us > 290_000.0, "{figures:?}");
    let late = figures.curve.iter().find(|(_, us)| *us > 290_000.0).expect("the late one");
    assert!(late.0 > 0.9, "{figures:?}");
}

#[test]
fn refusals_are_counted_by_their_name_and_are_no_records() {
    let (address, _) = server(Manners::Refuses);
    let span = Span::Records(200);
    let figures = produced(&plan(address, Pace::Rate(2_000.0), span), &Watch::over(Duration::from_secs(1)));
    assert_eq!((figures.records, figures.records_in_all), (180, 180));
    assert_eq!(figures.errors.get("NOT_ENOUGH_REPLICAS"), Some(&20), "{:?}", figures.errors);
}

#[test]
fn what_a_closed_connection_swallows_has_failed() {
    let (address, _) = server(Manners::HangsUp { at: 30 });
    let span = Span::Records(100);
    let figures = produced(&plan(address, Pace::Rate(1_000.0), span), &Watch::over(Duration::from_secs(1)));
    assert_eq!(figures.records + figures.failed(), 100, "{figures:?}");
    assert!(figures.records <= 30, "{figures:?}");
}

#[test]
fn a_run_ends_when_it_is_told_to() {
    let (address, _) = server(Manners::Refuses);
    let watch = Watch::over(Duration::from_secs(1));
    let endless = plan(address, Pace::Rate(100.0), Span::Elapsed(Duration::from_secs(100_000)));
    thread::scope(|scope| {
        let running = scope.spawn(|| produced(&endless, &watch));
        while watch.timeline.points(Stream::Produce).is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        watch.stop.store(true, Ordering::Relaxed);
        assert!(running.join().expect("it ends").records > 0);
    });
}
