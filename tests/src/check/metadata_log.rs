//! The metadata log is one: what any node ever applied at an index, every other one applies there, for ever; and a term has one leader.

use std::collections::BTreeMap;

use super::Violation;

#[derive(Debug, Default)]
pub struct MetadataLogs {
    /// By index: the term, and a sum of the bytes; of a term's beginning there are none.
    applied: BTreeMap<u64, (u64, Option<u32>)>,
    /// By term: which node.
    leaders: BTreeMap<u64, usize>,
}

impl MetadataLogs {
    /// A node applies an entry.
    ///
    /// # Errors
    /// Another one has applied another entry there.
    pub fn see(&mut self, node: usize, index: u64, term: u64, sum: Option<u32>) -> Result<(), Violation> {
        let known = *self.applied.entry(index).or_insert((term, sum));
        if known == (term, sum) {
            return Ok(());
        }
        let what = format!(
            "node {} applies at index {index} an entry of term {term} ({sum:?}), where there is one of term {} ({:?})",
            node + 1,
            known.0,
            known.1
        );
        Err(Violation::new("the metadata log is one", what))
    }

    /// A node leads. Whether that is news.
    ///
    /// # Errors
    /// Another one has led in this term.
    pub fn leads(&mut self, node: usize, term: u64) -> Result<bool, Violation> {
        let is_news = !self.leaders.contains_key(&term);
        let known = *self.leaders.entry(term).or_insert(node);
        if known == node {
            return Ok(is_news);
        }
        let what = format!("node {} leads the quorum in term {term}, as node {} did", node + 1, known + 1);
        Err(Violation::new("one leader in each term", what))
    }

    /// The last index that any node has applied.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.applied.keys().next_back().copied().unwrap_or(0)
    }
}
