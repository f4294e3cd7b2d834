//! Progress for people: one line per phase, with a spinner and live detail where the output is a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// A terminal is redrawn at most this often.
const REDRAW: Duration = Duration::from_millis(80);
/// Elsewhere, a phase that goes on this long says how it stands.
const REPEAT: Duration = Duration::from_secs(5);

/// Says on standard error what goes on; standard output stays free for results.
pub struct Progress {
    terminal: bool,
    silent: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Option<Phase>,
    frame: usize,
}

struct Phase {
    title: String,
    begun: Instant,
    drawn: Instant,
}

impl Progress {
    /// For a person or a log file.
    pub fn to_stderr() -> Self {
        Self {
            terminal: stderr().is_terminal(),
            silent: false,
            state: Mutex::default(),
        }
    }

    /// For tests.
    pub fn silent() -> Self {
        Self {
            terminal: false,
            silent: true,
            state: Mutex::default(),
        }
    }

    /// Begins a phase.
    pub fn begin(&self, title: &str) {
        let now = Instant::now();
        let mut state = self.state();
        state.phase = Some(Phase {
            title: title.to_owned(),
            begun: now,
            drawn: now,
        });
        if self.terminal && !self.silent {
            draw(&mut state, "");
        }
    }

    /// Says how the phase stands.
    pub fn detail(&self, detail: &str) {
        let mut state = self.state();
        let Some(phase) = &mut state.phase else { return };
        let pause = if self.terminal { REDRAW } else { REPEAT };
        if self.silent || phase.drawn.elapsed() < pause {
            return;
        }
        phase.drawn = Instant::now();
        if self.terminal {
            draw(&mut state, detail);
        } else {
            line(&format!(
                "  … {}: {detail} ({:.0?})",
                phase.title,
                phase.begun.elapsed()
            ));
        }
    }

    /// Ends the phase well; `result` takes the place of its title.
    pub fn done(&self, result: &str) {
        self.end("✓", result);
    }

    /// Ends the phase, if one is open, badly.
    pub fn failed(&self) {
        let title = self.state().phase.as_ref().map(|phase| phase.title.clone());
        if let Some(title) = title {
            self.end("✗", &title);
        }
    }

    /// A line of its own.
    pub fn note(&self, text: &str) {
        if !self.silent {
            self.clear();
            line(text);
        }
    }

    /// Makes room for the output of another program.
    pub fn hand_over(&self) {
        let title = self.state().phase.as_ref().map(|phase| phase.title.clone());
        if let (Some(title), false) = (title, self.silent) {
            self.clear();
            line(&format!("  … {title}"));
        }
    }

    fn end(&self, mark: &str, text: &str) {
        let Some(phase) = self.state().phase.take() else { return };
        if !self.silent {
            self.clear();
            line(&format!("{mark} {text} ({:.1} s)", phase.begun.elapsed().as_secs_f64()));
        }
    }

    fn clear(&self) {
        if self.terminal {
            put("\r\x1b[2K");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn draw(state: &mut State, detail: &str) {
    state.frame = (state.frame + 1) % FRAMES.len();
    if let Some(phase) = &state.phase {
        let line: String = format!("{} {}  {detail}", FRAMES[state.frame], phase.title)
            .chars()
            .take(118)
            .collect();
        put(&format!("\r\x1b[2K{line}"));
        // A terminal that cannot be written to loses a spinner, nothing else.
        let _ = stderr().flush();
    }
}

/// A line on standard error. Unlike `eprintln!`, goes on when nobody reads it: a progress report is no reason to leave
/// work half done.
fn line(text: &str) {
    put(&format!("{text}\n"));
}

fn put(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}
