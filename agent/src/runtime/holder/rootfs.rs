//! The file system a container sees. Runs in the forked child, in a mount namespace of its own.
//!
//! Everything that is named by a path inside the image is done after `pivot_root`, when no symbolic link of the image can lead
//! out of it; what comes from the node is opened before, as detached mounts.
//!
//! There is no device cgroup (v1 has one, v2 would need a BPF program): instead every mount a container can write to is `nodev`, so
//! that a device node it makes cannot be opened; the standard devices are bind mounts of single nodes.

use std::{
    ffi::CString,
    fs::{self, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, mknod},
};

use super::child::{Failure, Step};
use crate::runtime::{files::AttemptDir, spec::ContainerSpec};

const NOSUID_NOEXEC_NODEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);

/// Device nodes every container has: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What tells about or harms the node: hidden.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// And what may only be read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A mount taken from the node, to be attached inside.
struct Attachment {
    source: OwnedFd,
    destination: PathBuf,
    directory: bool,
}

/// Where the pod's own files are, relative to the working directory (the sandbox's directory).
const POD_FILES: [(&str, &str); 3] = [
    ("etc/hostname", "/etc/hostname"),
    ("etc/hosts", "/etc/hosts"),
    ("etc/resolv.conf", "/etc/resolv.conf"),
];

/// Turns this process's mount namespace into the container's. `cgroup_v2` says that all controllers are in the v2 tree.
/// Called with the sandbox's directory as working directory; leaves `/`.
pub(super) fn enter(spec: &ContainerSpec, dir: &AttemptDir, cgroup_v2: bool) -> Result<(), Failure> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .step("make mounts private")?;
    let privileged = spec.security.privileged;
    let shm = Attachment {
        source: open_tree(Path::new("shm"), false)?,
        destination: "/dev/shm".into(),
        directory: true,
    };
    let attachments = attachments(spec)?;
    let devices = if privileged { all_devices() } else { Vec::new() };
    overlay(spec, dir, privileged)?;
    pivot(&dir.merged())?;

    for top in ["/proc", "/sys", "/dev"] {
        own_directory(Path::new(top))?;
    }
    mount(Some("proc"), "/proc", Some("proc"), NOSUID_NOEXEC_NODEV, None::<&str>).step("mount /proc")?;
    mount_sys(privileged, cgroup_v2)?;
    mount_dev(privileged, &devices)?;
    for attachment in std::iter::once(&shm).chain(&attachments) {
        attach(attachment)?;
    }
    if !privileged {
        MASKED.iter().try_for_each(|path| mask(Path::new(path)))?;
        READ_ONLY.iter().try_for_each(|path| read_only(Path::new(path)))?;
    }
    Ok(())
}

/// Makes the root read-only: the last thing done to it.
pub(super) fn seal(spec: &ContainerSpec) -> Result<(), Failure> {
    if !spec.security.read_only_root {
        return Ok(());
    }
    let nodev = if spec.security.privileged {
        MsFlags::empty()
    } else {
        MsFlags::MS_NODEV
    };
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | nodev;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).step("make the root read-only")
}

fn attachments(spec: &ContainerSpec) -> Result<Vec<Attachment>, Failure> {
    let pod = POD_FILES
        .iter()
        .map(|(source, destination)| (Path::new(source), Path::new(destination), false));
    let own = spec
        .mounts
        .iter()
        .map(|mount| (mount.source.as_path(), mount.destination.as_path(), mount.read_only));
    pod.chain(own)
        .map(|(source, destination, read_only)| {
            let directory = fs::metadata(source)
                .step(format!("mount {}", source.display()))?
                .is_dir();
            let read_only = read_only || (spec.security.read_only_root && !source.is_absolute());
            Ok(Attachment {
                source: open_tree(source, read_only)?,
                destination: destination.to_owned(),
                directory,
            })
        })
        .collect()
}

/// A detached copy of the mount at `path`, without devices.
fn open_tree(path: &Path, read_only: bool) -> Result<OwnedFd, Failure> {
    let tree = clone_tree(path).step(format!("mount {}", path.display()))?;
    let read_only = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    set_attributes(&tree, libc::MOUNT_ATTR_NODEV | read_only)
        .step(format!("restrict the mount of {}", path.display()))?;
    Ok(tree)
}

pub(super) fn clone_tree(path: &Path) -> nix::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| nix::Error::EINVAL)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.unsigned_abs();
    // SAFETY: `path` is a NUL-terminated string that lives through the call, which touches no other memory of ours.
    let fd = nix::Error::result(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Adds mount attributes (`MOUNT_ATTR_…`) to a detached tree.
pub(super) fn set_attributes(tree: &OwnedFd, set: u64) -> nix::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the empty path is a NUL-terminated string, `attributes` is a struct mount_attr of the size told; both live through
    // the call, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    nix::Error::result(result).map(drop)
}

/// Attaches a detached tree at `destination`, which exists.
fn move_mount(tree: &OwnedFd, destination: &Path) -> nix::Result<()> {
    /// `MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS` (linux/mount.h).
    const FLAGS: u32 = 0x4 | 0x10;
    let path = CString::new(destination.as_os_str().as_bytes()).map_err(|_| nix::Error::EINVAL)?;
    // SAFETY: both paths are NUL-terminated strings that live through the call, which touches no other memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            FLAGS,
        )
    };
    nix::Error::result(result).map(drop)
}

/// Mounts the image's layers with a writable one on top. Layers are named relative to their base, because the kernel takes no
/// more than a page of options.
fn overlay(spec: &ContainerSpec, dir: &AttemptDir, privileged: bool) -> Result<(), Failure> {
    let here = std::env::current_dir().step("find the sandbox's directory")?;
    let at = |path: PathBuf| here.join(path);
    let (upper, work, merged) = (at(dir.upper()), at(dir.work()), at(dir.merged()));
    let lower = spec.rootfs.layers.join(":");
    std::env::set_current_dir(&spec.rootfs.base).step(format!("open image {}", spec.image))?;
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let flags = if privileged {
        MsFlags::empty()
    } else {
        MsFlags::MS_NODEV
    };
    mount(Some("overlay"), &merged, Some("overlay"), flags, Some(options.as_str()))
        .step(format!("mount the layers of image {}", spec.image))?;
    std::env::set_current_dir(&here).step("go back to the sandbox's directory")
}

fn pivot(root: &Path) -> Result<(), Failure> {
    std::env::set_current_dir(root).step("enter the root")?;
    // Old and new root stacked on each other, the old one on top: no directory is needed for it (pivot_root(2), NOTES).
    nix::unistd::pivot_root(".", ".").step("change the root")?;
    umount2(".", MntFlags::MNT_DETACH).step("leave the old root")?;
    std::env::set_current_dir("/").step("enter the root")
}

/// Makes sure that `path` is a directory of the image's own and no link, so that what is mounted there can be named by it.
fn own_directory(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::new(format!("use {}", path.display()), nix::Error::ENOTDIR)),
        Err(_) => fs::create_dir(path).step(format!("make {}", path.display())),
    }
}

fn mount_sys(privileged: bool, cgroup_v2: bool) -> Result<(), Failure> {
    let read_only = if privileged {
        MsFlags::empty()
    } else {
        MsFlags::MS_RDONLY
    };
    let flags = NOSUID_NOEXEC_NODEV | read_only;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>).step("mount /sys")?;
    if cgroup_v2 {
        // In the container's cgroup namespace: it sees its own group as the root.
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, None::<&str>).step("mount /sys/fs/cgroup")?;
    }
    Ok(())
}

fn mount_dev(privileged: bool, devices: &[(PathBuf, u32, u64)]) -> Result<(), Failure> {
    let tmpfs = |flags| {
        let options = Some("mode=755,size=65536k");
        mount(
            Some("tmpfs"),
            "/dev",
            Some("tmpfs"),
            MsFlags::MS_NOSUID | flags,
            options,
        )
        .step("mount /dev")
    };
    // The standard nodes live in a file system of their own that nothing but them is visible of.
    tmpfs(MsFlags::empty())?;
    let at = |name: &str| Path::new("/dev").join(name);
    for (name, major, minor) in DEVICES {
        let device = nix::sys::stat::makedev(u64::from(major), u64::from(minor));
        make_device(&at(name), 0o020_666, device)?;
    }
    if privileged {
        for (path, mode, device) in devices.iter().filter(|(path, ..)| !path.exists()) {
            path.parent()
                .map(fs::create_dir_all)
                .transpose()
                .step("make a directory in /dev")?;
            make_device(path, *mode, *device)?;
        }
    } else {
        let nodes: Vec<_> = DEVICES
            .iter()
            .map(|(name, ..)| Ok((at(name), clone_tree(&at(name)).step(format!("clone /dev/{name}"))?)))
            .collect::<Result<_, Failure>>()?;
        umount2("/dev", MntFlags::MNT_DETACH).step("replace /dev")?;
        tmpfs(MsFlags::MS_NODEV)?;
        for (path, node) in nodes {
            touch(&path).step(format!("make {}", path.display()))?;
            move_mount(&node, &path).step(format!("mount {}", path.display()))?;
        }
    }
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(at(name))
            .or_else(ignore_existing)
            .step(format!("make /dev/{name}"))?;
    }
    let options = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), "/dev/pts", Some("devpts"), flags, options).step("mount /dev/pts")?;
    mount(
        Some("mqueue"),
        "/dev/mqueue",
        Some("mqueue"),
        NOSUID_NOEXEC_NODEV,
        None::<&str>,
    )
    .step("mount /dev/mqueue")?;
    for (target, link) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, at(link))
            .or_else(ignore_existing)
            .step(format!("make /dev/{link}"))?;
    }
    Ok(())
}

fn make_device(path: &Path, mode: u32, device: u64) -> Result<(), Failure> {
    let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
    mknod(path, kind, Mode::from_bits_truncate(mode & 0o7777), device).step(format!("make {}", path.display()))?;
    // mknod is subject to the umask.
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).step(format!("make {}", path.display()))
}

/// Every device node of the node's `/dev`: path, mode, number. Devices that cannot be looked at are left out.
fn all_devices() -> Vec<(PathBuf, u32, u64)> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let kind = metadata.file_type();
            let own = ["/dev/pts", "/dev/shm", "/dev/mqueue"]
                .iter()
                .any(|own| entry.path() == Path::new(own));
            if kind.is_dir() && !own {
                directories.push(entry.path());
            } else if kind.is_block_device() || kind.is_char_device() {
                found.push((entry.path(), metadata.mode(), metadata.rdev()));
            }
        }
    }
    found
}

fn attach(attachment: &Attachment) -> Result<(), Failure> {
    let Attachment {
        source,
        destination,
        directory,
    } = attachment;
    let name = || format!("make mount point {}", destination.display());
    if *directory {
        fs::create_dir_all(destination).step(name())?;
    } else {
        destination.parent().map(fs::create_dir_all).transpose().step(name())?;
        touch(destination)
            .or_else(|_| {
                // A link to nowhere.
                fs::remove_file(destination).and_then(|()| touch(destination))
            })
            .step(name())?;
    }
    move_mount(source, destination).step(format!("mount {}", destination.display()))
}

/// Makes an empty file unless there is something already.
fn touch(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o644)
        .open(path)
        .map(drop)
}

fn ignore_existing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists {
        Ok(())
    } else {
        Err(error)
    }
}

/// Hides a file under `/dev/null`, a directory under an empty one.
fn mask(path: &Path) -> Result<(), Failure> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    let name = || format!("hide {}", path.display());
    if metadata.is_dir() {
        let flags = NOSUID_NOEXEC_NODEV | MsFlags::MS_RDONLY;
        mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("size=0,nr_inodes=1")).step(name())
    } else {
        mount(Some("/dev/null"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).step(name())
    }
}

fn read_only(path: &Path) -> Result<(), Failure> {
    if !path.exists() {
        return Ok(());
    }
    let name = || format!("make {} read-only", path.display());
    mount(
        Some(path),
        path,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .step(name())?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | NOSUID_NOEXEC_NODEV;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).step(name())
}
