//! Bits that flip at rest: what is on the disk of a node changes while the node is stopped. Nobody may ever be given such a batch as
//! a good one; the replica is fetched anew from the others.

use std::path::Path;

use ottla_protocol::batch;
use ottla_storage::Disk as _;
use rand::Rng as _;

use super::world::{Event, TOPIC, World};

/// The first bytes of a batch that its checksum does not cover: its base offset, its length, its leader's epoch, its version and the
/// checksum. A change of the offset or the epoch cannot be seen in Kafka's format.
const BASE_OFFSET: std::ops::Range<usize> = 0..8;
const LEADER_EPOCH: std::ops::Range<usize> = 12..16;

impl World {
    /// Stops a node in order, and flips one bit of a committed batch that both others have too. Of one partition only one node's replica is ever
    /// damaged: what all have lost nobody can bring back.
    pub(super) fn flip(&mut self, n: usize) -> bool {
        if self.nodes[n].live.is_none() || self.nodes[n].distrusts_disk {
            return false;
        }
        let partition = self.rng.random_range(0..self.plan.partitions);
        if self.flipped.get(&partition).is_some_and(|other| *other != n) {
            return false;
        }
        let looks = self.looks();
        let ends =
            looks.iter().filter(|look| look.partition.index == partition && look.node != n).map(|look| {
                let whole = !look.seen.is_damaged && look.seen.offline.is_none();
                look.seen.view.as_ref().filter(|_| whole).map_or(0, |view| view.end_offset().0)
            });
        let ends: Vec<i64> = ends.collect();
        let there = if ends.len() == 2 { ends.into_iter().min().unwrap_or(0) } else { 0 };
        let committed = self.checks.logs.committed(partition).min(there);
        drop(looks);
        let dir = format!("/data/{TOPIC}-{partition}");
        let Ok(files) = self.nodes[n].disk.list(Path::new(&dir)) else { return false };
        let segments: Vec<_> =
            files.into_iter().filter(|file| file.name.ends_with(".log") && file.len > 0).collect();
        if segments.is_empty() {
            return false;
        }
        let file = &segments[self.rng.random_range(0..segments.len())];
        let path = format!("{dir}/{}", file.name);
        let Ok(bytes) = self.nodes[n].disk.read(Path::new(&path)) else { return false };
        let at = self.rng.random_range(0..bytes.len());
        let mut start = 0;
        for batch in batch::batches(&bytes).map_while(Result::ok) {
            let header = *batch.header();
            let end = start + header.size_bytes();
            if at < end {
                let within = at - start;
                if BASE_OFFSET.contains(&within)
                    || LEADER_EPOCH.contains(&within)
                    || header.next_offset().0 > committed
                {
                    return false;
                }
                break;
            }
            start = end;
        }
        let bit = self.rng.random_range(0..8);
        if !self.stop(n) {
            return false;
        }
        let at_us = self.now_us + self.lasts(50_000..3_000_000);
        self.schedule(at_us, Event::Boot { node: n });
        self.trace.line(self.now_us, &format!("bit {bit} of byte {at} of {path} flips on node {}", n + 1));
        let flipped = self.nodes[n].disk.flip_bit(Path::new(&path), at as u64, bit);
        self.flipped.insert(partition, n);
        // Somebody reads everything again.
        self.read_again(partition);
        flipped.is_ok()
    }
}
