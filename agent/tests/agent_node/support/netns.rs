//! A network namespace for one node.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::process::CommandExt,
    },
    process::Command,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

/// A network namespace with an uplink that leads nowhere; gone with the last process in it and this.
pub struct Netns(File);

impl Netns {
    pub(super) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (run as root)");
            for command in [
                "link set lo up",
                "link add cw-up0 type veth peer name cw-up1",
                "addr add 172.31.9.1/24 dev cw-up0",
                "link set cw-up0 up",
                "link set cw-up1 up",
            ] {
                let status = Command::new("ip").args(command.split(' ')).status().expect("ip(8)");
                assert!(status.success(), "ip {command}");
            }
            File::open("/proc/thread-self/ns/net").expect("the thread's own network namespace")
        });
        Self(made.join().expect("a thread that makes a namespace"))
    }

    /// Makes `command` run in here.
    pub(super) fn enter(&self, command: &mut Command) {
        let fd = self.0.as_raw_fd();
        // SAFETY: between fork and exec only the system call setns is made, on a descriptor that stays open meanwhile.
        unsafe {
            command.pre_exec(move || {
                let fd = BorrowedFd::borrow_raw(fd);
                setns(fd, CloneFlags::CLONE_NEWNET).map_err(Into::into)
            });
        }
    }

    /// Tries to open a connection from in here; whether it is accepted or refused does not matter.
    pub fn knock(&self, address: SocketAddr) {
        thread::scope(|scope| {
            scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the node's network namespace");
                let _ = TcpStream::connect_timeout(&address, Duration::from_secs(5));
            });
        });
    }

    /// What the agent's metrics endpoint in here says.
    pub fn metrics(&self) -> Option<String> {
        let mut command = Command::new("busybox");
        command.args(["wget", "-q", "-O", "-", "http://127.0.0.1:6561/metrics"]);
        self.enter(&mut command);
        let output = command.output().expect("busybox");
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Names of the interfaces in here.
    pub fn links(&self) -> Vec<String> {
        let mut command = Command::new("ip");
        command.args(["-json", "link"]);
        self.enter(&mut command);
        let output = command.output().expect("ip(8)").stdout;
        let links: Vec<Value> = serde_json::from_slice(&output).expect("JSON from ip(8)");
        links
            .iter()
            .map(|link| link["ifname"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}
