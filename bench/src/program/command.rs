//! Programs that talk to the kernel's packet filter, run in the node's namespace.

use std::{
    ffi::OsString,
    fmt,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::memory::Account;
use crate::{interrupt, site::Netns};

/// No program may take longer.
const LONGEST: Duration = Duration::from_mins(2);
/// How often a wait looks for Ctrl-C.
const LOOK: Duration = Duration::from_millis(50);

/// A program took too long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GaveUp(String);

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was not done after {} s", self.0, LONGEST.as_secs())
    }
}

impl std::error::Error for GaveUp {}

/// Runs a program with `input` on its standard input; answers its standard output. What the kernel allocates for it is
/// charged to `account`.
pub(super) fn run(node: &Netns, account: Option<&Account>, words: &[&str], input: &str) -> Result<String> {
    let said = words.join(" ");
    let (name, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        // The old iptables holds a lock file; the machine's own is none of ours.
        .env("XTABLES_LOCKFILE", lock_file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    node.enter(&mut command)?;
    if let Some(account) = account {
        account.enter(&mut command)?;
    }
    // SAFETY: prctl(2) without pointers is async-signal-safe; with the benchmark's death the program dies.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let output = output(&mut command, &said, input)?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let first: Vec<&str> = errors.lines().take(5).collect();
        bail!("{said} ended with {}: {}", output.status, first.join("\n"));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{said} did not write UTF-8"))
}

/// Runs it to its end; an interrupt or too long a time ends it.
fn output(command: &mut Command, said: &str, input: &str) -> Result<Output> {
    let mut child = command.spawn().with_context(|| format!("cannot run {said}"))?;
    let mut pipe = child.stdin.take().context("a command without input")?;
    let id = Pid::from_raw(child.id().cast_signed());
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        // The program may answer before it has read everything; one that fails stops reading.
        scope.spawn(move || pipe.write_all(input.as_bytes()));
        scope.spawn(move || send.send(child.wait_with_output()));
        let begun = Instant::now();
        let mut stopped = Ok(());
        loop {
            match receive.recv_timeout(LOOK) {
                Ok(output) => {
                    stopped?;
                    return output.with_context(|| format!("cannot wait for {said}"));
                }
                Err(RecvTimeoutError::Timeout) if stopped.is_ok() => {
                    stopped = interrupt::check();
                    if stopped.is_ok() && begun.elapsed() > LONGEST {
                        stopped = Err(GaveUp(said.to_owned()).into());
                    }
                    if stopped.is_err() {
                        // It is not waited for yet, so the number is still its own.
                        let _ = kill(id, Signal::SIGKILL);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for {said}"),
            }
        }
    })
}

/// Where programs are looked for: `PATH`, and where root's are.
pub fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Whether there is such a program.
pub fn is_installed(name: &str) -> bool {
    std::env::split_paths(&search_path()).any(|directory| directory.join(name).is_file())
}

fn lock_file() -> PathBuf {
    std::env::temp_dir().join(format!("cwbench-{}.lock", std::process::id()))
}

/// Removes what programs have left.
pub(super) fn clean() {
    // Only the old iptables makes it.
    let _ = std::fs::remove_file(lock_file());
}
