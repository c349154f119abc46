//! What a power loss at any moment leaves: every step of which the store said that it was done, and of the step that was cut short
//! all, nothing, or a part that Raft allows. Without openraft; with it, `restart_tests`.

use std::path::Path;
use std::sync::Arc;

use openraft::entry::RaftEntry as _;
use openraft::impls::leader_id_std::LeaderId;
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftStateMachine as _};
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, RaftLogReader as _, RaftSnapshotBuilder as _, StorageHelper};
use ottla_protocol::types::Uuid;
use ottla_storage::memory::Crash;
use ottla_storage::{Disk, Log, LogDir, LogOptions, MemoryDisk, StorageError};

use crate::StateMachine;
use crate::apply::Applier;
use crate::dice::Dice;
use crate::log_store::LogStore;
use crate::types::{Entry, LogId, Proposal, SnapshotMeta, TypeConfig, Vote};

pub(crate) const VOTER: u64 = 77;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, VOTER).to_committed(), index)
}

/// A sum over what was applied. Its snapshots fill more than a page, so that they can tear.
struct Sum(u64);

const SUM_REPEATED: usize = 700;

impl StateMachine for Sum {
    fn apply(&mut self, index: u64, term: u64, entry: &[u8]) {
        let entry = index ^ (term << 20) ^ ((entry.len() as u64) << 40);
        self.0 = self.0.wrapping_mul(31).wrapping_add(entry);
    }

    fn on_term(&mut self, _index: u64, _term: u64) {}

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_be_bytes().repeat(SUM_REPEATED)
    }

    fn restore(&mut self, _index: u64, snapshot: &[u8]) -> Result<(), String> {
        let (sums, rest) = snapshot.as_chunks::<8>();
        let whole = sums.len() == SUM_REPEATED && rest.is_empty() && sums.iter().all(|sum| *sum == sums[0]);
        self.0 = u64::from_be_bytes(*sums.first().filter(|_| whole).ok_or("torn")?);
        Ok(())
    }
}

fn sum_of(snapshot: &[u8]) -> u64 {
    u64::from_be_bytes(*snapshot.last_chunk().expect("eight bytes"))
}

/// What lies on the disk as Raft sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
    /// What it covers, and the state machine's sum there. Nothing is applied but for a snapshot.
    snapshot: Option<(LogId, u64)>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id()).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    /// Each entry with the one before it.
    fn pairs(&self) -> impl Iterator<Item = (Option<LogId>, &Entry)> {
        let before =
            std::iter::once(self.purged).chain(self.entries.iter().map(|entry| Some(entry.log_id())));
        before.zip(&self.entries)
    }

    fn next_applied(&self) -> u64 {
        self.snapshot.map_or(0, |(last, _)| last.index + 1)
    }

    /// What is to be applied up to an entry.
    fn due(&self, upto: LogId) -> Vec<Entry> {
        let due = self.next_applied()..=upto.index;
        self.entries.iter().filter(|entry| due.contains(&entry.index())).cloned().collect()
    }

    /// In one line: vote's term, snapshot, what was purged, and each entry as term.index+bytes.
    fn show(&self) -> String {
        let entries = self.entries.iter().map(|entry| match &entry.payload {
            EntryPayload::Normal(proposal) => {
                format!("{}.{}+{}", entry.log_id.leader_id.term, entry.log_id.index, proposal.0.len())
            }
            other => format!("{other:?}"),
        });
        let entries: Vec<String> = entries.collect();
        let (vote, purged) = (self.vote.map(|vote| vote.leader_id.term), self.purged.map(|id| id.index));
        let snapshot = self.snapshot.as_ref().map(|(id, _)| id.index);
        format!("vote {vote:?} snapshot {snapshot:?} purged {purged:?} [{}]", entries.join(" "))
    }
}

pub(crate) fn log(disk: &Arc<dyn Disk>, segment_bytes: u64) -> Result<Log, StorageError> {
    let dir = LogDir::open(Arc::clone(disk), Path::new("/data"), [7; 16])?;
    let options = LogOptions { segment_bytes, ..LogOptions::default() };
    Ok(dir.open_log("__cluster_metadata-0", Uuid::ZERO, options)?.0)
}

/// A process in front of the disk.
struct Rig {
    store: LogStore,
    applier: Applier,
}

impl Rig {
    fn open(disk: &MemoryDisk) -> Self {
        let (disk, dir): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new("/data/raft"));
        let log = log(&disk, 1024).expect("whatever a crash leaves can be opened");
        let store =
            LogStore::open(Arc::clone(&disk), dir, log).expect("whatever a crash leaves can be opened");
        let applier = Applier::open(disk, dir, Box::new(Sum(0)), None).expect("the snapshot is whole");
        Self { store, applier }
    }

    /// As openraft finds it when it starts: it finishes an installation that lacks only the purge.
    async fn found(&mut self) -> Model {
        let mut helper =
            StorageHelper::<TypeConfig, _, _>::new(&mut self.store, &mut self.applier).with_id(VOTER);
        helper.get_initial_state().await.expect("openraft takes what a crash leaves");
        let state = self.store.get_log_state().await.expect("state");
        let entries = self.store.try_get_log_entries(0..).await.expect("entries");
        let from = state.last_purged_log_id.map_or(0, |id| id.index + 1);
        let whole = entries.iter().zip(from..).all(|(entry, index)| entry.index() == index);
        assert!(whole, "entries without a hole after {:?}: {entries:?}", state.last_purged_log_id);
        let snapshot = self.applier.get_current_snapshot().await.expect("the snapshot is whole");
        let of_something = |id: Option<LogId>| id.expect("a snapshot of something");
        let snapshot = snapshot.map(|found| (of_something(found.meta.last_log_id), sum_of(&found.snapshot)));
        let covered = snapshot.map(|(id, _)| id);
        assert!(covered >= state.last_purged_log_id, "what was purged is in a snapshot");
        Model {
            vote: self.store.read_vote().await.expect("vote"),
            purged: state.last_purged_log_id,
            entries,
            snapshot,
        }
    }

    async fn take(&mut self, step: &Step, model: &Model) -> Result<(), std::io::Error> {
        match step {
            Step::Append(entries) => self.store.append(entries.clone(), IOFlushed::noop()).await,
            Step::TruncateAfter(last) => self.store.truncate_after(last.map(|index| log_id(0, index))).await,
            Step::Vote(vote) => self.store.save_vote(vote).await,
            Step::Purge(upto) => self.store.purge(*upto).await,
            Step::Snapshot(upto) => {
                let due = model.due(*upto).into_iter().map(|entry| Ok((entry, None)));
                self.applier.apply(futures_util::stream::iter(due)).await?;
                self.applier.build_snapshot().await.map(|_| ())
            }
            Step::Install(upto, bytes) => {
                self.applier.install_snapshot(&SnapshotMeta::default(), bytes.clone()).await?;
                self.store.purge(*upto).await
            }
        }
    }
}

#[derive(Debug)]
enum Step {
    Append(Vec<Entry>),
    TruncateAfter(Option<u64>),
    Vote(Vote),
    /// Applies up to there, and keeps a snapshot of it.
    Snapshot(LogId),
    /// Of what a snapshot covers.
    Purge(LogId),
    /// A leader's snapshot that is ahead of the log, and the purge of all there was.
    Install(LogId, Vec<u8>),
}

impl Step {
    async fn draw(dice: &mut Dice, model: &Model, term: &mut u64) -> Self {
        let ids = || model.entries.iter().map(|entry| entry.log_id());
        let unapplied: Vec<LogId> = ids().filter(|id| id.index >= model.next_applied()).collect();
        let covered: Vec<LogId> =
            ids().filter(|id| model.snapshot.is_some_and(|(last, _)| *id <= last)).collect();
        match dice.below(12) {
            0..=4 => {
                // A new leader has entries of terms of before it, too.
                let least = model.last().map_or(1, |id| id.leader_id.term);
                let of = least + dice.below(*term - least + 1);
                let entries =
                    (0..=dice.below(4)).map(|i| entry(log_id(of, model.next() + i), dice.below(400)));
                Self::Append(entries.collect())
            }
            5 | 6 if !unapplied.is_empty() => {
                // What is cut is written again by another leader.
                *term += 1;
                Self::TruncateAfter(dice.one_of(&unapplied).index.checked_sub(1))
            }
            7 | 8 if !unapplied.is_empty() => Self::Snapshot(dice.one_of(&unapplied)),
            9 if !covered.is_empty() => Self::Purge(dice.one_of(&covered)),
            10 => {
                *term += 1;
                let last = entry(log_id(*term, model.next() + dice.below(5)), dice.below(400));
                let upto = last.log_id();
                let mut leader = Rig::open(&MemoryDisk::new()).applier;
                let applied = leader.apply(futures_util::stream::iter([Ok((last, None))])).await;
                applied.expect("a disk without faults");
                Self::Install(upto, leader.build_snapshot().await.expect("a disk without faults").snapshot)
            }
            _ => {
                *term += 1;
                Self::Vote(Vote { leader_id: LeaderId::new(*term, VOTER), committed: dice.below(2) == 0 })
            }
        }
    }

    fn after(&self, model: &Model) -> Model {
        let mut model = model.clone();
        match self {
            Self::Append(entries) => model.entries.extend(entries.iter().cloned()),
            Self::TruncateAfter(last) => {
                model.entries.retain(|entry| last.is_some_and(|last| entry.index() <= last));
            }
            Self::Vote(vote) => model.vote = Some(*vote),
            Self::Snapshot(upto) => {
                let mut sum = Sum(model.snapshot.map_or(0, |(_, sum)| sum));
                for entry in model.due(*upto) {
                    let EntryPayload::Normal(proposal) = &entry.payload else { continue };
                    sum.apply(entry.index(), entry.log_id.leader_id.term, &proposal.0);
                }
                model.snapshot = Some((*upto, sum.0));
            }
            Self::Purge(upto) => {
                model.purged = Some(*upto);
                model.entries.retain(|entry| entry.index() > upto.index);
            }
            Self::Install(upto, bytes) => {
                (model.purged, model.snapshot) = (Some(*upto), Some((*upto, sum_of(bytes))));
                model.entries.clear();
            }
        }
        model
    }

    /// Whether this step, cut short, may leave that. `ever` are all entries that were ever appended, with those before them.
    fn may_leave(&self, found: &Model, model: &Model, ever: &[(Option<LogId>, Entry)]) -> bool {
        match self {
            Self::Append(entries) => (0..=entries.len())
                .any(|count| *found == Self::Append(entries[..count].to_vec()).after(model)),
            Self::TruncateAfter(_) => {
                // What is kept is there. Behind it may follow what was to be cut, or what an earlier truncation had cut from the same
                // segment: some leader's entries behind what they followed there, and none of them is committed, for the leader that
                // has this log truncated here has all that is.
                let kept = self.after(model);
                let rest = found.pairs().skip(kept.entries.len());
                let known = rest
                    .into_iter()
                    .all(|(before, entry)| ever.iter().any(|(b, e)| (*b, e) == (before, entry)));
                let with_rest = Model { entries: found.entries.clone(), ..kept.clone() };
                known && found.entries.starts_with(&kept.entries) && *found == with_rest
            }
            _ => *found == *model || *found == self.after(model),
        }
    }
}

fn entry(id: LogId, bytes: u64) -> Entry {
    Entry::new(id, EntryPayload::Normal(Proposal(vec![b'e'; usize::try_from(bytes).expect("small")])))
}

async fn play(seed: u64) {
    let mut dice = Dice(seed);
    let mut disk = MemoryDisk::new();
    let (mut model, mut term, mut ever) = (Model::default(), 1, Vec::new());
    for _ in 0..4 {
        let mut rig = Rig::open(&disk);
        rig.found().await;
        disk.stop_after(dice.below(60));
        let cut = loop {
            let step = Step::draw(&mut dice, &model, &mut term).await;
            if let Step::Append(_) = &step {
                let appended = step.after(&model);
                let pairs = appended.pairs().skip(model.entries.len());
                ever.extend(pairs.map(|(before, entry)| (before, entry.clone())));
            }
            if rig.take(&step, &model).await.is_err() {
                break step;
            }
            model = step.after(&model);
        };
        drop(rig);
        disk = disk.after_crash(Crash::PowerLoss, dice.below(u64::MAX));
        let found = Rig::open(&disk).found().await;
        let kind = format!("{cut:?}");
        assert!(
            cut.may_leave(&found, &model, &ever),
            "seed {seed}: {} was cut short\nbefore {}\nfound  {}",
            kind.get(..60).unwrap_or(&kind),
            model.show(),
            found.show(),
        );
        // What was found, further opens find, too.
        disk = disk.after_crash(Crash::PowerLoss, dice.below(u64::MAX));
        assert_eq!(Rig::open(&disk).found().await, found, "seed {seed}");
        model = found;
    }
}

#[test]
fn a_power_loss_at_any_moment_leaves_what_was_done() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    (0..1000).for_each(|seed| runtime.block_on(play(seed)));
}

#[test]
fn the_first_vote_is_never_forgotten() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let vote = Vote { leader_id: LeaderId::new(1, VOTER), committed: false };
    for seed in 0..20 {
        let disk = MemoryDisk::new();
        runtime.block_on(Rig::open(&disk).store.save_vote(&vote)).expect("a disk without faults");
        let found = runtime.block_on(Rig::open(&disk.after_crash(Crash::PowerLoss, seed)).found());
        assert_eq!(found.vote, Some(vote), "seed {seed}");
    }
}
