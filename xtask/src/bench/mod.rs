//! Benchmarks: built with optimisations, given what they need, run, and their results handed to whoever asked.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::{command, compile, interrupt, root, setup};

/// The package, and its program.
const PACKAGE: &str = "causeway-bench";

/// Runs a benchmark, `vip` or `datapath`, with these arguments, of which xtask knows nothing.
pub fn run(progress: &Progress, benchmark: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let asks_for_help = arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h");
    if !asks_for_help {
        root::ensure("benchmarks make network namespaces and load BPF programs")?;
        setup::run(progress)?;
        setup::for_benchmarks(progress)?;
    }
    progress.note("building the benchmark with optimisations (minutes the first time, seconds after)");
    command::run(&mut compile::cargo(&["build", "--release", "--package", PACKAGE]))?;

    let output = compile::target_dir().join("bench");
    root::create_dir(&output)?;
    // It removes all it has made on the way out; to wait for that, the signals that it gets must not end this process.
    interrupt::catch()?;
    let mut bench = Command::new(compile::target_dir().join("release").join(PACKAGE));
    bench.arg(benchmark).args(arguments);
    let names_output = |argument: &OsString| argument.to_string_lossy().starts_with("--output");
    if !arguments.iter().any(names_output) {
        bench.arg("--output").arg(&output);
    }
    let status = bench
        .status()
        .with_context(|| format!("cannot run {}", command::text(&bench)))?;
    give_away(&output)?;
    Ok(ExitCode::from(u8::from(!status.success())))
}

/// Files that root wrote go to the user behind sudo.
fn give_away(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        root::give_to_invoker(&entry.path())?;
    }
    Ok(())
}
