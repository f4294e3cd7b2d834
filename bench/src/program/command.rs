//! Programs that talk to the kernel's packet filter, run in the node's namespace.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};

use super::memory::Account;
use crate::site::Netns;

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
    let mut child = command.spawn().with_context(|| format!("cannot run {said}"))?;
    let mut pipe = child.stdin.take().context("a command without input")?;
    let output = thread::scope(|scope| {
        // The program may answer before it has read everything.
        scope.spawn(move || pipe.write_all(input.as_bytes()));
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("cannot wait for {said}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let first: Vec<&str> = errors.lines().take(5).collect();
        bail!("{said} ended with {}: {}", output.status, first.join("\n"));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{said} did not write UTF-8"))
}

fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn lock_file() -> PathBuf {
    std::env::temp_dir().join(format!("cwbench-{}.lock", std::process::id()))
}

/// Removes what programs have left.
pub(super) fn clean() {
    // Only the old iptables makes it.
    let _ = std::fs::remove_file(lock_file());
}
