//! A look at a partition as it is, for who checks it from outside: tests and the simulator.

use std::sync::Arc;

use ottla_machine::controller::image::PartitionState;
use ottla_machine::partition::leader::Follower;
use ottla_machine::partition::producers::Producers;
use ottla_protocol::error::ErrorCode;
use ottla_protocol::types::{NodeId, Offset};
use ottla_storage::{LogView, StorageError};

use super::Partition;

/// A partition at one moment.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What its node knows of its replicas.
    pub placed: PartitionState,
    /// Whether it leads, by that.
    pub leads: bool,
    pub high_watermark: Offset,
    /// Up to where its log is on the disk.
    pub flushed: Offset,
    /// `None`: nobody has opened the log yet.
    pub view: Option<LogView>,
    pub producers: Producers,
    /// Replies that wait for the high watermark.
    pub waiting: usize,
    /// What a leader knows of its followers.
    pub followers: Vec<(NodeId, Follower)>,
    /// Why it takes nothing any more.
    pub offline: Option<ErrorCode>,
    /// The log has a fault of its disk, or damage.
    pub is_damaged: bool,
}

impl Partition {
    #[must_use]
    pub fn inspect(&self) -> Inspection {
        let state = self.lock();
        let log = state.log.as_ref();
        Inspection {
            placed: state.replica.state().clone(),
            leads: state.replica.leads(),
            high_watermark: state.replica.high_watermark(),
            flushed: log.map_or(Offset::ZERO, |log| log.flushed_end()),
            view: log.map(|log| log.view()),
            producers: state.producers.clone(),
            waiting: state.waiting.len(),
            followers: state.replica.followers().map(|(id, follower)| (id, *follower)).collect(),
            offline: state.offline,
            is_damaged: log.is_some_and(|log| log.failure().is_some()),
        }
    }

    /// The producers as a start would find them: the last snapshot, and the log behind it.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn replayed_producers(self: &Arc<Self>) -> Result<Producers, StorageError> {
        let state = self.lock();
        let Some(log) = state.log.as_ref() else { return Ok(Producers::default()) };
        match self.load_producers(log, None)? {
            (producers, None) => Ok(producers),
            (_, Some(damage)) => Err(damage),
        }
    }
}
