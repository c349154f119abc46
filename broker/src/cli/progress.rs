//! One line on standard error that says how far long work has come; nothing where nobody watches.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(200);

pub(super) struct Progress {
    watched: bool,
    last: Instant,
    shown: bool,
}

impl Progress {
    /// `wanted`: whether the line would not mix with the command's own output.
    pub(super) fn new(wanted: bool) -> Self {
        Self { watched: wanted && io::stderr().is_terminal(), last: Instant::now(), shown: false }
    }

    /// Shows `line`, if the last one is old enough.
    pub(super) fn show(&mut self, line: impl FnOnce() -> String) {
        if self.watched && self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            self.shown = true;
            let _ = write!(io::stderr(), "\r{}\x1b[K", line());
        }
    }

    /// Takes the line away, for what is to be said in its place.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
