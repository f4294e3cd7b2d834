//! Builds the BPF object; the agent embeds the file that `CAUSEWAY_BPF_OBJECT` names. Where that variable is set already,
//! the object it names is taken instead: for machines without a BPF toolchain.

use std::path::Path;

use causeway_ebpf_build::{SOURCES, Toolchain, build};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    for variable in ["CAUSEWAY_BPF_RUSTC", "CAUSEWAY_BPF_CARGO", "CAUSEWAY_BPF_OBJECT"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Some(object) = std::env::var_os("CAUSEWAY_BPF_OBJECT") {
        let object = Path::new(&object);
        println!("cargo:rerun-if-changed={}", object.display());
        println!("cargo:rustc-env=CAUSEWAY_BPF_OBJECT={}", object.display());
        return;
    }
    let object = root
        .canonicalize()
        .map_err(Into::into)
        .and_then(|root| Toolchain::find().and_then(|toolchain| build(&toolchain, &root)));
    match object {
        Ok(path) => println!("cargo:rustc-env=CAUSEWAY_BPF_OBJECT={}", path.display()),
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("cargo:error={line}");
            }
            std::process::exit(1);
        }
    }
}
