//! The machine's monotonic clock as a number that other processes read too (Python's `time.monotonic_ns`), and sleeping to the point.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's monotonic clock.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    u64::try_from(nanoseconds).expect("the monotonic clock is not negative")
}

/// Lets this thread's sleeps end when they should. By default Linux may add 50 microseconds to each, which is much of what is measured.
pub fn sleep_precisely() {
    // Where it is refused, the control that stands beside the figures shows it.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// Sleeps until `moment`; returns at once if it has passed.
pub fn sleep_until(moment: Instant) {
    let wait = moment.saturating_duration_since(Instant::now());
    if wait > Duration::ZERO {
        std::thread::sleep(wait);
    }
}
