//! Making, filling, emptying and removing cgroups. Blocking.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use cgroups_rs::fs::{MaxValue, cpu::CpuController, memory::MemController, pid::PidController};

use super::{
    layout::{Controller, Layout},
    plan::{CPU_PERIOD_US, Resources, Settings, settings},
};

/// How long killed processes get to be gone.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);

/// What can go wrong with cgroups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A limit was asked for that this machine cannot enforce.
    #[error("this machine has no {0} controller, which a limit needs")]
    NoController(Controller),
    /// A directory could not be made.
    #[error("cannot make cgroup {path}", path = path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A controller could not be handed down the tree.
    #[error("cannot enable controllers \"{controllers}\" below cgroup {path}", path = path.display())]
    Enable {
        /// Where.
        path: PathBuf,
        /// Which.
        controllers: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("cannot set {what} of cgroup {path}", path = path.display())]
    Set {
        /// Where.
        path: PathBuf,
        /// Which.
        what: &'static str,
        /// Why not.
        #[source]
        source: cgroups_rs::fs::error::Error,
    },
    /// A file of a cgroup could not be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Killed processes did not go away.
    #[error("processes of cgroup {path} are still there {} s after SIGKILL", DEATH_PATIENCE.as_secs(), path = path.display())]
    Undead {
        /// Where.
        path: PathBuf,
    },
    /// A directory could not be removed.
    #[error("cannot remove cgroup {path}", path = path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The cgroups of one node.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Layout,
    /// Relative to every hierarchy's mount point.
    parent: PathBuf,
}

/// Where the processes of a container go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Files a process writes `0` to, in this order, to move itself in.
    pub procs: Vec<PathBuf>,
    /// File that counts processes killed for memory, where there is a memory controller.
    pub oom: Option<PathBuf>,
}

impl Cgroups {
    /// The node's cgroups at `parent` ("causeway/dev/node-1") below every hierarchy's root. Touches nothing.
    pub fn new(layout: Layout, parent: &str) -> Self {
        Self {
            layout,
            parent: PathBuf::from(parent.trim_matches('/')),
        }
    }

    /// The node's subtree of the v2 tree, where BPF cgroup hooks are attached.
    pub fn v2_path(&self) -> PathBuf {
        self.layout.v2.join(&self.parent)
    }

    /// Makes the node's own groups, with controllers enabled on the way to them.
    pub fn create_node(&self) -> Result<(), CgroupError> {
        self.create(&self.parent)
    }

    /// Makes (or adopts) the group of pod `uid` and bounds it.
    pub fn create_pod(&self, uid: &str, resources: &Resources) -> Result<(), CgroupError> {
        let path = self.pod(uid);
        self.create(&path)?;
        self.apply(&path, &settings(resources))
    }

    /// Makes the group `name` in pod `uid` afresh and bounds it.
    pub fn create_leaf(&self, uid: &str, name: &str, resources: &Resources) -> Result<Leaf, CgroupError> {
        let path = self.pod(uid).join(name);
        // A former attempt's counters would mislead; where it cannot be removed, whoever reads them takes differences.
        for root in self.layout.hierarchies() {
            drop(fs::remove_dir(root.join(&path)));
        }
        self.create(&path)?;
        self.apply(&path, &settings(resources))?;
        let memory = self.layout.find(Controller::Memory);
        if let (Some((root, true)), Some(_)) = (memory, resources.memory_limit_bytes) {
            // A container that lost one of its processes is no longer what it was: all or none.
            let file = root.join(&path).join("memory.oom.group");
            fs::write(&file, "1").map_err(|source| CgroupError::Write { path: file, source })?;
        }
        let procs = self
            .layout
            .hierarchies()
            .iter()
            .map(|root| root.join(&path).join("cgroup.procs"))
            .collect();
        let oom = memory.map(|(root, v2)| {
            root.join(&path)
                .join(if v2 { "memory.events" } else { "memory.oom_control" })
        });
        Ok(Leaf { procs, oom })
    }

    /// Uids of the pods that have a group in any hierarchy.
    pub fn pods(&self) -> BTreeSet<String> {
        let entries = self
            .layout
            .hierarchies()
            .into_iter()
            .filter_map(|root| fs::read_dir(root.join(&self.parent)).ok());
        let names = entries
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| name.strip_prefix("pod-").map(str::to_owned))
            .collect()
    }

    /// Kills every process of pod `uid` with SIGKILL and waits until they are gone. No group: nothing to do.
    pub fn kill_pod(&self, uid: &str) -> Result<(), CgroupError> {
        let group = self.layout.v2.join(self.pod(uid));
        let file = group.join("cgroup.kill");
        match fs::write(&file, "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !group.exists() => return Ok(()),
            result => result.map_err(|source| CgroupError::Write { path: file, source })?,
        }
        let deadline = Instant::now() + DEATH_PATIENCE;
        while populated(&group) {
            if Instant::now() > deadline {
                return Err(CgroupError::Undead { path: group });
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Removes the emptied groups of pod `uid`. Goes on after errors and answers all of them.
    pub fn remove_pod(&self, uid: &str) -> Vec<CgroupError> {
        let path = self.pod(uid);
        self.layout
            .hierarchies()
            .iter()
            .flat_map(|root| remove_tree(&root.join(&path)))
            .collect()
    }

    /// Removes the node's own groups if no pod is left in them; groups on the way to them only when empty.
    pub fn remove_node(&self) {
        for root in self.layout.hierarchies() {
            for path in self.parent.ancestors().filter(|path| !path.as_os_str().is_empty()) {
                if fs::remove_dir(root.join(path)).is_err() {
                    break;
                }
            }
        }
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.parent.join(format!("pod-{uid}"))
    }

    /// Makes `path` in every hierarchy. In the v2 tree controllers are handed down to it from the root.
    fn create(&self, path: &Path) -> Result<(), CgroupError> {
        for root in self.layout.hierarchies() {
            let mut at = root.to_owned();
            for part in path {
                if root == self.layout.v2 {
                    self.enable(&at)?;
                }
                at.push(part);
                match fs::create_dir(&at) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(CgroupError::Create {
                            path: at,
                            source: error,
                        });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Lets the children of v2 group `at` have the controllers.
    fn enable(&self, at: &Path) -> Result<(), CgroupError> {
        let file = at.join("cgroup.subtree_control");
        let present = fs::read_to_string(&file).unwrap_or_default();
        let present: Vec<_> = present.split_whitespace().collect();
        let missing = self.layout.v2_controllers.iter().map(|controller| controller.name());
        let missing: Vec<_> = missing
            .filter(|name| !present.contains(name))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let controllers = missing.join(" ");
        fs::write(&file, &controllers).map_err(|source| CgroupError::Enable {
            path: at.to_owned(),
            controllers,
            source,
        })
    }

    fn apply(&self, path: &Path, settings: &Settings) -> Result<(), CgroupError> {
        let asked = [
            (Controller::Cpu, settings.cpu_quota_us.is_some()),
            (Controller::Memory, settings.memory_max_bytes.is_some()),
            (Controller::Pids, settings.pids_max.is_some()),
        ];
        for (controller, limited) in asked {
            let Some((root, v2)) = self.layout.find(controller) else {
                if limited {
                    return Err(CgroupError::NoController(controller));
                }
                continue;
            };
            let at = root.join(path);
            let set = match controller {
                Controller::Cpu => set_cpu(&at, v2, settings),
                Controller::Memory => set_memory(&at, v2, settings),
                Controller::Pids => set_pids(&at, v2, settings),
                Controller::Cpuacct => Ok(()),
            };
            set.map_err(|(what, source)| CgroupError::Set { path: at, what, source })?;
        }
        Ok(())
    }
}

type SetError = (&'static str, cgroups_rs::fs::error::Error);

fn set_cpu(at: &Path, v2: bool, settings: &Settings) -> Result<(), SetError> {
    let cpu = CpuController::new(at.to_owned(), at.to_owned(), v2);
    if let Some(shares) = if v2 { settings.cpu_weight } else { settings.cpu_shares } {
        cpu.set_shares(shares).map_err(|error| ("the cpu share", error))?;
    }
    if let Some(quota) = settings.cpu_quota_us {
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        cpu.set_cfs_quota_and_period(Some(quota), Some(CPU_PERIOD_US))
            .map_err(|error| ("the cpu limit", error))?;
    }
    Ok(())
}

fn set_memory(at: &Path, v2: bool, settings: &Settings) -> Result<(), SetError> {
    let Some(max) = settings.memory_max_bytes else {
        return Ok(());
    };
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let memory = MemController::new(at.to_owned(), at.to_owned(), v2);
    memory.set_limit(max).map_err(|error| ("the memory limit", error))?;
    // v2 bounds swap by itself, v1 memory and swap together; kernels without swap accounting have neither file.
    let (file, with_swap) = if v2 {
        ("memory.swap.max", 0)
    } else {
        ("memory.memsw.limit_in_bytes", max)
    };
    if at.join(file).exists() {
        memory
            .set_memswap_limit(with_swap)
            .map_err(|error| ("the swap limit", error))?;
    }
    Ok(())
}

fn set_pids(at: &Path, v2: bool, settings: &Settings) -> Result<(), SetError> {
    let Some(max) = settings.pids_max else { return Ok(()) };
    let pids = PidController::new(at.to_owned(), at.to_owned(), v2);
    let max = MaxValue::Value(i64::try_from(max).unwrap_or(i64::MAX));
    pids.set_pid_max(max).map_err(|error| ("the process limit", error))
}

fn populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}

/// Processes killed for memory, told by the text of v2 `memory.events` or v1 `memory.oom_control`.
pub fn oom_kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Removes a group and those in it, deepest first.
fn remove_tree(path: &Path) -> Vec<CgroupError> {
    let children = fs::read_dir(path).into_iter().flatten().flatten();
    let children = children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut errors: Vec<_> = children.flat_map(|entry| remove_tree(&entry.path())).collect();
    let deadline = Instant::now() + DEATH_PATIENCE;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            // The last process may be on its way out.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && errors.is_empty() && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(2));
            }
            Err(source) => {
                errors.push(CgroupError::Remove {
                    path: path.to_owned(),
                    source,
                });
                break;
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A v2 tree of plain files: writing shows what would be set where.
    fn paper_tree(dir: &Path) -> Cgroups {
        let all = [Controller::Cpu, Controller::Memory, Controller::Pids];
        let layout = Layout {
            v2: dir.to_owned(),
            v2_controllers: all.to_vec(),
            v1: Vec::new(),
        };
        let leaf = dir.join("causeway/c/n/pod-u/web");
        fs::create_dir_all(&leaf).unwrap();
        for (file, text) in [("cpu.max", "max 100000\n"), ("memory.swap.max", "max\n")] {
            fs::write(leaf.join(file), text).unwrap();
        }
        Cgroups::new(layout, "/causeway/c/n/")
    }

    #[test]
    fn on_v2_controllers_are_handed_down_to_the_leaf_and_limits_set_there() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = paper_tree(dir.path());
        let resources = Resources {
            cpu_limit_millis: Some(200),
            cpu_request_millis: Some(100),
            memory_limit_bytes: Some(1 << 20),
            pids_limit: Some(9),
        };
        let leaf = cgroups.create_leaf("u", "web", &resources).unwrap();
        for group in ["", "causeway", "causeway/c", "causeway/c/n", "causeway/c/n/pod-u"] {
            let control = fs::read_to_string(dir.path().join(group).join("cgroup.subtree_control"));
            assert_eq!(control.unwrap(), "+cpu +memory +pids", "{group}");
        }
        let at = dir.path().join("causeway/c/n/pod-u/web");
        // Processes live here, so it may not hand down anything itself.
        assert!(!at.join("cgroup.subtree_control").exists());
        let set = [
            ("cpu.max", "20000 100000"),
            ("cpu.weight", "4"),
            ("memory.max", "1048576"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("pids.max", "9"),
        ];
        for (file, text) in set {
            assert_eq!(fs::read_to_string(at.join(file)).unwrap(), text, "{file}");
        }
        assert_eq!(
            leaf,
            Leaf {
                procs: vec![at.join("cgroup.procs")],
                oom: Some(at.join("memory.events"))
            }
        );
        assert_eq!(cgroups.pods(), ["u".to_owned()].into());
    }

    #[test]
    fn a_limit_without_its_controller_is_an_error_and_a_share_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            v2: dir.path().to_owned(),
            ..Layout::default()
        };
        let cgroups = Cgroups::new(layout, "causeway/c/n");
        let shares = Resources {
            cpu_request_millis: Some(100),
            ..Resources::default()
        };
        cgroups.create_pod("u", &shares).unwrap();
        let limit = Resources {
            memory_limit_bytes: Some(1 << 20),
            ..Resources::default()
        };
        let error = cgroups.create_pod("u", &limit).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this machine has no memory controller, which a limit needs"
        );
    }

    #[test]
    fn oom_kills_are_read_from_both_formats() {
        assert_eq!(
            oom_kills("low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 1\n"),
            3
        );
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(oom_kills(""), 0);
    }
}
