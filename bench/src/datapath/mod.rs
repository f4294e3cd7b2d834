//! What the data path costs, against the goals it has: every ratio within one run.
//!
//! Three parts: sockets (through a virtual address against straight to the pod), packets (nanoseconds of the programs for one
//! packet), and programming (what a change costs the agent). No test judges these numbers; a run refuses a number whose
//! circumstances were not those that were meant.

mod bed;
mod entry;
mod options;
mod packets;
mod programming;
mod report;
mod sockets;
mod xdp;

pub use entry::{Bound, Entry, Goal};
pub use options::{Options, Part};
pub use report::{json, markdown, table};

use anyhow::{Context as _, Result};

use crate::{clock::milliseconds, interrupt, progress::Progress, run::Machine, site::leftovers};
use bed::Bed;
use options::Plan;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Results {
    /// On what.
    pub machine: Machine,
    /// What was measured.
    pub entries: Vec<Entry>,
    /// What was not, and why.
    pub refused: Vec<String>,
    /// Remarks.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What a part needs to measure and to tell.
struct Course<'a> {
    plan: &'a Plan,
    progress: &'a mut Progress,
    results: &'a mut Results,
}

impl Course<'_> {
    fn add(&mut self, entry: Entry) {
        self.results.entries.push(entry);
    }

    /// Keeps the reason why something has no number; an interrupt ends the run.
    fn keep<T>(&mut self, what: &str, outcome: Result<T>) -> Result<Option<T>> {
        interrupt::check()?;
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                self.results.refused.push(format!("{what}: {error:#}"));
                Ok(None)
            }
        }
    }
}

/// Measures everything.
pub fn run(options: &Options) -> Result<Results> {
    leftovers::remove();
    let plan = Plan::new(options);
    let mut progress = Progress::new(plan.seconds());
    let mut results = Results {
        machine: Machine::look()?,
        entries: Vec::new(),
        refused: Vec::new(),
        notes: Vec::new(),
        seconds: 0.0,
    };
    let mut course = Course {
        plan: &plan,
        progress: &mut progress,
        results: &mut results,
    };
    measure(&mut course)?;
    progress.clear();
    results.seconds = progress.elapsed().as_secs_f64();
    Ok(results)
}

fn measure(course: &mut Course<'_>) -> Result<()> {
    course.progress.show("a node with one service");
    let mut one = Bed::build(1).context("a node with one service")?;
    one.rig.program()?;
    let number = course.plan.many;
    course.progress.show(&format!("a node with {number} services"));
    let mut many = Bed::build(number).with_context(|| format!("a node with {number} services"))?;
    course.progress.done(Plan::BUILDING_SECONDS);
    // The first, while the maps are empty.
    programming::from_nothing(course, &mut many)?;

    if course.plan.has(Part::Sockets) {
        one.rig.start_workers()?;
        many.rig.start_workers()?;
        sockets::measure(course, &mut one, &mut many)?;
    }
    if course.plan.has(Part::Packets) {
        packets::measure(course, &mut one, &mut many)?;
        xdp::measure(course)?;
    }
    if course.plan.has(Part::Programming) {
        programming::changes(course, &mut many)?;
        programming::flips(course, &mut many)?;
    }
    Ok(())
}

/// Milliseconds as a number to show.
fn as_milliseconds(nanoseconds: u64) -> f64 {
    milliseconds(std::time::Duration::from_nanos(nanoseconds))
}
