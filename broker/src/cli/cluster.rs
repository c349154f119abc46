//! `ottla cluster`: nodes as child processes, kept in one directory.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How long a node may take to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Node i listens on the port + so much times (i - 1).
const PORT_STEP: u16 = 1000;
/// Few laptops hold more.
const NODES_MAX: usize = 9;
const STATE_FILE: &str = "cluster.json";

#[derive(Subcommand)]
pub(super) enum Arguments {
    /// Start N nodes, wait until each takes writes, and say where to connect.
    Up(Up),
    /// Show the nodes.
    Status(At),
    /// Stop all nodes.
    Down {
        #[command(flatten)]
        at: At,
        /// Remove the data, too.
        #[arg(long)]
        wipe: bool,
    },
    /// Kill node I at once (SIGKILL).
    Kill {
        node: usize,
        #[command(flatten)]
        at: At,
    },
    /// Stop node I cleanly (SIGTERM).
    Stop {
        node: usize,
        #[command(flatten)]
        at: At,
    },
    /// Start node I again.
    Start {
        node: usize,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Args)]
pub(super) struct Up {
    /// How many nodes.
    nodes: usize,
    /// Port of the first node; 0 picks a free one.
    #[arg(long, default_value_t = 9092)]
    port: u16,
    #[command(flatten)]
    at: At,
    /// Sets one Kafka property on every node.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Return once the cluster serves; otherwise it is stopped by Ctrl-C.
    #[arg(long)]
    detach: bool,
}

#[derive(Args, Clone)]
pub(super) struct At {
    /// Where the cluster keeps its data.
    #[arg(long, value_name = "DIR", default_value = "ottla-cluster")]
    dir: PathBuf,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// What `up` notes for the other commands.
#[derive(Serialize, Deserialize)]
struct State {
    nodes: Vec<Node>,
    set: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Node {
    id: usize,
    port: u16,
    /// For its peers; 0 for a node that has none.
    #[serde(default)]
    peer_port: u16,
    pid: u32,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments {
        Arguments::Up(up) => bring_up(&up),
        Arguments::Status(at) => status(&at),
        Arguments::Down { at, wipe } => down(&at, wipe),
        Arguments::Kill { node, at } => end_one(&at, node, Signal::KILL),
        Arguments::Stop { node, at } => end_one(&at, node, Signal::TERM),
        Arguments::Start { node, at } => start_one(&at, node),
    }
}

fn bring_up(up: &Up) -> anyhow::Result<()> {
    if !(1..=NODES_MAX).contains(&up.nodes) {
        bail!("a cluster has 1 to {NODES_MAX} nodes, not {}", up.nodes);
    }
    if let Ok(state) = State::read(&up.at.dir)
        && state.nodes.iter().any(|node| is_alive(node.pid))
    {
        bail!("a cluster runs in {} already: `ottla cluster down --dir {0}` stops it", up.at.dir.display());
    }
    fs::create_dir_all(&up.at.dir).with_context(|| format!("can't make {}", up.at.dir.display()))?;
    let mut state = State { nodes: places(up)?, set: up.set.clone() };
    let mut children = Vec::new();
    for at in 0..state.nodes.len() {
        let child = launch(&up.at.dir, &state, at)?;
        state.nodes[at].pid = child.id();
        children.push(child);
    }
    // Noted before they are waited for: `down` finds them whatever happens.
    state.write(&up.at.dir)?;
    for (at, child) in children.iter_mut().enumerate() {
        match wait_ready(&up.at.dir, state.nodes[at].id, child) {
            Ok(port) => state.nodes[at].port = port,
            Err(error) => {
                for node in &state.nodes {
                    send(node.pid, Signal::KILL);
                }
                return Err(error);
            }
        }
    }
    state.write(&up.at.dir)?;
    let bootstrap = state.bootstrap();
    if up.at.json {
        let pids: Vec<u32> = state.nodes.iter().map(|node| node.pid).collect();
        say(&json!({ "bootstrap": bootstrap, "pids": pids, "dir": up.at.dir }).to_string());
    } else {
        say(&format!("{} node(s) serve: connect to {bootstrap}", state.nodes.len()));
        say(&format!("data and logs in {}", up.at.dir.display()));
    }
    if up.detach {
        return Ok(());
    }
    // Ctrl-C reaches the children too, which stop cleanly by themselves.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        anyhow::Ok(())
    })?;
    for child in &mut children {
        send(child.id(), Signal::TERM);
        child.wait()?;
    }
    Ok(())
}

/// Where each node listens: node i on the port + 1000 * (i - 1), and for its peers on the one after it.
fn places(up: &Up) -> anyhow::Result<Vec<Node>> {
    let mut taken = Vec::new();
    (1..=up.nodes)
        .map(|id| {
            let (port, peer_port) = match up.port {
                // A node that is alone picks its port itself.
                0 if up.nodes == 1 => (0, 0),
                0 => (free_port(&mut taken)?, free_port(&mut taken)?),
                first => {
                    let step = PORT_STEP * u16::try_from(id - 1).unwrap_or(0);
                    let port = first.checked_add(step).and_then(|port| Some((port, port.checked_add(1)?)));
                    port.with_context(|| {
                        format!("--port {first}: the ports of {} nodes end past 65535", up.nodes)
                    })?
                }
            };
            let peer_port = if up.nodes == 1 { 0 } else { peer_port };
            Ok(Node { id, port, peer_port, pid: 0 })
        })
        .collect()
}

/// A port that nobody listens on. Held until all are found, so that no two are the same.
fn free_port(taken: &mut Vec<TcpListener>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
    let port = listener.local_addr()?.port();
    taken.push(listener);
    Ok(port)
}

/// What makes these nodes a cluster, beside what the user sets.
fn settings(state: &State, at: usize) -> Vec<String> {
    let node = &state.nodes[at];
    let mut settings = vec![format!("node.id={}", node.id), format!("broker.rack=r{}", node.id)];
    if state.nodes.len() > 1 {
        let voters: Vec<String> =
            state.nodes.iter().map(|node| format!("{}@127.0.0.1:{}", node.id, node.peer_port)).collect();
        settings.push(format!("controller.quorum.voters={}", voters.join(",")));
        settings.push("controller.listener.names=CONTROLLER".to_owned());
        settings.push(format!(
            "listeners=PLAINTEXT://localhost:{},CONTROLLER://localhost:{}",
            node.port, node.peer_port
        ));
        // Several nodes are there to keep several copies.
        settings.push(format!("default.replication.factor={}", state.nodes.len().min(3)));
        if state.nodes.len() >= 3 {
            settings.push("min.insync.replicas=2".to_owned());
        }
    }
    if !says_where(&state.set) {
        settings.push(format!("advertised.listeners=PLAINTEXT://127.0.0.1:{}", node.port));
    }
    settings
}

/// Starts a node.
fn launch(dir: &Path, state: &State, at: usize) -> anyhow::Result<Child> {
    let node = &state.nodes[at];
    let id = node.id;
    let data = dir.join(format!("n{id}"));
    fs::create_dir_all(&data)?;
    let open = |path: PathBuf| {
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("can't open {}", path.display()))
    };
    fs::remove_file(out_path(dir, id)).ok();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--data-dir").arg(&data);
    if state.nodes.len() == 1 {
        command.arg("--port").arg(node.port.to_string());
    }
    for set in settings(state, at).iter().chain(&state.set) {
        command.arg("--set").arg(set);
    }
    command
        .stdin(Stdio::null())
        .stdout(open(out_path(dir, id))?)
        .stderr(open(log_path(dir, id))?)
        .spawn()
        .context("can't start a node")
}

fn out_path(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("n{id}.out"))
}

fn log_path(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("n{id}.log"))
}

/// Waits for a node's line that says that it is ready: its registration has then gone through the metadata log, and it takes requests.
/// Returns its port.
fn wait_ready(dir: &Path, id: usize, child: &mut Child) -> anyhow::Result<u16> {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(port) = ready_port(&out_path(dir, id)) {
            return Ok(port);
        }
        let log_path = log_path(dir, id);
        if let Some(status) = child.try_wait()? {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            bail!("node {id} ended with {status}: {last} (its log is {})", log_path.display());
        }
        if Instant::now() >= limit {
            child.kill()?;
            bail!("node {id} was not ready within {PATIENCE:?}; its log is {}", log_path.display());
        }
        // The line appears in a file, of which nobody tells.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the user chose the addresses of the nodes. Otherwise clients are told the one that `up` prints.
fn says_where(set: &[String]) -> bool {
    let chosen = |name: &str| set.iter().any(|set| set.split('=').next() == Some(name));
    let in_environment = |name: &str| std::env::var_os(name).is_some();
    chosen("advertised.listeners")
        || chosen("listeners")
        || in_environment("KAFKA_ADVERTISED_LISTENERS")
        || in_environment("KAFKA_LISTENERS")
}

fn ready_port(out: &Path) -> Option<u16> {
    let lines = BufReader::new(File::open(out).ok()?).lines();
    lines.map_while(Result::ok).find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        line.get("bootstrap")?.as_str()?.rsplit(':').next()?.parse().ok()
    })
}

fn status(at: &At) -> anyhow::Result<()> {
    let state = State::read(&at.dir)?;
    if at.json {
        let nodes: Vec<_> = state
            .nodes
            .iter()
            .map(|node| json!({ "id": node.id, "port": node.port, "pid": node.pid, "alive": is_alive(node.pid) }))
            .collect();
        say(&json!({ "bootstrap": state.bootstrap(), "nodes": nodes, "dir": at.dir }).to_string());
        return Ok(());
    }
    say("NODE  ADDRESS                PID      STATE");
    for node in &state.nodes {
        let word = if is_alive(node.pid) { "running" } else { "stopped" };
        say(&format!("{:<5} {:<22} {:<8} {word}", node.id, format!("127.0.0.1:{}", node.port), node.pid));
    }
    Ok(())
}

fn down(at: &At, wipe: bool) -> anyhow::Result<()> {
    let state = State::read(&at.dir)?;
    // All at once: one after the other, the last ones would look for others that are gone.
    for node in &state.nodes {
        send(node.pid, Signal::TERM);
    }
    for node in &state.nodes {
        end(node.pid, Signal::TERM)?;
    }
    if wipe {
        fs::remove_dir_all(&at.dir).with_context(|| format!("can't remove {}", at.dir.display()))?;
    }
    if at.json {
        say(&json!({ "stopped": state.nodes.len(), "wiped": wipe }).to_string());
    }
    Ok(())
}

fn end_one(at: &At, id: usize, signal: Signal) -> anyhow::Result<()> {
    let state = State::read(&at.dir)?;
    end(state.node(id)?.pid, signal)?;
    if at.json {
        say(&json!({ "node": id, "alive": false }).to_string());
    }
    Ok(())
}

fn start_one(at: &At, id: usize) -> anyhow::Result<()> {
    let mut state = State::read(&at.dir)?;
    if is_alive(state.node(id)?.pid) {
        bail!("node {id} runs already");
    }
    let place = state.nodes.iter().position(|node| node.id == id).context("looked up above")?;
    let mut child = launch(&at.dir, &state, place)?;
    state.nodes[place].pid = child.id();
    state.write(&at.dir)?;
    state.nodes[place].port = wait_ready(&at.dir, id, &mut child)?;
    state.write(&at.dir)?;
    if at.json {
        say(&json!({ "node": id, "pid": child.id(), "bootstrap": state.bootstrap() }).to_string());
    }
    Ok(())
}

impl State {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(STATE_FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("there is no cluster in {} (`ottla cluster up 1 --dir {0}` makes one)", dir.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} can't be read", path.display()))
    }

    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        Ok(fs::write(dir.join(STATE_FILE), serde_json::to_string(self)?)?)
    }

    fn node(&self, id: usize) -> anyhow::Result<&Node> {
        self.nodes.iter().find(|node| node.id == id).with_context(|| format!("there is no node {id}"))
    }

    fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        addresses.join(",")
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// A process that ended and that nobody has waited for yet does not count.
fn is_alive(pid: u32) -> bool {
    let exists = pid_of(pid).is_some_and(|pid| test_kill_process(pid).is_ok());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    // The first thread of a killed process can be a zombie while others still end and hold its files.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    exists && !(zombie && threads <= 1)
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        // Gone already is as good.
        let _ = kill_process(pid, signal);
    }
}

/// Sends the signal and waits until the process is gone; it is no child of this command, so that only looking tells.
fn end(pid: u32, signal: Signal) -> anyhow::Result<()> {
    send(pid, signal);
    let limit = Instant::now() + PATIENCE;
    while is_alive(pid) {
        if Instant::now() >= limit {
            bail!("process {pid} did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's answer goes to standard output")]
fn say(line: &str) {
    println!("{line}");
}
