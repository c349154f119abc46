//! What a partition knows of its producers is what a start would read from its log.

use ottla_machine::partition::producers::{Producer, Producers, Remembered};
use ottla_protocol::types::Offset;

use super::{Look, Violation};

/// One partition of one node at each look: reading its log costs its size.
#[derive(Debug, Default)]
pub struct Replayed {
    turn: usize,
}

/// Every so many looks.
const EVERY: usize = 47;

/// Every producer's batches that are there: of records past their retention a start may know nothing.
fn of_what_is_there(look: &Look, producers: &Producers) -> Vec<(i64, i16, Vec<Remembered>)> {
    let start = look.seen.view.as_ref().map_or(Offset::ZERO, |view| view.start_offset());
    let there = |(id, producer): (i64, &Producer)| {
        let batches = producer.batches().filter(|batch| batch.last_offset >= start);
        (id, producer.epoch, batches.copied().collect::<Vec<_>>())
    };
    producers.iter().map(there).filter(|(_, _, batches)| !batches.is_empty()).collect()
}

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
        if of_what_is_there(look, &replayed) == of_what_is_there(look, &look.seen.producers) {
            return Ok(());
        }
        let what = format!("{}: live {:?}, replayed {replayed:?}", look.name(), look.seen.producers);
        Err(Violation::new("producers live are producers replayed", what))
    }
}
