//! Where the nodes listen, what they are told, and how one is started.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::PATIENCE;
use super::state::{Node, State};

/// Node i listens on the port + so much times (i - 1).
const PORT_STEP: u16 = 1000;

/// Node i listens on the port + 1000 * (i - 1), and for its peers on the one after it. Port 0 picks free ones.
pub(super) fn places(nodes: usize, port: u16) -> anyhow::Result<Vec<Node>> {
    let mut held = Vec::new();
    (1..=nodes)
        .map(|id| {
            let (port, peer_port) = match port {
                // A node that is alone picks its port itself.
                0 if nodes == 1 => (0, 0),
                0 => (free_port(&mut held)?, free_port(&mut held)?),
                first => {
                    let step = PORT_STEP * u16::try_from(id - 1).unwrap_or(0);
                    let port = first.checked_add(step).and_then(|port| Some((port, port.checked_add(1)?)));
                    port.with_context(|| {
                        format!("--port {first}: the ports of {nodes} nodes would end past 65535")
                    })?
                }
            };
            let peer_port = if nodes == 1 { 0 } else { peer_port };
            Ok(Node { id, port, peer_port, pid: 0 })
        })
        .collect()
}

/// A port that nobody listens on. Held until all are found, so that no two are the same.
fn free_port(held: &mut Vec<TcpListener>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
    let port = listener.local_addr()?.port();
    held.push(listener);
    Ok(port)
}

/// Says at once, for all nodes, what otherwise the log of one would say.
pub(super) fn check_free(nodes: &[Node]) -> anyhow::Result<()> {
    for node in nodes {
        for port in [node.port, node.peer_port].into_iter().filter(|port| *port != 0) {
            match TcpListener::bind(("127.0.0.1", port)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
                    "port {port}, which node {} needs, is taken by another process: choose others with --port PORT, or let free ones \
                     be picked with --port 0",
                    node.id
                ),
                _ => {}
            }
        }
    }
    Ok(())
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
pub(super) fn launch(dir: &Path, state: &State, at: usize) -> anyhow::Result<Child> {
    let node = &state.nodes[at];
    let id = node.id;
    let data = data_dir(dir, id);
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

pub(super) fn data_dir(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("n{id}"))
}

fn out_path(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("n{id}.out"))
}

fn log_path(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("n{id}.log"))
}

/// Waits for a node's line that says that it is ready: its registration has then gone through the metadata log, and it takes requests.
/// Returns its port.
pub(super) fn wait_ready(dir: &Path, id: usize, child: &mut Child) -> anyhow::Result<u16> {
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
