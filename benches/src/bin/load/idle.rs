//! Connections that do nothing.

use std::io;

use anyhow::Context as _;
use clap::Args;
use ottla_load::idle::Idle as Connections;
use serde_json::json;

use super::{Broker, print};

#[derive(Args)]
pub(super) struct Idle {
    #[command(flatten)]
    broker: Broker,
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
}

/// Who measures meanwhile waits for the line that this prints.
pub(super) fn hold(arguments: &Idle) -> anyhow::Result<()> {
    let address = arguments.broker.bootstrap_server.0.first().context("there is no address")?;
    let (idle, limited_by) = Connections::open(*address, arguments.connections);
    let limited_by = limited_by.map(|error| error.to_string());
    print(&json!({ "open": idle.count(), "limited_by": limited_by }))?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
