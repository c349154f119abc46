//! One append-only file per log directory for the small facts of every partition: whose it is, where it starts, up to where it was
//! flushed, its leader epochs. A thousand leader changes cost one sync, and an empty partition needs no file of its own.
//!
//! A record holds all facts of one partition, so the last one counts and many changes between two syncs cost one record. The file:
//!
//! ```text
//! "OTTLAJNL" | version u16 | 6 zero bytes            then records:
//! length u32 | crc32c u32 of the payload | payload: kind u8 (1 facts, 2 forgotten) | name: u16 length, bytes
//!   facts: owner 16 bytes | log start i64 | cleaned i64 | durable u8 (0, 1) [end i64, segment i64, position u64] | u32 count of (epoch i32, start i64)
//! ```
//!
//! A torn tail loses the changes after the last sync, of which nobody was told. When the file has grown to several times what it
//! says, it is rewritten beside and renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ottla_protocol::types::{LeaderEpoch, Offset, Uuid};

use crate::checkpoint;
use crate::disk::{Disk, File, OpenMode};
use crate::epochs::{EpochHistory, EpochStart};
use crate::error::{StorageError, is_full};

const MAGIC: &[u8; 8] = b"OTTLAJNL";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 16;
/// A file smaller than this is never worth rewriting.
const REWRITE_MIN: u64 = 1 << 20;
/// Blocks are reserved in steps of this many bytes.
const ALLOCATE_STEP: u64 = 64 << 10;
/// Rewritten when it is this many times larger than what it says.
const REWRITE_FACTOR: u64 = 4;

/// A place up to which a log was flushed: recovery scans only what lies past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurablePoint {
    /// The offset after the last record before this point.
    pub end: Offset,
    /// The base offset of the segment that the point lies in.
    pub segment: Offset,
    /// The byte within that segment at which `end` begins.
    pub position: u64,
}

/// What is remembered of one log beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Who the log belongs to (a topic's id), so that a directory of the same name made later is told apart.
    pub owner: Uuid,
    /// Records below are gone, also where their bytes are still there.
    pub log_start: Offset,
    /// Compaction has seen everything below (Kafka's cleaner checkpoint).
    pub cleaned: Offset,
    /// `None`: nothing is known, everything is scanned.
    pub durable: Option<DurablePoint>,
    pub epochs: EpochHistory,
}

/// Counts changes of a journal; see [`Journal::sync`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct JournalSequence(pub u64);

/// What opening a journal found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    pub partitions: usize,
    /// Bytes at the end that were no whole record: a crash during a write.
    pub torn_bytes: u64,
    /// Places before sound records where there is none: the disk lost something. Older facts of their partitions hold.
    pub damaged_records: u64,
}

/// The journal of a log directory. Recording changes memory only; [`Journal::sync`] makes everything recorded so far durable, for
/// all partitions at the price of one sync.
///
/// Locks: `file` before `state`, each for itself otherwise.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    state: Mutex<State>,
    /// Held by the one thread that syncs.
    file: Mutex<JournalFile>,
}

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<Arc<str>, Facts>,
    /// Changed, or forgotten, since the last sync.
    dirty: BTreeSet<Arc<str>>,
    recorded: JournalSequence,
    synced: JournalSequence,
}

#[derive(Debug)]
struct JournalFile {
    file: Arc<dyn File>,
    len: u64,
    /// Blocks are reserved up to here, so that small facts still fit on a full disk.
    allocated: u64,
    /// The length that a rewritten file had, or would have had.
    live_len: u64,
    /// Set once, by the first failed write or sync.
    failure: Option<Arc<str>>,
}

impl Journal {
    /// Makes the file of a new journal. Durable when it returns. Blocks.
    pub fn create(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
        checkpoint::replace(disk, path, &header())
    }

    /// Loads a journal. Blocks.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Arc<Self>, JournalReport), StorageError> {
        let bytes = disk.read(path).map_err(|error| StorageError::io("read", path, error))?;
        check_header(path, &bytes)?;
        let (partitions, report) = load(&bytes[HEADER_LEN..]);
        let state = State { partitions, ..State::default() };
        let mut len = bytes.len() as u64;
        if report.damaged_records > 0 {
            let whole = state.encode_all();
            checkpoint::replace(&*disk, path, &whole)?;
            len = whole.len() as u64;
        }
        let file = disk.open(path, OpenMode::Existing);
        let file = file.map_err(|error| StorageError::io("open", path, error))?;
        if report.damaged_records == 0 && report.torn_bytes > 0 {
            len -= report.torn_bytes;
            file.set_len(len).map_err(|error| StorageError::io("cut", path, error))?;
        }
        // What a killed process wrote can be read, but may not be on the disk yet; from here on we rest on it.
        file.sync_data().map_err(|error| StorageError::io("sync", path, error))?;
        let live_len = state.encode_all().len() as u64;
        let mut file = JournalFile { file, len, allocated: len, live_len, failure: None };
        file.allocate(0);
        let journal =
            Self { disk, path: path.to_path_buf(), state: Mutex::new(state), file: Mutex::new(file) };
        Ok((Arc::new(journal), report))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions that have facts, in order.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.state().partitions.keys().cloned().collect()
    }

    #[must_use]
    pub fn facts(&self, name: &str) -> Option<Facts> {
        self.state().partitions.get(name).cloned()
    }

    /// A handle on one partition's facts.
    #[must_use]
    pub fn entry(self: &Arc<Self>, name: &str) -> JournalEntry {
        JournalEntry { journal: Arc::clone(self), name: name.into() }
    }

    /// Forgets a partition.
    pub fn remove(&self, name: &str) {
        let mut state = self.state();
        if let Some((name, _)) = state.partitions.remove_entry(name) {
            state.dirty.insert(name);
            state.recorded.0 += 1;
        }
    }

    /// The last change recorded.
    #[must_use]
    pub fn recorded(&self) -> JournalSequence {
        self.state().recorded
    }

    /// The last change known to be on the disk.
    #[must_use]
    pub fn synced(&self) -> JournalSequence {
        self.state().synced
    }

    /// Writes and syncs everything recorded before the call; returns the sequence that is now durable. Blocks: for flusher threads,
    /// at least every second while [`Journal::recorded`] is ahead of [`Journal::synced`], for what it does not know yet is scanned
    /// again after a crash. A full disk fails this call only; after any other failure every call fails.
    pub fn sync(&self) -> Result<JournalSequence, StorageError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &file.failure {
            let dir = self.path.clone();
            return Err(StorageError::Offline { dir, reason: Arc::clone(reason) });
        }
        let (records, names, sequence) = {
            let mut state = self.state();
            let names = std::mem::take(&mut state.dirty);
            let mut records = Vec::new();
            for name in &names {
                encode(name, state.partitions.get(name), &mut records);
            }
            (records, names, state.recorded)
        };
        if !names.is_empty() {
            let len = file.len + records.len() as u64;
            let result = if len > REWRITE_MIN.max(file.live_len * REWRITE_FACTOR) {
                self.rewrite(&mut file)
            } else {
                file.append(&records)
            };
            if let Err(error) = result {
                self.state().dirty.extend(names);
                if is_full(&error) {
                    return Err(StorageError::Full { path: self.path.clone() });
                }
                file.failure = Some(error.to_string().into());
                return Err(StorageError::io("sync", &self.path, error));
            }
        }
        let mut state = self.state();
        state.synced = state.synced.max(sequence);
        Ok(state.synced)
    }

    fn rewrite(&self, file: &mut JournalFile) -> io::Result<()> {
        let whole = self.state().encode_all();
        checkpoint::replace(&*self.disk, &self.path, &whole).map_err(|error| match error {
            StorageError::Io { source, .. } => io::Error::new(source.kind(), source),
            full @ StorageError::Full { .. } => io::Error::new(ErrorKind::StorageFull, full),
            other => io::Error::other(other),
        })?;
        file.file = self.disk.open(&self.path, OpenMode::Existing)?;
        file.len = whole.len() as u64;
        file.allocated = file.len;
        file.live_len = file.len;
        Ok(())
    }
}

impl JournalFile {
    fn allocate(&mut self, bytes: u64) {
        let needed = self.len + bytes;
        if needed >= self.allocated {
            let target = needed + ALLOCATE_STEP;
            // Where that fails, the write itself will tell.
            if self.file.allocate(self.len, target - self.len).is_ok() {
                self.allocated = target;
            }
        }
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.allocate(records.len() as u64);
        self.file.write_at(records, self.len)?;
        self.file.sync_data()?;
        self.len += records.len() as u64;
        Ok(())
    }
}

impl State {
    fn encode_all(&self) -> Vec<u8> {
        let mut bytes = header();
        for (name, facts) in &self.partitions {
            encode(name, Some(facts), &mut bytes);
        }
        bytes
    }
}

/// One partition's line in the journal; a [`crate::Log`] holds one.
#[derive(Clone, Debug)]
pub struct JournalEntry {
    journal: Arc<Journal>,
    name: Arc<str>,
}

impl JournalEntry {
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    #[must_use]
    pub fn facts(&self) -> Option<Facts> {
        self.journal.facts(&self.name)
    }

    /// Changes the facts in memory; durable after a [`Journal::sync`] that begins later.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) -> JournalSequence {
        let mut state = self.journal.state();
        change(state.partitions.entry(Arc::clone(&self.name)).or_default());
        state.dirty.insert(Arc::clone(&self.name));
        state.recorded.0 += 1;
        state.recorded
    }
}

fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.resize(HEADER_LEN, 0);
    bytes
}

fn check_header(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let path = path.to_path_buf();
    if bytes.len() < HEADER_LEN || !bytes.starts_with(MAGIC) {
        return Err(StorageError::DamagedFile {
            path,
            reason: "it does not begin as a journal does".to_owned(),
        });
    }
    let found = u16::from_be_bytes([bytes[8], bytes[9]]);
    if found > VERSION {
        return Err(StorageError::NewerFormat { path, found, supported: VERSION });
    }
    Ok(())
}

fn encode(name: &str, facts: Option<&Facts>, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&[0; 8]);
    into.push(if facts.is_some() { 1 } else { 2 });
    let name_len = u16::try_from(name.len()).expect("a directory's name is at most 255 bytes");
    into.extend_from_slice(&name_len.to_be_bytes());
    into.extend_from_slice(name.as_bytes());
    if let Some(facts) = facts {
        into.extend_from_slice(&facts.owner.0);
        into.extend_from_slice(&facts.log_start.0.to_be_bytes());
        into.extend_from_slice(&facts.cleaned.0.to_be_bytes());
        into.push(u8::from(facts.durable.is_some()));
        if let Some(durable) = facts.durable {
            into.extend_from_slice(&durable.end.0.to_be_bytes());
            into.extend_from_slice(&durable.segment.0.to_be_bytes());
            into.extend_from_slice(&durable.position.to_be_bytes());
        }
        let epochs = facts.epochs.entries();
        let count = u32::try_from(epochs.len()).expect("epochs are 31-bit numbers");
        into.extend_from_slice(&count.to_be_bytes());
        for entry in epochs {
            into.extend_from_slice(&entry.epoch.0.to_be_bytes());
            into.extend_from_slice(&entry.start.0.to_be_bytes());
        }
    }
    let payload = &into[start + 8..];
    let (len, crc) = (payload.len() as u32, crc32c::crc32c(payload));
    into[start..start + 4].copy_from_slice(&len.to_be_bytes());
    into[start + 4..start + 8].copy_from_slice(&crc.to_be_bytes());
}

/// Reads all records. Bytes that are no sound record are passed over if one stands behind them, wherever it begins: a damaged length
/// leads nowhere, and must not take the facts of others along.
fn load(mut bytes: &[u8]) -> (BTreeMap<Arc<str>, Facts>, JournalReport) {
    let mut partitions = BTreeMap::new();
    let mut report = JournalReport::default();
    while let Some((passed_over, (name, facts), rest)) = next_sound(bytes) {
        report.damaged_records += u64::from(passed_over > 0);
        match facts {
            Some(facts) => partitions.insert(name, facts),
            None => partitions.remove(&name),
        };
        bytes = rest;
    }
    report.torn_bytes = bytes.len() as u64;
    report.partitions = partitions.len();
    (partitions, report)
}

type Decoded = (Arc<str>, Option<Facts>);

/// How many bytes are no record, the first record after them, and what follows it.
fn next_sound(bytes: &[u8]) -> Option<(usize, Decoded, &[u8])> {
    (0..bytes.len()).find_map(|at| {
        let (decoded, rest) = sound_record(&bytes[at..])?;
        Some((at, decoded, rest))
    })
}

/// The record that begins here, and what follows.
fn sound_record(bytes: &[u8]) -> Option<(Decoded, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    let [a, b, c, d, crc @ ..] = *head;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    let (payload, rest) = rest.split_at_checked(len)?;
    // Its shape first: it is looked for at every byte after damage, and a checksum costs time in proportion.
    let decoded = decode(payload)?;
    (crc32c::crc32c(payload) == u32::from_be_bytes(crc)).then_some((decoded, rest))
}

fn decode(payload: &[u8]) -> Option<Decoded> {
    let mut bytes = payload;
    let [kind] = take(&mut bytes)?;
    let name_len = usize::from(u16::from_be_bytes(take(&mut bytes)?));
    let name = std::str::from_utf8(bytes.get(..name_len)?).ok()?;
    bytes = &bytes[name_len..];
    match kind {
        1 => {}
        2 => return bytes.is_empty().then(|| (name.into(), None)),
        _ => return None,
    }
    let owner = Uuid(take(&mut bytes)?);
    let log_start = Offset(i64::from_be_bytes(take(&mut bytes)?));
    let cleaned = Offset(i64::from_be_bytes(take(&mut bytes)?));
    let durable = match take(&mut bytes)? {
        [0] => None,
        _ => Some(DurablePoint {
            end: Offset(i64::from_be_bytes(take(&mut bytes)?)),
            segment: Offset(i64::from_be_bytes(take(&mut bytes)?)),
            position: u64::from_be_bytes(take(&mut bytes)?),
        }),
    };
    let count = u32::from_be_bytes(take(&mut bytes)?) as usize;
    if bytes.len() != count.checked_mul(12)? {
        return None;
    }
    let epochs = EpochHistory::from_entries(bytes.chunks_exact(12).filter_map(|mut entry| {
        let epoch = LeaderEpoch(i32::from_be_bytes(take(&mut entry)?));
        Some(EpochStart { epoch, start: Offset(i64::from_be_bytes(take(&mut entry)?)) })
    }));
    Some((name.into(), Some(Facts { owner, log_start, cleaned, durable, epochs })))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

/// Whether there is a journal at `path`.
pub(crate) fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, StorageError> {
    match disk.open(path, OpenMode::Existing) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::io("open", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Crash, MemoryDisk};
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn path() -> &'static Path {
        Path::new("/d/journal")
    }

    fn fresh() -> (MemoryDisk, Arc<Journal>) {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/d")).expect("create");
        disk.sync_dir(Path::new("/")).expect("sync");
        Journal::create(&disk, path()).expect("create");
        let (journal, _) = Journal::open(Arc::new(disk.clone()), path()).expect("open");
        (disk, journal)
    }

    fn reopen(disk: &MemoryDisk) -> (Arc<Journal>, JournalReport) {
        Journal::open(Arc::new(disk.clone()), path()).expect("open")
    }

    fn random_change(rng: &mut SmallRng, journal: &Arc<Journal>) {
        let name = format!("topic-{}", rng.random_range(0..6));
        match rng.random_range(0..8) {
            0 => journal.remove(&name),
            1..4 => {
                journal.entry(&name).update(|facts| {
                    let latest = facts.epochs.latest().map_or(0, |entry| entry.epoch.0 + 1);
                    facts.epochs.assign(LeaderEpoch(latest), Offset(rng.random_range(0..1000)));
                });
            }
            _ => {
                journal.entry(&name).update(|facts| {
                    facts.owner = Uuid(rng.random());
                    let end = Offset(facts.log_start.0 + rng.random_range(0..100));
                    facts.durable =
                        Some(DurablePoint { end, segment: facts.log_start, position: rng.random() });
                    facts.log_start = end;
                });
            }
        }
    }

    fn all(journal: &Journal) -> BTreeMap<Arc<str>, Facts> {
        journal.state().partitions.clone()
    }

    #[test]
    fn after_any_crash_every_partition_has_facts_no_older_than_the_last_sync() {
        for seed in 0..400 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (disk, journal) = fresh();
            let mut history = vec![all(&journal)];
            let mut synced = 0;
            disk.stop_after(rng.random_range(1..30));
            for _ in 0..200 {
                if rng.random_range(0..4) == 0 {
                    if journal.sync().is_err() {
                        break;
                    }
                    synced = history.len() - 1;
                } else {
                    random_change(&mut rng, &journal);
                    history.push(all(&journal));
                }
            }
            let crash = if rng.random() { Crash::Kill } else { Crash::PowerLoss };
            let (found, _) = reopen(&disk.after_crash(crash, seed));
            let found = all(&found);
            for name in (0..6).map(|number| format!("topic-{number}")) {
                let name = name.as_str();
                let possible = history[synced..].iter().any(|state| state.get(name) == found.get(name));
                assert!(possible, "seed {seed}: {name} is {:?}", found.get(name));
            }
        }
    }

    #[test]
    fn a_thousand_changes_cost_one_sync() {
        let (disk, journal) = fresh();
        for partition in 0..1000 {
            journal.entry(&format!("t-{partition}")).update(|facts| {
                facts.epochs.assign(LeaderEpoch(1), Offset(5));
            });
        }
        let before = disk.syncs();
        assert_eq!(journal.sync().expect("sync"), journal.recorded());
        assert_eq!(disk.syncs(), before + 1);
        assert_eq!(journal.synced(), journal.recorded());
        journal.sync().expect("nothing to do");
        assert_eq!(disk.syncs(), before + 1);
        let (found, report) = reopen(&disk);
        assert_eq!(report, JournalReport { partitions: 1000, torn_bytes: 0, damaged_records: 0 });
        assert_eq!(all(&found), all(&journal));
    }

    #[test]
    fn the_file_stays_within_a_few_times_what_it_says() {
        let (disk, journal) = fresh();
        let entries: Vec<_> = (0..100).map(|partition| journal.entry(&format!("t-{partition}"))).collect();
        for round in 0..500 {
            for entry in &entries {
                entry.update(|facts| facts.log_start = Offset(round));
            }
            journal.sync().expect("sync");
        }
        assert!(disk.used() < REWRITE_MIN + ALLOCATE_STEP + 20_000, "{} bytes", disk.used());
        assert_eq!(all(&reopen(&disk).0), all(&journal));
    }

    #[test]
    fn a_flipped_bit_costs_one_record_and_is_told() {
        let (disk, journal) = fresh();
        for partition in 0..3 {
            journal.entry(&format!("t-{partition}")).update(|facts| facts.log_start = Offset(7));
            journal.sync().expect("sync");
        }
        disk.flip_bit(path(), HEADER_LEN as u64 + 20, 0).expect("flip");
        let (found, report) = reopen(&disk);
        assert_eq!((report.damaged_records, report.torn_bytes, report.partitions), (1, 0, 2));
        assert!(found.facts("t-0").is_none() && found.facts("t-2").is_some());
        let (_, again) = reopen(&disk);
        assert_eq!(again.damaged_records, 0, "the damaged record was left behind");
    }

    /// Lengths too: a record that seems longer or shorter than it is must not hide those behind it.
    #[test]
    fn whatever_single_bit_flips_the_facts_of_others_are_there_and_it_is_told() {
        let (disk, journal) = fresh();
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..12 {
            for _ in 0..3 {
                random_change(&mut rng, &journal);
            }
            journal.sync().expect("sync");
        }
        let (whole, bytes) = (all(&journal), disk.read(path()).expect("read"));
        let records = {
            let (mut ends, mut rest) = (vec![], &bytes[HEADER_LEN..]);
            while let Some((_, (name, _), behind)) = next_sound(rest) {
                ends.push((bytes.len() - behind.len(), name));
                rest = behind;
            }
            ends
        };
        for at in HEADER_LEN..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let (found, report) = load(&damaged[HEADER_LEN..]);
                let (_, hit) = records.iter().find(|(end, _)| at < *end).expect("in a record");
                let is_last = at >= records[records.len() - 2].0;
                assert_eq!(report.damaged_records, u64::from(!is_last), "byte {at} bit {bit}");
                assert_eq!(report.torn_bytes > 0, is_last, "byte {at} bit {bit}");
                for name in whole.keys().chain(found.keys()).filter(|name| *name != hit) {
                    assert_eq!(found.get(name), whole.get(name), "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn damage_of_any_kind_leaves_only_facts_that_were_recorded() {
        let (disk, journal) = fresh();
        let mut rng = SmallRng::seed_from_u64(2);
        let mut recorded = Vec::new();
        for _ in 0..20 {
            random_change(&mut rng, &journal);
            journal.sync().expect("sync");
            recorded.extend(all(&journal));
        }
        let bytes = disk.read(path()).expect("read");
        for run in crate::tests::fuzz_seeds(20_000) {
            let mut rng = SmallRng::seed_from_u64(run);
            let mut damaged = bytes[HEADER_LEN..].to_vec();
            for _ in 0..rng.random_range(1..5) {
                let at = rng.random_range(0..damaged.len());
                let some = rng.random_range(0..60).min(damaged.len() - at);
                match rng.random_range(0..5) {
                    0 => damaged[at..at + some].fill(rng.random()),
                    1 => drop(damaged.drain(at..at + some.min(damaged.len() / 2))),
                    2 => damaged.extend_from_within(at..at + some),
                    3 => {
                        let word = [0, 1, 0x7fff_ffff, u32::MAX][rng.random_range(0..4)].to_be_bytes();
                        damaged.splice(at..(at + 4).min(damaged.len()), word);
                    }
                    _ => damaged[at] ^= 1 << rng.random_range(0..8),
                }
            }
            let (found, _) = load(&damaged);
            for fact in found {
                assert!(recorded.contains(&fact), "run {run}: {fact:?}");
            }
        }
    }

    #[test]
    fn a_failed_sync_is_never_retried_and_a_full_disk_is() {
        let (disk, journal) = fresh();
        let entry = journal.entry("t-0");
        disk.set_capacity(Some(disk.used()));
        entry.update(|facts| facts.log_start = Offset(1));
        journal.sync().expect("there is a reserve");
        for partition in 0..2_000 {
            journal.entry(&format!("t-{partition}")).update(|facts| facts.log_start = Offset(1));
        }
        assert!(matches!(journal.sync(), Err(StorageError::Full { .. })));
        disk.set_capacity(None);
        journal.sync().expect("room again");
        assert_eq!(reopen(&disk).0.facts("t-0").expect("there").log_start, Offset(1));
        disk.set_failing_syncs(true);
        entry.update(|facts| facts.log_start = Offset(2));
        journal.sync().expect_err("a failing sync");
        disk.set_failing_syncs(false);
        assert!(matches!(journal.sync(), Err(StorageError::Offline { .. })));
    }

    #[test]
    fn a_newer_journal_is_refused() {
        let (disk, _journal) = fresh();
        disk.flip_bit(path(), 9, 1).expect("flip");
        let error = Journal::open(Arc::new(disk), path()).expect_err("newer");
        assert!(matches!(error, StorageError::NewerFormat { found: 3, supported: 1, .. }), "{error}");
    }
}
