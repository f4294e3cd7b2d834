//! `cargo xtask fuzz`: long runs of the model beside the programs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use causeway_model::fuzz::{Case, Difference, Generator, Outcome, Runner, shrink};
use clap::Parser;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// How often the state is told.
const REPORT: Duration = Duration::from_secs(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

#[derive(Parser)]
#[command(about = "Runs sequences of packets through the reference model and the real BPF programs, side by side")]
struct Options {
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Where sequences begin; the same seed gives the same ones.
    #[arg(long)]
    seed: Option<u64>,
    /// Ends after this many packets.
    #[arg(long)]
    packets: Option<u64>,
    /// Goes on after a difference, and tells one of each kind.
    #[arg(long)]
    keep_going: bool,
    /// Compares everything after each step instead of at the end of each sequence.
    #[arg(long)]
    thorough: bool,
    /// Where cases of differences are saved.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/cases"))]
    cases: PathBuf,
    /// Runs saved cases instead.
    replay: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let mut runner = Runner::new()?;
    if !options.replay.is_empty() {
        return replay(&mut runner, &options.replay);
    }
    catch_interrupts()?;
    let seed = options.seed.unwrap_or_else(seed_of_the_clock);
    println!("seed {seed}; the same again with --seed {seed}");
    let mut count = Count::new();
    let mut generator = Generator::new(seed);
    let mut kinds = Vec::new();
    while !count.is_over(options) {
        let case = generator.case();
        match runner.run(&case, options.thorough)? {
            Outcome::Agreed { packets, by_xdp } => {
                count.packets += packets;
                count.by_xdp += by_xdp;
            }
            Outcome::Differs(difference) => {
                count.differences += 1;
                if !kinds.contains(&difference.kind()) {
                    kinds.push(difference.kind());
                    save(&mut runner, &case, &difference, options, seed, count.sequences)?;
                }
                if !options.keep_going {
                    count.sequences += 1;
                    break;
                }
            }
        }
        count.sequences += 1;
        count.tell();
    }
    println!("{}", count.line());
    Ok(count.differences == 0)
}

fn save(
    runner: &mut Runner,
    case: &Case,
    difference: &Difference,
    options: &Options,
    seed: u64,
    number: u64,
) -> Result<()> {
    // The whole sequence, looked at after each step: the difference may have begun before it was seen.
    let difference = match runner.run(case, true)? {
        Outcome::Differs(earlier) => *earlier,
        Outcome::Agreed { .. } => difference.clone(),
    };
    let (mut small, difference) = shrink::shrink(runner, case, &difference)?;
    difference
        .details
        .first()
        .unwrap_or(&String::new())
        .clone_into(&mut small.note);
    let path = options.cases.join(format!("{seed}-{number}.json"));
    small.save(&path)?;
    tell(&difference, &path);
    Ok(())
}

fn tell(difference: &Difference, path: &Path) {
    println!("\nDIFFERENCE in {}", path.display());
    match difference.step {
        Some(step) => println!("step {step}, {}", difference.packet),
        None => println!("at the end: {}", difference.packet),
    }
    for detail in &difference.details {
        println!("- {detail}");
    }
    println!();
}

fn replay(runner: &mut Runner, paths: &[PathBuf]) -> Result<bool> {
    let mut agreed = true;
    for path in paths {
        let case = Case::load(path)?;
        match runner.run(&case, true)? {
            Outcome::Agreed { packets, .. } => println!("{}: no difference in {packets} packets", path.display()),
            Outcome::Differs(difference) => {
                agreed = false;
                tell(&difference, path);
            }
        }
    }
    Ok(agreed)
}

/// What was done so far.
struct Count {
    begun: Instant,
    told: Instant,
    sequences: u64,
    packets: u64,
    by_xdp: u64,
    differences: u64,
}

impl Count {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            told: now,
            sequences: 0,
            packets: 0,
            by_xdp: 0,
            differences: 0,
        }
    }

    fn is_over(&self, options: &Options) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
            || self.begun.elapsed().as_secs_f64() >= options.minutes * 60.0
            || options.packets.is_some_and(|packets| self.packets >= packets)
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= REPORT {
            self.told = Instant::now();
            println!("{}", self.line());
        }
    }

    fn line(&self) -> String {
        let elapsed = self.begun.elapsed();
        format!(
            "{:>7} s  {:>9} sequences  {:>11} packets ({} by XDP)  {:>7} packets/s  {} differences",
            elapsed.as_secs(),
            self.sequences,
            self.packets,
            self.by_xdp,
            u128::from(self.packets) * 1_000 / elapsed.as_millis().max(1),
            self.differences
        )
    }
}

fn seed_of_the_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_secs())
}

extern "C" fn note(_signal: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn catch_interrupts() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot catch {signal}"))?;
    }
    Ok(())
}
