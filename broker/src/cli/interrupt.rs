//! Ctrl-C and SIGTERM end what a command follows, but let it finish: commit, leave, say how much was done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// As shells number a process that SIGINT ended.
const INTERRUPTED: i32 = 130;
/// timeout(1) signals its child and then the group that the child is in: both within this are one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches from now on. A second signal ends the process at once.
    pub(super) fn watch() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        // In place when this returns.
        let (mut interrupt, mut terminate) = runtime.block_on(async {
            anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
        })?;
        let seen = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&seen);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                let mut first: Option<Instant> = None;
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    set.store(true, Ordering::Relaxed);
                    if first.get_or_insert_with(Instant::now).elapsed() > SAME_SIGNAL {
                        std::process::exit(INTERRUPTED);
                    }
                }
            });
        })?;
        Ok(Self(seen))
    }

    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
