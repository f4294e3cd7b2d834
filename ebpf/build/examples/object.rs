//! Builds the BPF object and prints its path, for looking at it with `llvm-objdump` or `bpftool`.

use std::path::Path;

use causeway_ebpf_build::{Toolchain, Variant, build};

fn main() -> anyhow::Result<()> {
    let toolchain = Toolchain::find()?;
    eprintln!("{toolchain}");
    println!(
        "{}",
        build(
            &toolchain,
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?,
            Variant::from_environment()
        )?
        .display()
    );
    Ok(())
}
