//! Runs the inner cargo.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::script::LOG_VARIABLE;
use crate::toolchain::{TARGET, Toolchain, scrub};

/// The package the object is built from.
pub const OBJECT_PACKAGE: &str = "causeway-ebpf";
const OBJECT_BINARY: &str = "causeway-bpf";

/// A form of the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Variant {
    /// What runs on nodes.
    #[default]
    Plain,
    /// For development: says through aya-log what the kernel refused.
    Logging,
}

impl Variant {
    /// The one that the environment asks for: see [`LOG_VARIABLE`](crate::LOG_VARIABLE).
    pub fn from_environment() -> Self {
        match env::var_os(LOG_VARIABLE) {
            Some(_) => Self::Logging,
            None => Self::Plain,
        }
    }

    /// Where it is put, below the target directory: one place each, because an object must stay where the compiler was told it is.
    fn directory(self) -> &'static str {
        match self {
            Self::Plain => "object",
            Self::Logging => "object-log",
        }
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Logging => &["--features", "log"],
        }
    }
}

/// Builds the BPF object, always optimised and with BTF, and returns its path.
///
/// It has a target directory of its own (`bpf` below the workspace's), because the outer cargo holds the lock of that one
/// while build scripts run.
///
/// # Errors
///
/// When cargo fails; the message holds what it printed.
pub fn build(toolchain: &Toolchain, workspace_root: &Path, variant: Variant) -> Result<PathBuf> {
    let target_directory = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(
            || workspace_root.join("target"),
            |directory| workspace_root.join(directory),
        )
        .join("bpf");
    let objects = target_directory.join(variant.directory());
    // LLVM's BPF back end takes the helper signatures of the architecture the object will run on.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    let flags = [
        format!("-Clinker={}", toolchain.linker.display()),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Instruction set version 3 (32-bit arithmetic and jumps) is known to every kernel since 5.1.
        "-Ctarget-cpu=v3".to_owned(),
    ];

    let mut command = Command::new(&toolchain.cargo);
    scrub(&mut command);
    command
        .current_dir(workspace_root)
        .args([
            "build",
            "--release",
            "--quiet",
            "--color=never",
            "-Zbuild-std=core",
            "--target",
            TARGET,
        ])
        .args(["--package", OBJECT_PACKAGE, "--bin", OBJECT_BINARY])
        .args(variant.features())
        .arg("--target-dir")
        .arg(&target_directory)
        .args(["-Zunstable-options", "--artifact-dir"])
        .arg(&objects)
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_CFG_BPF_TARGET_ARCH", &arch)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", toolchain.cargo.display()))?;
    if !output.status.success() {
        bail!(
            "building the BPF object with {toolchain} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let object = objects.join(OBJECT_BINARY);
    ensure!(object.is_file(), "cargo built no {}", object.display());
    Ok(object)
}
