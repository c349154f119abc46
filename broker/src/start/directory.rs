//! The data directory of a node: opened, locked, and checked for whose it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ottla_protocol::types::{NodeId, Uuid};
use ottla_storage::{LogDir, RealDisk};

use super::StartError;
use crate::config::Config;
use crate::entropy::Entropy;
use crate::founding::CLUSTER_ID;

/// The directory's property that says whose it is.
const NODE_ID: &str = "node.id";

pub(super) fn open_log_dir(
    config: &Config,
    id: NodeId,
    entropy: &Entropy,
    founded: Option<Uuid>,
) -> Result<Arc<LogDir>, StartError> {
    let path = config.text("log.dirs").or_else(|| config.text("log.dir")).unwrap_or_default().trim();
    if path.is_empty() {
        return Err(StartError::LogDirs("it is not set".to_owned()));
    }
    if path.contains(',') {
        return Err(StartError::LogDirs(format!(
            "one directory is used in this version, not several: {path}"
        )));
    }
    let ours = id.to_string();
    let mut founding = BTreeMap::from([(NODE_ID.to_owned(), ours.clone())]);
    founding.extend(founded.map(|cluster| (CLUSTER_ID.to_owned(), cluster.to_string())));
    let dir = LogDir::open_or_found(Arc::new(RealDisk), Path::new(path), entropy.next_bytes(), founding)?;
    let mut properties = dir.properties();
    match properties.get(NODE_ID) {
        Some(theirs) if *theirs == ours => {}
        Some(theirs) => {
            return Err(StartError::OtherNode {
                dir: dir.path().display().to_string(),
                theirs: theirs.clone(),
                ours: id,
            });
        }
        None => {
            properties.insert(NODE_ID.to_owned(), ours);
            dir.set_properties(&properties)?;
        }
    }
    Ok(Arc::new(dir))
}
