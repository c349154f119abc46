//! Reading as a member of a group: which partitions, from where, and how far it came.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ottla_client::{Cluster, Consumer, Member, Progress, TopicPartition};

use crate::cli::place::Place;

/// As often as other consumers do by default.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Commits {
    member: Member,
    /// Where a partition without a commit begins.
    from: Place,
    assigned: Option<Vec<TopicPartition>>,
    committed: BTreeMap<TopicPartition, i64>,
    last: Instant,
}

impl Commits {
    pub(super) fn join(
        cluster: Cluster,
        group: &str,
        topics: &[String],
        from: Place,
    ) -> anyhow::Result<Self> {
        let mut member = Member::new(cluster, group, topics)?;
        let assigned = Some(member.join()?);
        Ok(Self { member, from, assigned, committed: BTreeMap::new(), last: Instant::now() })
    }

    /// Whether the assignment of the last join has been taken up.
    pub(super) fn is_settled(&self) -> bool {
        self.assigned.is_none()
    }

    /// To be called often. Gives the positions of a new assignment; before it is asked for, what is done is committed.
    pub(super) fn tick(
        &mut self,
        done: &BTreeMap<TopicPartition, i64>,
        consumer: &mut Consumer,
    ) -> anyhow::Result<Option<BTreeMap<TopicPartition, i64>>> {
        if self.last.elapsed() >= COMMIT_EVERY {
            self.commit(done)?;
        }
        if let Progress::Assigned(partitions) = self.member.tick()? {
            self.assigned = Some(partitions);
        }
        let Some(partitions) = self.assigned.take() else { return Ok(None) };
        let committed = self.member.committed()?;
        let (known, fresh): (Vec<_>, Vec<_>) =
            partitions.into_iter().partition(|partition| committed.contains_key(partition));
        let mut positions = self.from.find(consumer.cluster(), &fresh)?;
        positions.extend(known.into_iter().filter_map(|partition| {
            let offset = committed.get(&partition).copied()?;
            // What this member did and could not commit before the others came is not printed twice.
            let offset = done.get(&partition).map_or(offset, |done| offset.max(*done));
            Some((partition, offset))
        }));
        self.committed = committed;
        Ok(Some(positions))
    }

    /// Notes what is new. A rebalance that comes between is no error: the next member begins at the last commit.
    fn commit(&mut self, done: &BTreeMap<TopicPartition, i64>) -> anyhow::Result<()> {
        self.last = Instant::now();
        let new: BTreeMap<TopicPartition, i64> = done
            .iter()
            .filter(|(partition, offset)| self.committed.get(*partition) != Some(*offset))
            .map(|(partition, offset)| (partition.clone(), *offset))
            .collect();
        match self.member.commit(&new) {
            Ok(()) => {
                self.committed.extend(new);
                Ok(())
            }
            Err(error) if is_rebalance(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Commits, and leaves the group.
    pub(super) fn finish(&mut self, done: &BTreeMap<TopicPartition, i64>) -> anyhow::Result<()> {
        self.commit(done)?;
        Ok(self.member.leave()?)
    }
}

fn is_rebalance(error: &ottla_client::Error) -> bool {
    use ottla_protocol::error::ErrorCode;
    matches!(
        error.code(),
        Some(ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId)
    )
}
