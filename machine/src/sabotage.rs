//! Bugs to be planted, one at a time and at run time, so that one build tries them all: the simulator must find each. Without the
//! feature `sabotage` there are none. Each is a mistake that somebody could make here in good faith, or has made elsewhere;
//! `docs/simulator.md` says how soon each is found.

/// Names the bugs once, for the type and for the list of all.
macro_rules! bugs {
    ($($(#[$about:meta])* $bug:ident,)*) => {
        /// A bug. Each stands where [`is_on`] asks for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[$about])* $bug,)*
        }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$bug,)*];
        }
    };
}

bugs! {
    /// The leader's own bytes count before they are flushed.
    AcknowledgeBeforeFlush,
    /// A follower's bytes count before they are flushed.
    FollowerCountsUnflushed,
    /// A flush is taken for done without a sync.
    SkipSync,
    /// A follower does not tell its leader that it has flushed.
    NeverTellFlush,
    /// Who waits for an offset is told one record too early.
    AcknowledgeOneEarly,
    /// A batch that comes again is acknowledged at once, committed or not.
    AcknowledgeDuplicateAtOnce,
    /// Who waits for a leader that is none any more goes on waiting, for whatever its successor puts there.
    WaitersSurviveTheirLeader,
    /// The high watermark is what most have, not all in sync.
    WatermarkOfMost,
    /// The high watermark is one too far.
    WatermarkOneTooFar,
    /// The watermark moves below the minimum of in-sync replicas.
    IgnoreMinimum,
    /// Whoever is elected takes its whole log for committed.
    CommitOnElection,
    /// Whoever opens its log takes what is there for committed.
    CommitOnStart,
    /// Consumers are given what is not committed.
    FetchPastWatermark,
    /// A follower joins before it has what is committed.
    JoinTooEarly,
    /// A follower takes answers of a leader that it follows no longer.
    TakeAnswersOfOldLeaders,
    /// Who waited too long is told that all is well.
    TimeOutIsSuccess,
    /// A batch that comes again is told where it ends for where it begins.
    DuplicateAtItsEnd,
    /// One batch fewer of a producer is remembered than it may have in flight.
    RememberOneLess,
    /// Duplicates are appended again.
    ForgetDuplicates,
    /// A gap in a producer's sequence is taken.
    TakeGaps,
    /// A leader that was elected starts with no producers.
    ForgetProducersOnLeading,
    /// A process starts with no producers.
    ForgetProducersOnStart,
    /// A follower cuts its log at its watermark, and not where the leader says.
    CutAtWatermark,
    /// A follower cuts its log where the leader's epoch ends, also where its own ended before (KIP-279).
    CutAtLeaderEnd,
    /// A follower that parts from its leader is not told.
    IgnoreDivergence,
    /// A follower that has more of the last epoch than its leader is not told.
    IgnoreLongerTail,
    /// A new leader may come from outside the in-sync and the eligible set.
    ElectAnybody,
    /// An eligible replica may lead whether or not its broker is there.
    ElectInactive,
    /// A new leader goes on in the epoch of the one before.
    KeepEpochOnElection,
    /// A broker that is fenced loses what it leads, and keeps its place where it follows.
    FenceLeadersOnly,
    /// An entry counts whatever image it was decided on.
    CountOnAnyVersion,
    /// The controller shows what it decided before it is committed.
    ApplyBeforeCommit,
    /// A snapshot of the metadata lacks which producer ids were given out.
    SnapshotForgetsProducerIds,
    /// Answers leave when they are ready, not in the order of their requests.
    AnswerWhenReady,
}

#[cfg(feature = "sabotage")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug, or takes it away.
#[cfg(feature = "sabotage")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8 + 1), std::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is planted.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8 + 1
}

/// Whether this bug is planted: never.
#[cfg(not(feature = "sabotage"))]
#[must_use]
#[inline(always)]
pub const fn is_on(_bug: Bug) -> bool {
    false
}
