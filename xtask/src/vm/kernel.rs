//! Debian's kernels, fetched and unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{command, compile};

/// A long-term kernel that Debian 12 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Debian 12's own: the oldest that Causeway runs on, with clsact and without tcx.
    #[value(name = "6.1")]
    V6_1,
    /// From Debian 12's updates: tcx.
    #[value(name = "6.12")]
    V6_12,
}

/// What a kernel package holds.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// The image to boot.
    pub image: PathBuf,
    /// The directory of its modules, `lib/modules/<release>/kernel`.
    pub modules: PathBuf,
}

impl Kernel {
    /// Its version, as one asks for it.
    pub fn version(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Fetches its package, once, and unpacks it into a directory. `refresh` fetches the package lists, which is tried when
    /// those that are there do not lead to a package.
    pub fn unpack(self, directory: &Path, refresh: impl FnOnce() -> Result<()>) -> Result<Unpacked> {
        let unpacked = directory.join("unpacked");
        if let Ok(found) = find(&unpacked) {
            return Ok(found);
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let archive = if let Ok(archive) = self.download(directory) {
            archive
        } else {
            refresh()?;
            self.download(directory)?
        };
        // Under another name until it is whole: a run that was interrupted here leaves nothing that looks finished.
        let unfinished = directory.join("unpacking");
        for leftover in [&unfinished, &unpacked] {
            if leftover.exists() {
                fs::remove_dir_all(leftover).with_context(|| format!("cannot remove {}", leftover.display()))?;
            }
        }
        command::capture(Command::new("dpkg").arg("-x").args([&archive, &unfinished]))?;
        fs::rename(&unfinished, &unpacked).with_context(|| format!("cannot rename {}", unfinished.display()))?;
        find(&unpacked)
    }

    /// Downloads the newest package; where it is.
    fn download(self, directory: &Path) -> Result<PathBuf> {
        let names = command::capture(Command::new("apt-cache").args(["pkgnames", "linux-image-"]))?;
        let Some(package) = newest(&names, self.version()) else {
            bail!(
                "apt offers no package of a {} kernel for virtual machines",
                self.version()
            );
        };
        for entry in fs::read_dir(directory)?.flatten() {
            if is_archive(&entry.path()) {
                fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        command::capture(
            Command::new("apt-get")
                .args(["download", package])
                .current_dir(directory),
        )
        .with_context(|| format!("cannot download {package}"))?;
        fs::read_dir(directory)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| is_archive(path))
            .with_context(|| format!("{package} was downloaded, but no archive is there"))
    }
}

fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "deb")
}

/// The newest signed package for virtual machines of a version, of a list of all names.
fn newest<'a>(names: &'a str, version: &str) -> Option<&'a str> {
    let of_version = |name: &&str| {
        name.strip_prefix("linux-image-")
            .and_then(|rest| rest.strip_prefix(version))
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|rest| rest.ends_with("-cloud-amd64"))
    };
    // 6.1.0-9 is older than 6.1.0-10.
    let numbers = |name: &&str| -> Vec<u32> {
        name.split(|character: char| !character.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    names.lines().filter(of_version).max_by_key(numbers)
}

fn find(unpacked: &Path) -> Result<Unpacked> {
    let only = |directory: PathBuf, prefix: &str| -> Result<PathBuf> {
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        entries
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .with_context(|| format!("{} has no {prefix}…", directory.display()))
    };
    Ok(Unpacked {
        image: only(unpacked.join("boot"), "vmlinuz-")?,
        modules: only(unpacked.join("lib/modules"), "")?.join("kernel"),
    })
}

/// Where what belongs to a kernel is kept.
pub fn directory(kernel: Kernel) -> PathBuf {
    compile::target_dir().join("vm").join(kernel.version())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_kernel_of_a_version_is_taken() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-10-cloud-amd64\nlinux-image-6.1.0-10-amd64\n\
                     linux-image-6.1.0-11-cloud-amd64-unsigned\nlinux-image-6.12.9+deb12-cloud-amd64\nlinux-image-cloud-amd64\n\
                     linux-image-6.12.12+deb12-cloud-amd64\nlinux-image-6.12.12+deb12-cloud-amd64-dbg";
        assert_eq!(newest(names, "6.1"), Some("linux-image-6.1.0-10-cloud-amd64"));
        assert_eq!(newest(names, "6.12"), Some("linux-image-6.12.12+deb12-cloud-amd64"));
        assert_eq!(newest(names, "5.10"), None);
    }
}
