//! `causeway scale`.

use std::io::Write;

use clap::Args;

use crate::{context::Context, error::CliError, error::Failures, target::Targets};

/// Options of `causeway scale`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway scale rc web --replicas 5\n  \
    causeway scale rc/web --replicas 5 --current-replicas 3")]
pub struct ScaleArgs {
    /// KIND NAME… or KIND/NAME…
    #[arg(required = true, value_name = "KIND NAME")]
    targets: Vec<String>,

    /// How many pods there shall be
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    replicas: i32,

    /// Refuse when the present count is another
    #[arg(long)]
    current_replicas: Option<i32>,
}

/// Sets the replica count of objects.
pub async fn run(context: &Context, args: &ScaleArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for (kind, name) in Targets::parse_named(&args.targets)? {
        let namespace = context.namespace_of(kind);
        let answer = context
            .client
            .scale_object(kind, namespace, &name, args.replicas, args.current_replicas)
            .await;
        if failures.keep(answer.map_err(CliError::from)).is_some() {
            writeln!(out, "{}/{name} scaled", kind.singular()).map_err(CliError::Output)?;
        }
    }
    failures.finish()
}
