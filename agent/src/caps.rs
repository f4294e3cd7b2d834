//! What the kernel and the process's rights offer, found out by trying.
//!
//! Versions and configuration files lie (backports, lockdown, containers); doing the thing does not. Everything tried here
//! is undone at once: namespaces and mounts are made in a thread of their own and vanish with it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// One thing the agent needs.
#[derive(Debug)]
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// What was found, or what is missing.
    pub result: Result<String, Missing>,
}

/// A needed thing that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {found}; {remedy}")]
pub struct Missing {
    /// The thing.
    pub what: &'static str,
    /// What happened when it was tried.
    pub found: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Some needed things are not there.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot run pods:{}", Listed(.0))]
pub struct Unfit(pub Vec<Missing>);

/// Below a message, one a line.
struct Listed<'a>(&'a [Missing]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|missing| write!(f, "\n  - {missing}"))
    }
}

/// Tries everything the agent needs.
pub fn check() -> Vec<Check> {
    vec![
        tried(
            RIGHTS,
            rights(),
            "run causeway-agent as root (with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF)",
        ),
        tried(
            "bpf(2)",
            bpf_syscall(),
            "use a kernel built with CONFIG_BPF_SYSCALL, and leave kernel lockdown off",
        ),
        tried("BTF", kernel_btf(), "use a kernel built with CONFIG_DEBUG_INFO_BTF"),
        tried(
            "cgroup v2",
            cgroup_v2(),
            "mount one: mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
        tried(
            "namespaces",
            namespaces(),
            "use a kernel with net, ipc, uts, pid and mount namespaces",
        ),
        tried(
            "overlayfs",
            overlayfs(),
            "use a kernel with CONFIG_OVERLAY_FS, or load the module: modprobe overlay",
        ),
    ]
}

/// Tries everything and reports all that is missing. Without the rights nothing else can be tried, so that is all then.
pub fn require() -> Result<(), Unfit> {
    let mut missing: Vec<_> = check().into_iter().filter_map(|check| check.result.err()).collect();
    if missing.first().is_some_and(|missing| missing.what == RIGHTS) {
        missing.truncate(1);
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Unfit(missing))
    }
}

/// Name of the first check.
const RIGHTS: &str = "rights";

fn tried(name: &'static str, result: Result<String, String>, remedy: &'static str) -> Check {
    Check {
        name,
        result: result.map_err(|found| Missing {
            what: name,
            found,
            remedy,
        }),
    }
}

/// Capabilities (capability.h) without which nothing works.
const NEEDED: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (5, "CAP_KILL"),
    (1, "CAP_DAC_OVERRIDE"),
];

fn rights() -> Result<String, String> {
    if !geteuid().is_root() {
        return Err(format!("running as user {}", geteuid()));
    }
    let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .ok_or("/proc/self/status has no CapEff line")?;
    let lacking: Vec<_> = NEEDED
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if lacking.is_empty() {
        Ok("root".into())
    } else {
        Err(format!("{} missing", lacking.join(", ")))
    }
}

/// `BPF_MAP_CREATE` of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
/// `BPF_MAP_TYPE_ARRAY` of linux/bpf.h.
const BPF_MAP_TYPE_ARRAY: u32 = 2;

fn bpf_syscall() -> Result<String, String> {
    // union bpf_attr begins with map_type, key_size, value_size, max_entries; the kernel wants the rest zero.
    let mut attr = [0_u32; 32];
    attr[..4].copy_from_slice(&[BPF_MAP_TYPE_ARRAY, 4, 8, 1]);
    // SAFETY: `attr` is a live, initialised buffer of the length passed, and BPF_MAP_CREATE only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attr.as_ptr(), size_of_val(&attr)) };
    if fd < 0 {
        return Err(format!("creating a map failed: {}", io::Error::last_os_error()));
    }
    // SAFETY: the kernel just returned this descriptor, nothing else owns it.
    unsafe { libc::close(fd as libc::c_int) };
    Ok("maps can be created".into())
}

fn kernel_btf() -> Result<String, String> {
    let path = "/sys/kernel/btf/vmlinux";
    match fs::metadata(path) {
        Ok(meta) => Ok(format!("{path}, {} KiB", meta.len() / 1024)),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// Where the cgroup v2 hierarchy is mounted, according to `mountinfo` (`proc_pid_mountinfo(5)`).
fn cgroup_v2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next() == Some("cgroup2")).then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

static TRIES: AtomicU32 = AtomicU32::new(0);

fn cgroup_v2() -> Result<String, String> {
    let mountinfo =
        fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let root = cgroup_v2_mount(&mountinfo).ok_or("no cgroup v2 hierarchy is mounted")?;
    let number = TRIES.fetch_add(1, Ordering::Relaxed);
    let probe = root.join(format!("causeway-check-{}-{number}", std::process::id()));
    fs::create_dir(&probe).map_err(|error| format!("creating a cgroup below {} failed: {error}", root.display()))?;
    fs::remove_dir(&probe).map_err(|error| format!("removing the cgroup {} failed: {error}", probe.display()))?;
    Ok(root.display().to_string())
}

/// Runs `attempt` in a thread that dies afterwards, and with it the namespaces the thread moved to.
fn in_thread(attempt: impl FnOnce() -> Result<String, String> + Send) -> Result<String, String> {
    std::thread::scope(|scope| scope.spawn(attempt).join()).map_err(|_| "the attempt panicked".to_owned())?
}

fn namespaces() -> Result<String, String> {
    let all = [
        (CloneFlags::CLONE_NEWNS, "mount"),
        (CloneFlags::CLONE_NEWNET, "net"),
        (CloneFlags::CLONE_NEWIPC, "ipc"),
        (CloneFlags::CLONE_NEWUTS, "uts"),
        (CloneFlags::CLONE_NEWPID, "pid"),
    ];
    in_thread(move || {
        for (flag, name) in all {
            unshare(flag).map_err(|error| format!("a new {name} namespace was refused: {error}"))?;
        }
        Ok(all.map(|(_, name)| name).join(", "))
    })
}

fn overlayfs() -> Result<String, String> {
    in_thread(|| {
        let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} failed: {error}");
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("a new mount namespace", &error))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(|error| failed("making mounts private", &error))?;
        // Any directory will do as the place: the mount is seen by this thread alone.
        let place = Path::new("/tmp");
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), none)
            .map_err(|error| failed("mounting a tmpfs", &error))?;
        mount_overlay(place)?;
        Ok("mountable".into())
    })
}

/// Mounts an overlay of directories made in `place`.
fn mount_overlay(place: &Path) -> Result<(), String> {
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(place.join(name)).map_err(|error| format!("creating a directory failed: {error}"))?;
    }
    let options = format!(
        "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work",
        place.display()
    );
    mount(
        Some("overlay"),
        &place.join("merged"),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|error| format!("mounting an overlay failed: {error}"))
}

/// Tries whether containers' root file systems can be made in a directory: not every file system takes the writable layer of
/// an overlay, another overlay for one does not.
pub fn require_layers(state_dir: &Path) -> Result<(), Missing> {
    let place = state_dir.join(format!("overlay-check-{}", std::process::id()));
    let result = in_thread(|| {
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("a new mount namespace failed: {error}"))?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(|error| format!("making mounts private failed: {error}"))?;
        mount_overlay(&place)?;
        Ok(String::new())
    });
    // Seen from here there is no mount, only the directories; the next start would replace them.
    let _ = fs::remove_dir_all(&place);
    result.map(drop).map_err(|found| Missing {
        what: "the state directory",
        found: format!("{}: {found}", state_dir.display()),
        remedy: "give one on ext4, xfs, btrfs or tmpfs with --state-dir",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_hierarchy_is_found_on_hybrid_and_pure_machines() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_v2_mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let pure = "31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 none rw\n";
        assert_eq!(cgroup_v2_mount(pure), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(
            cgroup_v2_mount("30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"),
            None
        );
    }

    #[test]
    fn this_machine_is_fit_and_trying_leaves_nothing() {
        require().unwrap();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = cgroup_v2_mount(&mountinfo).unwrap();
        let own = format!("causeway-check-{}-", std::process::id());
        let left = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with(&own)));
    }

    #[test]
    fn a_state_directory_on_an_overlay_is_refused() {
        let dir = tempfile::Builder::new().prefix("cw-caps-").tempdir().unwrap();
        require_layers(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "trying leaves nothing");
        let result = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).map_err(|error| error.to_string())?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|error| error.to_string())?;
            mount_overlay(dir.path())?;
            Ok(require_layers(&dir.path().join("merged")).unwrap_err().to_string())
        });
        let text = result.unwrap();
        assert!(text.contains("merged: mounting an overlay failed: EINVAL"), "{text}");
        assert!(text.contains("--state-dir"), "{text}");
    }

    #[test]
    fn every_missing_thing_is_named_with_its_remedy() {
        let missing = |what| Missing {
            what,
            found: "not found".into(),
            remedy: "get it",
        };
        let text = Unfit(vec![missing("BTF"), missing("overlayfs")]).to_string();
        assert_eq!(
            text,
            "this machine cannot run pods:\n  - BTF: not found; get it\n  - overlayfs: not found; get it"
        );
    }
}
