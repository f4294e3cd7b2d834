//! Waiting for a predicate, with a bound.

use std::time::Duration;

pub use xtask::wait::{TimedOut, until};

/// Looks again and again until `look` answers `Some`.
///
/// # Panics
///
/// When the bound passes first; says what was waited for.
#[track_caller]
pub fn for_some<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    match until(what, bound, || look().ok_or_else(|| "it did not come".to_owned())) {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Looks again and again until `holds` is true.
///
/// # Panics
///
/// When the bound passes first; says what was waited for.
#[track_caller]
pub fn for_true(what: &str, bound: Duration, mut holds: impl FnMut() -> bool) {
    for_some(what, bound, || holds().then_some(()));
}
