//! What this machine offers: mounted cgroup hierarchies and the BPF file system.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// Exists while the BPF file system is mounted only because we did it.
const BPFFS_MARKER: &str = "/run/causeway/bpffs-mounted";
/// Programs that a kernel with `CONFIG_BPF_PRELOAD` pins into every new BPF file system (kernel/bpf/inode.c).
const KERNEL_PINS: [&str; 2] = ["maps.debug", "progs.debug"];

/// A line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) target: PathBuf,
    pub(super) kind: String,
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
            let target = left.split(' ').nth(4)?.replace("\\040", " ");
            Some(Mount {
                target: target.into(),
                kind: right.split(' ').next()?.to_owned(),
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

/// Roots of all cgroup hierarchies, v1 and v2.
pub(super) fn cgroup_roots() -> Result<Vec<PathBuf>> {
    let mut roots: Vec<_> = mounts()?
        .into_iter()
        .filter(|mount| mount.kind.starts_with("cgroup"))
        .map(|mount| mount.target)
        .collect();
    roots.sort();
    roots.dedup();
    Ok(roots)
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

/// Mounts the BPF file system unless it is mounted.
pub(super) fn mount_bpffs() -> Result<()> {
    if is_bpffs_mounted()? {
        return Ok(());
    }
    let marker = Path::new(BPFFS_MARKER);
    fs::create_dir_all(marker.parent().unwrap_or(marker)).context("cannot make /run/causeway")?;
    fs::write(marker, "").with_context(|| format!("cannot write {BPFFS_MARKER}"))?;
    mount(Some("bpffs"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount the BPF file system at {BPFFS}"))
}

/// Unmounts the BPF file system if it was mounted here and holds nothing any more.
pub(super) fn unmount_bpffs() -> Result<()> {
    if !Path::new(BPFFS_MARKER).exists() {
        return Ok(());
    }
    if is_bpffs_mounted()? {
        let entries = fs::read_dir(BPFFS).with_context(|| format!("cannot read {BPFFS}"))?;
        if entries
            .flatten()
            .any(|entry| !KERNEL_PINS.iter().any(|name| entry.file_name() == *name))
        {
            return Ok(());
        }
        umount2(BPFFS, MntFlags::empty()).with_context(|| format!("cannot unmount {BPFFS}"))?;
    }
    fs::remove_file(BPFFS_MARKER).with_context(|| format!("cannot remove {BPFFS_MARKER}"))
}

fn is_bpffs_mounted() -> Result<bool> {
    Ok(mounts()?
        .iter()
        .any(|mount| mount.kind == "bpf" && mount.target == Path::new(BPFFS)))
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
                    kind: "ext3".into()
                },
                Mount {
                    target: "/sys/fs/cgroup/unified".into(),
                    kind: "cgroup2".into()
                },
            ]
        );
    }
}
