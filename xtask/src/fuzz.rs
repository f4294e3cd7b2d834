//! Long runs of the reference model beside the real programs.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::{command, compile, interrupt, root, setup};

/// The package, and its program.
const PACKAGE: &str = "causeway-model";
const PROGRAM: &str = "causeway-fuzz";

/// Runs the fuzzer with these arguments, of which xtask knows nothing. Ctrl-C ends it with its summary.
pub fn run(progress: &Progress, arguments: &[OsString]) -> Result<ExitCode> {
    let asks_for_help = arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h");
    if !asks_for_help {
        root::ensure("BPF programs take root to load")?;
        setup::run(progress)?;
    }
    progress.note("building the model with optimisations (minutes the first time, seconds after)");
    command::run(&mut compile::cargo(&["build", "--release", "--package", PACKAGE]))?;
    // It ends by itself on the signals that it gets too; this process waits for it.
    interrupt::catch()?;
    let mut fuzz = Command::new(compile::target_dir().join("release").join(PROGRAM));
    let status = fuzz
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {}", command::text(&fuzz)))?;
    Ok(ExitCode::from(u8::from(!status.success())))
}
