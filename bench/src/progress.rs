//! What goes on, and how long it will still take.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    time::{Duration, Instant},
};

/// A terminal is redrawn at most this often, elsewhere a line is written.
const REDRAW: Duration = Duration::from_millis(100);
const REPEAT: Duration = Duration::from_secs(10);

/// Counts work that is done against work that is planned; both in seconds as guessed beforehand.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    shown: Option<Instant>,
    planned: f64,
    done: f64,
    terminal: bool,
}

impl Progress {
    /// With so much planned.
    pub fn new(planned: f64) -> Self {
        Self {
            begun: Instant::now(),
            shown: None,
            planned,
            done: 0.0,
            terminal: stderr().is_terminal(),
        }
    }

    /// Something begins.
    pub fn show(&mut self, what: &str) {
        let pause = if self.terminal { REDRAW } else { REPEAT };
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let share = (self.done / self.planned).clamp(0.0, 1.0);
        let text = format!("{:>3.0} %  {:<12}  {what}", share * 100.0, self.left());
        if self.terminal {
            let line: String = text.chars().take(100).collect();
            put(&format!("\r\x1b[2K{line}"));
        } else {
            put(&format!("{text}\n"));
        }
    }

    /// Something that was planned with so many seconds is done.
    pub fn done(&mut self, planned: f64) {
        self.done += planned;
    }

    /// A line that stays.
    pub fn note(&mut self, text: &str) {
        self.clear();
        put(&format!("{text}\n"));
    }

    /// Makes room for other output.
    pub fn clear(&self) {
        if self.terminal {
            put("\r\x1b[2K");
        }
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Time left, from the speed so far.
    fn left(&self) -> String {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let rest = (self.planned - self.done).max(0.0);
        // Too little is done to know better than the plan.
        let factor = if self.done < self.planned * 0.05 {
            1.0
        } else {
            elapsed / self.done
        };
        left_text(rest * factor)
    }
}

fn left_text(seconds: f64) -> String {
    #[expect(clippy::cast_sign_loss, reason = "a time that is left is not negative")]
    let seconds = seconds.round() as u64;
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s left"),
        (minutes, seconds) => format!("{minutes} min {seconds:02} s left"),
    }
}

/// A progress report that nobody reads is no reason to stop.
fn put(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
    let _ = stderr().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_reads_well() {
        assert_eq!(left_text(7.4), "7 s left");
        assert_eq!(left_text(185.0), "3 min 05 s left");
    }
}
