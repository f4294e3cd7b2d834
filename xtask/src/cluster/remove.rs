//! Removes every trace of a cluster by its name alone, from any state in between.
//!
//! Goes on after an error and reports all of them in the end; may be run again and again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::spec::{DEV, bpffs_dir, cgroup, owns_netns, run_dir, state_dir};
use super::{host, process};
use crate::progress::Progress;
use crate::{netns, wait};

/// Bound for killed processes to be gone, and for the kernel to let go of what they used.
pub(super) const GONE: Duration = Duration::from_secs(10);

/// What was found, and what could not be removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Kinds of things removed, with their number.
    pub removed: Vec<String>,
    /// What is left, and why.
    pub left: Vec<String>,
}

impl Report {
    fn count(&mut self, number: usize, what: &str) {
        if number > 0 {
            let plural = match (number, what.ends_with("ss")) {
                (1, _) => "",
                (_, true) => "es",
                (_, false) => "s",
            };
            self.removed.push(format!("{number} {what}{plural}"));
        }
    }

    fn check(&mut self, what: impl std::fmt::Display, result: Result<(), impl std::fmt::Display>) {
        if let Err(error) = result {
            self.left.push(format!("{what}: {error}"));
        }
    }
}

/// Whether a cluster's name can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nothing of that name is here.
    Free,
    /// Some of its processes run; their names and ids.
    Running(Vec<String>),
    /// Only remains of an earlier run are here.
    Remains,
}

/// Looks for a cluster.
pub fn claim(cluster: &str) -> Claim {
    let running: Vec<_> = pid_files(cluster)
        .iter()
        .filter_map(|file| {
            let id = process::recorded(file)?;
            Some(format!("{} (process {id})", file.file_stem()?.to_string_lossy()))
        })
        .collect();
    if !running.is_empty() {
        Claim::Running(running)
    } else if run_dir(cluster).exists() || state_dir(cluster).exists() || bpffs_dir(cluster).exists() {
        Claim::Remains
    } else {
        Claim::Free
    }
}

/// An error unless the name is free.
pub fn check_free(cluster: &str) -> Result<()> {
    match claim(cluster) {
        Claim::Free => Ok(()),
        Claim::Running(processes) => {
            bail!(
                "cluster {cluster} is up already: {}; remove it first: {}",
                processes.join(", "),
                down_command(cluster)
            )
        }
        Claim::Remains => {
            bail!(
                "remains of an earlier cluster {cluster} are here; remove them: {}",
                down_command(cluster)
            )
        }
    }
}

/// What to type to remove a cluster.
pub fn down_command(cluster: &str) -> String {
    if cluster == DEV {
        "cargo xtask down".to_owned()
    } else {
        format!("cargo xtask down --cluster {cluster}")
    }
}

/// Removes the cluster and says so.
pub fn run(progress: &Progress, cluster: &str) -> ExitCode {
    progress.begin(&format!("removing cluster {cluster}"));
    let report = remove(cluster);
    if report.left.is_empty() {
        let removed = if report.removed.is_empty() {
            "nothing was there".to_owned()
        } else {
            report.removed.join(", ")
        };
        progress.done(&format!("cluster {cluster} removed: {removed}"));
        return ExitCode::SUCCESS;
    }
    progress.failed();
    progress.note(&format!("could not remove:\n  {}", report.left.join("\n  ")));
    ExitCode::FAILURE
}

/// Removes the cluster.
pub fn remove(cluster: &str) -> Report {
    let mut report = Report::default();
    kill_all(cluster, &mut report);
    unmount_all(cluster, &mut report);
    remove_namespaces(cluster, &mut report);
    remove_tree(&bpffs_dir(cluster), "pin directory", &mut report);
    remove_cgroups(cluster, &mut report);
    remove_tree(&state_dir(cluster), "state directory", &mut report);
    remove_tree(&run_dir(cluster), "socket directory", &mut report);
    for parent in [bpffs_dir(cluster), state_dir(cluster)]
        .iter()
        .filter_map(|path| path.parent())
    {
        remove_if_empty(parent, &mut report);
    }
    report.check(
        "/sys/fs/bpf",
        host::unmount_bpffs().map_err(|error| format!("{error:#}")),
    );
    if let Some(parent) = run_dir(cluster).parent() {
        remove_if_empty(parent, &mut report);
    }
    report
}

/// Directories that belong to a cluster each, of all clusters that are on this machine.
fn directories() -> impl Iterator<Item = PathBuf> {
    let parents = ["/var/lib/causeway", "/run/causeway", "/sys/fs/bpf/causeway"].map(PathBuf::from);
    let roots = host::cgroup_roots().unwrap_or_default();
    let parents = parents
        .into_iter()
        .chain(roots.into_iter().map(|root| root.join("causeway")));
    parents
        .flat_map(|parent| entries(&parent))
        // Beside cgroups are the kernel's files about them.
        .filter(|entry| entry.is_dir())
}

/// Names of all clusters that are on this machine, or of which something is.
pub(super) fn clusters() -> BTreeSet<String> {
    directories()
        .filter_map(|directory| Some(directory.file_name()?.to_string_lossy().into_owned()))
        .collect()
}

/// Names of everything of any cluster that is on this machine, for leak checks.
pub fn traces() -> BTreeSet<String> {
    let mut traces: BTreeSet<String> = directories().map(|entry| entry.display().to_string()).collect();
    let ours = |name: &str| name.starts_with("causeway") || name.starts_with("cw");
    for parent in [netns::DIRECTORY, "/sys/class/net", "/sys/fs/bpf"] {
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| ours(&name.to_string_lossy()));
        traces.extend(
            entries(Path::new(parent))
                .into_iter()
                .filter(named)
                .map(|path| path.display().to_string()),
        );
    }
    traces
}

fn pid_files(cluster: &str) -> Vec<PathBuf> {
    let mut files = entries(&run_dir(cluster));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pid"));
    files
}

/// The cluster's processes: those recorded and everything in its cgroups.
fn processes(cluster: &str) -> BTreeSet<u32> {
    let mut ids: BTreeSet<u32> = pid_files(cluster)
        .iter()
        .filter_map(|file| process::recorded(file))
        .collect();
    for group in cgroups(cluster) {
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        ids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    ids.retain(|id| *id != std::process::id() && process::is_alive(*id));
    ids
}

fn kill_all(cluster: &str, report: &mut Report) {
    let mut killed = BTreeSet::new();
    // Again and again: a process may have forked, and a frozen one dies only when thawed.
    let gone = wait::until("processes to be gone", GONE, || {
        let alive = processes(cluster);
        for id in &alive {
            // Its absence is what is wanted.
            let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
            killed.insert(*id);
        }
        if !alive.is_empty() {
            thaw(cluster);
        }
        if alive.is_empty() {
            Ok(())
        } else {
            Err(format!("{alive:?} are still there"))
        }
    });
    report.count(killed.len(), "process");
    report.check("processes", gone);
}

fn thaw(cluster: &str) {
    for group in cgroups(cluster) {
        for (file, value) in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
            let file = group.join(file);
            if file.exists() {
                // Not frozen, or gone meanwhile: both fine.
                let _ = fs::write(file, value);
            }
        }
    }
}

fn unmount_all(cluster: &str, report: &mut Report) {
    let mounts = match host::mounts() {
        Ok(mounts) => mounts,
        Err(error) => return report.left.push(format!("mounts: {error:#}")),
    };
    let ours = [state_dir(cluster), run_dir(cluster)];
    let mut count = 0;
    for mount in mounts
        .iter()
        .rev()
        .filter(|mount| ours.iter().any(|dir| mount.target.starts_with(dir)))
    {
        count += 1;
        report.check(mount.target.display(), umount2(&mount.target, MntFlags::MNT_DETACH));
    }
    report.count(count, "mount");
}

fn remove_namespaces(cluster: &str, report: &mut Report) {
    let mut count = 0;
    for path in entries(Path::new(netns::DIRECTORY)) {
        if !path
            .file_name()
            .is_some_and(|name| owns_netns(cluster, &name.to_string_lossy()))
        {
            continue;
        }
        count += 1;
        // Not a mount point when its creation was cut short: then the file is all there is.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        report.check(path.display(), fs::remove_file(&path));
    }
    report.count(count, "network namespace");
}

/// A cluster's cgroups in all hierarchies, children before parents.
fn cgroups(cluster: &str) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for root in host::cgroup_roots().unwrap_or_default() {
        descend(&root.join(cgroup(cluster)), &mut groups);
    }
    groups
}

/// A cgroup and those below it, children before parents.
pub(super) fn descend(group: &Path, groups: &mut Vec<PathBuf>) {
    if !group.is_dir() {
        return;
    }
    for entry in entries(group).iter().filter(|entry| entry.is_dir()) {
        descend(entry, groups);
    }
    groups.push(group.to_owned());
}

fn remove_cgroups(cluster: &str, report: &mut Report) {
    let found = cgroups(cluster);
    for group in &found {
        // The kernel lets go of a dead process's cgroup a little after the process is gone.
        let removed = wait::until("cgroup to be removed", GONE, || match fs::remove_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        });
        report.check(group.display(), removed.map_err(|error| error.missing));
    }
    report.count(found.len(), "cgroup");
    for root in host::cgroup_roots().unwrap_or_default() {
        remove_if_empty(&root.join("causeway"), report);
    }
}

fn remove_tree(path: &Path, what: &str, report: &mut Report) {
    match fs::remove_dir_all(path) {
        Ok(()) => report.count(1, what),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => report.left.push(format!("{}: {error}", path.display())),
    }
}

/// Removes a directory shared with other clusters once nothing of theirs is in it.
fn remove_if_empty(path: &Path, report: &mut Report) {
    let in_use = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
        )
    };
    match fs::remove_dir(path) {
        Err(error) if !in_use(&error) => report.left.push(format!("{}: {error}", path.display())),
        _ => {}
    }
}

/// Entries of a directory; none if it is not there.
pub(super) fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nix::mount::{MsFlags, mount};

    use super::*;
    use crate::cluster::process::{Launch, Process};
    use crate::cluster::{Spec, Store, topology};

    /// Half a cluster, as a crash in the middle of `up` leaves it: links, a process in a cgroup, a mount, a pin directory.
    fn half_a_cluster(spec: &Spec) -> Process {
        let node = &spec.node_names()[0];
        let system = host::cgroup2().unwrap().join(spec.system_cgroup());
        let mounted = spec.node_state_dir(node).join("pods/1/root");
        host::mount_bpffs().unwrap();
        for directory in [&spec.run_dir(), &spec.logs_dir(), &system, &mounted, &spec.bpffs(node)] {
            fs::create_dir_all(directory).unwrap();
        }
        topology::create(spec).unwrap();
        mount(Some("cw"), &mounted, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        Process::start(Launch {
            name: node.clone(),
            // Ignores what is milder than SIGKILL, and has a child that only its cgroup tells.
            program: PathBuf::from("sh"),
            args: vec![
                "-c".to_owned(),
                "trap '' TERM INT; sleep 1000 & wait; sleep 1000".to_owned(),
            ],
            netns: spec.netns(node),
            cgroup: system,
            log: spec.logs_dir().join("node-1.log"),
            pid_file: spec.run_dir().join("node-1.pid"),
        })
        .unwrap()
    }

    #[test]
    fn half_a_cluster_goes_without_a_trace_and_twice_is_no_error() {
        let name = format!("t{}xr", std::process::id());
        let mut spec = Spec::new(&name, 1, Store::Embedded).unwrap();
        spec.underlay = [172, 31, 255];
        assert_eq!(claim(&name), Claim::Free);

        let mut process = half_a_cluster(&spec);
        wait::until("the child of the process", GONE, || {
            let ids = processes(&name);
            if ids.len() == 2 {
                Ok(())
            } else {
                Err(format!("{ids:?}"))
            }
        })
        .unwrap();
        assert!(matches!(claim(&name), Claim::Running(names) if names.len() == 1 && names[0].starts_with("node-1")));
        assert!(
            check_free(&name)
                .unwrap_err()
                .to_string()
                .contains(&format!("down --cluster {name}"))
        );

        let report = remove(&name);
        process.wait().unwrap();
        assert_eq!(report.left, Vec::<String>::new());
        for part in [
            "2 processes",
            "1 mount",
            "2 network namespaces",
            "2 cgroups",
            "1 pin directory",
        ] {
            assert!(
                report.removed.iter().any(|removed| removed == part),
                "{part} not in {:?}",
                report.removed
            );
        }
        assert!(traces().iter().all(|trace| !trace.contains(&name)), "{:?}", traces());
        assert_eq!(claim(&name), Claim::Free);
        assert_eq!(remove(&name), Report::default());
    }
}
