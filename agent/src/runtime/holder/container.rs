//! One container as its holder keeps it.

use std::{
    fs, io,
    path::PathBuf,
    time::{Instant, SystemTime},
};

use nix::{
    sys::{signal::Signal, wait::WaitStatus},
    unistd::Pid,
};

use super::{
    log::{Log, Stream},
    pipe::Pipe,
    protocol::Start,
    spawn::{self, Report},
};
use crate::{
    cgroup::tree::oom_kills,
    runtime::{
        files::{self, AttemptDir, Durability, PodDir},
        spec::ContainerSpec,
        state::{ContainerPhase, ContainerState, Exit, ExitReason},
    },
};

/// What a container's name and attempt make up.
pub(super) type Key = (String, u32);

/// A container that was started by this holder.
#[derive(Debug)]
pub(super) struct Container {
    pub spec: ContainerSpec,
    pub procs: Vec<PathBuf>,
    pub state: ContainerState,
    /// Process id of its first process, until that is reaped.
    pub pid: Option<Pid>,
    /// When SIGKILL follows.
    pub kill_at: Option<Instant>,
    /// Connections that wait for its program to run, and for its end.
    pub starters: Vec<u64>,
    pub stoppers: Vec<u64>,
    dir: AttemptDir,
    started_at: SystemTime,
    output: [Pipe; 2],
    report: Option<Report>,
    log: Log,
    oom: Option<PathBuf>,
    oom_before: u64,
    /// Why its program could not be executed.
    failure: Option<String>,
}

impl Container {
    /// Puts the attempt on record and forks its first process.
    pub fn start(start: Start, hostname: &str, log_limits: (u64, u32)) -> io::Result<Self> {
        let Start { spec, procs, oom } = start;
        let here = PodDir(PathBuf::from("."));
        let dir = here.attempt(&spec.name, spec.attempt);
        for part in [dir.upper(), dir.work(), dir.merged()] {
            fs::create_dir_all(part)?;
        }
        files::write_json(&dir.spec(), &spec, Durability::Boot)?;
        let state = ContainerState {
            name: spec.name.clone(),
            attempt: spec.attempt,
            image: spec.image.clone(),
            image_id: spec.image_id.clone(),
            phase: ContainerPhase::Starting,
        };
        files::write_json(&dir.state(), &state, Durability::Boot)?;
        let log = Log::open(&here.log(&spec.name, spec.attempt), log_limits.0, log_limits.1)?;
        let oom_before = count_oom_kills(oom.as_ref());
        let spawned = spawn::first(&spec, hostname, &procs, &dir)?;
        Ok(Self {
            spec,
            procs,
            state,
            pid: Some(spawned.pid),
            kill_at: None,
            starters: Vec::new(),
            stoppers: Vec::new(),
            dir,
            started_at: SystemTime::now(),
            output: spawned.output,
            report: Some(spawned.report),
            log,
            oom,
            oom_before,
            failure: None,
        })
    }

    /// The pipes to wait for.
    pub fn pipes(&self) -> impl Iterator<Item = &Pipe> {
        self.output.iter().chain(self.report.iter().map(Report::pipe))
    }

    /// Takes what there is to read. True when its state has changed.
    pub fn read(&mut self) -> bool {
        self.copy_output(false);
        let Some(outcome) = self.report.as_mut().and_then(Report::outcome) else {
            return false;
        };
        self.report = None;
        match (outcome, self.pid) {
            (Ok(()), Some(pid)) => {
                self.started_at = SystemTime::now();
                let pid = pid.as_raw().unsigned_abs();
                self.state.phase = ContainerPhase::Running {
                    pid,
                    started_at: self.started_at,
                };
                self.record(Durability::Boot);
                true
            }
            (Ok(()), None) => false,
            // The child ends by itself; `reaped` makes it the container's end.
            (Err(failure), _) => {
                self.failure = Some(failure);
                false
            }
        }
    }

    /// Takes note of the end of its first process, and with it of every process in its PID namespace.
    pub fn reaped(&mut self, status: WaitStatus) {
        self.read();
        self.copy_output(true);
        self.pid = None;
        self.kill_at = None;
        self.report = None;
        let (exit_code, signal) = match status {
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, signal as i32),
            WaitStatus::Exited(_, code) => (code, 0),
            _ => (255, 0),
        };
        let out_of_memory = exit_code != 0 && count_oom_kills(self.oom.as_ref()) > self.oom_before;
        let reason = match (&self.failure, exit_code) {
            _ if out_of_memory => ExitReason::OomKilled,
            (Some(_), _) => ExitReason::StartError,
            (None, 0) => ExitReason::Completed,
            (None, _) => ExitReason::Error,
        };
        let (started_at, finished_at) = (self.started_at, SystemTime::now());
        let message = self.failure.clone().unwrap_or_default();
        self.state.phase = ContainerPhase::Exited(Exit {
            exit_code,
            signal,
            reason,
            message,
            started_at,
            finished_at,
        });
        self.record(Durability::Disk);
    }

    /// Why its program could not be executed, once that is so.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Sends a signal to its first process. The process is not reaped yet, so the number is still its own.
    pub fn signal(&self, signal: impl Into<Option<Signal>>) {
        if let Some(pid) = self.pid {
            let _ = nix::sys::signal::kill(pid, signal);
        }
    }

    fn copy_output(&mut self, all: bool) {
        for (pipe, stream) in self.output.iter_mut().zip([Stream::Out, Stream::Err]) {
            let log = &mut self.log;
            // A full disk loses output; it does not stop the container.
            let take = |bytes: &[u8]| drop(log.write(stream, bytes));
            if all {
                pipe.drain(take);
            } else {
                pipe.read(take);
            }
        }
        if all {
            drop(self.log.finish());
        }
    }

    fn record(&self, durability: Durability) {
        if let Err(error) = files::write_json(&self.dir.state(), &self.state, durability) {
            // Seen in holder.log; who asks over the socket still gets the state.
            eprintln!("cannot record the state of container {}: {error}", self.state.name);
        }
    }
}

fn count_oom_kills(file: Option<&PathBuf>) -> u64 {
    file.and_then(|file| fs::read_to_string(file).ok())
        .map_or(0, |text| oom_kills(&text))
}
