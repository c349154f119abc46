//! In one generation of a group a partition belongs to one member, and a member is told one assignment.

use std::collections::BTreeMap;

use super::Violation;

const CHECK: &str = "one member for each partition in a generation";

#[derive(Debug, Default)]
pub struct Generations {
    /// Of the newest generation that was seen of each group, and of those before it.
    assigned: BTreeMap<(usize, i32), BTreeMap<String, Vec<i32>>>,
}

impl Generations {
    /// A member was told what it has.
    ///
    /// # Errors
    /// Somebody else has it in the same generation, or it had something else.
    pub fn assigned(
        &mut self,
        group: usize,
        generation: i32,
        member: &str,
        partitions: &[i32],
    ) -> Result<(), Violation> {
        let members = self.assigned.entry((group, generation)).or_default();
        let other = members.iter().find(|(other, held)| {
            other.as_str() != member && held.iter().any(|partition| partitions.contains(partition))
        });
        if let Some((other, held)) = other {
            let what = format!(
                "group {group}, generation {generation}: {member} has partitions {partitions:?}, and {other} {held:?}"
            );
            return Err(Violation::new(CHECK, what));
        }
        let known = members.entry(member.to_owned()).or_insert_with(|| partitions.to_vec());
        if known != partitions {
            let what = format!(
                "group {group}, generation {generation}: {member} was told {known:?}, and then {partitions:?}"
            );
            return Err(Violation::new(CHECK, what));
        }
        Ok(())
    }
}
