//! A client that writes on through every fault, as real ones do: idempotent, one record after the other, to whoever leads now.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ottla_protocol::error::ErrorCode;
use ottla_protocol::messages::InitProducerIdRequest;
use ottla_protocol::record::BatchOptions;
use ottla_protocol::types::{ProducerEpoch, ProducerId};

use crate::client::Client;
use crate::process::eventually;
use crate::servers::Servers;
use crate::topic::{Write, placed};

/// A record that is not acknowledged within this is a failure of the cluster's.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one request. A leader that hangs is noticed by this.
const REQUEST: Duration = Duration::from_secs(2);
/// Clients' `retry.backoff.ms`.
const BACKOFF: Duration = Duration::from_millis(100);
const INIT_PRODUCER_ID: i16 = 4;

/// Writes `0`, `1`, `2`, ... to partition 0 of a topic until it is told to stop.
pub struct Writer {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    thread: JoinHandle<Written>,
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Written {
    /// By offset.
    pub values: BTreeMap<i64, String>,
    /// Attempts that were not acknowledged, and why; each was made again.
    pub retries: Vec<String>,
    /// The longest time between two acknowledgements.
    pub gap: Duration,
}

impl Writer {
    pub fn start(cluster: &Servers, topic: &str) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (addresses, topic) = (cluster.addresses(), topic.to_owned());
        let thread = std::thread::spawn({
            let (stop, acked) = (Arc::clone(&stop), Arc::clone(&acked));
            move || run(&addresses, &topic, &stop, &acked)
        });
        Self { stop, acked, thread }
    }

    /// Waits until so many more records are acknowledged.
    pub fn wait_more(&self, records: usize) {
        let from = self.acked.load(Ordering::Acquire);
        eventually(&format!("{records} more records are acknowledged"), || {
            assert!(!self.thread.is_finished(), "the writer gave up");
            self.acked.load(Ordering::Acquire) >= from + records
        });
    }

    pub fn finish(self) -> Written {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("everything was acknowledged in time")
    }
}

fn run(
    addresses: &BTreeMap<i32, SocketAddr>,
    topic: &str,
    stop: &AtomicBool,
    acked: &AtomicUsize,
) -> Written {
    let mut written = Written::default();
    let producer = producer_id(addresses);
    let mut connection: Option<Client> = None;
    let mut last = Instant::now();
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let value = number.to_string();
        let options = BatchOptions {
            producer_id: producer,
            producer_epoch: ProducerEpoch(0),
            base_sequence: number,
            ..BatchOptions::default()
        };
        let write = Write { topic, value: &value, options, timeout_ms: 1_000 };
        let offset = loop {
            assert!(
                last.elapsed() < PATIENCE,
                "record {number} is not acknowledged: {:?}",
                written.retries.last()
            );
            let mut client = match connection.take().or_else(|| leader(addresses, topic)) {
                Some(client) => client,
                None => {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            match write.send(&mut client) {
                Ok(Ok(offset)) => {
                    connection = Some(client);
                    break offset;
                }
                Ok(Err(code)) => {
                    assert!(may_be_retried(code), "record {number}: {code}");
                    written.retries.push(format!("{number}: {code}"));
                    std::thread::sleep(BACKOFF);
                }
                Err(error) => written.retries.push(format!("{number}: {error}")),
            }
        };
        assert!(written.values.insert(offset, value).is_none(), "offset {offset} was acknowledged twice");
        written.gap = written.gap.max(last.elapsed());
        last = Instant::now();
        acked.fetch_add(1, Ordering::AcqRel);
    }
    written
}

fn may_be_retried(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut
            | ErrorCode::KafkaStorageError
            | ErrorCode::NetworkException
    )
}

fn producer_id(addresses: &BTreeMap<i32, SocketAddr>) -> ProducerId {
    let request = InitProducerIdRequest {
        transactional_id: None,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    let mut found = None;
    eventually("a producer id", || {
        found = addresses.values().find_map(|address| {
            let mut client = Client::try_connect(*address, REQUEST).ok()?;
            let answer = client.try_call(INIT_PRODUCER_ID, &request).ok()?;
            (answer.error_code == 0).then_some(ProducerId(answer.producer_id))
        });
        found.is_some()
    });
    found.expect("just found")
}

/// A connection to whom the nodes that answer name as leader in the latest epoch.
fn leader(addresses: &BTreeMap<i32, SocketAddr>, topic: &str) -> Option<Client> {
    let said = addresses.values().filter_map(|address| placed(*address, topic, 0));
    let latest = said.max_by_key(|placed| placed.leader_epoch)?;
    Client::try_connect(*addresses.get(&latest.leader)?, REQUEST).ok()
}
