//! Debian's package manager.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::packages::in_path;
use crate::command;
use crate::progress::Progress;

/// Asked by package scripts whether a service may be started (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Packages that bring a service: the package, a program of it, the service.
const SERVICES: [(&str, &str, &str); 3] = [
    ("etcd-server", "etcd", "etcd"),
    ("nginx-light", "nginx", "nginx"),
    ("redis-server", "redis-server", "redis-server"),
];

/// Whether this system has it.
pub(super) fn is_there() -> bool {
    in_path("apt-get")
}

/// Fetches the package lists.
pub(super) fn update(progress: &Progress) -> Result<()> {
    progress.begin("fetching package lists: apt-get update");
    command::streamed(progress, &mut apt_get(&["update"]))?;
    progress.done("package lists are fresh");
    Ok(())
}

/// Installs packages, without starting the services in them: the project starts what it needs itself, under its own
/// names.
pub(super) fn install(progress: &Progress, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    progress.begin(&format!("installing: apt-get install {list}"));
    let quiet = NoServices::begin()?;
    let services: Vec<_> = SERVICES
        .into_iter()
        .filter(|(package, program, _)| packages.contains(package) && !in_path(program))
        .collect();
    let outcome = command::streamed(
        progress,
        apt_get(&["install", "--yes", "--no-install-recommends"]).args(packages),
    );
    drop(quiet);
    outcome?;
    if Path::new("/run/systemd/system").exists() {
        for (_, _, service) in services {
            // Otherwise the packaged service would start with the next boot.
            command::streamed(
                progress,
                Command::new("systemctl").args(["disable", "--quiet", service]),
            )?;
            progress.note(&format!("  (the service {service} of its package stays off)"));
        }
    }
    progress.done(&format!("installed {list}"));
    Ok(())
}

/// Whether a package can be installed.
pub(super) fn offers(package: &str) -> bool {
    command::capture(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|text| text.lines().any(has_candidate))
}

fn has_candidate(line: &str) -> bool {
    line.trim()
        .strip_prefix("Candidate:")
        .is_some_and(|version| version.trim() != "(none)")
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(args)
        .args(["--option", "Dpkg::Use-Pty=0", "--option", "DPkg::Lock::Timeout=120"]);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8");
    command
}

/// While this lives, package scripts start no services. A policy of the machine's own is left alone.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        match fs::OpenOptions::new().write(true).create_new(true).open(POLICY) {
            Ok(mut file) => {
                io::Write::write_all(
                    &mut file,
                    b"#!/bin/sh\n# Written by Causeway's set-up, removed after it.\nexit 101\n",
                )
                .and_then(|()| file.set_permissions(fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {POLICY}"))?;
                Ok(Self { ours: true })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: cannot remove {POLICY}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_known_only_by_name_has_no_candidate() {
        assert!(has_candidate("  Candidate: 1:22.1.8-1~deb12u1"));
        assert!(!has_candidate("  Candidate: (none)"));
        assert!(!has_candidate("  Installed: 1.0"));
    }
}
