//! Programs that run in pods.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::Netns;
use crate::wait::for_true;

/// How long a program may take to end or to listen.
const PATIENCE: Duration = Duration::from_mins(1);

/// A program to run in the network namespace of a path and, if given, in a cgroup.
///
/// # Panics
///
/// When one of them cannot be opened.
pub fn command_in(netns: &Path, cgroup: Option<&Path>, program: &str) -> Command {
    let mut command = Command::new(program);
    let netns = File::open(netns).expect("the namespace");
    let cgroup = cgroup.map(|dir| {
        let procs = dir.join("cgroup.procs");
        File::options().write(true).open(procs).expect("the cgroup's processes")
    });
    command.stdin(Stdio::null());
    // SAFETY: the child makes plain system calls on descriptors that were opened before the fork.
    unsafe {
        command.pre_exec(move || {
            if let Some(cgroup) = &cgroup {
                // Whoever writes 0 moves itself (cgroups(7)).
                (&*cgroup).write_all(b"0")?;
            }
            if libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command
}

/// Runs a program to its end; what it wrote to standard output.
///
/// # Panics
///
/// When it cannot be run, fails or takes longer than a minute; tells what it wrote.
pub fn finish(mut command: Command) -> Vec<u8> {
    let named = format!("{command:?}");
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{named}: {error} (cargo xtask setup installs it)"));
    let mut running = Running(child);
    let (mut output, mut errors) = (running.0.stdout.take(), running.0.stderr.take());
    let reader = thread::spawn(move || {
        let mut read = Vec::new();
        output.as_mut().map(|output| output.read_to_end(&mut read));
        read
    });
    let error_reader = thread::spawn(move || {
        let mut read = String::new();
        errors.as_mut().map(|errors| errors.read_to_string(&mut read));
        read
    });
    for_true(&format!("the end of {named}"), PATIENCE, || {
        running.0.try_wait().expect("a child of ours").is_some()
    });
    let status = running.0.wait().expect("a child of ours");
    let output = reader.join().expect("a reader");
    let errors = error_reader.join().expect("a reader");
    assert!(
        status.success(),
        "{named} ended with {status}\n{}{errors}",
        String::from_utf8_lossy(&output)
    );
    output
}

/// A program that goes on until this value goes.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub fn start(mut command: Command) -> Self {
        let child = command.stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error} (cargo xtask setup installs it)")))
    }

    /// Waits until somebody listens on a TCP port of its namespace.
    ///
    /// # Panics
    ///
    /// When nobody does within a minute, or the program ends before.
    #[must_use]
    pub fn listens(mut self, netns: &Netns, port: u16) -> Self {
        // proc(5), net/tcp: the local port in capital hexadecimal digits, and the state, 0A for listening.
        let sought = format!(":{port:04X} ");
        for_true(&format!("a listener on port {port}"), PATIENCE, || {
            let ended = self.0.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "the server ended: {ended:?}");
            netns.run(|| {
                ["tcp", "tcp6"].iter().any(|table| {
                    let told = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
                    told.lines().any(|line| line.contains(&sought) && line.contains(" 0A "))
                })
            })
        });
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
