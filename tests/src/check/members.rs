//! Whoever is in sync has everything that is committed: it may lead at any moment.

use ottla_machine::controller::image::Image;
use ottla_protocol::types::NodeId;

use super::{Look, Violation};

/// Looks at a replica, by the newest image that anybody has. `committed`: the end of what any node says is committed.
///
/// # Errors
/// Something committed is not there.
pub fn look(image: &Image, look: &Look, committed: i64) -> Result<(), Violation> {
    let Some(view) = &look.seen.view else { return Ok(()) };
    let id = NodeId(i32::try_from(look.node).unwrap_or(i32::MAX) + 1);
    let topic = image.topics.get(&look.partition.topic);
    let state = topic.and_then(|topic| topic.partitions.get(usize::try_from(look.partition.index).ok()?));
    let is_member = state.is_some_and(|state| state.isr.contains(&id));
    // Another process than the one that is in sync has not been judged yet; damage is found when it is read.
    let is_registered = image.broker(id).is_some_and(|broker| broker.epoch == look.epoch);
    if !is_member || !is_registered || look.is_flipped || look.seen.is_damaged {
        return Ok(());
    }
    if view.end_offset().0 < committed {
        let what = format!(
            "{}: is in sync, and its log ends at {}; committed is what lies before {committed}",
            look.name(),
            view.end_offset()
        );
        return Err(Violation::new("who is in sync has all that is committed", what));
    }
    Ok(())
}
