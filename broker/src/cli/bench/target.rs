//! The broker that is measured: given, or started for it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ottla_load::bootstrap::{self, Bootstrap};
use ottla_load::connection::Connection;
use ottla_load::processes::{Processes, file_system};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{Arguments, interrupt};

/// How long a broker that was started may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to end.
const END_LIMIT: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) struct Target {
    name: String,
    bootstrap: Bootstrap,
    started: Started,
}

enum Started {
    /// By others.
    Before,
    Nodes(Nodes),
    Peer {
        _until_dropped: Peer,
    },
}

impl Target {
    /// The broker at `--bootstrap-server`, or nodes of its own.
    pub(super) fn ours(arguments: &Arguments) -> anyhow::Result<Self> {
        if let Some(bootstrap) = &arguments.bootstrap_server {
            return Self::given(bootstrap);
        }
        let nodes = Nodes::start(arguments)?;
        let bootstrap = nodes.bootstrap.parse().map_err(anyhow::Error::msg)?;
        Ok(Self { name: "ottla".to_owned(), bootstrap, started: Started::Nodes(nodes) })
    }

    /// The broker that it is compared with.
    pub(super) fn theirs(arguments: &Arguments) -> anyhow::Result<Self> {
        if let Some(bootstrap) = &arguments.against {
            return Self::given(bootstrap);
        }
        let command = arguments.peer_cmd.as_ref().context("there is no other broker to compare with")?;
        let peer = Peer::start(command, arguments.dir.as_deref())?;
        let bootstrap = Bootstrap(vec![peer.address]);
        Ok(Self { name: "peer".to_owned(), bootstrap, started: Started::Peer { _until_dropped: peer } })
    }

    fn given(bootstrap: &Bootstrap) -> anyhow::Result<Self> {
        let addresses: Vec<String> = bootstrap.0.iter().map(ToString::to_string).collect();
        let name = addresses.join(",");
        let answers = bootstrap
            .connect()
            .map_err(anyhow::Error::from)
            .and_then(|mut connection| bootstrap::brokers(&mut connection).map_err(anyhow::Error::from));
        answers.with_context(|| format!("no broker answers at {name}"))?;
        Ok(Self { name, bootstrap: bootstrap.clone(), started: Started::Before })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn bootstrap(&self) -> &Bootstrap {
        &self.bootstrap
    }

    pub(super) fn connect(&self) -> anyhow::Result<Connection> {
        self.bootstrap.connect().with_context(|| format!("nobody answers at {}", self.name))
    }

    /// The nodes of its own.
    pub(super) fn nodes(&self) -> Option<&Nodes> {
        match &self.started {
            Started::Nodes(nodes) => Some(nodes),
            Started::Before | Started::Peer { .. } => None,
        }
    }

    /// The broker's own processes, all nodes', where they run on this machine.
    pub(super) fn processes(&self) -> Option<Processes> {
        let addresses = bootstrap::brokers(&mut self.connect().ok()?).ok()?;
        Processes::listening_on(&addresses)
    }
}

/// A directory that is removed with what it holds.
struct Scratch(PathBuf);

impl Scratch {
    fn make(within: Option<&Path>) -> anyhow::Result<Self> {
        let within = within.map_or_else(std::env::temp_dir, Path::to_owned);
        fs::create_dir_all(&within).with_context(|| format!("can't make {}", within.display()))?;
        let within = within.canonicalize()?;
        for number in 0..1_000 {
            let dir = within.join(format!("ottla-bench-{}-{number}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => {
                    if file_system(&dir).is_some_and(|kind| kind == "tmpfs") {
                        eprintln!(
                            "{} is in memory (tmpfs): syncing costs nothing there, which no disk does; --dir DIR names another place",
                            dir.display()
                        );
                    }
                    return Ok(Self(dir));
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("can't make {}", dir.display())),
            }
        }
        bail!("{} is full of ottla-bench directories", within.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Nodes of this program, as `ottla cluster` runs them.
pub(super) struct Nodes {
    bootstrap: String,
    scratch: Scratch,
}

impl Nodes {
    fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let scratch = Scratch::make(arguments.dir.as_deref())?;
        let mut nodes = Self { bootstrap: String::new(), scratch };
        let count = arguments.nodes().to_string();
        let mut words = vec!["up", &count, "--port", "0", "--detach"];
        let set: Vec<String> = arguments.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        set.iter().for_each(|set| words.extend(["--set", set]));
        let answer = nodes.cluster(&words)?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        nodes.bootstrap =
            answer["bootstrap"].as_str().context("`ottla cluster up` names no address")?.to_owned();
        Ok(nodes)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.scratch.0
    }

    /// Runs `ottla cluster` on them; what it prints.
    pub(super) fn cluster(&self, words: &[&str]) -> anyhow::Result<String> {
        // A group of their own: Ctrl-C is for the measurement, which then ends them.
        let done = Command::new(std::env::current_exe()?)
            .arg("cluster")
            .args(words)
            .args(["--json", "--dir"])
            .arg(self.dir())
            .stdin(Stdio::null())
            .process_group(0)
            .output()?;
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            bail!("ottla cluster {}: {}", words.join(" "), why.trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if self.dir().join("cluster.json").exists()
            && let Err(error) = self.cluster(&["down", "--wipe"])
        {
            eprintln!("ottla: {error:#}");
        }
    }
}

/// A broker that a command of the user's starts, whether that command stays or leaves it behind.
struct Peer {
    address: SocketAddr,
    child: Child,
    /// Removed when the processes have ended.
    _scratch: Scratch,
}

impl Peer {
    fn start(command: &str, within: Option<&Path>) -> anyhow::Result<Self> {
        let scratch = Scratch::make(within)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let dir = scratch.0.to_str().context("the scratch directory has an odd name")?;
        let line = command.replace("{port}", &port.to_string()).replace("{dir}", dir);
        let log = fs::File::create(scratch.0.join("peer.log"))?;
        let child = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("can't start a shell")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut peer = Self { address, child, _scratch: scratch };
        peer.wait_until_it_answers(&line)?;
        Ok(peer)
    }

    fn wait_until_it_answers(&mut self, line: &str) -> anyhow::Result<()> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            interrupt::check()?;
            let brokers = Connection::open(self.address)
                .map_err(anyhow::Error::from)
                .and_then(|mut connection| Ok(bootstrap::brokers(&mut connection)?));
            if brokers.is_ok_and(|brokers| !brokers.is_empty()) {
                return Ok(());
            }
            let log = || {
                let text = fs::read_to_string(self._scratch.0.join("peer.log")).unwrap_or_default();
                text.lines()
                    .rev()
                    .take(5)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            if let Some(status) = self.child.try_wait()?.filter(|status| !status.success()) {
                bail!("--peer-cmd `{line}` ended with {status}:\n{}", log());
            }
            if Instant::now() >= limit {
                bail!(
                    "--peer-cmd `{line}`: nobody answers at {} after {START_LIMIT:?}:\n{}",
                    self.address,
                    log()
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The processes that listen, and the command with all that it started.
    fn tell_to_end(&mut self, signal: Signal) {
        for pid in Processes::listening_on(&[self.address]).iter().flat_map(Processes::pids) {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
        if let (Ok(None), Some(group)) =
            (self.child.try_wait(), i32::try_from(self.child.id()).ok().and_then(Pid::from_raw))
        {
            let _ = kill_process_group(group, signal);
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None)) && Processes::listening_on(&[self.address]).is_none()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            self.tell_to_end(signal);
            let limit = Instant::now() + END_LIMIT;
            while Instant::now() < limit {
                if self.has_ended() {
                    return;
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        eprintln!("ottla: the peer at {} did not end", self.address);
    }
}
