//! What the simulated disk is made of: pages that know what is on the disk, directories that know which names are, and what is left
//! of both after a crash.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use rand::Rng;
use rand::rngs::SmallRng;

use super::Crash;

/// What is kept in memory as one; a sector of it is what survives or vanishes as one.
const PAGE: usize = 4096;
pub(super) const SECTOR: usize = 512;
pub(super) const ROOT: u64 = 0;

#[derive(Debug)]
pub(super) struct State {
    pub(super) files: BTreeMap<u64, Inode>,
    pub(super) dirs: BTreeMap<u64, Dir>,
    pub(super) next_id: u64,
    pub(super) locks: Vec<PathBuf>,
    pub(super) boot: u64,
    /// In bytes; `None` is endless.
    pub(super) capacity: Option<u64>,
    pub(super) failing_syncs: bool,
    pub(super) failing_writes: bool,
    pub(super) cold: bool,
    /// Changes left until the disk stops; see [`MemoryDisk::stop_after`].
    pub(super) changes_left: Option<u64>,
    /// A change has been refused because of that.
    pub(super) stopped: bool,
    pub(super) changes: u64,
    pub(super) syncs: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) data: Vec<u8>,
    /// The length that is on the disk.
    pub(super) durable_len: usize,
    /// For every page that differs from the disk: what the disk has.
    pub(super) dirty: BTreeMap<usize, Vec<u8>>,
    /// Pages that a failed sync gave up: shown as written, on the disk as they were, and no later sync will write them.
    pub(super) lost: BTreeMap<usize, Vec<u8>>,
    /// Blocks are reserved up to here.
    pub(super) allocated: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Dir(u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    pub(super) current: BTreeMap<String, Node>,
    pub(super) durable: BTreeMap<String, Node>,
    /// Changes of names since the last sync.
    pub(super) pending: Vec<NameChange>,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Link(String, Node),
    Unlink(String),
    Rename(String, String, Node),
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Link(name, node) => {
                names.insert(name, node);
            }
            Self::Unlink(name) => {
                names.remove(&name);
            }
            Self::Rename(from, to, node) => {
                names.remove(&from);
                names.insert(to, node);
            }
        }
    }
}

impl Dir {
    pub(super) fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
        debug_assert_eq!(
            self.current.len(),
            self.durable.len(),
            "pending changes lead from one to the other"
        );
    }
}

impl Inode {
    fn page(&self, page: usize) -> Vec<u8> {
        let start = (page * PAGE).min(self.data.len());
        let mut bytes = self.data[start..self.data.len().min(start + PAGE)].to_vec();
        bytes.resize(PAGE, 0);
        bytes
    }

    /// Notes what the disk has of the pages of a range, before they change.
    fn soil(&mut self, from: usize, to: usize) {
        for page in from / PAGE..to.div_ceil(PAGE) {
            if let Some(on_disk) = self.lost.remove(&page) {
                self.dirty.insert(page, on_disk);
            } else if !self.dirty.contains_key(&page) {
                let on_disk = self.page(page);
                self.dirty.insert(page, on_disk);
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: usize) {
        let end = position + bytes.len();
        self.soil(position.min(self.data.len()), end);
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[position..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.allocated = len as u64;
        if len == self.data.len() {
            return;
        }
        self.soil(len.min(self.data.len()), len.max(self.data.len()));
        self.data.resize(len, 0);
    }

    pub(super) fn sync(&mut self) {
        self.dirty.clear();
        self.durable_len = self.data.len();
    }

    pub(super) fn used(&self) -> u64 {
        self.allocated.max(self.data.len() as u64)
    }

    /// In memory and on the disk.
    pub(super) fn flip_bit(&mut self, position: usize, bit: u32) -> io::Result<()> {
        let mask = 1_u8 << (bit % 8);
        *self.data.get_mut(position).ok_or(ErrorKind::UnexpectedEof)? ^= mask;
        let (page, at) = (position / PAGE, position % PAGE);
        for on_disk in [self.dirty.get_mut(&page), self.lost.get_mut(&page)].into_iter().flatten() {
            on_disk[at] ^= mask;
        }
        Ok(())
    }

    /// What is left of the file after a power loss.
    fn after_power_loss(&self, rng: &mut SmallRng) -> Self {
        let (short, long) = (self.durable_len.min(self.data.len()), self.durable_len.max(self.data.len()));
        let len = match rng.random_range(0..4) {
            _ if self.dirty.is_empty() => self.durable_len,
            0 => self.durable_len,
            1 | 2 => self.data.len(),
            _ => rng.random_range(short..=long),
        };
        let mut data = self.data.clone();
        data.resize(long.div_ceil(PAGE) * PAGE, 0);
        // All of it, nothing of it, or each page by itself: whole losses are the common case, and random ones find the rest.
        let mood = rng.random_range(0..4);
        for (page, on_disk) in &self.dirty {
            let start = page * PAGE;
            if start >= data.len() {
                continue;
            }
            for sector in 0..PAGE / SECTOR {
                let survives = match mood {
                    0 => true,
                    1 => false,
                    2 => sector == 0 && rng.random() || sector != 0 && rng.random_range(0..8) > 0,
                    _ => rng.random(),
                };
                if !survives {
                    let at = sector * SECTOR;
                    data[start + at..start + at + SECTOR].copy_from_slice(&on_disk[at..at + SECTOR]);
                }
            }
        }
        for (page, on_disk) in &self.lost {
            let start = page * PAGE;
            if start < data.len() {
                data[start..start + PAGE].copy_from_slice(on_disk);
            }
        }
        data.resize(len, 0);
        Self { durable_len: len, data, ..Self::default() }
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            next_id: ROOT,
            locks: Vec::new(),
            boot: 1,
            capacity: None,
            failing_syncs: false,
            failing_writes: false,
            cold: false,
            changes_left: None,
            stopped: false,
            changes: 0,
            syncs: 0,
        }
    }

    /// Counts a change, and stops the disk at the chosen one.
    pub(super) fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match &mut self.changes_left {
            Some(0) => {
                self.stopped = true;
                Err(io::Error::other("the simulated disk has stopped"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Dir(ROOT);
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name.to_string_lossy().into_owned(),
                Component::RootDir | Component::CurDir => continue,
                Component::ParentDir | Component::Prefix(_) => return Err(ErrorKind::InvalidInput.into()),
            };
            let Node::Dir(dir) = node else { return Err(ErrorKind::NotADirectory.into()) };
            node = *self.dir(dir).current.get(&name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    pub(super) fn find_dir(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory that holds `path`, and its name there.
    pub(super) fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        Ok((self.find_dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    pub(super) fn dir(&self, id: u64) -> &Dir {
        self.dirs.get(&id).expect("a name never outlives its directory")
    }

    pub(super) fn dir_mut(&mut self, id: u64) -> &mut Dir {
        self.dirs.get_mut(&id).expect("a name never outlives its directory")
    }

    pub(super) fn file(&self, id: u64) -> &Inode {
        self.files.get(&id).expect("files are kept as long as the disk")
    }

    pub(super) fn file_mut(&mut self, id: u64) -> &mut Inode {
        self.files.get_mut(&id).expect("files are kept as long as the disk")
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn used(&self) -> u64 {
        self.named_files().into_iter().map(|id| self.file(id).used()).sum()
    }

    fn named_files(&self) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for node in self.dir(dir).current.values() {
                match node {
                    Node::File(id) => ids.push(*id),
                    Node::Dir(id) => dirs.push(*id),
                }
            }
        }
        ids
    }

    /// Whether a file may grow from what it uses now to `to` bytes.
    pub(super) fn reserve(&self, id: u64, to: u64) -> io::Result<()> {
        let now = self.file(id).used();
        match self.capacity {
            Some(capacity) if to > now && self.used() + (to - now) > capacity => {
                Err(ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn empty_dir(&mut self, id: u64) {
        let names: Vec<_> = self.dir(id).current.iter().map(|(name, node)| (name.clone(), *node)).collect();
        for (name, node) in names {
            if let Node::Dir(inner) = node {
                self.empty_dir(inner);
            }
            self.dir_mut(id).change(NameChange::Unlink(name));
        }
    }

    /// The state that a new process finds.
    pub(super) fn after(&self, crash: Crash, rng: &mut SmallRng) -> Self {
        let mut left = Self {
            files: BTreeMap::new(),
            dirs: BTreeMap::new(),
            next_id: self.next_id,
            locks: Vec::new(),
            boot: self.boot + u64::from(crash == Crash::PowerLoss),
            capacity: self.capacity,
            failing_syncs: false,
            failing_writes: false,
            cold: self.cold,
            changes_left: None,
            stopped: false,
            changes: 0,
            syncs: 0,
        };
        let mut dirs = vec![ROOT];
        while let Some(id) = dirs.pop() {
            let dir = self.dir(id);
            let copy = match crash {
                Crash::Kill => dir.clone(),
                Crash::PowerLoss => {
                    let mut names = dir.durable.clone();
                    let mood = rng.random_range(0..3);
                    for change in &dir.pending {
                        if mood == 0 || mood == 1 && rng.random() {
                            change.clone().apply(&mut names);
                        }
                    }
                    Dir { current: names.clone(), durable: names, pending: Vec::new() }
                }
            };
            for node in copy.current.values().chain(copy.durable.values()) {
                match node {
                    Node::Dir(inner) => dirs.push(*inner),
                    Node::File(file) if !left.files.contains_key(file) => {
                        let inode = self.file(*file);
                        let inode = match crash {
                            Crash::Kill => inode.clone(),
                            Crash::PowerLoss => inode.after_power_loss(rng),
                        };
                        left.files.insert(*file, inode);
                    }
                    Node::File(_) => {}
                }
            }
            for change in &copy.pending {
                if let NameChange::Link(_, node) | NameChange::Rename(_, _, node) = change {
                    match node {
                        Node::Dir(inner) => dirs.push(*inner),
                        Node::File(file) => {
                            left.files.entry(*file).or_insert_with(|| self.file(*file).clone());
                        }
                    }
                }
            }
            left.dirs.insert(id, copy);
        }
        left
    }
}
