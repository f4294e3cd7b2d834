//! Time that processes share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the kernel's start (`CLOCK_MONOTONIC`), the same for all processes.
pub fn now_ns() -> u64 {
    // Reading this clock into valid memory cannot fail (clock_gettime(2)); time 0 would show at once.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Processor time of this thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    // As in `now_ns`.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Milliseconds, with fractions.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
