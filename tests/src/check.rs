//! What must hold in every run, one invariant in each file. All of it looks from outside: at logs, images and what clients were told.

pub mod acknowledged;
pub mod bounded;
pub mod commits;
pub mod generations;
pub mod idempotence;
pub mod image;
pub mod in_sync;
pub mod liveness;
pub mod logs;
pub mod members;
pub mod metadata_log;
pub mod one_leader;
pub mod replayed;
pub mod resumed;
pub mod watermark;

use std::sync::Arc;

use ottla::partition::{Inspection, Partition};
use ottla_machine::controller::image::Image;
use ottla_protocol::types::BrokerEpoch;

/// Something that must never be.
#[derive(Clone, Debug)]
pub struct Violation {
    pub check: &'static str,
    pub what: String,
}

impl Violation {
    fn new(check: &'static str, what: String) -> Self {
        Self { check, what }
    }
}

/// A partition on a node, at one moment.
pub struct Look {
    pub node: usize,
    /// Which process of the node.
    pub life: u64,
    /// As what it is registered, as far as it knows.
    pub epoch: BrokerEpoch,
    pub partition: Arc<Partition>,
    pub seen: Inspection,
    /// A bit of this replica has flipped, at some time: parts of it may be unreadable until it was fetched anew.
    pub is_flipped: bool,
}

impl Look {
    fn name(&self) -> String {
        format!("partition {} on node {} (life {})", self.partition.index, self.node + 1, self.life)
    }
}

/// All of them, and what they remember.
#[derive(Debug, Default)]
pub struct Checks {
    pub logs: logs::LogsMatch,
    pub acknowledged: acknowledged::Acknowledged,
    pub idempotence: idempotence::Idempotence,
    pub images: image::Images,
    pub in_sync: in_sync::InSyncRules,
    pub commits: commits::Commits,
    pub generations: generations::Generations,
    pub resumed: resumed::Resumed,
    pub metadata_log: metadata_log::MetadataLogs,
    one_leader: one_leader::OneLeader,
    watermark: watermark::Watermark,
    replayed: replayed::Replayed,
}

impl Checks {
    /// `retains`: records go once they are past their retention.
    #[must_use]
    pub fn new(retains: bool) -> Self {
        Self { logs: logs::LogsMatch::new(retains), ..Self::default() }
    }

    /// Looks at every partition of every node. `image`: the newest.
    ///
    /// # Errors
    /// The first violation.
    pub fn look(&mut self, image: Option<&Image>, looks: &[Look]) -> Result<(), Violation> {
        for look in looks {
            self.one_leader.look(look)?;
            self.watermark.look(look)?;
            bounded::look(look)?;
        }
        for look in looks {
            let committed = self.logs.look(look)?;
            self.idempotence.see(look.partition.index, &committed)?;
            self.acknowledged.committed(look.partition.index, &committed)?;
        }
        for (image, look) in image.into_iter().flat_map(|image| looks.iter().map(move |look| (image, look))) {
            members::look(image, look, self.logs.committed(look.partition.index))?;
        }
        self.replayed.look(looks)
    }

    /// The last look: `made` says of each producer its partition, and how many records it made and was told to be there.
    ///
    /// # Errors
    /// The first violation.
    pub fn finish(&mut self, made: &[(usize, i32, u64)]) -> Result<(), Violation> {
        self.acknowledged.finish()?;
        self.idempotence.finish(made)
    }
}
