//! Bugs to be planted, one at a time and at run time, so that one build tries them all: the simulator must find each. Without the
//! feature `sabotage` there are none. Each is a mistake that somebody could make here in good faith, or has made elsewhere, and stands
//! here with the seed by which it must have been found (0: it has not been found yet).

/// Names the bugs once: for the type, for the list of all, and for how soon each is to be found.
macro_rules! bugs {
    ($($(#[$about:meta])* $bug:ident: $seeds:literal,)*) => {
        /// A bug. Each stands where [`is_on`] asks for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[$about])* $bug,)*
        }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// The simulator must find it by this seed, beginning with seed 1. `None`: it has not been found yet.
            #[must_use]
            pub const fn seeds(self) -> Option<u64> {
                match self {
                    $(Self::$bug => if $seeds == 0 { None } else { Some($seeds) },)*
                }
            }
        }
    };
}

bugs! {
    /// The leader's own bytes count before they are flushed.
    AcknowledgeBeforeFlush: 200,
    /// A follower's bytes count before they are flushed.
    FollowerCountsUnflushed: 200,
    /// A flush is taken for done without a sync.
    SkipSync: 60,
    /// A follower does not tell its leader that it has flushed.
    NeverTellFlush: 60,
    /// Who waits for an offset is told one record too early.
    AcknowledgeOneEarly: 60,
    /// A batch that comes again is acknowledged at once, committed or not.
    AcknowledgeDuplicateAtOnce: 100,
    /// Who waits for a leader that is none any more goes on waiting, for whatever its successor puts there.
    WaitersSurviveTheirLeader: 60,
    /// The high watermark is what most have, not all in sync.
    WatermarkOfMost: 100,
    /// The high watermark is one too far.
    WatermarkOneTooFar: 60,
    /// The watermark moves below the minimum of in-sync replicas.
    IgnoreMinimum: 200,
    /// Whoever is elected takes its whole log for committed.
    CommitOnElection: 100,
    /// Whoever opens its log takes what is there for committed.
    CommitOnStart: 200,
    /// Consumers are given what is not committed.
    FetchPastWatermark: 60,
    /// A follower joins before it has what is committed.
    JoinTooEarly: 200,
    /// A follower takes answers of a leader that it follows no longer.
    TakeAnswersOfOldLeaders: 0,
    /// Who waited too long is told that all is well.
    TimeOutIsSuccess: 60,
    /// A batch that comes again is told where it ends for where it begins.
    DuplicateAtItsEnd: 60,
    /// One batch fewer of a producer is remembered than it may have in flight.
    RememberOneLess: 60,
    /// Duplicates are appended again.
    ForgetDuplicates: 60,
    /// A gap in a producer's sequence is taken.
    TakeGaps: 60,
    /// A leader that was elected starts with no producers.
    ForgetProducersOnLeading: 60,
    /// A process starts with no producers.
    ForgetProducersOnStart: 60,
    /// A follower cuts its log at its watermark, and not where the leader says.
    CutAtWatermark: 100,
    /// A follower cuts its log where the leader's epoch ends, also where its own ended before (KIP-279).
    CutAtLeaderEnd: 0,
    /// A follower that parts from its leader is not told.
    IgnoreDivergence: 60,
    /// A follower that has more of the last epoch than its leader is not told.
    IgnoreLongerTail: 60,
    /// A new leader may come from outside the in-sync and the eligible set.
    ElectAnybody: 60,
    /// An eligible replica may lead whether or not its broker is there.
    ElectInactive: 60,
    /// A new leader goes on in the epoch of the one before.
    KeepEpochOnElection: 60,
    /// A broker that is fenced loses what it leads, and keeps its place where it follows.
    FenceLeadersOnly: 60,
    /// An entry counts whatever image it was decided on.
    CountOnAnyVersion: 0,
    /// The controller shows what it decided before it is committed.
    ApplyBeforeCommit: 60,
    /// A snapshot of the metadata lacks which producer ids were given out.
    SnapshotForgetsProducerIds: 60,
    /// Answers leave when they are ready, not in the order of their requests.
    AnswerWhenReady: 60,
    /// Followers count, and get into the in-sync set, in whatever life of their process they were seen (KIP-903).
    IgnoreBrokerEpochs: 0,
    /// Who names an old or an unknown leader epoch is served (KIP-101, KIP-320).
    SkipEpochCheck: 200,
    /// A group's commit is acknowledged before it is in the log.
    AcknowledgeCommitEarly: 100,
    /// A commit counts whatever generation its member is in.
    CommitInAnyGeneration: 0,
    /// An assignment that was on its way to the log when its generation ended is handed out in the next one.
    AssignInAnyGeneration: 0,
    /// Members are told their assignment before it is in the log.
    AnswerSyncBeforeWritten: 100,
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
