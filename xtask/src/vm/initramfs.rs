//! What the virtual machine starts from: busybox, a few modules, the tests and the libraries they are linked with.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernel::Unpacked;
use crate::command;

/// Modules that nodes and pods need, in an order that satisfies their dependencies. What a kernel has built in is not there.
const MODULES: [&str; 13] = [
    "net/llc/llc",
    "net/802/stp",
    "net/bridge/bridge",
    "net/ipv4/inet_diag",
    "net/ipv4/tcp_diag",
    "net/ipv4/udp_diag",
    "net/ipv4/udp_tunnel",
    "net/ipv6/ip6_udp_tunnel",
    "drivers/net/veth",
    "drivers/net/vxlan/vxlan",
    "net/sched/sch_ingress",
    "net/sched/cls_bpf",
    "fs/overlayfs/overlay",
];

/// Programs that busybox stands in for.
const APPLETS: [&str; 6] = ["sh", "mount", "insmod", "ip", "ping", "poweroff"];

/// Makes the archive `directory/initramfs` with these tests in it; where it is.
pub fn build(directory: &Path, kernel: &Unpacked, tests: &[PathBuf]) -> Result<PathBuf> {
    let root = directory.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot clear {}", root.display()))?;
    }
    for name in [
        "bin", "dev", "etc", "lib64", "modules", "proc", "run", "sys", "tests", "tmp",
    ] {
        fs::create_dir_all(root.join(name)).with_context(|| format!("cannot make {name}"))?;
    }
    let busybox = which("busybox")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("cannot link {applet}"))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").context("cannot write etc/passwd")?;
    let init = root.join("init");
    fs::write(&init, include_str!("init.sh")).context("cannot write init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("cannot make init executable")?;

    for (number, module) in MODULES.iter().enumerate() {
        let file = kernel.modules.join(format!("{module}.ko"));
        let packed = kernel.modules.join(format!("{module}.ko.xz"));
        let name = module.rsplit('/').next().unwrap_or(module);
        let target = root.join("modules").join(format!("{number:02}-{name}.ko"));
        if file.exists() {
            copy(&file, &target)?;
        } else if packed.exists() {
            let unpacked = Command::new("xz")
                .arg("-dc")
                .arg(&packed)
                .output()
                .context("cannot run xz")?;
            fs::write(&target, unpacked.stdout).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    for test in tests {
        // libtest's file names end in a hash.
        let name = test.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.rsplit_once('-').map_or(name.as_str(), |(name, _)| name).to_owned();
        command::run(
            Command::new("strip")
                .arg("-o")
                .arg(root.join("tests").join(name))
                .arg(test),
        )?;
    }
    for library in libraries(tests)? {
        copy(
            &library,
            &root.join("lib64").join(library.file_name().unwrap_or_default()),
        )?;
    }
    pack(&root, &directory.join("initramfs"))
}

/// The libraries that programs are linked with, by ldd(1), their loader among them.
fn libraries(programs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let told = command::capture(Command::new("ldd").args(programs))?;
    let mut libraries: Vec<_> = told.lines().filter_map(library).collect();
    libraries.sort_unstable();
    libraries.dedup();
    Ok(libraries)
}

/// The path in a line of ldd(1)'s: `name => path (address)`, or `path (address)` for the loader.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.rsplit_once(" (0x")?.0;
    let path = path.rsplit_once("=> ").map_or(path, |(_, path)| path).trim();
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Packs a directory as the kernel wants it (Documentation/driver-api/early-userspace/buffer-format.rst).
fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let file = fs::File::create(archive).with_context(|| format!("cannot make {}", archive.display()))?;
    let status = Command::new("sh")
        .args(["-c", "find . | busybox cpio -o -H newc"])
        .current_dir(root)
        .stdout(file)
        .stderr(Stdio::null())
        .status()
        .context("cannot run sh")?;
    if !status.success() {
        bail!("packing {} ended with {status}", root.display());
    }
    Ok(archive.to_owned())
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not in PATH"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_ldd() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f77981fe000)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6".into())
        );
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f77988fc000)"),
            Some("/lib64/ld-linux-x86-64.so.2".into())
        );
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f77988fa000)"), None);
        assert_eq!(library("/target/debug/deps/packet_pod:"), None);
    }
}
