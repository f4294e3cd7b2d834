//! From a sequence that shows a difference to a short one that shows the same.

use anyhow::Result;

use super::case::{Action, Case, Step};
use super::run::{Difference, Outcome, Runner};

/// Attempts; each takes about a millisecond.
const ATTEMPTS: usize = 3_000;

/// Takes away what the difference does not need: halves of the sequence first, then single steps, then what is odd about
/// packets. Also gives the difference that the result shows.
pub fn shrink(runner: &mut Runner, case: &Case, difference: &Difference) -> Result<(Case, Difference)> {
    let mut shrinking = Shrinking {
        runner,
        kind: difference.kind(),
        attempts: 0,
        best: case.clone(),
        difference: difference.clone(),
    };
    loop {
        let before = shrinking.best.clone();
        shrinking.steps()?;
        shrinking.packets()?;
        if shrinking.best == before || shrinking.attempts >= ATTEMPTS {
            return Ok((shrinking.best, shrinking.difference));
        }
    }
}

struct Shrinking<'a> {
    runner: &'a mut Runner,
    kind: String,
    attempts: usize,
    best: Case,
    difference: Difference,
}

impl Shrinking<'_> {
    /// Keeps a shorter case if it shows the same.
    fn keep(&mut self, steps: Vec<Step>) -> Result<bool> {
        if self.attempts >= ATTEMPTS {
            return Ok(false);
        }
        self.attempts += 1;
        let case = Case {
            steps,
            ..self.best.clone()
        };
        match self.runner.run(&case, true)? {
            Outcome::Differs(difference) if difference.kind() == self.kind => {
                self.best = case;
                self.difference = *difference;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn steps(&mut self) -> Result<()> {
        let mut size = self.best.steps.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < self.best.steps.len() {
                let mut fewer = self.best.steps.clone();
                fewer.drain(at..(at + size).min(fewer.len()));
                if !self.keep(fewer)? {
                    at += size;
                }
            }
            size /= 2;
        }
        Ok(())
    }

    fn packets(&mut self) -> Result<()> {
        for at in 0..self.best.steps.len() {
            for simpler in simpler(&self.best.steps[at].action) {
                let mut steps = self.best.steps.clone();
                steps[at].action = simpler;
                if self.keep(steps)? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Simpler forms of an action, the simplest first.
fn simpler(action: &Action) -> Vec<Action> {
    let mut simpler = Vec::new();
    match action {
        Action::Packet(spec) => {
            if spec.payload != 0 {
                let mut plain = spec.clone();
                plain.payload = 0;
                simpler.push(Action::Packet(plain));
            }
            for at in 0..spec.odd.len() {
                let mut plain = spec.clone();
                plain.odd.remove(at);
                simpler.push(Action::Packet(plain));
            }
        }
        Action::Answer(spec) => {
            if spec.payload != 0 {
                let mut plain = spec.clone();
                plain.payload = 0;
                simpler.push(Action::Answer(plain));
            }
            for at in 0..spec.odd.len() {
                let mut plain = spec.clone();
                plain.odd.remove(at);
                simpler.push(Action::Answer(plain));
            }
        }
        Action::Error(spec) => {
            for at in 0..spec.odd.len() {
                let mut plain = spec.clone();
                plain.odd.remove(at);
                simpler.push(Action::Error(plain));
            }
        }
        Action::Service(spec) => {
            for at in 0..spec.backends.len() {
                let mut plain = spec.clone();
                plain.backends.remove(at);
                simpler.push(Action::Service(plain));
            }
            if spec.affinity != 0 {
                let mut plain = spec.clone();
                plain.affinity = 0;
                simpler.push(Action::Service(plain));
            }
        }
        _ => {}
    }
    simpler
}
