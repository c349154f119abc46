//! Ctrl-C: what runs ends early, and what was started is cleaned up.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// As shells have it for a process that SIGINT ended.
pub(super) const EXIT_CODE: i32 = 130;

static CAME: AtomicBool = AtomicBool::new(false);

/// Notes SIGINT and SIGTERM from now on; a second one ends the process at once.
pub(super) fn listen() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if CAME.swap(true, Ordering::Relaxed) {
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
