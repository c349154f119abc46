//! One log directory: its lock, its identity, how the last process stopped, its journal and its logs.
//!
//! | file | what |
//! |---|---|
//! | `.lock` | held by the process that uses the directory |
//! | `ottla.properties` | the directory's id, and what the broker adds (cluster id, node id); a checkpoint of `name=value` lines |
//! | `running` | a checkpoint: the boot id of the process that uses or used the directory, and a verdict not yet acted on |
//! | `clean-shutdown` | a checkpoint, there only between a clean stop and the next start |
//! | `journal` | every partition's small facts |
//! | `<topic>-<partition>/` | a log |
//! | `<topic>-<partition>.<n>-delete/` | a log on its way out |

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ottla_protocol::types::Uuid;

use crate::checkpoint::Checkpoint;
use crate::disk::{Disk, DiskLock};
use crate::error::StorageError;
use crate::files::FileCache;
use crate::journal::{self, Journal, JournalReport};
use crate::log::{Log, LogOptions};
use crate::recovery::{self, Recovery};

const LOCK: &str = ".lock";
const PROPERTIES: &str = "ottla.properties";
const RUNNING: &str = "running";
const CLEAN: &str = "clean-shutdown";
const JOURNAL: &str = "journal";
const DIRECTORY_ID: &str = "directory.id";
pub(crate) const DELETED_SUFFIX: &str = "-delete";

const PROPERTIES_FILE: Checkpoint = Checkpoint { kind: "properties", version: 1 };
const RUNNING_FILE: Checkpoint = Checkpoint { kind: "running", version: 1 };
const CLEAN_FILE: Checkpoint = Checkpoint { kind: "clean-shutdown", version: 1 };

/// How the process that had this directory before us stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// Nobody had it.
    Fresh,
    /// Everything was synced and said so. The note is what the process left with its mark.
    Clean(Bytes),
    /// It was killed, but the kernel kept running: every byte that it wrote is there.
    Killed,
    /// The machine stopped, or nobody knows: only what was flushed is there.
    PowerLoss,
}

/// A log directory that this process holds the lock of. Dropping it without [`LogDir::close`] is a crash.
#[derive(Debug)]
pub struct LogDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    directory_id: Uuid,
    properties: Mutex<BTreeMap<String, String>>,
    last_stop: LastStop,
    journal: Arc<Journal>,
    journal_report: JournalReport,
    files: Arc<FileCache>,
    _lock: Box<dyn DiskLock>,
}

impl LogDir {
    /// Takes the lock, creates what is missing (with a directory id made of `random`), reads and removes the mark of a clean
    /// shutdown, loads the journal, and removes what interrupted deletions left. Blocks.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, random: [u8; 16]) -> Result<LogDir, StorageError> {
        Self::open_or_found(disk, path, random, BTreeMap::new())
    }

    /// The same, but a directory that is new gets these properties: for the syncs that [`LogDir::set_properties`] would cost.
    pub fn open_or_found(
        disk: Arc<dyn Disk>,
        path: &Path,
        random: [u8; 16],
        founding: BTreeMap<String, String>,
    ) -> Result<LogDir, StorageError> {
        disk.create_dir_all(path).map_err(|error| StorageError::io("create", path, error))?;
        if let Some(parent) = path.parent() {
            // The parent may be somebody else's, whom we may not read; then the name is as durable as they make it.
            if let Err(error) = disk.sync_dir(parent) {
                tracing::debug!("cannot sync {}: {error}", parent.display());
            }
        }
        let lock = disk.lock(&path.join(LOCK)).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => StorageError::Locked { dir: path.to_path_buf() },
            _ => StorageError::io("lock", path, error),
        })?;
        let last_stop = find_last_stop(&*disk, path)?;
        let (directory_id, properties) = match read_properties(&*disk, path)? {
            Some(found) => found,
            None => {
                // A first start that died half-way left a journal at most, and no log.
                Journal::create(&*disk, &path.join(JOURNAL))?;
                let directory_id = Uuid::from_random(random);
                write_properties(&*disk, path, directory_id, &founding)?;
                (directory_id, founding)
            }
        };
        match note_running(&*disk, path, last_stop == LastStop::PowerLoss) {
            // A full disk is still read. The older note that stays says no more than is true: of another boot, or of this one.
            Err(StorageError::Full { .. }) if last_stop != LastStop::Fresh => {
                tracing::warn!("{} is full: nothing can be appended until there is space", path.display());
            }
            other => other?,
        }
        let journal_path = path.join(JOURNAL);
        if !journal::exists(&*disk, &journal_path)? {
            // Without it, logs without files would begin again at offset 0 and hand out offsets twice.
            let reason = "it is missing, though the directory has been in use".to_owned();
            return Err(StorageError::DamagedFile { path: journal_path, reason });
        }
        let (journal, journal_report) = Journal::open(Arc::clone(&disk), &journal_path)?;
        let dir = Self {
            files: FileCache::new(Arc::clone(&disk), path),
            disk,
            path: path.to_path_buf(),
            directory_id,
            properties: Mutex::new(properties),
            last_stop,
            journal,
            journal_report,
            _lock: lock,
        };
        dir.finish_deletions()?;
        Ok(dir)
    }

    fn finish_deletions(&self) -> Result<(), StorageError> {
        for entry in self.list()? {
            if entry.is_dir && entry.name.ends_with(DELETED_SUFFIX) {
                let path = self.path.join(&entry.name);
                self.disk.remove_dir_all(&path).map_err(|error| StorageError::io("remove", &path, error))?;
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<crate::disk::DirEntry>, StorageError> {
        self.disk.list(&self.path).map_err(|error| StorageError::io("list", &self.path, error))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    #[must_use]
    pub fn directory_id(&self) -> Uuid {
        self.directory_id
    }

    #[must_use]
    pub fn last_stop(&self) -> &LastStop {
        &self.last_stop
    }

    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// What loading the journal found.
    #[must_use]
    pub fn journal_report(&self) -> &JournalReport {
        &self.journal_report
    }

    /// Names and values that belong to the directory (cluster id, node id).
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.properties.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces them; on the disk when this returns. Blocks.
    pub fn set_properties(&self, properties: &BTreeMap<String, String>) -> Result<(), StorageError> {
        let mut held = self.properties.lock().unwrap_or_else(PoisonError::into_inner);
        write_properties(&*self.disk, &self.path, self.directory_id, properties)?;
        held.clone_from(properties);
        Ok(())
    }

    /// The names of all logs: those with a directory, and those that only the journal knows. In order.
    pub fn log_names(&self) -> Result<Vec<String>, StorageError> {
        let mut names: BTreeSet<String> = self.journal.names().iter().map(ToString::to_string).collect();
        names.extend(self.list()?.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name));
        Ok(names.into_iter().collect())
    }

    /// The directory of a log.
    #[must_use]
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the log in the directory `name`, or an empty one; no file and no directory is made before its first append. `owner`
    /// is noted in the journal if there are no facts of that name yet; compare it with [`Log::owner`]. Errors: only of the
    /// operating system; damage is told in the [`Recovery`], and the log then takes no appends. Costs the listing of its directory,
    /// and a look at what lies past its durable end.
    pub fn open_log(
        &self,
        name: &str,
        owner: Uuid,
        options: LogOptions,
    ) -> Result<(Log, Recovery), StorageError> {
        let entry = self.journal.entry(name);
        recovery::open(&self.files, &self.log_path(name), entry, owner, options, &self.last_stop)
    }

    /// To be called once every log was opened, before they are appended to: from now on a crash is judged by itself, without the one
    /// before. Blocks.
    pub fn recovered(&self) -> Result<(), StorageError> {
        self.journal.sync()?;
        note_running(&*self.disk, &self.path, false)
    }

    /// Leaves the mark of a clean shutdown, with a note for the next start: to be called after every log was closed
    /// ([`Log::close`]). Blocks.
    pub fn close(self, note: &[u8]) -> Result<(), StorageError> {
        self.mark_clean(note)
    }

    /// What [`LogDir::close`] does, while others still hold the directory. None of them appends any more.
    ///
    /// # Errors
    /// The mark could not be left.
    pub fn mark_clean(&self, note: &[u8]) -> Result<(), StorageError> {
        self.journal.sync()?;
        CLEAN_FILE.write(&*self.disk, &self.path.join(CLEAN), note)
    }
}

/// Reads and removes the marks of the process before us.
fn find_last_stop(disk: &dyn Disk, path: &Path) -> Result<LastStop, StorageError> {
    let clean_path = path.join(CLEAN);
    // A mark that cannot be read is none.
    let clean = match CLEAN_FILE.read(disk, &clean_path) {
        Err(StorageError::DamagedFile { .. }) => None,
        other => other?.map(|(_, note)| note),
    };
    let running = match RUNNING_FILE.read(disk, &path.join(RUNNING)) {
        Err(StorageError::DamagedFile { .. }) => Some((0, Vec::new())),
        other => other?,
    };
    if let Some(note) = clean {
        let remove = || {
            disk.remove_file(&clean_path)?;
            disk.sync_dir(path)
        };
        remove().map_err(|error| StorageError::io("remove", &clean_path, error))?;
        return Ok(LastStop::Clean(note.into()));
    }
    let Some((_, running)) = running else { return Ok(LastStop::Fresh) };
    let running = String::from_utf8_lossy(&running);
    let mut lines = running.lines();
    let boot = lines.next().filter(|boot| !boot.is_empty());
    let unsettled = lines.next().is_some();
    let same_boot = boot.is_some() && boot == disk.boot_id(path).as_deref();
    Ok(if same_boot && !unsettled { LastStop::Killed } else { LastStop::PowerLoss })
}

/// Notes which boot we run under. Unsettled: there was a power loss, and recovery from it is not complete, so that a kill before
/// that counts as one too.
fn note_running(disk: &dyn Disk, path: &Path, unsettled: bool) -> Result<(), StorageError> {
    let mut text = disk.boot_id(path).unwrap_or_default();
    text.push('\n');
    if unsettled {
        text.push_str("recovering from a power loss\n");
    }
    RUNNING_FILE.write(disk, &path.join(RUNNING), text.as_bytes())
}

type Properties = BTreeMap<String, String>;

fn read_properties(disk: &dyn Disk, path: &Path) -> Result<Option<(Uuid, Properties)>, StorageError> {
    let path = path.join(PROPERTIES);
    let Some((_, payload)) = PROPERTIES_FILE.read(disk, &path)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&payload);
    let mut properties: Properties = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let id = properties.remove(DIRECTORY_ID).and_then(|id| Uuid::parse(&id));
    let reason = || "it names no directory id".to_owned();
    let id = id.ok_or_else(|| StorageError::DamagedFile { path, reason: reason() })?;
    Ok(Some((id, properties)))
}

fn write_properties(
    disk: &dyn Disk,
    path: &Path,
    id: Uuid,
    properties: &Properties,
) -> Result<(), StorageError> {
    let mut text = format!("{DIRECTORY_ID}={id}\n");
    for (name, value) in properties {
        assert!(!name.contains(['=', '\n']) && !value.contains('\n'), "{name}={value:?} is one line");
        text.push_str(&format!("{name}={value}\n"));
    }
    PROPERTIES_FILE.write(disk, &path.join(PROPERTIES), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Crash, MemoryDisk};

    fn open(disk: &MemoryDisk) -> Result<LogDir, StorageError> {
        LogDir::open(Arc::new(disk.clone()), Path::new("/data"), [5; 16])
    }

    #[test]
    fn how_the_last_process_stopped_is_known() {
        let disk = MemoryDisk::new();
        let dir = open(&disk).expect("open");
        assert_eq!(*dir.last_stop(), LastStop::Fresh);
        let id = dir.directory_id();
        assert!(matches!(open(&disk), Err(StorageError::Locked { .. })));
        dir.close(b"epoch 7").expect("close");

        let dir = open(&disk).expect("open");
        assert_eq!(*dir.last_stop(), LastStop::Clean(Bytes::from_static(b"epoch 7")));
        assert_eq!(dir.directory_id(), id);

        let killed = disk.after_crash(Crash::Kill, 1);
        assert_eq!(*open(&killed).expect("open").last_stop(), LastStop::Killed);

        for seed in 0..20 {
            let cut = killed.after_crash(Crash::PowerLoss, seed);
            assert_eq!(*open(&cut).expect("open").last_stop(), LastStop::PowerLoss);
            let killed_while_recovering = cut.after_crash(Crash::Kill, seed);
            let dir = open(&killed_while_recovering).expect("open");
            assert_eq!(*dir.last_stop(), LastStop::PowerLoss, "the verdict stands until it was acted on");
            dir.recovered().expect("recovered");
            let killed = killed_while_recovering.after_crash(Crash::Kill, seed);
            assert_eq!(*open(&killed).expect("open").last_stop(), LastStop::Killed);
        }
    }

    #[test]
    fn a_first_start_may_die_anywhere() {
        for stop in 0..40 {
            for seed in 0..10 {
                let disk = MemoryDisk::new();
                disk.stop_after(stop);
                let whole = open(&disk).is_ok();
                let left = disk.after_crash(Crash::PowerLoss, seed);
                let dir = open(&left).expect("another start");
                assert!(!whole || *dir.last_stop() == LastStop::PowerLoss, "stop {stop} seed {seed}");
            }
        }
    }

    #[test]
    fn a_directory_on_a_full_disk_can_be_opened() {
        let disk = MemoryDisk::new();
        drop(open(&disk).expect("open"));
        disk.set_capacity(Some(disk.used()));
        let dir = open(&disk).expect("open");
        assert_eq!(*dir.last_stop(), LastStop::Killed);
    }

    #[test]
    fn properties_are_kept() {
        let disk = MemoryDisk::new();
        let dir = open(&disk).expect("open");
        let properties = BTreeMap::from([("cluster.id".to_owned(), "a=b".to_owned())]);
        dir.set_properties(&properties).expect("write");
        drop(dir);
        assert_eq!(open(&disk).expect("open").properties(), properties);

        let founded = |disk: &MemoryDisk, value: &str| {
            let founding = BTreeMap::from([("node.id".to_owned(), value.to_owned())]);
            LogDir::open_or_found(Arc::new(disk.clone()), Path::new("/data"), [5; 16], founding)
                .expect("open")
                .properties()
        };
        let disk = MemoryDisk::new();
        let properties = BTreeMap::from([("node.id".to_owned(), "1".to_owned())]);
        assert_eq!((founded(&disk, "1"), founded(&disk, "2")), (properties.clone(), properties));
    }

    #[test]
    fn a_missing_journal_is_not_taken_for_an_empty_one() {
        let disk = MemoryDisk::new();
        drop(open(&disk).expect("open"));
        disk.remove_file(Path::new("/data/journal")).expect("remove");
        assert!(matches!(open(&disk), Err(StorageError::DamagedFile { .. })));
    }
}
