//! Builds the three binaries, and the demo program as a static executable.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::{command, root};

/// Optimised or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run.
    Release,
}

impl Profile {
    /// From a `--release` flag.
    pub fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Where the built programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `causeway-control`.
    pub control: PathBuf,
    /// `causeway-agent`.
    pub agent: PathBuf,
    /// `causeway`.
    pub cli: PathBuf,
    /// `causeway-demo`, statically linked.
    pub demo: PathBuf,
}

impl Binaries {
    /// The directory to put into `PATH`.
    pub fn directory(&self) -> &Path {
        self.cli.parent().unwrap_or(Path::new("."))
    }
}

/// The workspace this was built from.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Cargo's output directory.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// Cargo, run in the workspace as the invoking user.
pub fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(workspace());
    root::as_invoker(&mut cargo);
    cargo
}

/// Builds all; cargo shows its own progress.
pub fn build(profile: Profile) -> Result<Binaries> {
    let release: &[&str] = if profile == Profile::Release {
        &["--release"]
    } else {
        &[]
    };
    // Of the whole workspace: dependencies get the features that tests build them with too, and are compiled once.
    let programs = ["causeway-control", "causeway-agent", "causeway"];
    let programs = programs.into_iter().flat_map(|program| ["--bin", program]);
    command::run(cargo(&["build", "--workspace"]).args(programs).args(release))?;
    command::run(
        cargo(&["rustc", "-p", "causeway-demo", "--bin", "causeway-demo"])
            .args(release)
            // For this crate alone: its dependencies are the ones the other binaries use, and the standard library
            // comes ready for both ways of linking.
            .args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"]),
    )?;
    let binaries = binaries(profile);
    let demo = &binaries.demo;
    root::create_dir(demo.parent().unwrap_or(demo))?;
    // Other builds put a dynamically linked file to the same place.
    copy_if_changed(&binaries.directory().join("causeway-demo"), demo)?;
    if needs_interpreter(&fs::read(demo).with_context(|| format!("cannot read {}", demo.display()))?) {
        bail!(
            "{} is not statically linked; is libc6-dev (libc.a) installed?",
            demo.display()
        );
    }
    Ok(binaries)
}

/// What was built before; an error that names what was not.
pub fn built(profile: Profile) -> Result<Binaries> {
    let binaries = binaries(profile);
    for program in [&binaries.control, &binaries.agent, &binaries.cli, &binaries.demo] {
        if !program.is_file() {
            bail!("{} was not built yet: cargo xtask build", program.display());
        }
    }
    Ok(binaries)
}

fn binaries(profile: Profile) -> Binaries {
    let directory = target_dir().join(profile.directory());
    Binaries {
        control: directory.join("causeway-control"),
        agent: directory.join("causeway-agent"),
        cli: directory.join("causeway"),
        demo: target_dir().join("images/causeway-demo"),
    }
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // Into place by a rename: a copy that runs can be replaced but not written to.
    let draft = to.with_extension(format!("{}-{:?}", std::process::id(), thread::current().id()));
    fs::copy(from, &draft).with_context(|| format!("cannot copy {} to {}", from.display(), draft.display()))?;
    root::give_to_invoker(&draft)?;
    fs::rename(&draft, to).with_context(|| format!("cannot move {} to {}", draft.display(), to.display()))
}

/// Whether a 64-bit little-endian ELF file has a `PT_INTERP` segment (elf(5)), which only dynamic linking needs.
fn needs_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        elf.get(at..at + length)?
            .iter()
            .rev()
            .try_fold(0, |value, byte| Some(value << 8 | u64::from(*byte)))
    };
    let (Some(offset), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        return true;
    };
    (0..count).any(|index| number((offset + index * size) as usize, 4) == Some(PT_INTERP.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_linked_dynamically() {
        assert!(needs_interpreter(&fs::read(env::current_exe().unwrap()).unwrap()));
        assert!(needs_interpreter(b"\x7fELF"), "a file cut short proves nothing");
    }
}
