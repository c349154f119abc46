//! What `up` notes for the other commands, in the cluster's directory.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::process::{Life, is_alive};

const STATE_FILE: &str = "cluster.json";

/// The nodes, and what the user set on all of them.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    pub(super) nodes: Vec<Node>,
    pub(super) set: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) id: usize,
    pub(super) port: u16,
    /// For its peers; 0 for a node that has none.
    #[serde(default)]
    pub(super) peer_port: u16,
    pub(super) pid: u32,
}

impl State {
    /// `None`: there never was a cluster in this directory.
    pub(super) fn find(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(STATE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} can't be read", path.display())).map(Some)
    }

    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let state = Self::find(dir)?;
        state.with_context(|| {
            format!("there is no cluster in {0} (`ottla cluster up 3 --dir {0}` makes one)", dir.display())
        })
    }

    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        Ok(fs::write(dir.join(STATE_FILE), serde_json::to_string(self)?)?)
    }

    /// The place of a node in `nodes`.
    pub(super) fn place(&self, id: usize) -> anyhow::Result<usize> {
        let place = self.nodes.iter().position(|node| node.id == id);
        place.with_context(|| {
            format!("there is no node {id}: the cluster has nodes 1 to {}", self.nodes.len())
        })
    }

    pub(super) fn is_running(&self) -> bool {
        self.nodes.iter().any(|node| is_alive(node.pid))
    }

    /// Whether so many nodes run that they can decide.
    pub(super) fn has_majority(&self) -> bool {
        let running = self.nodes.iter().filter(|node| Life::of(node.pid) == Life::Running).count();
        running * 2 > self.nodes.len()
    }

    pub(super) fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.address()).collect();
        addresses.join(",")
    }
}

impl Node {
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
