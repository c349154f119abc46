//! `ottla cluster`: nodes as child processes, kept in one directory.

mod launch;
mod process;
mod state;
mod status;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use rustix::process::Signal;
use serde_json::json;

use launch::{check_free, data_dir, launch, places, wait_ready};
use process::{Life, is_alive, send, tell_to_end, wait_for, wait_gone};
use state::State;
use status::Status;

use super::output::{Output, say};

/// How long a node may take to become ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Few laptops hold more.
const NODES_MAX: usize = 9;
const PORT: u16 = 9092;
/// `status --watch` looks this often.
const WATCH_EVERY: Duration = Duration::from_secs(1);
const DIR: &str = "ottla-cluster";

#[derive(Subcommand)]
#[command(after_help = super::exit::CODES)]
pub(super) enum Arguments {
    /// Start N nodes, wait until each takes writes, and say where to connect.
    Up(Up),
    /// Show the nodes, what each leads, and partitions that lack replicas.
    Status {
        #[command(flatten)]
        at: At,
        /// Again and again, until Ctrl-C.
        #[arg(long)]
        watch: bool,
    },
    /// Stop all nodes.
    Down {
        #[command(flatten)]
        at: At,
        /// Remove the data, too.
        #[arg(long)]
        wipe: bool,
    },
    /// Kill nodes at once (SIGKILL).
    Kill(Which),
    /// Stop nodes cleanly (SIGTERM): what they lead moves to others first.
    Stop(Which),
    /// Start nodes again.
    Start(Which),
    /// Let nodes hang (SIGSTOP), as a machine does that swaps or a virtual one that is moved.
    Pause(Which),
    /// Let paused nodes go on (SIGCONT).
    Resume(Which),
}

#[derive(Args)]
pub(super) struct Up {
    /// How many nodes.
    nodes: usize,
    /// Port of the first node, 0 for free ones [default: those of the last time, or 9092].
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    at: At,
    /// Sets one Kafka property on every node.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Return once the cluster serves; otherwise it is stopped by Ctrl-C.
    #[arg(long)]
    detach: bool,
}

#[derive(Args)]
pub(super) struct Which {
    /// Which nodes: 1, 2, ...
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<usize>,
    #[command(flatten)]
    at: At,
}

#[derive(Args, Clone)]
pub(super) struct At {
    /// Where the cluster keeps its data.
    #[arg(long, value_name = "DIR", default_value = DIR)]
    dir: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl At {
    /// A command on this cluster, as it would be typed.
    fn command(&self, words: &str) -> String {
        if self.dir.as_os_str() == DIR {
            format!("ottla cluster {words}")
        } else {
            format!("ottla cluster {words} --dir {}", self.dir.display())
        }
    }
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments {
        Arguments::Up(up) => bring_up(&up),
        Arguments::Status { at, watch } => show_status(&at, watch),
        Arguments::Down { at, wipe } => down(&at, wipe),
        Arguments::Kill(which) => end_some(&which, Signal::KILL, "killed"),
        Arguments::Stop(which) => end_some(&which, Signal::TERM, "stopped"),
        Arguments::Start(which) => start_some(&which),
        Arguments::Pause(which) => halt_some(&which, Signal::STOP, Life::Paused),
        Arguments::Resume(which) => halt_some(&which, Signal::CONT, Life::Running),
    }
}

fn bring_up(up: &Up) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut state = planned(up)?;
    check_free(&state.nodes)?;
    fs::create_dir_all(&up.at.dir).with_context(|| format!("can't make {}", up.at.dir.display()))?;
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
    if up.at.output.is_json() {
        let pids: Vec<u32> = state.nodes.iter().map(|node| node.pid).collect();
        say(&json!({ "bootstrap": state.bootstrap(), "pids": pids, "dir": up.at.dir }).to_string())?;
    } else {
        // The nodes run, whether or not anybody reads this.
        let _ = introduce(up, &state, began.elapsed());
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
    // Nodes may have been killed and started again by other commands meanwhile.
    let state = State::read(&up.at.dir)?;
    end_all(&state)?;
    for child in &mut children {
        child.wait()?;
    }
    if !up.at.output.is_json() {
        say(&format!("\nstopped; the data stays in {}", up.at.dir.display()))?;
    }
    Ok(())
}

/// The nodes to start. A cluster that was here before keeps its size and its ports: its nodes know each other by them.
fn planned(up: &Up) -> anyhow::Result<State> {
    if !(1..=NODES_MAX).contains(&up.nodes) {
        bail!("a cluster has 1 to {NODES_MAX} nodes, not {}", up.nodes);
    }
    let dir = up.at.dir.display();
    let Some(before) = State::find(&up.at.dir)? else {
        return Ok(State { nodes: places(up.nodes, up.port.unwrap_or(PORT))?, set: up.set.clone() });
    };
    if before.is_running() {
        bail!("a cluster runs in {dir} already: `{}` stops it", up.at.command("down"));
    }
    if before.nodes.len() != up.nodes {
        bail!(
            "the cluster in {dir} has {0} nodes: `{1}` starts it again, `{2}` removes it and its data",
            before.nodes.len(),
            up.at.command(&format!("up {}", before.nodes.len())),
            up.at.command("down --wipe")
        );
    }
    let first = before.nodes.first().map_or(0, |node| node.port);
    match up.port {
        None | Some(0) => {}
        Some(port) if port == first => {}
        Some(port) if up.nodes == 1 => {
            return Ok(State { nodes: places(1, port)?, set: up.set.clone() });
        }
        Some(_) => bail!(
            "the nodes in {dir} know each other by their ports, of which the first is {first}: leave out --port, or remove the cluster \
             and its data with `{}`",
            up.at.command("down --wipe")
        ),
    }
    Ok(State { nodes: before.nodes, set: up.set.clone() })
}

fn introduce(up: &Up, state: &State, took: Duration) -> io::Result<()> {
    let nodes = state.nodes.len();
    let who = if nodes == 1 { "1 node serves".to_owned() } else { format!("{nodes} nodes serve") };
    say(&format!("{who} after {:.1} s", took.as_secs_f64()))?;
    say("")?;
    for node in &state.nodes {
        let data = data_dir(&up.at.dir, node.id);
        say(&format!("node {}      {:<16}  data in {}", node.id, node.address(), data.display()))?;
    }
    say("")?;
    say(&format!("connect to  {}", state.bootstrap()))?;
    say(&format!("look at it  {}", up.at.command("status --watch")))?;
    if nodes > 1 {
        say(&format!("hurt it     {}", up.at.command(&format!("kill {nodes}"))))?;
    }
    if up.detach {
        say(&format!("stop it     {}", up.at.command("down")))?;
    } else {
        say("stop it     Ctrl-C")?;
    }
    Ok(())
}

fn show_status(at: &At, watch: bool) -> anyhow::Result<()> {
    let on_terminal = io::stdout().is_terminal();
    loop {
        let status = Status::take(&State::read(&at.dir)?);
        let text = if at.output.is_json() { status.to_json(&at.dir) } else { status.to_text() };
        let mut out = io::stdout().lock();
        if watch && on_terminal && !at.output.is_json() {
            // Home, then each line over the old one: clearing first would flicker.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
        } else {
            writeln!(out, "{}", text.trim_end())?;
        }
        out.flush()?;
        if !watch {
            return Ok(());
        }
        if !at.output.is_json() && !on_terminal {
            writeln!(out)?;
        }
        drop(out);
        std::thread::sleep(WATCH_EVERY);
    }
}

fn down(at: &At, wipe: bool) -> anyhow::Result<()> {
    let state = State::read(&at.dir)?;
    end_all(&state)?;
    if wipe {
        fs::remove_dir_all(&at.dir).with_context(|| format!("can't remove {}", at.dir.display()))?;
    }
    if at.output.is_json() {
        say(&json!({ "stopped": state.nodes.len(), "wiped": wipe }).to_string())?;
    } else if wipe {
        say(&format!("stopped; {} is removed", at.dir.display()))?;
    } else {
        say(&format!("stopped; the data stays in {}", at.dir.display()))?;
    }
    Ok(())
}

/// All at once: one after the other, the last ones would look for others that are gone.
fn end_all(state: &State) -> anyhow::Result<()> {
    for node in &state.nodes {
        tell_to_end(node.pid, Signal::TERM);
    }
    for node in &state.nodes {
        wait_gone(node.pid)?;
    }
    Ok(())
}

fn end_some(which: &Which, signal: Signal, done: &str) -> anyhow::Result<()> {
    let state = State::read(&which.at.dir)?;
    let places = which.places(&state)?;
    for at in &places {
        tell_to_end(state.nodes[*at].pid, signal);
    }
    for at in places {
        let node = &state.nodes[at];
        wait_gone(node.pid)?;
        which
            .at
            .report(json!({ "node": node.id, "alive": false }), &format!("node {} is {done}", node.id))?;
    }
    Ok(())
}

fn halt_some(which: &Which, signal: Signal, then: Life) -> anyhow::Result<()> {
    let state = State::read(&which.at.dir)?;
    let places = which.places(&state)?;
    for at in &places {
        let node = &state.nodes[*at];
        if !is_alive(node.pid) {
            bail!(
                "node {} does not run: `{}` starts it",
                node.id,
                which.at.command(&format!("start {}", node.id))
            );
        }
        send(node.pid, signal);
    }
    for at in places {
        let node = &state.nodes[at];
        wait_for(node.pid, then)?;
        let id = node.id;
        let text = match then {
            Life::Paused => {
                format!("node {id} is paused; `{}` lets it go on", which.at.command(&format!("resume {id}")))
            }
            _ => format!("node {id} goes on"),
        };
        which.at.report(json!({ "node": id, "alive": true, "paused": then == Life::Paused }), &text)?;
    }
    Ok(())
}

fn start_some(which: &Which) -> anyhow::Result<()> {
    let mut state = State::read(&which.at.dir)?;
    let places = which.places(&state)?;
    if let Some(at) = places.iter().find(|at| is_alive(state.nodes[**at].pid)) {
        bail!("node {} runs already", state.nodes[*at].id);
    }
    let began = Instant::now();
    let mut children = Vec::new();
    for at in places {
        let child = launch(&which.at.dir, &state, at)?;
        state.nodes[at].pid = child.id();
        children.push((at, child));
    }
    state.write(&which.at.dir)?;
    for (at, mut child) in children {
        let id = state.nodes[at].id;
        let bootstrap = state.bootstrap();
        // Who waits for a node that waits for others would wait for ever.
        if !state.has_majority() {
            let answer = json!({ "node": id, "pid": child.id(), "bootstrap": bootstrap, "ready": false });
            which.at.report(answer, &format!("node {id} runs, and waits until most of the nodes do"))?;
            continue;
        }
        state.nodes[at].port = wait_ready(&which.at.dir, id, &mut child)?;
        let answer = json!({ "node": id, "pid": child.id(), "bootstrap": bootstrap, "ready": true });
        let text = format!(
            "node {id} serves again at {} after {:.1} s",
            state.nodes[at].address(),
            began.elapsed().as_secs_f64()
        );
        which.at.report(answer, &text)?;
    }
    state.write(&which.at.dir)
}

impl Which {
    fn places(&self, state: &State) -> anyhow::Result<Vec<usize>> {
        let mut places = self.nodes.iter().map(|id| state.place(*id)).collect::<anyhow::Result<Vec<_>>>()?;
        places.dedup();
        Ok(places)
    }
}

impl At {
    fn report(&self, json: serde_json::Value, text: &str) -> io::Result<()> {
        say(&if self.output.is_json() { json.to_string() } else { text.to_owned() })
    }
}
