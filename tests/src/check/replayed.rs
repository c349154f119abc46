//! What a partition knows of its producers is what a start would read from its log.

use super::{Look, Violation};

/// One partition of one node at each look: reading its log costs its size.
#[derive(Debug, Default)]
pub struct Replayed {
    turn: usize,
}

/// Every so many looks.
const EVERY: usize = 47;

impl Replayed {
    /// Compares.
    ///
    /// # Errors
    /// They differ.
    pub fn look(&mut self, looks: &[Look]) -> Result<(), Violation> {
        self.turn += 1;
        if looks.is_empty() || !self.turn.is_multiple_of(EVERY) {
            return Ok(());
        }
        let look = &looks[(self.turn / EVERY) % looks.len()];
        if look.seen.is_damaged || look.seen.view.is_none() {
            return Ok(());
        }
        let Ok(replayed) = look.partition.replayed_producers() else { return Ok(()) };
        if replayed == look.seen.producers {
            return Ok(());
        }
        let what = format!("{}: live {:?}, replayed {replayed:?}", look.name(), look.seen.producers);
        Err(Violation::new("producers live are producers replayed", what))
    }
}
