//! Waiting for a predicate, with a bound. Nothing in this project sleeps and hopes.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The bound passed before the predicate held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub bound: Duration,
    /// What was missing at the last look.
    pub missing: String,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited {:?} in vain for {}: {}", self.bound, self.what, self.missing)
    }
}

impl std::error::Error for TimedOut {}

/// Looks again and again until `look` answers `Ok`; its `Err` says what is still missing.
pub fn until<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, TimedOut> {
    let end = Instant::now() + bound;
    loop {
        // The deadline is read before the look, so that the last look starts after the whole bound has passed.
        let last = Instant::now() >= end;
        match look() {
            Ok(value) => return Ok(value),
            Err(missing) if last => {
                return Err(TimedOut {
                    what: what.to_owned(),
                    bound,
                    missing,
                });
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told() {
        let mut looks = 0;
        let outcome = until("the moon", Duration::from_millis(120), || -> Result<(), String> {
            looks += 1;
            Err(format!("look {looks}"))
        });
        let error = outcome.unwrap_err();
        assert!(looks >= 2);
        assert_eq!(error.missing, format!("look {looks}"));
        assert_eq!(
            error.to_string(),
            format!("waited 120ms in vain for the moon: look {looks}")
        );
    }

    #[test]
    fn a_predicate_that_holds_is_looked_at_once_even_without_time() {
        assert_eq!(until("now", Duration::ZERO, || Ok::<_, String>(7)), Ok(7));
    }
}
