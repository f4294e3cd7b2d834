//! Starting, watching and stopping the cluster's processes.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

use crate::{command, netns};

/// Log lines shown when a process ends unexpectedly.
const LOG_LINES: usize = 25;

/// How to start a process.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// Name of its log and of its process-id file.
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// Name of the network namespace it starts in.
    pub(super) netns: String,
    /// cgroup (an existing directory) it starts in.
    pub(super) cgroup: PathBuf,
    pub(super) log: PathBuf,
    pub(super) pid_file: PathBuf,
}

/// A process of a cluster; ends only when told to, not when this is dropped.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    child: Child,
    /// Where this run begins in the log.
    log_start: u64,
}

/// A process that ended by itself.
#[derive(Debug, Clone)]
pub struct Exited {
    /// Which.
    pub name: String,
    /// How.
    pub status: ExitStatus,
    /// Its log.
    pub log: PathBuf,
    /// The end of its log.
    pub tail: String,
}

impl fmt::Display for Exited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ended with {}; the end of {}:\n{}",
            self.name,
            self.status,
            self.log.display(),
            self.tail
        )
    }
}

impl std::error::Error for Exited {}

impl Process {
    pub(super) fn start(launch: Launch) -> Result<Self> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&launch.log)
            .with_context(|| format!("cannot open {}", launch.log.display()))?;
        let log_start = log.seek(SeekFrom::End(0)).context("cannot find the end of a log")?;
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share a log")?)
            .stderr(log);
        enter(&mut command, &launch.netns, &launch.cgroup)?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command::text(&command)))?;
        let process = Self {
            launch,
            child,
            log_start,
        };
        process.record()?;
        Ok(process)
    }

    /// Name as in its log file.
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.launch.name))
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.launch.name))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<Exited>> {
        let status = self
            .child
            .try_wait()
            .with_context(|| format!("cannot look at {}", self.launch.name))?;
        Ok(status.map(|status| Exited {
            name: self.launch.name.clone(),
            status,
            log: self.launch.log.clone(),
            tail: self.log_tail(),
        }))
    }

    /// What this run has logged last.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.launch.log).unwrap_or_default();
        let run = log.get(self.log_start as usize..).unwrap_or(&log);
        command::tail(&String::from_utf8_lossy(run), LOG_LINES)
    }

    /// Starts the same after it ended.
    pub(super) fn start_again(self) -> Result<Self> {
        Self::start(self.launch)
    }

    /// Leaves the process id for `remove`, with the start time by which a reused id can be told.
    fn record(&self) -> Result<()> {
        let id = self.child.id();
        let started = start_time(id).unwrap_or(0);
        fs::write(&self.launch.pid_file, format!("{id} {started}\n"))
            .with_context(|| format!("cannot write {}", self.launch.pid_file.display()))
    }
}

/// Makes `command` start in a network namespace and a cgroup, in a session of its own (Ctrl-C goes to its parent only).
pub(super) fn enter(command: &mut Command, netns: &str, cgroup: &Path) -> Result<()> {
    let namespace = netns::open(netns)?;
    let procs = cgroup.join("cgroup.procs");
    let procs = File::options()
        .write(true)
        .open(&procs)
        .with_context(|| format!("cannot open {}", procs.display()))?;
    // SAFETY: runs between fork and exec, where only async-signal-safe calls are allowed: setsid, setns and write are
    // system calls, both files are open already, and nothing allocates.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            (&procs).write_all(b"0")
        });
    }
    Ok(())
}

/// When a process started, in clock ticks since boot (field 22 of `proc_pid_stat(5)`).
pub(super) fn start_time(id: u32) -> Option<u64> {
    stat_fields(id)?.get(19)?.parse().ok()
}

/// Whether a process exists and is more than a zombie.
pub(super) fn is_alive(id: u32) -> bool {
    stat_fields(id).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z" && state != "X"))
}

/// Fields of `/proc/ID/stat` after the command name, which may itself hold blanks and parentheses.
fn stat_fields(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// A process id recorded by [`Process`], if it still means that process.
pub(super) fn recorded(pid_file: &Path) -> Option<u32> {
    let text = fs::read_to_string(pid_file).ok()?;
    let (id, started) = text.trim().split_once(' ')?;
    let id: u32 = id.parse().ok()?;
    (is_alive(id) && start_time(id) == started.parse().ok()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_id_counts_only_with_its_start_time() {
        let own = std::process::id();
        let file = std::env::temp_dir().join(format!("causeway-xtask-{own}.pid"));
        fs::write(&file, format!("{own} {}\n", start_time(own).unwrap())).unwrap();
        assert_eq!(recorded(&file), Some(own));
        fs::write(&file, format!("{own} 1\n")).unwrap();
        assert_eq!(recorded(&file), None);
        fs::remove_file(&file).unwrap();
        assert!(is_alive(own));
    }
}
