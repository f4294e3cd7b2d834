//! The checks: format, lints, tests; and what they leave behind.

use std::io::{BufRead, BufReader, IsTerminal, stdout};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::{remove, stale};
use crate::progress::Progress;
use crate::{command, compile, setup};

/// One step of the closing summary.
struct Step {
    name: String,
    took: Duration,
    outcome: Result<String>,
}

/// Everything, or only the tests whose names contain one of `filters`. Goes on after a failed step.
pub fn test(progress: &Progress, filters: &[String]) -> Result<ExitCode> {
    setup::run(progress)?;
    setup::for_tests(progress)?;
    stale::run(progress);
    let before = remove::traces();
    let mut steps = Vec::new();
    if filters.is_empty() {
        steps.extend(lint_steps());
    }
    steps.push(step("build", || {
        let binaries = compile::build(compile::Profile::Dev)?;
        crate::image::build(&binaries.demo)?;
        command::run(&mut compile::cargo(&["test", "--workspace", "--no-run"]))?;
        Ok("binaries, image, tests".to_owned())
    }));
    if steps.last().is_some_and(|step| step.outcome.is_ok()) {
        steps.push(step("tests", || run_tests(filters)));
        steps.push(step("leak check", || {
            let left: Vec<_> = remove::traces().difference(&before).cloned().collect();
            if left.is_empty() {
                Ok("tests left nothing behind".to_owned())
            } else {
                bail!("left behind: {}", left.join(", "))
            }
        }));
    }
    Ok(summary(&steps))
}

/// Format, lints, and the further checks whose tools are installed.
pub fn lint(progress: &Progress) -> Result<ExitCode> {
    setup::run(progress)?;
    let mut steps = Vec::from(lint_steps());
    for (tool, args) in [("cargo-deny", &["deny", "check"][..]), ("cargo-machete", &["machete"])] {
        steps.push(step(tool, || {
            if command::capture(&mut compile::cargo(&[args[0], "--version"])).is_err() {
                return Ok(format!("not installed, not run (cargo install {tool})"));
            }
            command::run(&mut compile::cargo(args)).map(|()| "clean".to_owned())
        }));
    }
    Ok(summary(&steps))
}

fn lint_steps() -> [Step; 2] {
    [
        step("format", || {
            command::run(&mut compile::cargo(&["fmt", "--all", "--check"])).map(|()| "clean".to_owned())
        }),
        step("clippy", || {
            let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
            command::run(&mut compile::cargo(&args)).map(|()| "clean".to_owned())
        }),
    ]
}

/// Runs the tests as root, whoever built them.
fn run_tests(filters: &[String]) -> Result<String> {
    let mut cargo = Command::new(compile::cargo(&[]).get_program());
    cargo
        .current_dir(compile::workspace())
        .args(["test", "--workspace", "--no-fail-fast", "--"])
        .args(filters);
    if stdout().is_terminal() {
        cargo.args(["--color", "always"]);
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot run cargo test")?;
    let output = child.stdout.take().context("cargo test has no standard output")?;
    let (mut passed, mut failed) = (0, Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the output of cargo test")?;
        println!("{line}");
        passed += number_before(&line, " passed;").unwrap_or(0);
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
            && name.1.contains("FAILED")
        {
            failed.push(name.0.to_owned());
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    if !status.success() {
        bail!(
            "{passed} passed, {} failed ({status}): {}",
            failed.len(),
            failed.join(", ")
        );
    }
    Ok(format!("{passed} passed"))
}

/// The number in front of a word in a line of libtest's summary.
fn number_before(line: &str, word: &str) -> Option<u64> {
    line.starts_with("test result:")
        .then(|| line.split_once(word))??
        .0
        .rsplit(' ')
        .next()?
        .parse()
        .ok()
}

fn step(name: &str, work: impl FnOnce() -> Result<String>) -> Step {
    eprintln!("\n== {name}");
    let begun = Instant::now();
    let outcome = work();
    if let Err(error) = &outcome {
        eprintln!("{name}: {error:#}");
    }
    Step {
        name: name.to_owned(),
        took: begun.elapsed(),
        outcome,
    }
}

fn summary(steps: &[Step]) -> ExitCode {
    eprintln!("\n== summary");
    for Step { name, took, outcome } in steps {
        let (mark, text) = match outcome {
            Ok(text) => ("✓", text.clone()),
            Err(error) => ("✗", format!("{error:#}")),
        };
        eprintln!("{mark} {name:<14} {:>6.1} s  {text}", took.as_secs_f64());
    }
    if steps.iter().all(|step| step.outcome.is_ok()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_from_the_summary_line_only() {
        let line = "test result: ok. 15 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.04s";
        assert_eq!(number_before(line, " passed;"), Some(15));
        assert_eq!(number_before("test no 3 passed; ... ok", " passed;"), None);
    }
}
