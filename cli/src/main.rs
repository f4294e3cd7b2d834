//! `causeway`: what people type.
//!
//! One file per command family. What a command shows is made by pure functions ([`columns`], [`describe`], [`bpf`]'s
//! rows): objects in, text out. Objects come from the control plane over gRPC alone; `causeway bpf` reads this machine's
//! pinned maps. Results go to standard output, everything else to standard error; the exit code is 0 or 1.

mod agent;
mod api_resources;
mod apply;
mod args;
mod bpf;
mod columns;
mod completion;
mod context;
mod cordon;
mod delete;
mod describe;
mod edit;
mod error;
mod explain;
mod files;
mod get;
mod label;
mod monitor;
mod names;
mod nodes;
mod objects;
mod scale;
mod table;
mod target;
mod top;
mod version;
mod wait;
mod watch;

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;

use crate::{args::Cli, error::CliError};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, everything else to standard error; either may be closed.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&CliError::Runtime(error)),
    };
    let mut out = std::io::stdout().lock();
    let result = runtime
        .block_on(args::run(cli, &mut out))
        .and_then(|()| out.flush().map_err(CliError::Output));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough (`| head`).
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(CliError::Reported) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

fn fail(error: &CliError) -> ExitCode {
    error::report(error);
    ExitCode::FAILURE
}
