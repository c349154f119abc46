//! The threads that wait for the disk so that workers need not: group commit, and work that may block.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::partition::Partition;

type Job = Box<dyn FnOnce() + Send>;

/// What a thread of the flusher does next.
pub enum Work {
    Flush(Arc<Partition>),
    Job(Job),
}

/// A list of partitions to flush and of jobs that may wait, and threads that work it off.
pub struct Flusher {
    state: Mutex<State>,
    jobs_max: usize,
    wake: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    partitions: VecDeque<Arc<Partition>>,
    jobs: VecDeque<Job>,
    idle: usize,
    /// Jobs under way; one thread is always left for flushes.
    jobs_running: usize,
    stopping: bool,
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flusher")
    }
}

impl Flusher {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The operating system has no more threads.
    pub fn start(threads: usize) -> std::io::Result<Arc<Self>> {
        let flusher = Arc::new(Self {
            state: Mutex::new(State::default()),
            jobs_max: threads.saturating_sub(1).max(1),
            wake: Condvar::new(),
            threads: Mutex::new(Vec::new()),
        });
        for at in 0..threads {
            let shared = Arc::clone(&flusher);
            let thread =
                std::thread::Builder::new().name(format!("disk-{at}")).spawn(move || shared.run())?;
            flusher.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(flusher)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a partition on the list.
    pub(crate) fn queue(&self, partition: Arc<Partition>) {
        let mut state = self.state();
        state.partitions.push_back(partition);
        // A thread that is at work comes back by itself; waking an idle one costs a system call.
        if state.idle > 0 {
            self.wake.notify_one();
        }
    }

    /// Has something done that may wait for the disk.
    pub fn run_job(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        state.jobs.push_back(Box::new(job));
        if state.idle > 0 {
            self.wake.notify_one();
        }
    }

    /// Works off what is on the list, then ends the threads.
    pub fn stop(&self) {
        self.state().stopping = true;
        self.wake.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
    }

    /// The next piece of work, for who drives a flusher without threads.
    #[must_use]
    pub fn take(&self) -> Option<Work> {
        let mut state = self.state();
        let flush = state.partitions.pop_front().map(Work::Flush);
        flush.or_else(|| state.jobs.pop_front().map(Work::Job))
    }

    fn run(&self) {
        loop {
            let work = {
                let mut state = self.state();
                loop {
                    if let Some(partition) = state.partitions.pop_front() {
                        break Work::Flush(partition);
                    }
                    if (state.jobs_running < self.jobs_max || state.stopping)
                        && let Some(job) = state.jobs.pop_front()
                    {
                        state.jobs_running += 1;
                        break Work::Job(job);
                    }
                    if state.stopping {
                        return;
                    }
                    state.idle += 1;
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                }
            };
            match work {
                Work::Flush(partition) => partition.flush(),
                Work::Job(job) => {
                    job();
                    let mut state = self.state();
                    state.jobs_running -= 1;
                    // Another thread may have passed over a job because of this one.
                    if !state.jobs.is_empty() && state.idle > 0 {
                        self.wake.notify_one();
                    }
                }
            }
        }
    }
}
