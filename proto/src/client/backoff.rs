//! Waiting longer after each failure, and never in step with others.

use std::time::Duration;

use rand::RngExt as _;

/// Exponential back-off with jitter: each delay is drawn from the upper half of a range that doubles up to a limit.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `limit`.
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            next: first,
        }
    }

    /// The delay after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let range = self.next;
        self.next = (range * 2).min(self.limit);
        range.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts anew, after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// For the control plane being away: 100 ms to 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_limit_with_jitter_in_the_upper_half() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        for range in [100, 200, 350, 350] {
            let delay = backoff.next_delay();
            assert!(delay >= ms(range / 2) && delay <= ms(range), "{delay:?} of {range} ms");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= ms(100));
    }
}
