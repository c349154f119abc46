//! Where nothing is wrong, every partition is led, all replicas are in sync, and their logs are equal and committed to the end.

use super::Look;

/// Whether it is so.
///
/// # Errors
/// What is missing, in words.
pub fn converged(looks: &[Look], partitions: usize) -> Result<(), String> {
    for index in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        let of_index = || looks.iter().filter(|look| look.partition.index == index);
        let Some(leader) = of_index().find(|look| look.seen.leads) else {
            return Err(format!("nobody leads partition {index}"));
        };
        let placed = &leader.seen.placed;
        if placed.isr.len() < placed.replicas.len()
            || !placed.adding.is_empty()
            || !placed.removing.is_empty()
        {
            return Err(format!("partition {index} is not whole: {placed:?}"));
        }
        let Some(end) = leader.seen.view.as_ref().map(|view| view.end_offset()) else {
            return Err(format!("{} is not open", leader.name()));
        };
        for look in of_index()
            .filter(|look| placed.replicas.iter().any(|id| usize::try_from(id.0 - 1) == Ok(look.node)))
        {
            let own = look.seen.view.as_ref().map(|view| view.end_offset());
            if own != Some(end) || look.seen.high_watermark != end {
                return Err(format!(
                    "{} ends at {own:?} and is committed to {}, where its leader ends at {end}",
                    look.name(),
                    look.seen.high_watermark
                ));
            }
        }
    }
    Ok(())
}
