//! What the machine remembers of refused producers, shared by a node's partitions. Its lock is taken inside of a partition's, and only
//! where a producer begins or something is refused.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ottla_machine::partition::turned_away::{Addressed, TurnedAway};
use ottla_protocol::batch::BatchHeader;
use ottla_protocol::error::ErrorCode;

/// See [`TurnedAway`].
#[derive(Debug, Default)]
pub struct Refusals(Mutex<TurnedAway>);

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, TurnedAway> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was refused that may be taken later.
    pub fn note(&self, topic: Addressed, partition: i32, header: &BatchHeader, code: ErrorCode, now_ms: u64) {
        self.lock().note(topic, partition, header, code, now_ms);
    }

    /// Why a batch of a producer that the log does not know is refused now, by whatever its topic was called.
    #[must_use]
    pub fn of(
        &self,
        names: &[Addressed],
        partition: i32,
        header: &BatchHeader,
        now_ms: u64,
    ) -> Option<ErrorCode> {
        let refusals = self.lock();
        names.iter().find_map(|name| refusals.refusal(name.clone(), partition, header, now_ms))
    }

    /// A producer's first batch was appended.
    pub fn forget(&self, names: &[Addressed], partition: i32, header: &BatchHeader) {
        let mut refusals = self.lock();
        for name in names {
            refusals.forget(name.clone(), partition, header);
        }
    }
}
