//! Processor time of the whole machine.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{clock::now_ns, worker::processors};

/// `USER_HZ` of every Linux architecture that Causeway runs on (`proc_stat(5)`).
const TICKS_PER_SECOND: u64 = 100;

/// A reading of the clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    at_ns: u64,
    /// Time in which processors had nothing to do, or were taken away by a hypervisor.
    unused_ns: u64,
}

impl Reading {
    /// Now.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Ok(Self {
            at_ns: now_ns(),
            unused_ns: unused(&text).context("/proc/stat does not tell idle time")?,
        })
    }

    /// Nanoseconds that all processors together have worked since, in processes, the kernel and softirqs: what was not
    /// idle. (Idle time is measured by the clock; the other columns of /proc/stat are samples.)
    pub fn worked_since(&self, earlier: &Self) -> Result<u64> {
        let elapsed = (self.at_ns - earlier.at_ns) * processors()?.len() as u64;
        Ok(elapsed.saturating_sub(self.unused_ns - earlier.unused_ns))
    }
}

/// Columns "idle", "iowait" and "steal" of all processors.
fn unused(stat: &str) -> Option<u64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks = |column: usize| line.split_whitespace().nth(column)?.parse::<u64>().ok();
    let sum = ticks(4)? + ticks(5)? + ticks(8)?;
    Some(sum * (1_000_000_000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_iowait_and_steal_are_unused() {
        let stat = "cpu  10 20 30 400 50 60 70 8 9 1\ncpu0 1 2 3 4 5 6 7 8 9 1\n";
        assert_eq!(unused(stat), Some((400 + 50 + 8) * 10_000_000));
        assert_eq!(unused("intr 1\n"), None);
    }

    #[test]
    fn a_busy_thread_counts() {
        let before = Reading::now().unwrap();
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed().as_millis() < 300 {
            sum = sum.wrapping_add(1);
        }
        assert!(sum > 0);
        let worked = Reading::now().unwrap().worked_since(&before).unwrap();
        assert!(worked > 0, "{worked}");
    }
}
