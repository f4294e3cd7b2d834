//! `causeway version`.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{context::GlobalArgs, error::CliError};

/// Options of `causeway version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Output format
    #[arg(short, long, value_enum)]
    output: Option<Format>,

    /// Only this program's version: ask no control plane
    #[arg(long)]
    client: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Json,
}

/// Prints this program's version, that of the map layouts it reads, and the control plane's; when that does not answer, the
/// error comes after the rest.
pub async fn run(global: &GlobalArgs, args: &VersionArgs, out: &mut impl Write) -> Result<(), CliError> {
    let (server, failure) = if args.client {
        (None, None)
    } else {
        match global.context()?.client.server_version().await {
            Ok(version) => (Some(version), None),
            Err(error) => (None, Some(error)),
        }
    };
    out.write_all(text(server.as_deref(), args.output).as_bytes())
        .map_err(CliError::Output)?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn text(server: Option<&str>, format: Option<Format>) -> String {
    let (client, maps) = (env!("CARGO_PKG_VERSION"), causeway_abi::ABI_VERSION);
    match format {
        None => {
            let server = server.map_or(String::new(), |server| format!("Server Version: {server}\n"));
            format!("Client Version: {client}\nMap ABI: {maps}\n{server}")
        }
        Some(Format::Json) => {
            let mut versions = json!({"clientVersion": {"version": client, "mapAbiVersion": maps}});
            if let Some(server) = server {
                versions["serverVersion"] = json!({ "version": server });
            }
            format!("{versions:#}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_that_was_not_asked_or_did_not_answer_is_left_out() {
        let own = format!(
            "Client Version: {}\nMap ABI: {}\n",
            env!("CARGO_PKG_VERSION"),
            causeway_abi::ABI_VERSION
        );
        assert_eq!(text(None, None), own);
        assert_eq!(text(Some("9.9.9"), None), own + "Server Version: 9.9.9\n");
        let read = |server| serde_json::from_str::<serde_json::Value>(&text(server, Some(Format::Json))).unwrap();
        assert_eq!(read(None)["clientVersion"]["mapAbiVersion"], causeway_abi::ABI_VERSION);
        assert!(read(None)["serverVersion"].is_null());
        assert_eq!(read(Some("9.9.9"))["serverVersion"]["version"], "9.9.9");
    }
}
