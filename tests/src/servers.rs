//! Several `ottla serve` processes that are a cluster, each with a directory and ports of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::process::command;

/// How long a node may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster. Dropping it kills its processes and removes their data.
pub struct Servers {
    dir: TempDir,
    voters: Vec<i32>,
    nodes: BTreeMap<i32, Node>,
    settings: Vec<String>,
    variables: Vec<(String, String)>,
}

struct Node {
    port: u16,
    peer_port: u16,
    settings: Vec<String>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    ready: Receiver<Value>,
}

impl Servers {
    /// Three voters that are brokers too, up and ready.
    pub fn start() -> Self {
        let mut cluster = Self::planned();
        cluster.launch(&[1, 2, 3]);
        cluster.wait_ready(&[1, 2, 3]);
        cluster
    }

    /// The same, with nothing started.
    pub fn planned() -> Self {
        let settings = ["default.replication.factor=3", "min.insync.replicas=2"].map(str::to_owned);
        let mut cluster = Self {
            dir: TempDir::new().expect("a temporary directory"),
            voters: vec![1, 2, 3],
            nodes: BTreeMap::new(),
            settings: settings.to_vec(),
            variables: Vec::new(),
        };
        for id in [1, 2, 3] {
            cluster.add(id, &[]);
        }
        cluster
    }

    /// One more node, with settings of its own; not started.
    pub fn add(&mut self, id: i32, settings: &[&str]) {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let node = Node { port: free_port(), peer_port: free_port(), settings, running: None };
        self.nodes.insert(id, node);
    }

    /// For all nodes, from their next start on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn ids(&self) -> Vec<i32> {
        self.nodes.keys().copied().collect()
    }

    pub fn data_dir(&self, id: i32) -> PathBuf {
        self.dir.path().join(format!("n{id}"))
    }

    /// Where clients reach the node.
    pub fn address(&self, id: i32) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.nodes[&id].port))
    }

    pub fn addresses(&self) -> BTreeMap<i32, SocketAddr> {
        self.nodes.keys().map(|id| (*id, self.address(*id))).collect()
    }

    pub fn connect(&self, id: i32) -> Client {
        Client::connect(self.address(id))
    }

    /// `controller.quorum.voters`.
    pub fn voters(&self) -> String {
        let voter = |id: &i32| format!("{id}@127.0.0.1:{}", self.nodes[id].peer_port);
        self.voters.iter().map(voter).collect::<Vec<_>>().join(",")
    }

    /// What makes node `id` a node of this cluster.
    pub fn settings(&self, id: i32) -> Vec<String> {
        let node = &self.nodes[&id];
        let mut settings = vec![
            format!("node.id={id}"),
            format!("broker.rack=r{id}"),
            format!("controller.quorum.voters={}", self.voters()),
            "controller.listener.names=CONTROLLER".to_owned(),
        ];
        let client = format!("PLAINTEXT://127.0.0.1:{}", node.port);
        let controller = format!("CONTROLLER://127.0.0.1:{}", node.peer_port);
        settings.push(if node.settings.iter().any(|setting| setting == "process.roles=controller") {
            format!("listeners={controller}")
        } else if self.voters.contains(&id) {
            format!("listeners={client},{controller}")
        } else {
            format!("listeners={client}")
        });
        settings.extend(self.settings.iter().chain(&node.settings).cloned());
        settings
    }

    /// Starts processes; does not wait for them.
    pub fn launch(&mut self, ids: &[i32]) {
        for id in ids {
            let mut serve = command();
            serve.arg("serve").arg("--data-dir").arg(self.data_dir(*id));
            for setting in self.settings(*id) {
                serve.arg("--set").arg(setting);
            }
            self.spawn(*id, serve);
        }
    }

    /// Starts a node by another command line.
    pub fn spawn(&mut self, id: i32, mut serve: std::process::Command) {
        serve.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let log = File::options().create(true).append(true).open(self.log_path(id)).expect("a writable log");
        let mut child =
            serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("ottla runs");
        let out = child.stdout.take().expect("piped");
        let (to, ready) = mpsc::channel();
        std::thread::spawn(move || {
            // One line once it is ready; the end of the output if it never is.
            if let Some(Ok(line)) = BufReader::new(out).lines().next() {
                to.send(serde_json::from_str(&line).expect("a line of JSON")).ok();
            }
        });
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        assert!(node.running.replace(Running { child, ready }).is_none(), "node {id} runs already");
    }

    /// Waits for nodes to be ready; what they then say.
    pub fn wait_ready(&mut self, ids: &[i32]) -> Vec<Value> {
        ids.iter().map(|id| self.wait_one(*id, PATIENCE).unwrap_or_else(|| self.complain(*id))).collect()
    }

    /// `None`: it is not ready within that time.
    pub fn wait_one(&mut self, id: i32, patience: Duration) -> Option<Value> {
        let running = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()).expect("started");
        match running.ready.recv_timeout(patience) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => self.complain(id),
        }
    }

    fn complain(&self, id: i32) -> ! {
        panic!("node {id} is not ready; its log:\n{}", self.log(id));
    }

    fn log_path(&self, id: i32) -> PathBuf {
        self.dir.path().join(format!("n{id}.log"))
    }

    /// What the node has logged in all its lives.
    pub fn log(&self, id: i32) -> String {
        fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    fn take(&mut self, id: i32) -> Child {
        self.nodes.get_mut(&id).and_then(|node| node.running.take()).expect("a running node").child
    }

    pub fn pid(&self, id: i32) -> u32 {
        self.nodes[&id].running.as_ref().expect("running").child.id()
    }

    pub fn is_started(&self, id: i32) -> bool {
        self.nodes[&id].running.is_some()
    }

    /// kill -9, all at the same moment.
    pub fn kill(&mut self, ids: &[i32]) {
        let mut children: Vec<Child> = ids.iter().map(|id| self.take(*id)).collect();
        for child in &mut children {
            child.kill().expect("a running process");
        }
        for child in &mut children {
            child.wait().expect("a killed process ends");
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self, id: i32) -> ExitStatus {
        let mut child = self.take(id);
        signal(&child, Signal::TERM);
        child.wait().expect("a stopped process ends")
    }

    /// Waits for a node that ends by itself.
    pub fn wait_end(&mut self, id: i32) -> ExitStatus {
        self.take(id).wait().expect("it ends")
    }

    pub fn pause(&self, id: i32) {
        signal(&self.nodes[&id].running.as_ref().expect("running").child, Signal::STOP);
    }

    pub fn resume(&self, id: i32) {
        signal(&self.nodes[&id].running.as_ref().expect("running").child, Signal::CONT);
    }

    /// Starts nodes again, and waits until they are ready.
    pub fn restart(&mut self, ids: &[i32]) {
        self.launch(ids);
        self.wait_ready(ids);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            if let Some(mut running) = node.running.take() {
                let _ = running.child.kill();
                let _ = running.child.wait();
            }
        }
        if std::thread::panicking() {
            for id in self.ids() {
                eprintln!("--- the log of node {id}\n{}", self.log(id));
            }
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("a running process");
}

/// Ports that tests of this process have been given: a node that is down has a claim to its own, too.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody listens on, from below those that the system gives to outgoing connections: nobody takes it before its node does.
fn free_port() -> u16 {
    let mut chance = SmallRng::from_os_rng();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let port = chance.random_range(12_000..32_000);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}
