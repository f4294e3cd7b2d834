//! `causeway bpf`: the pinned maps of this machine's nodes in words. Needs no agent and no control plane.

mod rows;
mod sources;

use std::{io::Write, path::PathBuf};

use causeway_maps::pins;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::{rows::Rows, sources::Source};
use crate::{
    error::{CliError, Failures},
    table::Table,
};

/// Options of `causeway bpf`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway bpf services\n  \
    causeway bpf backends --node node-1\n  \
    causeway bpf drops -o json\n  \
    causeway bpf conntrack --node node-2 -o wide")]
pub struct BpfArgs {
    /// What to read
    #[arg(value_enum)]
    what: What,

    /// Output format
    #[arg(short, long, value_enum)]
    output: Option<Format>,

    /// Only this node [default: every node of this machine]
    #[arg(long)]
    node: Option<String>,

    /// Only this cluster [default: every cluster on this machine]
    #[arg(long)]
    cluster: Option<String>,

    /// Where bpffs is mounted
    #[arg(long, value_name = "DIR", default_value = pins::BPFFS)]
    pins: PathBuf,

    /// Leave out the line of column names
    #[arg(long)]
    no_headers: bool,
}

/// What a node's maps hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum What {
    /// Virtual addresses, and what stands behind them
    #[value(alias = "svc", alias = "service")]
    Services,
    /// Where connections end up, and which take new ones
    #[value(alias = "backend")]
    Backends,
    /// Where the pods of other nodes live
    #[value(alias = "route")]
    Routes,
    /// The pods of the node
    #[value(alias = "pod", alias = "po")]
    Pods,
    /// Flows that are balanced packet by packet
    #[value(alias = "ct")]
    Conntrack,
    /// What was dropped, by reason
    #[value(alias = "drop")]
    Drops,
    /// What was balanced, by service
    #[value(alias = "counter")]
    Counters,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// A table with more columns
    Wide,
    /// JSON
    Json,
}

/// Shows what the maps hold.
pub fn run(args: &BpfArgs, out: &mut impl Write) -> Result<(), CliError> {
    let sources = sources::find(&args.pins, args.cluster.as_deref(), args.node.as_deref())?;
    let mut failures = Failures::default();
    let mut read = Vec::new();
    for source in sources {
        let open = || rows::read(args.what, &causeway_maps::PinnedMaps::open(&source.dir)?);
        let rows = open().map_err(|error| CliError::NodeMaps {
            node: source.title(),
            source: Box::new(error),
        });
        // A node that goes away meanwhile does not hide the others.
        if let Some(rows) = failures.keep(rows) {
            read.push((source, rows));
        }
    }
    let text = match args.output {
        Some(Format::Json) => format!("{:#}\n", document(&read)),
        format => {
            if read.iter().all(|(_, rows)| rows.items.is_empty()) {
                eprintln!("No entries found");
            }
            table(&read, format == Some(Format::Wide)).render(!args.no_headers)
        }
    };
    out.write_all(text.as_bytes()).map_err(CliError::Output)?;
    failures.finish()
}

/// The rows of all nodes; which node, and which cluster, only where there are several.
fn table(read: &[(Source, Rows)], wide: bool) -> Table {
    let several_nodes = read.len() > 1;
    let several_clusters = read.iter().any(|(source, _)| source.cluster != read[0].0.cluster);
    let place = |source: &Source| {
        let cluster = several_clusters.then(|| source.cluster.clone());
        let node = several_nodes.then(|| source.node.clone());
        cluster.into_iter().chain(node)
    };
    let columns = |narrow: &[&'static str], more: &[&'static str]| -> Vec<&'static str> {
        let cluster = several_clusters.then_some("CLUSTER");
        let node = several_nodes.then_some("NODE");
        let more = if wide { more } else { &[] };
        cluster
            .into_iter()
            .chain(node)
            .chain(narrow.iter().copied())
            .chain(more.iter().copied())
            .collect()
    };
    let Some((_, first)) = read.first() else {
        return Table::default();
    };
    let mut table = Table::new(columns(first.narrow, first.wide));
    for (source, rows) in read {
        for item in &rows.items {
            let more = if wide { item.wide.clone() } else { Vec::new() };
            table.push(place(source).chain(item.narrow.clone()).chain(more).collect());
        }
    }
    table
}

/// `kind: List` of the entries, each with its cluster and node.
fn document(read: &[(Source, Rows)]) -> Value {
    let mut items = Vec::new();
    for (source, rows) in read {
        for item in &rows.items {
            let mut json = item.json.clone();
            if let Value::Object(fields) = &mut json {
                fields.insert("cluster".to_owned(), source.cluster.clone().into());
                fields.insert("node".to_owned(), source.node.clone().into());
            }
            items.push(json);
        }
    }
    json!({"kind": "List", "items": items})
}

#[cfg(test)]
mod tests {
    use causeway_maps::view::DropView;

    use super::*;

    fn source(cluster: &str, node: &str) -> Source {
        Source {
            cluster: cluster.into(),
            node: node.into(),
            dir: PathBuf::new(),
        }
    }

    fn drops(packets: u64) -> Rows {
        rows::drops(&[DropView {
            reason: "NO_READY_BACKEND",
            packets,
            bytes: 0,
        }])
    }

    #[test]
    fn nodes_and_clusters_are_named_where_there_are_several() {
        let one = [(source("dev", "node-1"), drops(1))];
        assert_eq!(
            table(&one, false).render(true),
            "REASON             PACKETS   BYTES\nNO_READY_BACKEND   1         0\n"
        );
        let two = [(source("dev", "node-1"), drops(1)), (source("dev", "node-2"), drops(2))];
        assert!(table(&two, false).render(true).starts_with("NODE     REASON"));
        let clusters = [(source("a", "node-1"), drops(1)), (source("b", "node-1"), drops(2))];
        assert!(
            table(&clusters, false)
                .render(true)
                .starts_with("CLUSTER   NODE     REASON")
        );
    }

    #[test]
    fn json_says_where_each_entry_is_from() {
        let read = [(source("dev", "node-1"), drops(3))];
        let item = json!({"cluster": "dev", "node": "node-1", "reason": "NO_READY_BACKEND", "packets": 3, "bytes": 0});
        assert_eq!(document(&read), json!({"kind": "List", "items": [item]}));
    }
}
