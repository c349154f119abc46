//! What a seed chooses: sizes, rates, and which faults happen.

use std::collections::BTreeMap;

use ottla_protocol::types::Uuid;
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

/// How long the cluster may take to converge once the faults are off.
pub const CONVERGE_MS: u64 = 60_000;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed, and started again.
    Kill,
    /// All processes at once.
    KillAll,
    /// A machine loses power.
    PowerLoss,
    /// All machines at once.
    PowerLossAll,
    /// A process stops in order, and is started again.
    Restart,
    /// A process stands still.
    Pause,
    /// A wall clock jumps.
    ClockJump,
    /// A node's clocks run fast or slow.
    ClockDrift,
    /// Everything takes longer on its way, each connection by itself.
    Delay,
    /// Nothing gets from one party to another.
    OneWayCut,
    /// A node is cut off from all others, or from some.
    Partition,
    /// Syncs take long.
    SlowDisk,
    /// A sync fails.
    FailingSync,
    /// A disk is full.
    FullDisk,
    /// The quorum elects another leader.
    Election,
    /// Replicas are moved.
    Reassign,
    /// Connections are reset.
    Reset,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::Kill,
        Self::KillAll,
        Self::PowerLoss,
        Self::PowerLossAll,
        Self::Restart,
        Self::Pause,
        Self::ClockJump,
        Self::ClockDrift,
        Self::Delay,
        Self::OneWayCut,
        Self::Partition,
        Self::SlowDisk,
        Self::FailingSync,
        Self::FullDisk,
        Self::Election,
        Self::Reassign,
        Self::Reset,
    ];
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub cluster: Uuid,
    pub partitions: i32,
    pub replicas: i16,
    pub min_insync: usize,
    pub producers: usize,
    /// Whether acknowledged means on disk.
    pub is_flushed: bool,
    pub topic_settings: BTreeMap<&'static str, String>,
    /// Of the brokers.
    pub settings: BTreeMap<&'static str, String>,
    pub faults: Vec<Fault>,
    /// Between two of them, on average.
    pub fault_us: u64,
    pub safety_ms: u64,
    pub batch_records_max: u64,
    pub value_bytes_max: usize,
    /// Between two batches of a producer, on average.
    pub produce_us: u64,
    /// An unlucky commit of the quorum takes up to this.
    pub commit_us_max: u64,
}

impl Plan {
    #[must_use]
    pub fn draw(rng: &mut SmallRng) -> Self {
        let is_flushed = rng.random_range(0..4) > 0;
        let mut faults = Fault::ALL.to_vec();
        if !is_flushed {
            // Acknowledged from memory: a machine that loses power may take records with it that all others lack.
            faults.retain(|fault| {
                !matches!(fault, Fault::PowerLoss | Fault::PowerLossAll | Fault::FailingSync)
            });
        }
        faults.shuffle(rng);
        let kinds = rng.random_range(1..=faults.len());
        faults.truncate(kinds);
        let mut topic_settings = BTreeMap::from([("min.insync.replicas", "2".to_owned())]);
        if !is_flushed {
            let messages: u64 = [10, 1_000, i64::MAX as u64][rng.random_range(0..3)];
            topic_settings.insert("flush.messages", messages.to_string());
        }
        let segment_bytes = [4_096, 16_384, 1 << 20][rng.random_range(0..3)];
        let lag_ms = [1_000, 3_000, 10_000][rng.random_range(0..3)];
        let settings = BTreeMap::from([
            ("log.segment.bytes", segment_bytes.to_string()),
            ("replica.lag.time.max.ms", lag_ms.to_string()),
            ("offsets.topic.num.partitions", "2".to_owned()),
        ]);
        Self {
            cluster: Uuid::from_random(rng.random()),
            partitions: rng.random_range(1..=4),
            replicas: 3,
            min_insync: 2,
            producers: rng.random_range(1..=3),
            is_flushed,
            topic_settings,
            settings,
            faults,
            fault_us: rng.random_range(400_000..8_000_000),
            safety_ms: rng.random_range(30_000..120_000),
            batch_records_max: rng.random_range(1..=8),
            value_bytes_max: [1, 50, 1_000][rng.random_range(0..3)],
            produce_us: [5_000, 20_000, 100_000][rng.random_range(0..3)],
            commit_us_max: [5_000, 100_000, 2_000_000][rng.random_range(0..3)],
        }
    }
}
