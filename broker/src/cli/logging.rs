//! Where log lines go: to standard error, in colour for a person, as JSON for everything else. `RUST_LOG` chooses which.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

pub(super) fn start() {
    // What openraft's core says of its end is an error to openraft, whether the node stops or fails; the node tells which.
    let usual = "info,openraft=error,openraft::raft::raft_inner=off";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first one's choice.
    let _ = if std::io::stderr().is_terminal() {
        lines.with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).with_ansi(false).try_init()
    };
}
