//! Becoming root where a task needs it, and staying the invoking user where it does not.

use std::env;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, geteuid};

use crate::command;

/// Handed through sudo, which replaces `HOME`.
const INVOKER_HOME: &str = "CAUSEWAY_INVOKER_HOME";
/// What cargo and rustup need to know; sudo would drop all of it.
const PASSED_ON: [&str; 9] = [
    "PATH",
    "CARGO",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "CARGO_TARGET_DIR",
    "CARGO_INCREMENTAL",
    "CARGO_TERM_COLOR",
    "TERM",
];

/// Re-executes this command through sudo unless this process is root already.
pub fn ensure(why: &str) -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    if command::capture(Command::new("sudo").arg("--version")).is_err() {
        bail!("this must run as root ({why}), and sudo is not installed: run it from a root shell");
    }
    eprintln!("Not root: running this again through sudo ({why}).");
    let exe = env::current_exe().context("cannot find this executable")?;
    let mut sudo = Command::new("sudo");
    sudo.args(["--", "env"]);
    for name in PASSED_ON {
        if let Some(value) = env::var_os(name) {
            sudo.arg(format!("{name}={}", value.to_string_lossy()));
        }
    }
    if let Some(home) = env::home_dir() {
        sudo.arg(format!("{INVOKER_HOME}={}", home.display()));
        // Where they are unless said otherwise; root's home would be another place.
        for (name, directory) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if env::var_os(name).is_none() && home.join(directory).is_dir() {
                sudo.arg(format!("{name}={}", home.join(directory).display()));
            }
        }
    }
    let error = sudo.arg(exe).args(env::args_os().skip(1)).exec();
    Err(error).context("cannot run sudo")
}

/// User and group that invoked sudo, if that is how this process became root.
fn invoker() -> Option<(u32, u32)> {
    let number = |name| env::var(name).ok()?.parse().ok();
    let (user, group) = (number("SUDO_UID")?, number("SUDO_GID")?);
    (geteuid().is_root() && !Uid::from_raw(user).is_root() && env::var_os(INVOKER_HOME).is_some())
        .then_some((user, group))
}

/// Makes `command` run as the user behind sudo, so that build artefacts belong to that user.
pub fn as_invoker(command: &mut Command) -> &mut Command {
    if let (Some((user, group)), Some(home)) = (invoker(), env::var_os(INVOKER_HOME)) {
        command.uid(user).gid(group).env("HOME", home);
    }
    command
}

/// Gives a file that root wrote to the user behind sudo.
pub fn give_to_invoker(path: &Path) -> Result<()> {
    if let Some((user, group)) = invoker() {
        chown(path, Some(user), Some(group))
            .with_context(|| format!("cannot change the owner of {}", path.display()))?;
    }
    Ok(())
}

/// Makes a directory below `target`, owned by the user behind sudo.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    give_to_invoker(path)
}
