//! `causeway explain`: which way a packet would go, by the node's real programs on its live maps.

mod local;
mod resolve;
mod story;

use std::io::Write;

use causeway_maps::{dry_run::Probe, view::ExplainView};
use causeway_proto::{manifest, v1::ExplainRequest};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::resolve::{From, Target};
use crate::{
    bpf::names,
    context::GlobalArgs,
    error::CliError,
    names::Names,
    nodes::{self, Node, NodeArgs, Place},
};

/// Options of `causeway explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "FROM is a pod ([NAMESPACE/]NAME), an address, or \"world\" for somebody outside the cluster.\n\
    TO is a service or pod ([svc/|pod/][NAMESPACE/]NAME) or an address; a port may be a number or a service port's name.\n\n\
    Nothing is sent, and nothing is left behind.\n\nExamples:\n  \
    causeway explain client-0 web:80\n  \
    causeway explain client-0 svc/default/dns:53/udp\n  \
    causeway explain 10.244.1.5 10.96.0.10:80 -o json\n  \
    causeway explain world 172.30.0.11:30080 --node node-1"
)]
pub struct ExplainArgs {
    /// Who sends
    from: String,

    /// Whereto: TO[:PORT][/tcp|/udp]
    to: String,

    /// Port that the packet is sent from; another may lead to another backend
    #[arg(long, value_name = "PORT", default_value_t = 40_000, value_parser = clap::value_parser!(u16).range(1..))]
    source_port: u16,

    /// Output format
    #[arg(short, long, value_enum)]
    output: Option<Format>,

    #[command(flatten)]
    nodes: NodeArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Tells the story of one packet.
pub async fn run(global: &GlobalArgs, args: &ExplainArgs, out: &mut impl Write) -> Result<(), CliError> {
    let from = From::parse(&args.from);
    let target: Target = args.to.parse().map_err(CliError::Usage)?;
    let found = nodes::find(global, &args.nodes).await?;
    let names = names(global, &found).await?;
    let cluster = found.first().map(|node| node.cluster.clone()).unwrap_or_default();
    let context = global.context_of(Some(cluster.as_str()).filter(|cluster| !cluster.is_empty()))?;
    let resolver = resolve::Resolver {
        context: &context,
        namespace: global.namespace(),
        names: &names,
        nodes: &found,
    };
    let mut source = resolver.source(&from)?;
    let goal = resolver.target(&target, source.is_ipv4()).await?;
    if from == From::World {
        source = From::world(goal.address.is_ipv4());
    }
    let probe = Probe {
        source: std::net::SocketAddr::new(source, args.source_port),
        destination: goal.address,
        protocol: goal.protocol,
    };
    let node = resolver.node_of(&source, global, &args.nodes).await?;
    let view = explain(global, &node, &probe).await?;
    let text = match args.output {
        None => story::tell(&view, &node.name, &names),
        Some(format) => {
            let document = document(&view, &node, &names);
            match format {
                Format::Json => format!("{document:#}\n"),
                Format::Yaml => manifest::value_to_yaml(&document),
            }
        }
    };
    out.write_all(text.as_bytes()).map_err(CliError::Output)
}

/// Through the node's agent; where that does not run, here.
async fn explain(global: &GlobalArgs, node: &Node, probe: &Probe) -> Result<ExplainView, CliError> {
    let cluster = Some(node.cluster.as_str()).filter(|cluster| !cluster.is_empty());
    let context = global.context_of(cluster)?;
    let request = ExplainRequest {
        source: probe.source.ip().to_string(),
        source_port: probe.source.port().into(),
        destination: probe.destination.ip().to_string(),
        destination_port: probe.destination.port().into(),
        protocol: probe.protocol.to_string(),
    };
    let asked = async { node.agent(&context).await?.explain(request).await };
    match (asked.await, &node.place) {
        (Ok(view), _) => Ok(view),
        (Err(_), Place::Pins(dir)) => local::explain(&node.name, dir, probe).map_err(|source| CliError::DryRun {
            node: node.title(),
            source: Box::new(source),
        }),
        (Err(error), Place::Agent(_)) => Err(error),
    }
}

fn document(view: &ExplainView, node: &Node, names: &Names) -> Value {
    let mut json = serde_json::to_value(view).expect("views are plain data");
    if let Value::Object(fields) = &mut json {
        fields.insert("cluster".into(), node.cluster.clone().into());
        fields.insert("node".into(), node.name.clone().into());
        fields.insert("sourcePod".into(), names.pod(&view.source).into());
        let backend = view.backend.as_ref().map_or("", |backend| names.pod(&backend.address));
        fields.insert("backendPod".into(), backend.into());
        let story = story::tell(view, &node.name, names);
        fields.insert("story".into(), json!(story.lines().collect::<Vec<_>>()));
    }
    json
}
