//! A partition has one leader in each epoch.

use std::collections::BTreeMap;

use super::{Look, Violation};

#[derive(Debug, Default)]
pub struct OneLeader(BTreeMap<(i32, i32), (usize, u64)>);

impl OneLeader {
    /// Looks at who leads.
    ///
    /// # Errors
    /// Two nodes lead in the same epoch, or one does after its process began anew.
    pub fn look(&mut self, look: &Look) -> Result<(), Violation> {
        if !look.seen.leads || look.seen.view.is_none() {
            return Ok(());
        }
        let epoch = look.seen.placed.leader_epoch;
        let key = (look.partition.index, epoch.0);
        let known = *self.0.entry(key).or_insert((look.node, look.life));
        if known.0 == look.node {
            return Ok(());
        }
        let what = format!(
            "{} leads in epoch {epoch}, as node {} does (life {})",
            look.name(),
            known.0 + 1,
            known.1
        );
        Err(Violation::new("one leader in each epoch", what))
    }
}
