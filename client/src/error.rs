//! What can go wrong between a client and a cluster.

use std::io;
use std::time::Duration;

use ottla_protocol::error::ErrorCode;

pub type Result<T> = std::result::Result<T, Error>;

/// Every message names what happened and to whom; what to do about it, the caller knows better.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is no address: give it as HOST:PORT, several with commas between them")]
    BadAddress(String),
    /// With each address that was tried, and why it failed.
    #[error("no broker answers at {}", tried.iter().map(|(address, why)| format!("{address} ({why})")).collect::<Vec<_>>().join(", "))]
    Unreachable { tried: Vec<(String, String)> },
    #[error("{address}: the connection broke before {api} was answered: {source}")]
    Lost { address: String, api: &'static str, source: io::Error },
    #[error("{address}: no answer to {api} within {} s", patience.as_secs_f64())]
    TimedOut { address: String, api: &'static str, patience: Duration },
    #[error("{address}: the answer to {api} can't be read: {why}")]
    Unreadable { address: String, api: &'static str, why: String },
    #[error("{address} {}, and this needs version {} to {}", serves.map_or_else(|| format!("does not serve {api}"), |(min, max)| format!("serves {api} in versions {min} to {max}")), needs.0, needs.1)]
    NotServed { address: String, api: &'static str, needs: (i16, i16), serves: Option<(i16, i16)> },
    /// A broker's own answer.
    #[error("{what}: {message} ({code})")]
    Refused { what: String, code: ErrorCode, message: String },
    #[error("there is no topic {0}")]
    NoTopic(String),
    #[error("topic {topic} has no partition {partition}: it has 0 to {}", count - 1)]
    NoPartition { topic: String, partition: i32, count: usize },
    #[error("{0}: the records from offset {1} on can't be read: {2}")]
    Corrupt(String, i64, String),
}

impl Error {
    /// What the broker said of `what`. An unknown code stands for a newer broker's.
    #[must_use]
    pub fn refused(what: impl Into<String>, code: i16, message: Option<&str>) -> Self {
        let known = ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError);
        let message = match message {
            Some(message) if !message.is_empty() => message.trim_end_matches('.').to_owned(),
            _ if known.code() != code => format!("error {code}, which this version does not know"),
            _ => known.meaning().trim_end_matches('.').to_owned(),
        };
        Self::Refused { what: what.into(), code: known, message }
    }

    /// `Ok` for the code 0.
    ///
    /// # Errors
    /// Any other code.
    pub fn check(what: impl Into<String>, code: i16, message: Option<&str>) -> Result<()> {
        if code == 0 { Ok(()) } else { Err(Self::refused(what, code, message)) }
    }

    /// The broker's code, where it was a broker that refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Nobody was there, or nobody answered in time.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. } | Self::TimedOut { .. })
    }

    /// Whether the same question may have an answer a moment later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.is_absence() || self.code().is_some_and(is_retriable)
    }
}

/// The codes that pass by themselves: a leader or coordinator that moves, loads or is elected, replicas that are missing for now.
#[must_use]
pub fn is_retriable(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::CorruptMessage
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::RequestTimedOut
            | ErrorCode::BrokerNotAvailable
            | ErrorCode::ReplicaNotAvailable
            | ErrorCode::NetworkException
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::NotController
            | ErrorCode::ConcurrentTransactions
            | ErrorCode::KafkaStorageError
            | ErrorCode::ListenerNotFound
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::OffsetNotAvailable
            | ErrorCode::UnstableOffsetCommit
            | ErrorCode::ThrottlingQuotaExceeded
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
    )
}
