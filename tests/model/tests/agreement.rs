//! The model and the real programs agree: on the cases that were once differences, and on some new sequences.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use causeway_model::fuzz::{Case, Generator, Outcome, Runner};

/// Sequences of the short run; `cargo xtask fuzz` makes long ones.
const SEQUENCES: usize = 2_000;

fn cases() -> Result<Vec<PathBuf>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn agrees(runner: &mut Runner, case: &Case, thorough: bool, name: &str) -> Result<u64> {
    match runner.run(case, thorough)? {
        Outcome::Agreed { packets, .. } => Ok(packets),
        Outcome::Differs(difference) => bail!(
            "{name}, step {:?}, {}:\n{}",
            difference.step,
            difference.packet,
            difference.details.join("\n")
        ),
    }
}

#[test]
fn saved_cases() -> Result<()> {
    let mut runner = Runner::new()?;
    let paths = cases()?;
    assert!(paths.len() >= 5, "the saved cases are gone");
    for path in paths {
        let packets = agrees(&mut runner, &Case::load(&path)?, true, &path.display().to_string())?;
        assert!(packets > 0, "{} sends nothing", path.display());
    }
    Ok(())
}

#[test]
fn a_short_run() -> Result<()> {
    let mut runner = Runner::new()?;
    let mut generator = Generator::new(0x0ca5_e3a7);
    let mut packets = 0;
    for number in 0..SEQUENCES {
        packets += agrees(&mut runner, &generator.case(), false, &format!("sequence {number}"))?;
    }
    // Fewer would mean that sequences are not what they were meant to be.
    assert!(packets > 15 * SEQUENCES as u64, "{packets} packets");
    Ok(())
}
