//! `causeway cordon` and `causeway uncordon`.

use std::io::Write;

use causeway_proto::v1::Node;
use clap::Args;
use serde_json::json;

use crate::{
    context::Context,
    error::{CliError, Failures},
};

/// Options of `causeway cordon` and `causeway uncordon`.
#[derive(Debug, Args)]
pub struct CordonArgs {
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Marks nodes as (un)schedulable. Pods that run there stay.
pub async fn run(context: &Context, args: &CordonArgs, cordon: bool, out: &mut impl Write) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for name in &args.nodes {
        let word = if cordon { "cordoned" } else { "uncordoned" };
        if let Some(changed) = failures.keep(mark(context, name, cordon).await) {
            let already = if changed { "" } else { "already " };
            writeln!(out, "node/{name} {already}{word}").map_err(CliError::Output)?;
        }
    }
    failures.finish()
}

/// False when it was so already.
async fn mark(context: &Context, name: &str, cordon: bool) -> Result<bool, CliError> {
    let node = context.client.get::<Node>("", name).await?;
    if node.spec.is_some_and(|spec| spec.unschedulable) == cordon {
        return Ok(false);
    }
    let patch = json!({"spec": {"unschedulable": if cordon { json!(true) } else { json!(null) }}});
    context.client.patch_merge::<Node>("", name, &patch).await?;
    Ok(true)
}
