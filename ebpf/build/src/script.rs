//! What build scripts of crates that embed the object do.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

use anyhow::{Context, Result};

use crate::toolchain::{CARGO_VARIABLE, RUSTC_VARIABLE};
use crate::{Toolchain, Variant, build};

/// Names a built object to take instead of building one, for machines without a BPF toolchain; and, to the compiler of the
/// embedding crate, the object to embed.
pub const OBJECT_VARIABLE: &str = "CAUSEWAY_BPF_OBJECT";

/// Set, to whatever value, it makes the object say through aya-log what the kernel refused: for development.
pub const LOG_VARIABLE: &str = "CAUSEWAY_BPF_LOG";

/// What the object depends on, relative to the workspace root.
const SOURCES: [&str; 4] = ["ebpf/Cargo.toml", "ebpf/src", "ebpf/abi/Cargo.toml", "ebpf/abi/src"];

/// The whole build script of a crate of the workspace: builds the object when its sources change and names it in
/// `CAUSEWAY_BPF_OBJECT`. Ends the process when the object cannot be built.
pub fn build_script() {
    let object = env::var_os("CARGO_MANIFEST_DIR")
        .context("CARGO_MANIFEST_DIR is not set")
        .and_then(|directory| object(workspace_root(Path::new(&directory))?));
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

/// The directory that the sources are named from.
fn workspace_root(package: &Path) -> Result<&Path> {
    let mut above = package.ancestors();
    above
        .find(|directory| SOURCES.iter().all(|source| directory.join(source).exists()))
        .with_context(|| format!("no directory above {} has {}", package.display(), SOURCES.join(", ")))
}

fn object(root: &Path) -> Result<PathBuf> {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    for variable in [RUSTC_VARIABLE, CARGO_VARIABLE, OBJECT_VARIABLE, LOG_VARIABLE] {
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
    build(&Toolchain::find()?, &root, Variant::from_environment())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_any_level_find_the_same_root() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = workspace_root(package).unwrap();
        assert_eq!(root, package.ancestors().nth(2).unwrap());
        assert_eq!(workspace_root(&root.join("agent")).unwrap(), root);
        assert!(workspace_root(Path::new("/")).is_err());
    }
}
