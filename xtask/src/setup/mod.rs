//! Finds what building, running and testing need, and installs what is missing.
//!
//! What is there is found by looking at files and asking programs, which takes a fraction of a second; only when something
//! is missing does this become root and call the package manager.

mod apt;
mod bpf;
mod packages;

use anyhow::{Result, bail};

use crate::progress::Progress;
use crate::root;

/// Sets this machine up; says what it does and why.
pub fn run(progress: &Progress) -> Result<()> {
    progress.begin("looking for tools");
    let missing = packages::missing();
    let tools = bpf::find();
    if missing.is_empty()
        && let Ok(found) = &tools
    {
        progress.done(&format!("set-up: everything is there; BPF is compiled by {found}"));
        return Ok(());
    }
    let wanted: Vec<_> = missing
        .iter()
        .map(|package| format!("{} ({})", package.name, package.why))
        .collect();
    progress.done(&format!(
        "set-up: missing {}",
        wanted
            .into_iter()
            .chain(tools.err().map(|missing| missing.to_string()))
            .collect::<Vec<_>>()
            .join("; ")
    ));
    if !apt::is_there() {
        bail!(
            "this is not a Debian system, where these could be installed here; install them by hand: what is said \
             above, and a rustc with `core`'s source (rustup toolchain install nightly --component rust-src) with \
             bpf-linker (cargo install bpf-linker)"
        );
    }
    root::ensure("packages are to be installed")?;
    if !missing.is_empty() {
        apt::update(progress)?;
        apt::install(
            progress,
            &missing.iter().map(|package| package.name).collect::<Vec<_>>(),
        )?;
        let still: Vec<_> = packages::missing().iter().map(|package| package.name).collect();
        if !still.is_empty() {
            bail!(
                "installed, but without the files that were expected: {}",
                still.join(", ")
            );
        }
    }
    let found = bpf::install(progress, missing.is_empty())?;
    progress.note(&format!("BPF is compiled by {found}"));
    Ok(())
}

/// Installs what only benchmarks need. Without a package manager they go without, and say so.
pub fn for_benchmarks(progress: &Progress) -> Result<()> {
    let missing = packages::missing_for_benchmarks();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    if !apt::is_there() {
        let wanted: Vec<_> = missing
            .iter()
            .map(|package| format!("{} ({})", package.name, package.why))
            .collect();
        progress.note(&format!("not installed, so left out: {}", wanted.join("; ")));
        return Ok(());
    }
    root::ensure("packages are to be installed")?;
    apt::update(progress)?;
    apt::install(progress, &names)
}

/// Installs what only tests need: programs as people run them in pods.
pub fn for_tests(progress: &Progress) -> Result<()> {
    install(progress, packages::missing_for_tests)
}

/// Installs what only tests in emulated machines need.
pub fn for_virtual_machines(progress: &Progress) -> Result<()> {
    if !apt::is_there() {
        bail!("this is not a Debian system, whose kernels are to be run");
    }
    install(progress, packages::missing_for_virtual_machines)
}

/// Fetches the lists of packages anew.
pub fn refresh_packages(progress: &Progress) -> Result<()> {
    root::ensure("package lists are to be fetched")?;
    apt::update(progress)
}

/// Installs what is missing, and makes sure that it is there afterwards.
fn install(progress: &Progress, missing: impl Fn() -> Vec<packages::Package>) -> Result<()> {
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    let list = |packages: &[packages::Package]| {
        let named: Vec<_> = packages
            .iter()
            .map(|package| format!("{} ({})", package.name, package.why))
            .collect();
        named.join("; ")
    };
    if !apt::is_there() {
        bail!(
            "not a Debian system, so these have to be installed by hand: {}",
            list(&wanted)
        );
    }
    root::ensure("packages are to be installed")?;
    apt::update(progress)?;
    let names: Vec<_> = wanted.iter().map(|package| package.name).collect();
    apt::install(progress, &names)?;
    let still = missing();
    if still.is_empty() {
        Ok(())
    } else {
        bail!("installed, but without the files that were expected: {}", list(&still))
    }
}
