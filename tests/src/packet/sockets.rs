//! Running a test's body in a process of its own inside a cgroup of its own, where the socket hooks can be attached
//! without touching anything else on the machine.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};

use super::Datapath;

/// Tells the process started for a test's body which cgroup it is to enter.
const CGROUP_VARIABLE: &str = "CAUSEWAY_TEST_CGROUP";

/// Runs `body` with freshly loaded programs attached to the cgroup it runs in. `test` is the test's full name: the test
/// binary is started again with only that test.
pub fn with_socket_hooks(test: &str, body: impl FnOnce(&mut Datapath) -> Result<()>) -> Result<()> {
    with_socket_hooks_of(test, Datapath::load, body)
}

/// As [`with_socket_hooks`], with the programs that `load` loads in the process of the test's body.
pub fn with_socket_hooks_of(
    test: &str,
    load: impl FnOnce() -> Result<Datapath>,
    body: impl FnOnce(&mut Datapath) -> Result<()>,
) -> Result<()> {
    if let Some(cgroup) = env::var_os(CGROUP_VARIABLE) {
        let cgroup = PathBuf::from(cgroup);
        let mut datapath = load()?;
        datapath.attach_socket_hooks(&File::open(&cgroup)?)?;
        fs::write(cgroup.join("cgroup.procs"), "0").context("cannot enter the test's cgroup")?;
        return body(&mut datapath);
    }
    let cgroup = Cgroup::new(test)?;
    let output = Command::new(env::current_exe()?)
        .args([test, "--exact", "--nocapture"])
        .env(CGROUP_VARIABLE, &cgroup.0)
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(printed.contains("1 passed"), "no test is called {test}: {printed}");
    Ok(())
}

/// A cgroup that is removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(test: &str) -> Result<Self> {
        let path = v2_mount()?.join(format!("cw-test-{}-{test}", process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("cannot remove cgroup {}: {error}", self.0.display());
        }
    }
}

/// Where the v2 tree is mounted.
fn v2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .map(|path| Path::new(path).to_owned())
        .context("no cgroup v2 tree is mounted")
}
