//! Which cgroup hierarchies this machine has: pure parsing of `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

/// A controller this project uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Controller {
    /// Shares, weights, quotas.
    Cpu,
    /// v1 only: accounts processor time. v2's `cpu` does both.
    Cpuacct,
    /// Memory limits.
    Memory,
    /// Limits on the number of processes and threads.
    Pids,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cpuacct, Self::Memory, Self::Pids];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

impl std::fmt::Display for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the hierarchies are mounted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Mount point of the v2 tree.
    pub v2: PathBuf,
    /// Controllers that live in the v2 tree.
    pub v2_controllers: Vec<Controller>,
    /// Controllers that live in v1 hierarchies, with their mount points. Two may share one.
    pub v1: Vec<(Controller, PathBuf)>,
}

/// The machine's cgroups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of the kernel could not be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No v2 tree is mounted.
    #[error("no cgroup v2 tree is mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)")]
    NoV2,
}

impl Layout {
    /// Looks at this machine.
    pub fn detect() -> Result<Self, LayoutError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| LayoutError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let mountinfo = read(Path::new("/proc/self/mountinfo"))?;
        let v2 = v2_mount(&mountinfo).ok_or(LayoutError::NoV2)?;
        let controllers = read(&v2.join("cgroup.controllers"))?;
        Ok(Self::parse(&mountinfo, v2, &controllers))
    }

    /// The layout told by the text of `mountinfo` and of the v2 tree's `cgroup.controllers`.
    fn parse(mountinfo: &str, v2: PathBuf, v2_controllers: &str) -> Self {
        let in_v2 = |controller: &Controller| v2_controllers.split_whitespace().any(|name| name == controller.name());
        let (v2_controllers, rest): (Vec<_>, Vec<_>) = Controller::ALL.into_iter().partition(in_v2);
        let mounts: Vec<_> = mountinfo
            .lines()
            .filter_map(Mount::parse)
            .filter(|mount| mount.fs == "cgroup")
            .collect();
        let v1 = rest.into_iter().filter_map(|controller| {
            let mount = mounts
                .iter()
                .find(|mount| mount.options.split(',').any(|name| name == controller.name()))?;
            Some((controller, PathBuf::from(&mount.point)))
        });
        Self {
            v1: v1.collect(),
            v2,
            v2_controllers,
        }
    }

    /// Where `controller` is to be found: the mount point of its hierarchy and whether that is the v2 tree.
    pub fn find(&self, controller: Controller) -> Option<(&Path, bool)> {
        if self.v2_controllers.contains(&controller) {
            return Some((&self.v2, true));
        }
        self.v1
            .iter()
            .find(|(other, _)| *other == controller)
            .map(|(_, mount)| (mount.as_path(), false))
    }

    /// Mount points of every hierarchy that pods are placed in: the v2 tree first, because killing goes by it.
    pub fn hierarchies(&self) -> Vec<&Path> {
        let mut mounts = vec![self.v2.as_path()];
        for (_, mount) in &self.v1 {
            if !mounts.contains(&mount.as_path()) {
                mounts.push(mount);
            }
        }
        mounts
    }
}

fn v2_mount(mountinfo: &str) -> Option<PathBuf> {
    let mounts: Vec<_> = mountinfo
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| mount.fs == "cgroup2")
        .collect();
    // A bind mount of a part of the tree would do only if there is nothing better.
    let whole = mounts.iter().find(|mount| mount.root == "/").or(mounts.first())?;
    Some(PathBuf::from(&whole.point))
}

/// One line of mountinfo (proc(5)).
struct Mount {
    root: String,
    point: String,
    fs: String,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (unescape(before.next()?), unescape(before.next()?));
        let mut after = after.split(' ');
        let (fs, options) = (after.next()?.to_owned(), after.nth(1)?.to_owned());
        Some(Self {
            root,
            point,
            fs,
            options,
        })
    }
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:27 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs rw,mode=755
31 30 0:28 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
32 30 0:29 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,name=systemd
33 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:31 / /sys/fs/cgroup/memory rw shared:13 - cgroup cgroup rw,memory
35 30 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids";

    fn parse(mountinfo: &str, controllers: &str) -> Layout {
        Layout::parse(mountinfo, v2_mount(mountinfo).unwrap(), controllers)
    }

    #[test]
    fn hybrid_machines_have_both() {
        let layout = parse(HYBRID, "");
        assert_eq!(
            layout.find(Controller::Memory),
            Some((Path::new("/sys/fs/cgroup/memory"), false))
        );
        assert_eq!(layout.find(Controller::Cpu), layout.find(Controller::Cpuacct));
        let want = ["unified", "cpu,cpuacct", "memory", "pids"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        assert_eq!(layout.hierarchies(), want);
    }

    #[test]
    fn pure_v2_machines_have_one_tree() {
        let mountinfo = "24 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let layout = parse(mountinfo, "cpuset cpu io memory hugetlb pids");
        assert_eq!(layout.find(Controller::Pids), Some((Path::new("/sys/fs/cgroup"), true)));
        assert_eq!(layout.find(Controller::Cpuacct), None);
        assert_eq!(layout.hierarchies(), [Path::new("/sys/fs/cgroup")]);
    }

    #[test]
    fn a_controller_in_the_v2_tree_is_taken_from_there() {
        let layout = parse(HYBRID, "memory");
        assert_eq!(
            layout.find(Controller::Memory),
            Some((Path::new("/sys/fs/cgroup/unified"), true))
        );
    }

    #[test]
    fn the_whole_tree_is_preferred_and_its_absence_noticed() {
        let part = "31 30 0:28 /x /part\\040of rw - cgroup2 cgroup2 rw";
        assert_eq!(v2_mount(part), Some(PathBuf::from("/part of")));
        assert_eq!(
            v2_mount(&format!("{part}\n{HYBRID}")),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(v2_mount("garbage\n\n1 2 3"), None);
    }
}
