//! One log line per kind of ending and interval: a port scan must not fill the disk.

use std::mem::Discriminant;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::admission::Refusal;
use crate::session::Ending;

const INTERVAL_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub(crate) struct EndingLog(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    /// A handful of kinds: a list is the smallest map.
    endings: Vec<(Discriminant<Ending>, Line)>,
    refusals: Line,
}

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    next_ms: u64,
    suppressed: u64,
}

impl Line {
    /// How many were left out since the last line; `None` if this one is left out too.
    fn take(&mut self, tick_ms: u64) -> Option<u64> {
        if tick_ms < self.next_ms {
            self.suppressed += 1;
            return None;
        }
        self.next_ms = tick_ms + INTERVAL_MS;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl EndingLog {
    /// A connection ended.
    pub(crate) fn ended(&self, peer: SocketAddr, listener: &str, ending: &Ending, tick_ms: u64) {
        if ending.is_quiet() {
            tracing::debug!(%peer, listener, "connection ended: {ending}");
            return;
        }
        let kind = std::mem::discriminant(ending);
        let mut lines = self.lines();
        let line = match lines.endings.iter_mut().position(|(of, _)| *of == kind) {
            Some(index) => &mut lines.endings[index].1,
            None => {
                lines.endings.push((kind, Line::default()));
                &mut lines.endings.last_mut().expect("just pushed").1
            }
        };
        let Some(suppressed) = line.take(tick_ms) else { return };
        drop(lines);
        tracing::warn!(%peer, listener, suppressed, "closed a connection: {ending}");
    }

    /// A connection was closed as soon as it was made.
    pub(crate) fn refused(&self, peer: SocketAddr, listener: &str, refusal: Refusal, tick_ms: u64) {
        let Some(suppressed) = self.lines().refusals.take(tick_ms) else { return };
        tracing::warn!(%peer, listener, suppressed, "refused a connection: {refusal}");
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_what_it_left_out() {
        let mut line = Line::default();
        assert_eq!(line.take(5), Some(0));
        assert_eq!(line.take(6), None);
        assert_eq!(line.take(7), None);
        assert_eq!(line.take(5 + INTERVAL_MS), Some(2));
    }
}
