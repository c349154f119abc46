//! Nothing grows without a limit: replies that wait are at most what clients may have in flight.

use super::{Look, Violation};

/// More than all clients of a run have in flight on one partition, with what they gave up on.
const WAITING_MAX: usize = 1_000;

/// Looks at a partition's queue.
///
/// # Errors
/// It is too long.
pub fn look(look: &Look) -> Result<(), Violation> {
    if look.seen.waiting <= WAITING_MAX {
        return Ok(());
    }
    let what = format!("{}: {} replies wait", look.name(), look.seen.waiting);
    Err(Violation::new("queues are bounded", what))
}
