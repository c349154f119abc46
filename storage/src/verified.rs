//! Which bytes of a segment are known to be what was written: each batch's checksum is looked at once.

/// More than this many separate ranges are not remembered; forgetting only costs a second look.
const RANGES_MAX: usize = 256;

/// Disjoint ranges of byte positions, in order.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    ranges: Vec<(u64, u64)>,
}

impl Verified {
    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.0 <= start);
        start >= end || after.checked_sub(1).is_some_and(|at| self.ranges[at].1 >= end)
    }

    pub(crate) fn insert(&mut self, start: u64, end: u64) {
        if let Some(last) = self.ranges.last_mut().filter(|last| last.1 == start) {
            // The usual case: appends, and a reader that goes forward.
            last.1 = end;
            return;
        }
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = self.ranges.partition_point(|range| range.0 <= end);
        let merged = self.ranges[from..to]
            .iter()
            .fold((start, end), |merged, range| (merged.0.min(range.0), merged.1.max(range.1)));
        self.ranges.splice(from..to, [merged]);
        if self.ranges.len() > RANGES_MAX {
            let shortest = (0..self.ranges.len()).min_by_key(|at| self.ranges[*at].1 - self.ranges[*at].0);
            self.ranges.remove(shortest.expect("there are ranges"));
        }
    }

    /// Forgets what lies past `end`.
    pub(crate) fn truncate(&mut self, end: u64) {
        self.ranges.retain_mut(|range| {
            range.1 = range.1.min(end);
            range.0 < range.1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_behave_as_a_set_of_bytes(inserts in prop::collection::vec((0_u64..60, 1_u64..20), 0..20), cut in 0_u64..90) {
            let mut verified = Verified::default();
            let mut model = [false; 100];
            for (start, len) in inserts {
                verified.insert(start, start + len);
                model[start as usize..(start + len) as usize].fill(true);
            }
            verified.truncate(cut);
            model[cut as usize..].fill(false);
            for start in 0..80_u64 {
                for len in [0, 1, 5, 20] {
                    let expected = model[start as usize..(start + len) as usize].iter().all(|byte| *byte);
                    prop_assert_eq!(verified.covers(start, start + len), expected, "{} {}", start, len);
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut verified = Verified::default();
        for start in 0..10_000 {
            verified.insert(start * 10, start * 10 + 1);
        }
        assert!(verified.ranges.len() <= RANGES_MAX);
    }
}
