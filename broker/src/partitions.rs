//! The partitions of this node, kept in step with the image: made when it names them, gone when it does not.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use ottla_machine::controller::image::{ConfigKind, DiffItem, Image, PartitionState};
use ottla_protocol::types::{NodeId, TopicId};
use ottla_storage::{Removal, StorageError};

use crate::config::{Config, TopicConfig};
use crate::partition::{Host, Partition};

/// By topic id, then by index.
type Table = HashMap<TopicId, Topic>;

struct Topic {
    config: Arc<TopicConfig>,
    partitions: Vec<Arc<Partition>>,
}

pub struct Partitions {
    host: Arc<Host>,
    config: Arc<Config>,
    table: RwLock<Table>,
    /// Topics that went while the image was history: whether what has their names is theirs, it cannot say.
    gone_before: Mutex<Vec<Arc<Partition>>>,
}

impl std::fmt::Debug for Partitions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partitions({} topics)", self.table().len())
    }
}

impl Partitions {
    #[must_use]
    pub fn new(host: Host, config: Arc<Config>) -> Self {
        Self { host: Arc::new(host), config, table: RwLock::default(), gone_before: Mutex::default() }
    }

    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn gone_before(&self) -> MutexGuard<'_, Vec<Arc<Partition>>> {
        self.gone_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition, if this node holds it.
    #[must_use]
    pub fn get(&self, topic: TopicId, index: i32) -> Option<Arc<Partition>> {
        self.table().get(&topic)?.partitions.get(usize::try_from(index).ok()?).cloned()
    }

    /// All of them, in the order of their topics' ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Partition>> {
        let mut all: Vec<_> =
            self.table().values().flat_map(|topic| topic.partitions.iter().cloned()).collect();
        all.sort_by_key(|partition| (partition.topic, partition.index));
        all
    }

    /// After a crash: opens every log that has files, on a thread that may wait, then says that recovery is complete.
    pub fn recover(self: &Arc<Self>) {
        let partitions = Arc::clone(self);
        self.host.flusher.run_job(move || {
            let names = match partitions.host.log_dir.log_names() {
                Ok(names) => names,
                Err(error) => return tracing::error!("the data directory can't be read: {error}"),
            };
            let names: HashSet<String> = names.into_iter().collect();
            for partition in partitions.all() {
                if partition.is_held() && names.contains(&partition.dir_name) {
                    partition.recover();
                }
            }
            if let Err(error) = partitions.host.log_dir.recovered() {
                tracing::error!("the end of recovery could not be noted: {error}");
            }
        });
    }

    /// Whether the image is no history any more, so that logs may be opened.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.host.is_settled.load(Ordering::Acquire)
    }

    /// The image is as new as this node's registration. From here on a partition that is placed elsewhere is news, and its files here go;
    /// before, it was history that may have been undone since, and no log is opened. What was placed elsewhere or deleted while this node was away
    /// goes now.
    pub fn settle(self: &Arc<Self>) {
        self.host.is_settled.store(true, Ordering::Release);
        let partitions = Arc::clone(self);
        self.host.flusher.run_job(move || {
            let Ok(names) = partitions.host.log_dir.log_names() else { return };
            let names: HashSet<String> = names.into_iter().collect();
            let mut removals = Vec::new();
            {
                // Under the lock, so that it is not placed here again meanwhile.
                let mut table = partitions.table.write().unwrap_or_else(PoisonError::into_inner);
                let present: HashSet<&str> = table
                    .values()
                    .flat_map(|topic| &topic.partitions)
                    .map(|one| one.dir_name.as_str())
                    .collect();
                for gone in std::mem::take(&mut *partitions.gone_before()) {
                    // What a later topic of the same name finds there it judges by the owner.
                    if names.contains(&gone.dir_name) && !present.contains(gone.dir_name.as_str()) {
                        removals.extend(gone.delete());
                    }
                }
                for partition in table.values_mut().flat_map(|topic| &mut topic.partitions) {
                    if names.contains(&partition.dir_name) && !partition.is_held() {
                        let fresh = partition.emptied();
                        removals.extend(std::mem::replace(partition, fresh).delete());
                    }
                }
            }
            run_all(removals);
        });
    }

    /// Flushes and closes every log, for a clean shutdown.
    ///
    /// # Errors
    /// The first log that could not be flushed; the others are closed all the same.
    pub fn close(&self) -> Result<(), StorageError> {
        let mut result = Ok(());
        for partition in self.all() {
            result = result.and(partition.close());
        }
        result
    }

    /// Partitions that lack a replica which is there again are looked after until it is in sync: where nothing is written, nobody else
    /// would notice it.
    fn welcome(&self, image: &Image, returned: &[NodeId]) {
        let me = self.host.me;
        for topic in image.topics.values() {
            for (index, placed) in (0..).zip(topic.partitions.iter()) {
                let lacks = |id| placed.replicas.contains(id) && !placed.isr.contains(id);
                if placed.leader == me
                    && returned.iter().any(lacks)
                    && let Some(partition) = self.get(topic.id, index)
                {
                    partition.want_watch();
                }
            }
        }
    }

    /// Follows the step from one image to the next.
    pub fn on_image(&self, before: &Image, image: &Image) {
        let changed = Changed::between(before, image);
        let mut removals = Vec::new();
        let returned = returned(before, image);
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            for id in &changed.gone {
                let Some(topic) = table.remove(id) else { continue };
                if self.host.is_settled.load(Ordering::Acquire) {
                    removals.extend(topic.partitions.iter().filter_map(|partition| partition.delete()));
                } else {
                    self.gone_before().extend(topic.partitions);
                }
            }
            // Topics that set nothing of their own share what they go by: a thousand new ones are no thousand searches of the tables.
            let mut shared: Option<Arc<TopicConfig>> = None;
            for id in &changed.topics {
                let Some(topic) = image.topics.get(id) else { continue };
                let resolve =
                    || Arc::new(TopicConfig::resolve(&self.config, image, self.host.me, &topic.name));
                let config = match image.topic_has_configs(&topic.name) {
                    true => resolve(),
                    false => Arc::clone(shared.get_or_insert_with(resolve)),
                };
                let held = table
                    .entry(*id)
                    .or_insert_with(|| Topic { config: Arc::clone(&config), partitions: Vec::new() });
                held.config = Arc::clone(&config);
                for (index, placed) in topic.partitions.iter().enumerate() {
                    let fresh = || {
                        Partition::new(
                            Arc::clone(&self.host),
                            *id,
                            Arc::clone(&topic.name),
                            i32::try_from(index).expect("a topic has fewer than 2^31 partitions"),
                            PartitionState::clone(placed),
                            Arc::clone(&config),
                        )
                    };
                    match held.partitions.get_mut(index) {
                        Some(partition) => {
                            let was_held = partition.is_held();
                            partition.update(placed, &config);
                            if was_held
                                && !partition.is_held()
                                && self.host.is_settled.load(Ordering::Acquire)
                            {
                                removals.extend(std::mem::replace(partition, fresh()).delete());
                            }
                        }
                        None => held.partitions.push(fresh()),
                    }
                }
            }
        }
        if !returned.is_empty() {
            self.welcome(image, &returned);
        }
        if !removals.is_empty() {
            self.host.flusher.run_job(move || run_all(removals));
        }
    }
}

fn run_all(removals: Vec<Removal>) {
    for removal in removals {
        if let Err(error) = removal.run() {
            tracing::error!("deleted files stay: {error}");
        }
    }
}

/// Brokers that may be in sync from here on, and could not before.
fn returned(before: &Image, image: &Image) -> Vec<NodeId> {
    let mut returned = Vec::new();
    for item in before.brokers.diff(&image.brokers) {
        let (was, is) = match item {
            DiffItem::Add(_, new) => (None, new),
            DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), new),
            DiffItem::Remove(..) => continue,
        };
        if is.is_active() && !was.is_some_and(|was| was.is_active()) {
            returned.push(is.id);
        }
    }
    returned
}

/// The topics between two images: finding them costs what changed, not what there is.
#[derive(Default)]
struct Changed {
    gone: Vec<TopicId>,
    /// New ones, and those whose partitions or configurations are others.
    topics: BTreeSet<TopicId>,
}

impl Changed {
    fn between(before: &Image, image: &Image) -> Self {
        let mut changed = Self::default();
        for item in before.topics.diff(&image.topics) {
            match item {
                DiffItem::Add(id, _) | DiffItem::Update { new: (id, _), .. } => {
                    changed.topics.insert(*id);
                }
                DiffItem::Remove(id, _) => changed.gone.push(*id),
            }
        }
        for item in before.configs.diff(&image.configs) {
            let (DiffItem::Add(resource, _)
            | DiffItem::Update { new: (resource, _), .. }
            | DiffItem::Remove(resource, _)) = item;
            match resource.kind {
                ConfigKind::Topic => {
                    changed.topics.extend(image.topic_by_name(&resource.name).map(|topic| topic.id))
                }
                // A broker's settings are defaults of every topic.
                ConfigKind::Broker => changed.topics.extend(image.topics.keys()),
                _ => {}
            }
        }
        changed
    }
}
