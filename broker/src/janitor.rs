//! Work that comes round by itself, on threads of its own: retention, compaction.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ottla_machine::partition::producers::Producers;
use ottla_protocol::batch::{self, BatchHeader};
use ottla_protocol::record::Record;
use ottla_protocol::types::Offset;
use ottla_storage::compaction::{BatchFate, Cleaner, Tombstones};
use ottla_storage::{Journal, LogView, StorageError};

use crate::clock::Clock;
use crate::config::Config;
use crate::partition::Partition;
use crate::partitions::Partitions;

/// What the journal noted is on the disk after this long at the latest.
const JOURNAL_EVERY: Duration = Duration::from_secs(1);
/// Keys that one pass of the cleaner holds in memory: with 24 bytes each, some 128 MiB.
const KEYS_MAX: usize = 5_000_000;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// A stored batch was bounded when it was appended; this guards against damage only.
const UNPACKED_MAX: usize = 1 << 30;

/// The threads.
#[derive(Debug)]
pub struct Janitor {
    stopping: Arc<(Mutex<bool>, Condvar)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Janitor {
    /// Starts them.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn start(
        config: &Config,
        clock: &Clock,
        partitions: &Arc<Partitions>,
        journal: &Arc<Journal>,
    ) -> std::io::Result<Self> {
        let millis =
            |name: &str| Duration::from_millis(u64::try_from(config.number(name)).unwrap_or(0).max(1));
        let janitor = Self { stopping: Arc::default(), threads: Mutex::default() };
        let journal = Arc::clone(journal);
        janitor.repeat("journal", JOURNAL_EVERY, move |_| sync_journal(&journal))?;
        let (wall, producers) = (clock.clone(), config.number("producer.id.expiration.ms"));
        janitor.every(
            "retention",
            millis("log.retention.check.interval.ms"),
            partitions,
            move |partition| retain(partition, wall.now_ms(), producers),
        )?;
        if config.flag("log.cleaner.enable") {
            let wall = clock.clone();
            janitor.every("cleaner", millis("log.cleaner.backoff.ms"), partitions, move |partition| {
                compact(partition, wall.now_ms());
            })?;
        }
        Ok(janitor)
    }

    fn every(
        &self,
        name: &str,
        pause: Duration,
        partitions: &Arc<Partitions>,
        work: impl Fn(&Arc<Partition>) + Send + 'static,
    ) -> std::io::Result<()> {
        let partitions = Arc::clone(partitions);
        self.repeat(name, pause, move |stopping| {
            for partition in partitions.all() {
                work(&partition);
                if stopping() {
                    return;
                }
            }
        })
    }

    /// Has `round` done again and again, with a pause before each. It is told how to see that it should end.
    fn repeat(
        &self,
        name: &str,
        pause: Duration,
        round: impl Fn(&dyn Fn() -> bool) + Send + 'static,
    ) -> std::io::Result<()> {
        let stopping = Arc::clone(&self.stopping);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let (flag, wake) = &*stopping;
            loop {
                let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
                let (guard, _) = wake
                    .wait_timeout_while(guard, pause, |stop| !*stop)
                    .unwrap_or_else(PoisonError::into_inner);
                if *guard {
                    return;
                }
                drop(guard);
                round(&|| *flag.lock().unwrap_or_else(PoisonError::into_inner));
            }
        })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Ends the threads after what they are at.
    pub fn stop(&self) {
        *self.stopping.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopping.1.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a housekeeping thread panicked");
            }
        }
    }
}

/// Brings what the journal noted to the disk: the noted ends spare a start after a crash from reading what was flushed anyway.
pub fn sync_journal(journal: &Journal) {
    if journal.recorded() > journal.synced()
        && let Err(error) = journal.sync()
    {
        tracing::error!("the journal is not synced: {error}");
    }
}

/// Lets go of what is past its retention in one partition, and of producers silent for longer than `producers_ms`. Waits for the disk.
pub fn retain(partition: &Arc<Partition>, now_ms: i64, producers_ms: i64) {
    report(partition, "retention", partition.retain(now_ms, producers_ms));
}

/// Compacts one partition where it is due. Waits for the disk.
pub fn compact(partition: &Arc<Partition>, now_ms: i64) {
    report(partition, "compaction", clean(partition, now_ms));
}

fn report(partition: &Partition, what: &str, result: Result<(), StorageError>) {
    match result {
        // The log moved on meanwhile: the next round sees it as it is.
        Ok(()) | Err(StorageError::ViewStale { .. }) => {}
        Err(error) => {
            tracing::error!("{what} of {}: {error}", partition.dir_name);
            partition.on_unreadable(&error);
        }
    }
}

/// The newest offset of each key in a stretch of the log. Keys are held as 128-bit hashes.
struct Newest {
    hashers: [RandomState; 2],
    offsets: HashMap<(u64, u64), Offset>,
    end: Offset,
}

impl Newest {
    fn hash(&self, key: &[u8]) -> (u64, u64) {
        (self.hashers[0].hash_one(key), self.hashers[1].hash_one(key))
    }

    /// Reads the keys from `from` on, up to `to` or until memory is used up.
    fn read(view: &LogView, from: Offset, to: Offset) -> Result<Self, StorageError> {
        let mut newest =
            Self { hashers: [RandomState::new(), RandomState::new()], offsets: HashMap::new(), end: from };
        while newest.end < to && newest.offsets.len() < KEYS_MAX {
            let before = newest.end;
            for slice in &view.read(before, READ_BYTES)? {
                for batch in batch::batches(slice.bytes()) {
                    let malformed = |error: batch::BatchError| StorageError::Malformed(error.to_string());
                    let batch = batch.map_err(malformed)?;
                    if batch.header().base_offset >= to {
                        return Ok(newest);
                    }
                    newest.end = batch.header().next_offset();
                    if batch.header().is_control() {
                        continue;
                    }
                    let unpacked = batch.uncompressed(UNPACKED_MAX).map_err(malformed)?;
                    for record in batch.records(&unpacked) {
                        let record = record.map_err(malformed)?;
                        if let Some(key) = record.key {
                            let hash = newest.hash(key);
                            newest.offsets.insert(hash, record.offset);
                        }
                    }
                }
            }
            if newest.end == before {
                break;
            }
        }
        Ok(newest)
    }
}

struct Compactor<'a> {
    newest: &'a Newest,
    producers: &'a Producers,
}

impl Cleaner for Compactor<'_> {
    fn batch(&mut self, header: &BatchHeader) -> BatchFate {
        if header.is_control() { BatchFate::Keep } else { BatchFate::Clean }
    }

    fn is_latest(&mut self, _header: &BatchHeader, record: &Record<'_>) -> bool {
        // Without a key nothing can be newer; a compacted topic takes no such record.
        record.key.is_some_and(|key| {
            self.newest.offsets.get(&self.newest.hash(key)).is_none_or(|newest| *newest <= record.offset)
        })
    }

    fn keep_empty(&mut self, header: &BatchHeader) -> bool {
        // A producer's last batch carries its sequence (KAFKA-5490).
        self.producers.iter().any(|(id, producer)| {
            id == header.producer_id.0
                && producer.batches().last().is_some_and(|last| last.last_offset == header.last_offset())
        })
    }
}

/// Compacts one partition, if its topic is compacted and enough of it is dirty.
fn clean(partition: &Arc<Partition>, now_ms: i64) -> Result<(), StorageError> {
    let Some(plan) = partition.plan_cleaning(now_ms)? else { return Ok(()) };
    let newest = Newest::read(&plan.view, plan.dirty_from, plan.dirty_to)?;
    let mut cleaner = Compactor { newest: &newest, producers: &plan.producers };
    let tombstones = Tombstones { now_ms, retention_ms: plan.delete_retention_ms };
    let mut from = plan.view.start_offset();
    let (mut before, mut after) = (0, 0);
    while let Some(compaction) = partition.begin_compaction(from, newest.end) {
        from = compaction.range().1;
        let compacted = compaction.rewrite(&mut cleaner, tombstones)?;
        before += compacted.bytes_before;
        after += compacted.bytes_after;
        if let Some(removal) = partition.finish_compaction(compacted)? {
            removal.run()?;
        }
    }
    partition.set_cleaned_to(newest.end);
    tracing::debug!("{}: {before} bytes compacted to {after}", partition.dir_name);
    Ok(())
}
