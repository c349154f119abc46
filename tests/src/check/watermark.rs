//! A high watermark never goes back in the life of a process, nor past the end of its log.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use ottla::partition::Partition;

use super::{Look, Violation};

const CHECK: &str = "the high watermark never goes back";

#[derive(Debug, Default)]
pub struct Watermark(BTreeMap<(usize, i32), (Weak<Partition>, i64)>);

impl Watermark {
    /// Looks at a watermark.
    ///
    /// # Errors
    /// It was higher before.
    pub fn look(&mut self, look: &Look) -> Result<(), Violation> {
        if !look.partition.is_held() {
            // It moved away, and its files went: when it comes back it begins anew.
            self.0.remove(&(look.node, look.partition.index));
            return Ok(());
        }
        let Some(view) = &look.seen.view else { return Ok(()) };
        let now = look.seen.high_watermark;
        if now > view.end_offset() {
            let what = format!("{}: it is {now}, and the log ends at {}", look.name(), view.end_offset());
            return Err(Violation::new(CHECK, what));
        }
        // Another process, or another log: it moved away and back between two looks.
        let own = Arc::downgrade(&look.partition);
        let known = self.0.entry((look.node, look.partition.index)).or_insert((own.clone(), now.0));
        if !known.0.ptr_eq(&own) {
            *known = (own, now.0);
        }
        if now.0 < known.1 && !look.seen.is_damaged && !look.is_flipped {
            return Err(Violation::new(CHECK, format!("{}: it was {} and is {now}", look.name(), known.1)));
        }
        known.1 = now.0;
        Ok(())
    }
}
