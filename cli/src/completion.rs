//! `causeway completion`.

use std::io::Write;

use clap::{Args, CommandFactory as _};
use clap_complete::{Generator as _, Shell};

use crate::{args::Cli, error::CliError};

/// Options of `causeway completion`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    source <(causeway completion bash)\n  \
    causeway completion zsh > \"${fpath[1]}/_causeway\"")]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints a completion script.
pub fn run(args: &CompletionArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut command = Cli::command();
    command.set_bin_name("causeway");
    command.build();
    args.shell.try_generate(&command, out).map_err(CliError::Output)
}
