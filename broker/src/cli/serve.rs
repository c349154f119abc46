//! `ottla serve`: one node in this process, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use ottla_protocol::types::NodeId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{banner, data_dir, logging};
use crate::net::NetOptions;
use crate::net::listener::ListenAt;
use crate::node::{Running, Settings};
use crate::session::{Limits, RequestMemory};

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
    let settings = settings(arguments)?;
    // Handlers are in place before anything is opened: a signal during the start is not lost.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let running = Running::start(settings)?;
    banner::print(&running, began.elapsed())?;
    let name = runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    });
    tracing::info!("{name}: stopping");
    running.stop()?;
    Ok(())
}

fn settings(arguments: Arguments) -> anyhow::Result<Settings> {
    let _ = arguments.config;
    let data_dir = match arguments.data_dir {
        Some(dir) => dir,
        None => data_dir::of_user().context("there is no home directory: say where with --data-dir DIR")?,
    };
    let mut limits = Limits::default();
    let (mut connections_max, mut connections_per_ip_max) = (30_000, 20_000);
    for set in &arguments.set {
        let (name, value) = set.split_once('=').ok_or_else(|| anyhow::anyhow!("--set {set}: no `=`"))?;
        match name {
            "max.connections" => connections_max = value.parse()?,
            "max.connections.per.ip" => connections_per_ip_max = value.parse()?,
            "connections.max.idle.ms" => limits.idle_ms = Some(value.parse()?),
            "socket.request.max.bytes" => limits.request_bytes_max = value.parse()?,
            "queued.max.request.bytes" => limits.memory = RequestMemory::new(value.parse()?),
            _ => anyhow::bail!("--set {name}: no such setting"),
        }
    }
    Ok(Settings {
        node_id: NodeId(1),
        data_dir,
        advertised: Vec::new(),
        listeners: vec![ListenAt {
            name: "PLAINTEXT".into(),
            host: "localhost".into(),
            port: arguments.port.unwrap_or(9092),
        }],
        net: NetOptions {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            connections_max,
            connections_per_ip_max,
            limits: std::sync::Arc::new(limits),
        },
    })
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
