//! The command line.

use std::io::Write;

use clap::{Parser, Subcommand};

use crate::{
    api_resources, apply, bpf, completion, context::GlobalArgs, cordon, delete, describe, edit, error::CliError,
    explain, get, label, monitor, scale, top, version, wait,
};

/// A cluster whose data plane is eBPF: look at it, change it, and read its maps.
#[derive(Debug, Parser)]
#[command(
    name = "causeway",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  \
        causeway apply -f examples/\n  \
        causeway get pods -o wide\n  \
        causeway get svc,endpoints,nodes\n  \
        causeway describe pod web-x7k2p\n  \
        causeway scale rc web --replicas 5\n  \
        causeway bpf services"
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show objects
    Get(get::GetArgs),
    /// Show objects in detail, with their events
    Describe(describe::DescribeArgs),
    /// Create objects from manifests
    Create(apply::CreateArgs),
    /// Create objects from manifests, or change them to what these say
    Apply(apply::ApplyArgs),
    /// Change an object in an editor
    Edit(edit::EditArgs),
    /// Delete objects
    Delete(delete::DeleteArgs),
    /// Set the replica count
    Scale(scale::ScaleArgs),
    /// Set and remove labels
    Label(label::LabelArgs),
    /// Set and remove annotations
    Annotate(label::AnnotateArgs),
    /// Keep new pods off a node
    Cordon(cordon::CordonArgs),
    /// Let new pods onto a node again
    Uncordon(cordon::CordonArgs),
    /// Wait for a condition, or for the end of objects
    Wait(wait::WaitArgs),
    /// Read the BPF maps and programs of nodes, in words
    Bpf(bpf::BpfArgs),
    /// Follow what happens to packets and connections, as it happens
    Monitor(monitor::MonitorArgs),
    /// Tell which way a packet would go, and why
    Explain(explain::ExplainArgs),
    /// Watch services, backends, drops and nodes on the whole terminal
    Top(top::TopArgs),
    /// List the kinds of objects
    ApiResources(api_resources::ApiResourcesArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// Print the versions of this program and of the control plane
    Version(version::VersionArgs),
}

/// Runs what the command line says.
pub async fn run(cli: Cli, out: &mut impl Write) -> Result<(), CliError> {
    let context = || cli.global.context();
    match cli.command {
        Command::Get(args) => get::run(&context()?, &args, out).await,
        Command::Describe(args) => describe::run(&context()?, &args, out).await,
        Command::Create(args) => apply::create(&context()?, &args, out).await,
        Command::Apply(args) => apply::apply(&context()?, &args, out).await,
        Command::Edit(args) => edit::run(&context()?, &args, out).await,
        Command::Delete(args) => delete::run(&context()?, &args, out).await,
        Command::Scale(args) => scale::run(&context()?, &args, out).await,
        Command::Label(args) => label::run(&context()?, &args.into(), out).await,
        Command::Annotate(args) => label::run(&context()?, &args.into(), out).await,
        Command::Cordon(args) => cordon::run(&context()?, &args, true, out).await,
        Command::Uncordon(args) => cordon::run(&context()?, &args, false, out).await,
        Command::Wait(args) => wait::run(&context()?, &args, out).await,
        Command::Bpf(args) => bpf::run(&cli.global, &args, out).await,
        Command::Monitor(args) => monitor::run(&cli.global, &args, out).await,
        Command::Explain(args) => explain::run(&cli.global, &args, out).await,
        Command::Top(args) => top::run(&cli.global, &args).await,
        Command::ApiResources(args) => api_resources::run(&args, out),
        Command::Completion(args) => completion::run(&args, out),
        Command::Version(args) => version::run(&cli.global, &args, out).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_command() {
        // Without the environment, whose values clap would show.
        let help = Cli::command().term_width(100).render_help().to_string();
        insta::assert_snapshot!(help);
    }
}
