//! What this machine offers: mounted cgroup hierarchies and the BPF file system.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

/// Where the BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// Directory in it that says: an agent mounted it. It goes with the mount.
const BPFFS_MARKER: &str = "causeway-mounted";
/// Programs that a kernel with `CONFIG_BPF_PRELOAD` pins into every new BPF file system (kernel/bpf/inode.c).
const KERNEL_PINS: [&str; 2] = ["maps.debug", "progs.debug"];

/// A line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) target: PathBuf,
    pub(super) kind: String,
    /// Device number of the file system, `major:minor`.
    device: String,
}

/// All mounts of this mount namespace, in mount order.
pub(super) fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse_mounts(&text))
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut fields = left.split(' ').skip(2);
            let (device, target) = (fields.next()?.to_owned(), fields.nth(1)?.replace("\\040", " "));
            let kind = right.split(' ').next()?.to_owned();
            Some(Mount {
                target: target.into(),
                kind,
                device,
            })
        })
        .collect()
}

/// Root of the cgroup v2 hierarchy.
pub fn cgroup2() -> Result<PathBuf> {
    mounts()?
        .into_iter()
        .find(|mount| mount.kind == "cgroup2")
        .map(|mount| mount.target)
        .context(
            "no cgroup v2 hierarchy is mounted, and BPF cgroup programs attach nowhere else; mount it: \
         mount -t cgroup2 none /sys/fs/cgroup/unified",
        )
}

/// Roots of all cgroup hierarchies, v1 and v2, each once however often it is mounted.
pub fn cgroup_roots() -> Result<Vec<PathBuf>> {
    let mut seen = BTreeSet::new();
    let mounts = mounts()?.into_iter().filter(|mount| mount.kind.starts_with("cgroup"));
    Ok(mounts
        .filter(|mount| seen.insert(mount.device.clone()))
        .map(|mount| mount.target)
        .collect())
}

/// Checks what cannot be installed: a kernel with BPF and cgroup v2.
pub(super) fn check() -> Result<()> {
    cgroup2()?;
    // The link between a verifier and names: there only with BPF and BTF compiled in.
    fs::metadata("/sys/kernel/btf/vmlinux").context(
        "this kernel has no BTF at /sys/kernel/btf/vmlinux: it needs CONFIG_BPF_SYSCALL and CONFIG_DEBUG_INFO_BTF",
    )?;
    Ok(())
}

/// Unmounts the BPF file system if an agent mounted it and nothing is left in it.
///
/// Agents do so too, and mount it when it is not: the lock on the directory above orders all of them.
pub(super) fn unmount_bpffs() -> Result<()> {
    let above = Path::new(BPFFS).parent().unwrap_or(Path::new("/"));
    let lock = File::open(above).with_context(|| format!("cannot open {}", above.display()))?;
    lock.lock()
        .with_context(|| format!("cannot lock {}", above.display()))?;
    if !is_bpffs_mounted()? || !Path::new(BPFFS).join(BPFFS_MARKER).is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(BPFFS).with_context(|| format!("cannot read {BPFFS}"))?;
    let expected = |name: &OsStr| name == BPFFS_MARKER || KERNEL_PINS.iter().any(|pin| name == *pin);
    if entries.flatten().any(|entry| !expected(&entry.file_name())) {
        return Ok(());
    }
    umount2(BPFFS, MntFlags::empty()).with_context(|| format!("cannot unmount {BPFFS}"))
}

fn is_bpffs_mounted() -> Result<bool> {
    let here = |mount: &Mount| mount.kind == "bpf" && mount.target == Path::new(BPFFS);
    Ok(mounts()?.iter().any(here))
}

/// Mounts the BPF file system as an agent does.
#[cfg(test)]
pub(super) fn mount_bpffs() -> Result<()> {
    use nix::mount::{MsFlags, mount};

    let lock = File::open("/sys/fs")?;
    lock.lock()?;
    if !is_bpffs_mounted()? {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)?;
        fs::create_dir(Path::new(BPFFS).join(BPFFS_MARKER))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_before_the_separator_are_skipped() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
                    37 35 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            parse_mounts(text),
            [
                Mount {
                    target: "/mnt 2".into(),
                    kind: "ext3".into(),
                    device: "98:0".into()
                },
                Mount {
                    target: "/sys/fs/cgroup/unified".into(),
                    kind: "cgroup2".into(),
                    device: "0:30".into()
                },
            ]
        );
    }
}
