//! Forking a container's first process, and commands beside it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    unistd::Pid,
};

use super::{
    child::{self, Place, Program},
    pipe::Pipe,
};
use crate::runtime::{files::AttemptDir, spec::ContainerSpec};

/// A child on its way to its program, and what is heard from it.
#[derive(Debug)]
pub(super) struct Spawned {
    pub pid: Pid,
    pub output: [Pipe; 2],
    pub report: Report,
}

/// What a child says until its program runs.
#[derive(Debug)]
pub(super) struct Report {
    pipe: Pipe,
    text: Vec<u8>,
}

impl Report {
    /// The descriptor to wait for; `None` once the child has said all.
    pub fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// Listens on: the outcome, once it is known. `Ok` means that the program was executed.
    pub fn outcome(&mut self) -> Option<Result<(), String>> {
        let text = &mut self.text;
        if self.pipe.read(|bytes| text.extend_from_slice(bytes)) {
            return None;
        }
        let text = String::from_utf8_lossy(text);
        Some(match text.strip_prefix(child::READY) {
            Some("") => Ok(()),
            Some(failure) => Err(failure.to_owned()),
            None if text.is_empty() => Err("killed while it was being set up".to_owned()),
            None => Err(text.into_owned()),
        })
    }
}

/// Starts the first process of a container, in mount and PID namespaces of its own.
pub(super) fn first(spec: &ContainerSpec, hostname: &str, procs: &[PathBuf], dir: &AttemptDir) -> io::Result<Spawned> {
    fork(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS, |output, report| {
        Program {
            spec,
            hostname,
            procs,
            place: Place::New(dir),
            output,
            report,
        }
    })
}

/// Starts a command in the namespaces of the container whose first process is `pid`.
pub(super) fn beside(
    spec: &ContainerSpec,
    hostname: &str,
    procs: &[PathBuf],
    pid: Pid,
    argv: &[String],
) -> io::Result<Spawned> {
    let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}"));
    let (mnt, cgroup, theirs) = (open("mnt")?, open("cgroup")?, open("pid")?);
    let ours = File::open("/proc/self/ns/pid")?;
    // Changes where children are born, not where this process is.
    setns(&theirs, CloneFlags::CLONE_NEWPID)?;
    let spawned = fork(CloneFlags::empty(), |output, report| {
        let place = Place::Beside {
            mnt: mnt.as_fd(),
            cgroup: cgroup.as_fd(),
            argv,
        };
        Program {
            spec,
            hostname,
            procs,
            place,
            output,
            report,
        }
    });
    setns(&ours, CloneFlags::CLONE_NEWPID)?;
    spawned
}

fn fork<'a>(namespaces: CloneFlags, program: impl FnOnce([OwnedFd; 2], OwnedFd) -> Program<'a>) -> io::Result<Spawned> {
    let ((out, out_writer), (err, err_writer)) = (Pipe::new()?, Pipe::new()?);
    let (report, report_writer) = Pipe::new()?;
    let program = program([out_writer, err_writer], report_writer);
    let flags = i64::from(namespaces.bits() | libc::SIGCHLD);
    // SAFETY: without a stack and without sharing flags this is fork(2) with new namespaces: the child goes on here on a copy of
    // everything. The process has one thread, so no lock is left held in the copy.
    match Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })? {
        0 => child::run(&program),
        pid => {
            // Our copies of the writing ends would keep the pipes open.
            drop(program);
            let report = Report {
                pipe: report,
                text: Vec::new(),
            };
            Ok(Spawned {
                pid: Pid::from_raw(pid as i32),
                output: [out, err],
                report,
            })
        }
    }
}
