//! The thread that looks after partitions where something may become late: a reply that waits for the high watermark, records that
//! wait for a flush (`flush.ms`). A partition where nothing waits is not on its list and costs nothing.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::partition::Partition;

/// The list is gone through this often: by so much a time-out may be late.
const EVERY: Duration = Duration::from_millis(100);

/// The list and its thread.
#[derive(Default)]
pub struct Overdue {
    state: Mutex<State>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    partitions: Vec<Arc<Partition>>,
    stopping: bool,
}

impl fmt::Debug for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overdue({})", self.state().partitions.len())
    }
}

impl Overdue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn start(self: &Arc<Self>, clock: Clock) -> std::io::Result<()> {
        let overdue = Arc::clone(self);
        let thread = std::thread::Builder::new().name("overdue".into()).spawn(move || overdue.run(&clock))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state().stopping = true;
        self.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks after what is late panicked");
        }
        self.state().partitions.clear();
    }

    /// Puts a partition on the list. The caller sees to it that it is there once.
    pub(crate) fn watch(&self, partition: Arc<Partition>) {
        let mut state = self.state();
        state.partitions.push(partition);
        if state.partitions.len() == 1 {
            self.wake.notify_all();
        }
    }

    fn run(&self, clock: &Clock) {
        loop {
            let partitions = {
                let mut state = self.state();
                while state.partitions.is_empty() && !state.stopping {
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                let (mut state, _) = self
                    .wake
                    .wait_timeout_while(state, EVERY, |state| !state.stopping)
                    .unwrap_or_else(PoisonError::into_inner);
                if state.stopping {
                    return;
                }
                std::mem::take(&mut state.partitions)
            };
            self.look_after(partitions, clock.tick_ms());
        }
    }

    /// Goes through the list once, for who has no thread.
    pub fn look(&self, tick_ms: u64) {
        let partitions = std::mem::take(&mut self.state().partitions);
        self.look_after(partitions, tick_ms);
    }

    fn look_after(&self, partitions: Vec<Arc<Partition>>, tick_ms: u64) {
        let mut kept = partitions;
        kept.retain(|partition| partition.look_after(tick_ms));
        self.state().partitions.append(&mut kept);
    }
}
