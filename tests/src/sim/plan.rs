//! What a seed chooses: sizes, rates, and which faults happen.

use std::collections::BTreeMap;

use ottla_protocol::types::Uuid;
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

/// How fast things happen in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A minute or two, in which one fault follows the other and the producers never rest.
    Dense,
    /// Minutes to an hour, in which faults are seconds to minutes apart and last as long, producers make a few records a second and
    /// fall silent at times: what slow timers do.
    Calm,
}

impl Pace {
    /// That of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        if matches!(seed % 4, 1 | 2) { Self::Calm } else { Self::Dense }
    }
}

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
    /// A member leaves its group, or dies.
    Member,
    /// A broker is declared gone for good, and registers anew.
    Unregister,
    /// A bit flips on a disk while its node's process is not there.
    BitFlip,
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
    pub pace: Pace,
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
    /// Faults last up to so many times as long as in a dense run.
    pub stretch: u64,
    /// A node's timers are looked at this often.
    pub turn_us: u64,
    /// Clients look around this often, at the least.
    pub client_us: u64,
    /// Between two looks at everything.
    pub check_us: u64,
    /// A consumer's fetch waits so long for records, and clients wait so long for answers.
    pub fetch_wait_ms: i32,
    pub request_us: u64,
    /// Producers rest for the last third of each such time.
    pub rest_us: Option<u64>,
    /// How long the cluster may take to converge once the faults are off.
    pub converge_ms: u64,
    pub groups: Groups,
    /// Records are past their retention before the run ends.
    pub retains: bool,
    /// Retention and compaction come round after so many seconds.
    pub house_s: u64,
}

/// The groups of consumers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Groups {
    pub count: usize,
    /// Each of them has up to so many.
    pub members: usize,
    pub session_ms: i32,
    pub rebalance_ms: i32,
    /// Between two commits of a member.
    pub commit_us: u64,
}

impl Groups {
    #[must_use]
    pub fn session_us(&self) -> u64 {
        1_000 * u64::try_from(self.session_ms).unwrap_or(0)
    }

    /// The answer to a join may take so long.
    #[must_use]
    pub fn join_us(&self) -> u64 {
        1_000 * u64::try_from(self.rebalance_ms).unwrap_or(0)
    }

    fn draw(rng: &mut SmallRng, pace: Pace) -> Self {
        let calm = pace == Pace::Calm;
        Self {
            count: rng.random_range(1..=2),
            members: rng.random_range(1..=3),
            session_ms: if calm { [6_000, 30_000] } else { [1_000, 6_000] }[rng.random_range(0..2)],
            rebalance_ms: if calm { 20_000 } else { 3_000 },
            commit_us: if calm { [1_000_000, 20_000_000] } else { [100_000, 1_000_000] }
                [rng.random_range(0..2)],
        }
    }
}

impl Plan {
    #[must_use]
    pub fn draw(seed: u64, rng: &mut SmallRng) -> Self {
        let pace = Pace::of(seed);
        let mut plan = Self::draw_dense(rng);
        if pace == Pace::Calm {
            plan = plan.calmed(rng);
        }
        if (seed / 4).is_multiple_of(2) {
            plan.groups = Groups::draw(rng, pace);
            plan.faults.push(Fault::Member);
            let delay_ms = [0, 500, 3_000][rng.random_range(0..3)];
            // What groups write is compacted as soon as it may be.
            let roll_ms = if pace == Pace::Calm { 60_000 } else { 5_000 };
            plan.settings.insert("log.roll.ms", roll_ms.to_string());
            plan.settings.insert("group.min.session.timeout.ms", "500".to_owned());
            plan.settings.insert("group.initial.rebalance.delay.ms", delay_ms.to_string());
        }
        if seed / 8 % 2 == 1 {
            plan.faults.extend([Fault::BitFlip, Fault::Unregister]);
        }
        plan
    }

    /// Whether leaders are struck as soon as they lead, so that several follow each other while their followers lag.
    #[must_use]
    pub fn hunts(&self, seed: u64) -> bool {
        self.pace == Pace::Dense && seed % 5 == 4
    }

    /// Whether producers rest at this time.
    #[must_use]
    pub fn rests(&self, now_us: u64) -> bool {
        self.rest_us.is_some_and(|every| now_us % every > every / 3 * 2)
    }

    /// The same faults in a cluster that has time.
    fn calmed(mut self, rng: &mut SmallRng) -> Self {
        self.pace = Pace::Calm;
        self.producers = rng.random_range(1..=2);
        let records_per_s = rng.random_range(4..25);
        let producers = self.producers as u64 * u64::try_from(self.partitions).expect("a few");
        self.produce_us = producers * (1 + self.batch_records_max) * 500_000 / records_per_s;
        self.rest_us = rng.random::<bool>().then(|| rng.random_range(60_000_000..900_000_000));
        self.safety_ms = 60_000 * [5, 10, 20, 60][rng.random_range(0..4)];
        self.fault_us = [5_000_000, 20_000_000, 60_000_000, 180_000_000][rng.random_range(0..4)];
        self.stretch = [1, 5, 20][rng.random_range(0..3)];
        self.fetch_wait_ms = [500, 5_000][rng.random_range(0..2)];
        (self.request_us, self.converge_ms) = (30_000_000, 180_000);
        (self.turn_us, self.client_us, self.check_us) = (50_000, 200_000, 1_000_000);
        let slow: bool = rng.random();
        let (session_ms, beat_ms, lag_ms) = if slow { (9_000, 2_000, 30_000) } else { (2_500, 500, 10_000) };
        self.settings.extend([
            ("broker.session.timeout.ms", session_ms.to_string()),
            ("broker.heartbeat.interval.ms", beat_ms.to_string()),
            ("replica.lag.time.max.ms", lag_ms.to_string()),
        ]);
        self.house_s = 15;
        self.retains = rng.random();
        if self.retains {
            // Longer than a producer may have to send the same again: beyond that nobody knows its records from new ones.
            self.topic_settings.insert("retention.ms", "900000".to_owned());
            self.faults.retain(|fault| *fault != Fault::ClockJump);
            (self.stretch, self.fault_us) = (self.stretch.min(5), self.fault_us.max(20_000_000));
        }
        if rng.random() {
            let roll_ms = [30_000, 300_000][rng.random_range(0..2)];
            self.topic_settings.insert("segment.ms", roll_ms.to_string());
        }
        self
    }

    fn draw_dense(rng: &mut SmallRng) -> Self {
        let is_flushed = rng.random_range(0..4) > 0;
        let mut faults = Fault::ALL.to_vec();
        if !is_flushed {
            // Acknowledged from memory: machines that lose power at once may take records with them. One alone does not while the
            // others have them: see `can_spare_memory_of`.
            faults.retain(|fault| !matches!(fault, Fault::PowerLossAll | Fault::FailingSync));
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
            ("min.insync.replicas", "2".to_owned()),
        ]);
        Self {
            pace: Pace::Dense,
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
            stretch: 1,
            turn_us: 10_000,
            client_us: 8_000,
            check_us: 100_000,
            fetch_wait_ms: 200,
            request_us: 3_000_000,
            rest_us: None,
            converge_ms: 60_000,
            groups: Groups::default(),
            retains: false,
            house_s: 7,
        }
    }
}
