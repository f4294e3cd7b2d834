//! Running other programs, with errors that say which, how it ended and what it said last.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// Lines of a failed program's output that go into the error.
const TAIL_LINES: usize = 15;

/// The command as one would type it.
pub fn text(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs with this process's standard streams; an error unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", text(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", text(command));
    }
    Ok(())
}

/// Runs and answers its standard output; an error with the end of its standard error unless it succeeds.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", text(command)))?;
    checked(command, &output)?;
    String::from_utf8(output.stdout).with_context(|| format!("output of {} is not UTF-8", text(command)))
}

/// An error with the end of its standard error unless the finished command succeeded.
pub fn checked(command: &Command, output: &Output) -> Result<()> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            text(command),
            output.status,
            tail(&said, TAIL_LINES).trim()
        );
    }
    Ok(())
}

/// Runs with both output streams shown as the phase's detail; an error with their end unless it succeeds.
pub fn streamed(progress: &Progress, command: &mut Command) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {}", text(command)))?;
    // The command keeps the write ends until its streams are replaced; the reader must see the end of file.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut last = VecDeque::with_capacity(TAIL_LINES);
    for line in BufReader::new(reader).lines() {
        let line = line.with_context(|| format!("cannot read the output of {}", text(command)))?;
        progress.detail(line.trim());
        if last.len() == TAIL_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {}", text(command)))?;
    if !status.success() {
        bail!("{} ended with {status}:\n{}", text(command), Vec::from(last).join("\n"));
    }
    Ok(())
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = capture(Command::new("sh").args(["-c", "echo no such luck >&2; exit 4"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 4") && error.ends_with("no such luck"),
            "{error}"
        );
        let error = streamed(
            &Progress::silent(),
            Command::new("sh").args(["-c", "echo a; echo b >&2; false"]),
        );
        assert!(error.unwrap_err().to_string().ends_with("a\nb"));
    }

    #[test]
    fn the_tail_of_a_short_text_is_all_of_it() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
