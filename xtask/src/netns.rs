//! Network namespaces as `ip netns` names them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` mounts named namespaces (ip-netns(8)).
pub const DIRECTORY: &str = "/run/netns";

/// The file that holds the namespace called `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Opens it.
pub fn open(name: &str) -> Result<File> {
    let path = path(name);
    File::open(&path).with_context(|| format!("cannot open network namespace {}", path.display()))
}

/// Runs `work` in the namespace called `name`, on a thread of its own: what it opens stays in that namespace.
pub fn run_in<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = open(name)?;
    thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {name}"))?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("a thread in {name} panicked"))?
    })
}
