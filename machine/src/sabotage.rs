//! Bugs to be planted, one at a time and at run time, so that one build tries them all: the simulator must find each. Without the
//! feature `sabotage` there are none.

/// A bug. Each stands where [`is_on`] asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The leader's own bytes count before they are flushed.
    AcknowledgeBeforeFlush = 1,
    /// A follower's bytes count before they are flushed.
    FollowerCountsUnflushed,
    /// The high watermark is what most have, not all in sync.
    WatermarkOfMost,
    /// The watermark waits for nobody whom a proposal takes in.
    IgnoreProposal,
    /// The watermark moves below the minimum of in-sync replicas.
    IgnoreMinimum,
    /// A follower joins before it has what is committed.
    JoinTooEarly,
    /// A follower joins whatever its broker epoch.
    JoinWithoutBrokerEpoch,
    /// Whoever names an old leader epoch is served.
    SkipEpochCheck,
    /// Duplicates are appended again.
    ForgetDuplicates,
    /// A gap in a producer's sequence is taken.
    TakeGaps,
    /// A leader that was elected starts with no producers.
    ForgetProducersOnLeading,
    /// A follower cuts its log at its watermark, and not where the leader says.
    CutAtWatermark,
    /// A follower that parts from its leader is not told.
    IgnoreDivergence,
    /// A new leader may come from outside the in-sync and the eligible set.
    ElectAnybody,
    /// A broker that lost power keeps its place in every in-sync set.
    TrustEveryRestart,
    /// An entry counts whatever image it was decided on.
    CountOnAnyVersion,
}

impl Bug {
    pub const ALL: [Self; 16] = [
        Self::AcknowledgeBeforeFlush,
        Self::FollowerCountsUnflushed,
        Self::WatermarkOfMost,
        Self::IgnoreProposal,
        Self::IgnoreMinimum,
        Self::JoinTooEarly,
        Self::JoinWithoutBrokerEpoch,
        Self::SkipEpochCheck,
        Self::ForgetDuplicates,
        Self::TakeGaps,
        Self::ForgetProducersOnLeading,
        Self::CutAtWatermark,
        Self::IgnoreDivergence,
        Self::ElectAnybody,
        Self::TrustEveryRestart,
        Self::CountOnAnyVersion,
    ];
}

#[cfg(feature = "sabotage")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug, or takes it away.
#[cfg(feature = "sabotage")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is planted.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether this bug is planted: never.
#[cfg(not(feature = "sabotage"))]
#[must_use]
#[inline(always)]
pub const fn is_on(_bug: Bug) -> bool {
    false
}
