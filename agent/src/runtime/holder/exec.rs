//! A command run beside a container's first process.

use std::{io, path::PathBuf, time::Instant};

use nix::{
    sys::{signal::Signal, wait::WaitStatus},
    unistd::Pid,
};

use super::{
    pipe::Pipe,
    protocol::Reply,
    spawn::{self, Report},
};
use crate::runtime::spec::{ContainerSpec, ExecResult, ExecSpec};

/// A running command and who waits for it.
#[derive(Debug)]
pub(super) struct Exec {
    pub pid: Pid,
    /// The connection that is answered.
    pub connection: u64,
    /// When it is killed.
    pub deadline: Option<Instant>,
    pipes: [Pipe; 2],
    output: [Vec<u8>; 2],
    limit: usize,
    report: Option<Report>,
    failure: Option<String>,
    timed_out: bool,
}

impl Exec {
    /// Forks the command.
    pub fn start(
        container: &ContainerSpec,
        hostname: &str,
        procs: &[PathBuf],
        first: Pid,
        spec: &ExecSpec,
        connection: u64,
    ) -> io::Result<Self> {
        let spawned = spawn::beside(container, hostname, procs, first, &spec.argv)?;
        Ok(Self {
            pid: spawned.pid,
            connection,
            deadline: spec.timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            pipes: spawned.output,
            output: [Vec::new(), Vec::new()],
            limit: spec.output_limit_bytes,
            report: Some(spawned.report),
            failure: None,
            timed_out: false,
        })
    }

    /// The pipes to wait for.
    pub fn pipes(&self) -> impl Iterator<Item = &Pipe> {
        self.pipes.iter().chain(self.report.iter().map(Report::pipe))
    }

    /// Takes what there is to read.
    pub fn read(&mut self) {
        self.copy_output(false);
        if let Some(outcome) = self.report.as_mut().and_then(Report::outcome) {
            self.failure = outcome.err();
            self.report = None;
        }
    }

    /// Kills it, and what it started in its session, if its time is up.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.timed_out = true;
            self.kill();
        }
    }

    /// Kills it and its process group.
    pub fn kill(&self) {
        // Until it has its own session there is no such group.
        let _ = nix::sys::signal::killpg(self.pid, Signal::SIGKILL);
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
    }

    /// The answer, once it has ended.
    pub fn reaped(mut self, status: WaitStatus) -> Reply {
        self.read();
        self.copy_output(true);
        if let (Some(failure), false) = (self.failure, self.timed_out) {
            return Reply::StartFailed(failure);
        }
        let (exit_code, signal) = match status {
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, signal as i32),
            WaitStatus::Exited(_, code) => (code, 0),
            _ => (255, 0),
        };
        let [stdout, stderr] = self.output.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Reply::Exec(ExecResult {
            exit_code,
            signal,
            stdout,
            stderr,
            timed_out: self.timed_out,
        })
    }

    fn copy_output(&mut self, all: bool) {
        for (pipe, output) in self.pipes.iter_mut().zip(&mut self.output) {
            let limit = self.limit;
            let take = |bytes: &[u8]| output.extend_from_slice(&bytes[..bytes.len().min(limit - output.len())]);
            if all {
                pipe.drain(take);
            } else {
                pipe.read(take);
            }
        }
    }
}
