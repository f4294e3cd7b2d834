//! Which rustc, cargo and bpf-linker to use.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

/// The target the object is compiled for: little-endian BPF.
pub const TARGET: &str = "bpfel-unknown-none";

/// Names a rustc to use instead of searching for one.
pub const RUSTC_VARIABLE: &str = "CAUSEWAY_BPF_RUSTC";
/// Names the cargo that belongs to it.
pub const CARGO_VARIABLE: &str = "CAUSEWAY_BPF_CARGO";

/// A rustc and a cargo that can build `core` for BPF, and the linker.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// The cargo of the same release.
    pub cargo: PathBuf,
    /// `bpf-linker`.
    pub linker: PathBuf,
    /// What `rustc --version` says.
    pub version: String,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}), linker {}",
            self.version,
            self.rustc.display(),
            self.linker.display()
        )
    }
}

impl Toolchain {
    /// Finds a toolchain. In this order: what `CAUSEWAY_BPF_RUSTC` and `CAUSEWAY_BPF_CARGO` name, rustup's nightlies and
    /// then its other toolchains, the directories of `PATH`.
    ///
    /// # Errors
    ///
    /// Names everything that is missing, why each candidate was turned down, and the command that installs it.
    pub fn find() -> Result<Self> {
        let linker = find_linker();
        let compiler = find_compiler();
        match (compiler, linker) {
            (Ok((rustc, cargo, version)), Some(linker)) => Ok(Self {
                rustc,
                cargo,
                linker,
                version,
            }),
            (compiler, linker) => {
                let mut missing = Vec::new();
                if let Err(error) = compiler {
                    missing.push(format!("{error:#}"));
                }
                if linker.is_none() {
                    missing.push("bpf-linker: neither in PATH nor in cargo's bin directory".to_owned());
                }
                bail!(
                    "the BPF toolchain is incomplete; `cargo xtask setup` installs it\n{}",
                    missing.join("\n")
                )
            }
        }
    }
}

/// Finds `bpf-linker`: in `PATH`, then in cargo's bin directory.
pub fn find_linker() -> Option<PathBuf> {
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .map(|home| home.join("bin"));
    path_directories()
        .into_iter()
        .chain(cargo_bin)
        .map(|directory| directory.join("bpf-linker"))
        .find(|path| {
            Command::new(path)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        })
}

/// Finds a rustc that can build `core` for BPF, and its cargo; also returns its version.
///
/// # Errors
///
/// Says why each candidate was turned down.
pub fn find_compiler() -> Result<(PathBuf, PathBuf, String)> {
    if let Some(rustc) = env::var_os(RUSTC_VARIABLE).map(PathBuf::from) {
        let cargo = env::var_os(CARGO_VARIABLE).map_or_else(|| rustc.with_file_name("cargo"), PathBuf::from);
        let version = examine(&rustc, &cargo).with_context(|| format!("{RUSTC_VARIABLE}={}", rustc.display()))?;
        return Ok((rustc, cargo, version));
    }
    let mut seen = BTreeSet::new();
    let mut reasons = Vec::new();
    for rustc in rustup_compilers()
        .into_iter()
        .chain(path_directories().into_iter().map(|d| d.join("rustc")))
    {
        if !rustc.is_file() || !seen.insert(rustc.canonicalize().unwrap_or_else(|_| rustc.clone())) {
            continue;
        }
        let cargo = rustc.with_file_name("cargo");
        match examine(&rustc, &cargo) {
            Ok(version) => return Ok((rustc, cargo, version)),
            Err(error) => reasons.push(format!("  {}: {error:#}", rustc.display())),
        }
    }
    if reasons.is_empty() {
        reasons.push("  no rustc found by rustup or in PATH".to_owned());
    }
    Err(anyhow!("rustc with the source of `core`:\n{}", reasons.join("\n")))
}

/// Asks a candidate whether it can do the work; returns its version.
fn examine(rustc: &Path, cargo: &Path) -> Result<String> {
    let version = output(rustc, &["--version"])?;
    let cargo_version = output(cargo, &["--version"]).context("no cargo of its own")?;
    let release = |text: &str| text.split_whitespace().nth(1).unwrap_or_default().to_owned();
    ensure!(
        release(&version) == release(&cargo_version),
        "its cargo is {} and itself {}",
        release(&cargo_version),
        release(&version)
    );
    output(rustc, &["--print", "cfg", "--target", TARGET]).context("no BPF target")?;
    let sysroot = PathBuf::from(output(rustc, &["--print", "sysroot"])?);
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    ensure!(
        core.is_file(),
        "the source of `core` is not installed (rustup component `rust-src`)"
    );
    Ok(version)
}

/// The compilers of rustup's toolchains, nightlies first.
fn rustup_compilers() -> Vec<PathBuf> {
    let Ok(list) = output(Path::new("rustup"), &["toolchain", "list"]) else {
        return Vec::new();
    };
    let mut names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names
        .into_iter()
        .filter_map(|name| output(Path::new("rustup"), &["which", "--toolchain", name, "rustc"]).ok())
        .map(PathBuf::from)
        .collect()
}

fn path_directories() -> Vec<PathBuf> {
    env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default()
}

/// Runs a program of a toolchain in a clean environment; returns what it prints, trimmed.
fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    scrub(&mut command);
    let output = command
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} {} failed: {}",
        program.display(),
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Takes away what an outer cargo tells its build scripts, which would bend an inner cargo or rustc to the outer
/// toolchain, profile or target, and allows unstable options.
pub fn scrub(command: &mut Command) {
    const KEEP: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_NET_OFFLINE",
        "CARGO_MAKEFLAGS",
        "CARGO_HTTP_CAINFO",
        "CARGO_HTTP_PROXY",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let cargo = (text.starts_with("CARGO") && !text.starts_with("CARGO_REGISTRIES_") && !KEEP.contains(&text))
            || text.starts_with("DEP_");
        let rust = text.starts_with("RUSTC") || text.starts_with("RUSTFLAGS") || text == "RUSTUP_TOOLCHAIN";
        let script = [
            "TARGET",
            "HOST",
            "PROFILE",
            "OPT_LEVEL",
            "DEBUG",
            "OUT_DIR",
            "NUM_JOBS",
            "LD_LIBRARY_PATH",
        ]
        .contains(&text);
        if cargo || rust || script {
            command.env_remove(&name);
        }
    }
    command.env("RUSTC_BOOTSTRAP", "1");
}
