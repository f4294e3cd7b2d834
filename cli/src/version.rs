//! `causeway version`.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::error::CliError;

/// Options of `causeway version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Output format
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Json,
}

/// Prints this program's version and that of the map layouts it reads.
pub fn run(args: &VersionArgs, out: &mut impl Write) -> Result<(), CliError> {
    let (version, maps) = (env!("CARGO_PKG_VERSION"), causeway_abi::ABI_VERSION);
    let text = match args.output {
        None => format!("causeway {version}\nmap ABI {maps}\n"),
        Some(Format::Json) => format!("{:#}\n", json!({"version": version, "mapAbiVersion": maps})),
    };
    out.write_all(text.as_bytes()).map_err(CliError::Output)
}
