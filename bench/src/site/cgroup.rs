//! A directory of our own in the v2 cgroup tree.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// First part of the names of the benchmark's cgroups; the process id follows.
pub(super) const PREFIX: &str = "causeway-bench-";

/// A cgroup; removed, with those below it, when the value goes. No process may be left in it then.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new one below the root of the v2 tree.
    pub fn new(name: &str) -> Result<Self> {
        Self::below(&v2_root()?, name)
    }

    /// A new one below the root of another hierarchy.
    pub fn below(root: &Path, name: &str) -> Result<Self> {
        let path = root.join(format!("{PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a process writes "0" to in order to move in.
    pub fn entrance(&self) -> Result<File> {
        let path = self.path.join("cgroup.procs");
        File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a cgroup without processes.
pub(super) fn remove(path: &Path) {
    // A process that was just waited for may still be counted for an instant.
    for _ in 0..50 {
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                eprintln!("{} stays behind: {error}", path.display());
                return;
            }
            _ => return,
        }
    }
    eprintln!("{} stays behind: a process is still in it", path.display());
}

/// Where the v2 tree is mounted, alone or beside v1 hierarchies.
fn v2_root() -> Result<PathBuf> {
    let of_v2 = |(kind, path): (String, PathBuf)| (kind == "cgroup2").then_some(path);
    roots()
        .into_iter()
        .find_map(of_v2)
        .context("there is no cgroup v2 tree (mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

/// Type and mount point of every hierarchy.
pub(super) fn roots() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let hierarchy = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        kind.starts_with("cgroup")
            .then(|| (kind.to_owned(), PathBuf::from(path)))
    };
    mounts.lines().filter_map(hierarchy).collect()
}
