//! What a node says when it is ready: a few aligned lines for a person, one line of JSON for a program.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::json;

use crate::start::Running;

pub(super) fn print(running: &Running, took: Duration) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let node = running.node();
    let cluster_id = node.founding.cluster().to_string();
    let listeners = node.endpoints.listeners();
    // Topics may choose otherwise with flush.messages.
    let durability = if node.config.number("log.flush.interval.messages") == 1 {
        "acks=all waits for the disk (flush.messages=1)"
    } else {
        "acks=all waits for memory (log.flush.interval.messages is not 1)"
    };
    let ready_ms = took.as_secs_f64() * 1_000.0;
    if out.is_terminal() {
        let listeners: Vec<String> = listeners.iter().map(ToString::to_string).collect();
        let lines = [
            ("ottla", env!("CARGO_PKG_VERSION").to_owned()),
            ("node", node.id.to_string()),
            ("cluster", cluster_id.clone()),
            ("listeners", listeners.join(", ")),
            ("data", node.log_dir.path().display().to_string()),
            ("durability", durability.to_owned()),
            ("ready in", format!("{ready_ms:.0} ms")),
        ];
        for (name, value) in lines {
            writeln!(out, "{name:<11} {value}")?;
        }
    } else {
        let listeners: Vec<String> = listeners.iter().map(ToString::to_string).collect();
        let line = json!({
            "event": "ready",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "bootstrap": running.bootstrap().map(|address| address.to_string()),
            "node_id": node.id.0,
            "cluster_id": cluster_id,
            "listeners": listeners,
            "data_dir": node.log_dir.path(),
            "durability": durability,
            "ready_ms": (ready_ms * 10.0).round() / 10.0,
        });
        writeln!(out, "{line}")?;
    }
    out.flush()
}
