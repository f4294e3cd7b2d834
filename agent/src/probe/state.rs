//! From results to verdicts. Pure.

use std::time::Duration;

use super::spec::{ProbeSpec, Verdict};

/// The results of one probe so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeState {
    success_threshold: u32,
    failure_threshold: u32,
    /// The last result and how many equal ones there were in a row.
    run: Option<(bool, u32)>,
    verdict: Verdict,
}

impl ProbeState {
    /// No results yet.
    pub fn new(spec: &ProbeSpec) -> Self {
        Self {
            success_threshold: spec.success_threshold.max(1),
            failure_threshold: spec.failure_threshold.max(1),
            run: None,
            verdict: Verdict::Unknown,
        }
    }

    /// What the results come to.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes a result; true when it changed the verdict.
    pub fn record(&mut self, ok: bool) -> bool {
        let length = match self.run {
            Some((last, length)) if last == ok => length.saturating_add(1),
            _ => 1,
        };
        self.run = Some((ok, length));
        let (threshold, verdict) = if ok {
            (self.success_threshold, Verdict::Success)
        } else {
            (self.failure_threshold, Verdict::Failure)
        };
        let changed = length >= threshold && self.verdict != verdict;
        if changed {
            self.verdict = verdict;
        }
        changed
    }
}

/// Time from a container's start to its first probe, for `random` in 0..1. Containers started together are not probed
/// together, but a quick one does not wait long to be found ready.
pub fn first_delay(spec: &ProbeSpec, random: f64) -> Duration {
    const MOST: Duration = Duration::from_millis(500);
    spec.initial_delay + (spec.period / 10).min(MOST).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probe::ProbeAction;

    fn spec(success_threshold: u32, failure_threshold: u32) -> ProbeSpec {
        let action = ProbeAction::Tcp { host: None, port: 1 };
        ProbeSpec {
            success_threshold,
            failure_threshold,
            ..ProbeSpec::new(action)
        }
    }

    /// The verdicts after each result.
    fn verdicts(spec: &ProbeSpec, results: &str) -> String {
        let mut state = ProbeState::new(spec);
        let letters = results.chars().map(|result| {
            let changed = state.record(result == '+');
            let letter = match state.verdict() {
                Verdict::Unknown => '?',
                Verdict::Success => 's',
                Verdict::Failure => 'f',
            };
            if changed { letter.to_ascii_uppercase() } else { letter }
        });
        letters.collect()
    }

    #[test]
    fn thresholds_count_equal_results_in_a_row() {
        assert_eq!(verdicts(&spec(1, 3), "+--+---+-"), "SsssssFSs");
        assert_eq!(verdicts(&spec(2, 1), "+-++-+"), "?FfSFf");
        assert_eq!(verdicts(&spec(1, 3), "--+"), "??S");
        assert_eq!(verdicts(&spec(0, 0), "+-"), "SF");
    }

    #[test]
    fn first_probes_are_spread_but_not_late() {
        let spec = ProbeSpec {
            initial_delay: Duration::from_secs(5),
            ..spec(1, 1)
        };
        assert_eq!(first_delay(&spec, 0.0), Duration::from_secs(5));
        assert_eq!(first_delay(&spec, 1.0), Duration::from_millis(5500));
        let quick = ProbeSpec {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(1),
            ..spec
        };
        assert_eq!(first_delay(&quick, 0.5), Duration::from_millis(50));
        assert_eq!(first_delay(&quick, f64::NAN.max(2.0)), Duration::from_millis(100));
    }

    proptest! {
        #[test]
        fn a_changed_verdict_rests_on_its_threshold(s in 1_u32..4, f in 1_u32..4, results in "[+-]{0,60}") {
            let got: Vec<_> = verdicts(&spec(s, f), &results).chars().collect();
            let results: Vec<_> = results.chars().collect();
            for (at, letter) in got.iter().enumerate() {
                let (sign, need) = match letter { 'S' => ('+', s), 'F' => ('-', f), _ => continue };
                let need = need as usize;
                prop_assert!(at + 1 >= need && results[at + 1 - need..=at].iter().all(|result| *result == sign));
            }
        }
    }
}
