//! `ottla serve`: one node in this process, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{banner, data_dir, logging};
use crate::config::{Config, Source, broker_setting, properties};
use crate::net::listener;
use crate::start::Running;

/// After this a stop is given up and the process ends.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Arguments {
    /// A Kafka properties file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one Kafka property; may be given several times, and beats the file and the environment.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Where the node keeps its data [default: ottla in the user's data directory].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The port to listen on; 0 picks a free one [default: 9092].
    #[arg(long)]
    port: Option<u16>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let began = Instant::now();
    logging::start();
    raise_descriptor_limit();
    let config = configure(arguments)?;
    // Handlers are in place before anything is opened: a signal during the start is not lost.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let running = Running::start(config, std::env::var("CLUSTER_ID").ok())?;
    banner::print(&running, began.elapsed())?;
    let name = runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    });
    tracing::info!("{name}: stopping");
    stop(running)
}

/// Ends without the mark of a clean shutdown when the disk takes too long: that costs no more than a recovery.
fn stop(running: Running) -> anyhow::Result<()> {
    let (done, outcome) = std::sync::mpsc::sync_channel(1);
    let _ = std::thread::Builder::new().name("stop".into()).spawn(move || {
        let _ = done.send(running.stop());
    })?;
    match outcome.recv_timeout(STOP_LIMIT) {
        Ok(result) => Ok(result?),
        Err(_) => {
            tracing::warn!("stopping took more than {STOP_LIMIT:?}: ending without a clean shutdown");
            Ok(())
        }
    }
}

/// Flags over environment over file over defaults.
fn configure(arguments: Arguments) -> anyhow::Result<Config> {
    let mut sources = Vec::new();
    if let Some(file) = &arguments.config {
        let text = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
        sources.push(Source { origin: file.display().to_string(), pairs: properties::parse(&text) });
    }
    sources.push(Source { origin: "environment".to_owned(), pairs: from_environment() });
    let set = arguments.set.iter().map(|set| match set.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(anyhow::anyhow!("--set {set}: give it as NAME=VALUE")),
    });
    sources.push(Source { origin: "--set".to_owned(), pairs: set.collect::<anyhow::Result<_>>()? });

    let (mut config, remarks) = Config::load(&sources)?;
    for remark in remarks {
        tracing::info!("{remark}");
    }
    if let Some(dir) = arguments.data_dir {
        config.set("log.dirs", dir.to_str().context("--data-dir: the path is not UTF-8")?);
    } else if config.text("log.dirs").is_none() && config.text("log.dir").is_none() {
        let dir = data_dir::of_user().context("there is no home directory: say where with --data-dir DIR")?;
        config.set("log.dirs", dir.to_str().context("the home directory's path is not UTF-8")?);
    }
    if let Some(port) = arguments.port {
        let mut listeners = listener::parse(config.text("listeners").unwrap_or_default())?;
        listeners.first_mut().context("--port: there is no listener")?.port = port;
        let listeners: Vec<String> = listeners.iter().map(ToString::to_string).collect();
        config.set("listeners", &listeners.join(","));
    }
    Ok(config)
}

/// Settings in `KAFKA_*` variables, as the official image reads them. A variable that names none is passed over: clusters put
/// variables of that form there for services called `kafka`.
fn from_environment() -> Vec<(String, String)> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let setting = properties::from_variable(&name)?;
        if broker_setting(&setting).is_none() && !setting.starts_with("listener.name.") {
            tracing::warn!("{name} is ignored: there is no setting {setting}");
            return None;
        }
        Some((setting, value))
    });
    variables.collect()
}

/// Every connection and every open segment takes a file descriptor; the usual soft limit of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!("can't raise the limit of open files from {:?}: {error}", limit.current);
        }
    }
}
