//! Finds a toolchain that can compile Rust to BPF and builds the BPF object with it.
//!
//! Ordinary Rust toolchains come without `core` for BPF targets; it has to be built from source with an unstable
//! cargo option. Any rustc with the matching source of `core` beside it will do: a rustup nightly with the `rust-src`
//! component, or a distribution's rustc and source packages. What serves is found by asking each candidate, never by
//! its path or version alone.

mod build;
mod script;
mod toolchain;

pub use build::{OBJECT_PACKAGE, Variant, build};
pub use script::{LOG_VARIABLE, OBJECT_VARIABLE, build_script};
pub use toolchain::{Toolchain, find_compiler, find_linker};
