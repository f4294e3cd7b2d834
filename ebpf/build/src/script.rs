//! What build scripts of crates that embed the object do.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

use anyhow::{Context, Result};

use crate::toolchain::{CARGO_VARIABLE, RUSTC_VARIABLE};
use crate::{Toolchain, build};

/// Names a built object to take instead of building one, for machines without a BPF toolchain; and, to the compiler of the
/// embedding crate, the object to embed.
pub const OBJECT_VARIABLE: &str = "CAUSEWAY_BPF_OBJECT";

/// What the object depends on, relative to the workspace root.
const SOURCES: [&str; 4] = ["ebpf/Cargo.toml", "ebpf/src", "ebpf/abi/Cargo.toml", "ebpf/abi/src"];

/// The whole build script of a crate of the workspace's first level: builds the object when its sources change and names
/// it in `CAUSEWAY_BPF_OBJECT`. Ends the process when the object cannot be built.
pub fn build_script() {
    let root = env::var_os("CARGO_MANIFEST_DIR").map(|directory| Path::new(&directory).join(".."));
    let object = root
        .context("CARGO_MANIFEST_DIR is not set")
        .and_then(|root| object(&root));
    match object {
        Ok(path) => println!("cargo:rustc-env={OBJECT_VARIABLE}={}", path.display()),
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("cargo:error={line}");
            }
            exit(1);
        }
    }
}

fn object(root: &Path) -> Result<PathBuf> {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    for variable in [RUSTC_VARIABLE, CARGO_VARIABLE, OBJECT_VARIABLE] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Some(object) = env::var_os(OBJECT_VARIABLE).map(PathBuf::from) {
        println!("cargo:rerun-if-changed={}", object.display());
        return object
            .canonicalize()
            .with_context(|| format!("{OBJECT_VARIABLE}={}", object.display()));
    }
    let root = root
        .canonicalize()
        .with_context(|| format!("cannot find {}", root.display()))?;
    build(&Toolchain::find()?, &root)
}
