//! An acknowledged commit is never lost and never goes back, but by another commit that came later.

use std::collections::BTreeMap;

use super::Violation;

/// A commit that may be what the group finds.
#[derive(Clone, Copy, Debug)]
struct Commit {
    /// Names it, with its partition.
    id: u64,
    generation: i32,
    offset: i64,
    began_us: u64,
    /// When it was acknowledged.
    acknowledged_us: Option<u64>,
    /// It was decided on before: acknowledged, or of a generation that was over.
    over_us: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Commits {
    /// By group and partition, in the order in which they began.
    open: BTreeMap<(usize, i32), Vec<Commit>>,
    /// The newest generation of each group that a member was told of.
    generations: BTreeMap<usize, i32>,
    next: u64,
}

impl Commits {
    /// A member was told that its group is in a generation: commits of older ones are refused from here on.
    pub fn on_generation(&mut self, group: usize, generation: i32, now_us: u64) {
        let known = self.generations.entry(group).or_insert(generation);
        if *known > generation {
            return;
        }
        *known = generation;
        for commit in self.open.range_mut((group, i32::MIN)..=(group, i32::MAX)).flat_map(|(_, open)| open) {
            if commit.generation < generation {
                commit.over_us.get_or_insert(now_us);
            }
        }
    }

    /// A member asks for commits; returns what names them.
    pub fn begin(&mut self, group: usize, generation: i32, offsets: &[(i32, i64)], now_us: u64) -> u64 {
        self.next += 1;
        for (partition, offset) in offsets {
            self.open.entry((group, *partition)).or_default().push(Commit {
                id: self.next,
                generation,
                offset: *offset,
                began_us: now_us,
                acknowledged_us: None,
                over_us: None,
            });
        }
        self.next
    }

    /// A member was told that its commit is there.
    pub fn acknowledged(&mut self, group: usize, id: u64, partition: i32, now_us: u64) {
        let Some(open) = self.open.get_mut(&(group, partition)) else { return };
        let Some(commit) = open.iter_mut().find(|commit| commit.id == id) else { return };
        (commit.acknowledged_us, commit.over_us) = (Some(now_us), Some(now_us));
        let began_us = commit.began_us;
        // Whatever was over before it began can be found no more.
        open.retain(|other| other.id == id || other.over_us.is_none_or(|over_us| over_us > began_us));
    }

    /// A member of the newest generation was told where its group is (-1: nowhere), and had asked at `asked_us`.
    ///
    /// # Errors
    /// It cannot be there.
    pub fn fetched(
        &self,
        group: usize,
        generation: i32,
        partition: i32,
        offset: i64,
        asked_us: u64,
    ) -> Result<(), Violation> {
        if self.generations.get(&group).is_some_and(|newest| *newest > generation) {
            // Its coordinator may not know yet that another one has taken over.
            return Ok(());
        }
        let open = self.open.get(&(group, partition)).map_or(&[][..], Vec::as_slice);
        let settled = open.iter().filter(|commit| commit.acknowledged_us.is_some_and(|at| at <= asked_us));
        let last = settled.max_by_key(|commit| commit.began_us);
        let fits = match last {
            None => offset == -1 || open.iter().any(|commit| commit.offset == offset),
            Some(last) => open.iter().any(|commit| {
                commit.offset == offset && commit.over_us.is_none_or(|over_us| over_us > last.began_us)
            }),
        };
        if fits {
            return Ok(());
        }
        let what = format!(
            "group {group}, generation {generation}: partition {partition} is found at {offset}, after {last:?}; there were {open:?}"
        );
        Err(Violation::new("an acknowledged commit stays", what))
    }

    /// The highest acknowledged commit.
    #[must_use]
    pub fn last(&self, group: usize, partition: i32) -> i64 {
        let open = self.open.get(&(group, partition)).map_or(&[][..], Vec::as_slice);
        let acknowledged = open.iter().filter(|commit| commit.acknowledged_us.is_some());
        acknowledged.map(|commit| commit.offset).max().unwrap_or(0)
    }
}
