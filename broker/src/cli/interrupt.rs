//! Ctrl-C and SIGTERM end what a command follows or measures, but let it finish: commit, leave, clean up, say how much was done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// As shells have it for a process that SIGINT ended.
pub(super) const EXIT_CODE: i32 = 130;

/// timeout(1) signals its child and then the group that the child is in: both within this are one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

static CAME: AtomicBool = AtomicBool::new(false);

/// Notes SIGINT and SIGTERM from now on; a second one ends the process at once.
pub(super) fn listen() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // In place when this returns.
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut first: Option<Instant> = None;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                CAME.store(true, Ordering::Relaxed);
                if first.get_or_insert_with(Instant::now).elapsed() > SAME_SIGNAL {
                    std::process::exit(EXIT_CODE);
                }
            }
        });
    })?;
    Ok(())
}

pub(super) fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// The flag itself, for those who look at it while they wait.
pub(super) fn flag() -> &'static AtomicBool {
    &CAME
}

/// # Errors
/// It came.
pub(super) fn check() -> anyhow::Result<()> {
    if came() { Err(anyhow::anyhow!("interrupted")) } else { Ok(()) }
}
