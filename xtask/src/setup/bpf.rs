//! The toolchain that compiles Rust to BPF: a rustc with `core`'s source beside it, and bpf-linker on the same LLVM.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use causeway_ebpf_build::{Toolchain, find_compiler, find_linker};

use super::apt;
use crate::progress::Progress;
use crate::{command, compile, root};

/// Version of bpf-linker whose features are named `llvm-N`, one per LLVM release.
const LINKER_VERSION: &str = "~0.13";
/// Debian's rustc for building browsers is newer than the ordinary one; both come with matching source packages.
const DEBIAN_SETS: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src"],
    ["rustc", "cargo", "rust-src"],
];

/// What is missing.
#[derive(Debug)]
pub(super) struct Missing {
    compiler: bool,
    linker: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compiler = self
            .compiler
            .then_some("a rustc with the source of `core` (compiles Rust to BPF)");
        let linker = self.linker.then_some("bpf-linker (links it)");
        f.write_str(&compiler.into_iter().chain(linker).collect::<Vec<_>>().join("; "))
    }
}

/// The toolchain that the agent's build will find too.
pub(super) fn find() -> Result<Toolchain, Missing> {
    Toolchain::find().map_err(|_| Missing {
        compiler: find_compiler().is_err(),
        linker: find_linker().is_none(),
    })
}

/// Installs what is missing.
pub(super) fn install(progress: &Progress, lists_are_old: bool) -> Result<Toolchain> {
    let Err(missing) = find() else {
        return Toolchain::find();
    };
    if lists_are_old {
        apt::update(progress)?;
    }
    if missing.compiler {
        install_compiler(progress)?;
    }
    if missing.linker {
        install_linker(progress)?;
    }
    Toolchain::find().context("the BPF toolchain is still incomplete")
}

fn install_compiler(progress: &Progress) -> Result<()> {
    if let Some(set) = DEBIAN_SETS
        .iter()
        .find(|set| set.iter().all(|package| apt::offers(package)))
    {
        return apt::install(progress, set);
    }
    progress.begin("installing: rustup toolchain install nightly --component rust-src");
    let mut rustup = Command::new("rustup");
    rustup.args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]);
    command::streamed(progress, root::as_invoker(&mut rustup))
        .context("apt offers no rustc with its source, and rustup could not fetch one")?;
    progress.done("installed a nightly rustc with its source");
    Ok(())
}

/// bpf-linker reads the LLVM bitcode that rustc writes, so it needs an LLVM of the same release.
fn install_linker(progress: &Progress) -> Result<()> {
    let (rustc, _, version) = find_compiler()?;
    let release = llvm_release(&command::capture(Command::new(&rustc).arg("-vV"))?)
        .with_context(|| format!("{} does not say which LLVM it uses", rustc.display()))?;
    progress.note(&format!(
        "{version} uses LLVM {release}: bpf-linker has to be built on the same."
    ));
    let packages = [format!("llvm-{release}-dev"), format!("libpolly-{release}-dev")];
    let names = packages.each_ref().map(String::as_str);
    if names.iter().any(|package| !apt::offers(package)) {
        bail!(
            "apt offers no {}; install LLVM {release} and bpf-linker by hand",
            names.join(" and ")
        );
    }
    // llvm-sys asks for the libraries LLVM itself was linked with.
    apt::install(
        progress,
        &[names[0], names[1], "g++", "zlib1g-dev", "libzstd-dev", "libxml2-dev"],
    )?;
    let config = format!("llvm-config-{release}");
    let prefix = PathBuf::from(command::capture(Command::new(config).arg("--prefix"))?.trim());
    let feature = format!("llvm-{release}");
    progress.begin("installing: cargo install bpf-linker (about a minute)");
    let mut install = compile::cargo(&[
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--no-default-features",
    ]);
    install
        .args(["--features", &feature])
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", path_with(&prefix.join("bin"))?);
    command::streamed(progress, &mut install)?;
    progress.done("installed bpf-linker");
    Ok(())
}

fn path_with(directory: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths([directory.to_owned()].into_iter().chain(env::split_paths(&path))).context("cannot extend PATH")
}

/// Major version in the line `LLVM version: 22.1.8`.
fn llvm_release(verbose_version: &str) -> Option<u32> {
    let line = verbose_version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_release_is_read_from_rustc() {
        assert_eq!(
            llvm_release("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_release("rustc 1.96.0\n"), None);
    }
}
