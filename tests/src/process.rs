//! A real `ottla` process on a free port with a data directory of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::Client;

/// A running node. Dropping it kills it and, if it was made for the test, removes its data.
pub struct Ottla {
    child: Option<Child>,
    address: SocketAddr,
    ready: serde_json::Value,
    settings: Vec<String>,
    data: Data,
}

enum Data {
    Own(TempDir),
    Given(PathBuf),
}

impl Data {
    fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Given(path) => path,
        }
    }
}

impl Ottla {
    /// Starts a node with a fresh data directory, and waits until it is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with settings such as `"max.connections=5"`.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::spawn(Data::Own(TempDir::new().expect("a temporary directory")), settings)
    }

    /// Starts a node on an existing directory.
    pub fn start_in(dir: &Path, settings: &[&str]) -> Self {
        Self::spawn(Data::Given(dir.to_owned()), settings)
    }

    fn spawn(data: Data, settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let (child, ready) = launch(data.path(), 0, &settings);
        let address = address_of(&ready);
        Self { child: Some(child), address, ready, settings, data }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// What the node printed when it was ready.
    pub fn ready_line(&self) -> &serde_json::Value {
        &self.ready
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Anonymous memory of the process in bytes (`RssAnon`): what the node itself takes, without files that are mapped.
    pub fn rss_anon_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says so");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kib * 1024
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("a running process");
        child.wait().expect("a killed process ends");
    }

    /// Asks the node to stop, and waits for it.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, Signal::TERM).expect("a running process");
        child.wait().expect("a stopped process ends")
    }

    /// Starts the node again after [`Ottla::kill`] or [`Ottla::stop`], on its port and its data.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let (child, ready) = launch(self.data.path(), self.address.port(), &self.settings);
        self.child = Some(child);
        self.ready = ready;
    }
}

impl Drop for Ottla {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command that runs the `ottla` of this build.
pub fn command() -> Command {
    Command::new(binary())
}

/// The binary beside the test's own: `target/<profile>/ottla`. Built once per test process if a test was started on its own.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("OTTLA_BIN") {
            return path.into();
        }
        let test = std::env::current_exe().expect("a test has a path");
        let profile_dir = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "ottla", "--bin", "ottla"]);
        if profile_dir.file_name().is_some_and(|name| name == "release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the broker does not compile");
        profile_dir.join("ottla")
    })
}

fn launch(data_dir: &Path, port: u16, settings: &[String]) -> (Child, serde_json::Value) {
    let mut command = command();
    command.arg("serve").arg("--port").arg(port.to_string()).arg("--data-dir").arg(data_dir);
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("ottla runs");
    let mut line = String::new();
    // The node prints one line of JSON when it is ready, or ends.
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("readable");
    if line.is_empty() {
        let status = child.wait().expect("it ended");
        panic!("ottla did not start: {status}");
    }
    let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    (child, ready)
}

fn address_of(ready: &serde_json::Value) -> SocketAddr {
    let address = ready["bootstrap"].as_str().expect("a ready line names the bootstrap address");
    address.parse().expect("an address")
}

/// Waits until `condition` holds: for what cannot be awaited, such as another process's memory.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: not within 30 seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
}
