//! The nodes' processes, which are no children of the command that looks at them: only looking tells.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// By SIGSTOP.
    Paused,
    Stopped,
}

impl Life {
    pub(super) fn of(pid: u32) -> Self {
        if pid_of(pid).is_none_or(|pid| test_kill_process(pid).is_err()) {
            return Self::Stopped;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        // The first thread of a killed process can be a zombie while others still end and hold its files; a process that ended and that
        // nobody has waited for yet does not count.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        match state {
            Some('Z') if threads <= 1 => Self::Stopped,
            Some('T') => Self::Paused,
            _ => Self::Running,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

pub(super) fn is_alive(pid: u32) -> bool {
    Life::of(pid) != Life::Stopped
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

pub(super) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        // Gone already is as good.
        let _ = kill_process(pid, signal);
    }
}

/// Sends what ends a process; one that is paused goes on, for it would never hear SIGTERM.
pub(super) fn tell_to_end(pid: u32, signal: Signal) {
    send(pid, signal);
    send(pid, Signal::CONT);
}

/// Waits until the process is gone.
pub(super) fn wait_gone(pid: u32) -> anyhow::Result<()> {
    if !wait_until(PATIENCE, || !is_alive(pid)) {
        bail!("process {pid} did not end within {PATIENCE:?}");
    }
    Ok(())
}

/// Waits for the kernel to have paused a process, or let it go on.
pub(super) fn wait_for(pid: u32, life: Life) -> anyhow::Result<()> {
    if !wait_until(Duration::from_secs(2), || Life::of(pid) == life) {
        bail!("process {pid} is {}, not {}", Life::of(pid).word(), life.word());
    }
    Ok(())
}

fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let limit = Instant::now() + patience;
    while !done() {
        if Instant::now() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
