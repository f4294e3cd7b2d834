//! Directories in the v2 cgroup tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::unique;

/// A cgroup of its own; removed, with those below it, when the value goes.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new one below the root of the v2 tree.
    ///
    /// # Panics
    ///
    /// Where there is no v2 tree, or no right to write to it.
    pub fn new() -> Self {
        let path = v2_root().join(format!("causeway-test-{}-{}", std::process::id(), unique()));
        fs::create_dir(&path).expect("a cgroup of our own (run as root)");
        Self { path }
    }

    /// A new one below this.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    pub fn child(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).expect("a cgroup below our own");
        path
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("{} stays behind: {error}", self.path.display());
        }
    }
}

/// Where the v2 tree is mounted, alone or beside v1 hierarchies.
fn v2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the list of mounts");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let mount = mount.expect("a cgroup v2 tree (mount -t cgroup2 none /sys/fs/cgroup/unified)");
    PathBuf::from(mount.split(' ').nth(1).expect("a mount point"))
}
