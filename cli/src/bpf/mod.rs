//! `causeway bpf`: the maps and programs of nodes in words. On the node's machine this needs no agent and no control plane.

mod check;
pub mod rows;

use std::{
    io::{IsTerminal as _, Write},
    time::{Duration, Instant},
};

use causeway_maps::view::{Filter, Request, What as Read};
use causeway_proto::manifest;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::rows::Rows;
use crate::{
    context::GlobalArgs,
    error::{CliError, Failures},
    names::Names,
    nodes::{self, Node, NodeArgs},
    table::Table,
};

/// Options of `causeway bpf`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway bpf services\n  \
    causeway bpf backends --service default/web\n  \
    causeway bpf slots --service default/web -o wide\n  \
    causeway bpf counters --watch\n  \
    causeway bpf programs --stats 1s\n  \
    causeway bpf conntrack --pod default/web-x7k2p --node node-2\n  \
    causeway bpf check")]
pub struct BpfArgs {
    /// What to read
    #[arg(value_enum)]
    what: What,

    /// Output format
    #[arg(short, long, value_enum)]
    output: Option<Format>,

    #[command(flatten)]
    nodes: NodeArgs,

    #[command(flatten)]
    filter: FilterArgs,

    /// Go on, and read again at this interval
    #[arg(short, long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", require_equals = true, value_parser = duration)]
    watch: Option<Duration>,

    /// Count for so long, and show rates per second
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", require_equals = true, value_parser = duration)]
    rate: Option<Duration>,

    /// For programs: measure runs for so long
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", value_parser = duration)]
    stats: Option<Duration>,

    /// Leave out the line of column names
    #[arg(long)]
    no_headers: bool,
}

/// Options that choose entries.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgs {
    /// Only this service: [NAMESPACE/]NAME[:PORT]
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,

    /// Only this virtual address: ADDRESS[:PORT]
    #[arg(long, value_name = "ADDRESS", value_parser = endpoint)]
    pub vip: Option<String>,

    /// Only this backend: ADDRESS[:PORT]
    #[arg(long, value_name = "ADDRESS", value_parser = endpoint)]
    pub backend: Option<String>,

    /// Only this pod: [NAMESPACE/]NAME or ADDRESS
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
}

/// What there is to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum What {
    /// Virtual addresses, and what stands behind them
    #[value(alias = "svc", alias = "service")]
    Services,
    /// Where connections end up, and which take new ones
    #[value(alias = "backend")]
    Backends,
    /// Maglev tables: each backend's share; with -o wide and --service every slot
    #[value(alias = "slot")]
    Slots,
    /// Flows that are balanced packet by packet
    #[value(alias = "ct")]
    Conntrack,
    /// Sockets that were balanced when they connected, or sent a datagram
    #[value(alias = "socket", alias = "sk")]
    Sockets,
    /// Clients that are to reach the same backend again
    Affinity,
    /// The pods of the node
    #[value(alias = "pod", alias = "po")]
    Pods,
    /// Where the pods of other nodes live
    #[value(alias = "route")]
    Routes,
    /// What was balanced, by service
    #[value(alias = "counter")]
    Counters,
    /// What was dropped, by reason
    #[value(alias = "drop")]
    Drops,
    /// The programs: where attached, how often run, how long
    #[value(alias = "program", alias = "progs")]
    Programs,
    /// The maps themselves: type, use, memory
    #[value(alias = "map")]
    Maps,
    /// Compare what the cluster wants with what the kernel holds; fails when they differ
    Check,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl What {
    fn reading(self) -> Read {
        match self {
            Self::Services | Self::Counters | Self::Check => Read::Services,
            Self::Backends => Read::Backends,
            Self::Slots => Read::Slots,
            Self::Conntrack => Read::Conntrack,
            Self::Sockets => Read::Sockets,
            Self::Affinity => Read::Affinity,
            Self::Pods => Read::Pods,
            Self::Routes => Read::Routes,
            Self::Drops => Read::Drops,
            Self::Programs => Read::Programs,
            Self::Maps => Read::Maps,
        }
    }

    /// Whether its entries count something.
    fn counts(self) -> bool {
        matches!(self, Self::Services | Self::Counters | Self::Drops)
    }
}

impl BpfArgs {
    fn check(&self) -> Result<(), CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        if self.stats.is_some() && self.what != What::Programs {
            return usage("--stats is for programs");
        }
        if self.rate.is_some() && !self.what.counts() {
            return usage("--rate is for services, counters and drops");
        }
        if self.what == What::Slots
            && self.output == Some(Format::Wide)
            && self.filter.service.is_none()
            && self.filter.vip.is_none()
        {
            return usage("every slot of every service is too much: name one with --service or --vip");
        }
        Ok(())
    }
}

/// "250ms", "1s", "5m", or seconds alone.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits]
        .parse()
        .map_err(|_| "must be a number with a unit, such as 2s".to_owned())?;
    let duration = match &text[digits..] {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err("must have a unit: ms, s or m".to_owned()),
    };
    if (Duration::from_millis(50)..=Duration::from_hours(1)).contains(&duration) {
        Ok(duration)
    } else {
        Err("must be between 50ms and 60m".to_owned())
    }
}

/// Shows what the maps hold.
pub async fn run(global: &GlobalArgs, args: &BpfArgs, out: &mut impl Write) -> Result<(), CliError> {
    args.check()?;
    let found = nodes::find(global, &args.nodes).await?;
    if args.what == What::Check {
        return check::run(global, &found, args.output, out).await;
    }
    let names = names(global, &found).await?;
    let filter = args.filter.resolve(global.namespace(), &names)?;
    let request = Request {
        what: args.what.reading(),
        filter,
        sample: args.stats,
    };
    let mut before = None;
    if let Some(time) = args.rate {
        let (first, _) = read_all(args.what, &found, &request, &names).await;
        before = Some((first, Instant::now()));
        tokio::time::sleep(time).await;
    }
    loop {
        let (read, failures) = read_all(args.what, &found, &request, &names).await;
        let now = Instant::now();
        let shown = match &before {
            Some((first, then)) => with_rates(&read, first, now.duration_since(*then)),
            None => read.clone(),
        };
        write(args, &shown, out)?;
        let Some(interval) = args.watch else {
            return failures.finish();
        };
        out.flush().map_err(CliError::Output)?;
        before = args.what.counts().then_some((read, now));
        tokio::time::sleep(interval).await;
    }
}

/// Names of all clusters that the nodes are of.
pub async fn names(global: &GlobalArgs, nodes: &[Node]) -> Result<Names, CliError> {
    let mut names = Names::default();
    let mut clusters: Vec<&str> = nodes.iter().map(|node| node.cluster.as_str()).collect();
    clusters.dedup();
    // Clusters of one machine may use the same addresses: names of the first win, and with several none is sure.
    if let [cluster] = clusters[..] {
        let context = global.context_of(Some(cluster).filter(|cluster| !cluster.is_empty()))?;
        names = Names::fetch(&context, nodes).await;
    }
    Ok(names)
}

impl FilterArgs {
    /// The filter, names resolved.
    pub fn resolve(&self, namespace: &str, names: &Names) -> Result<Filter, CliError> {
        let pod = self.pod.as_ref().map(|pod| pod_address(pod, namespace, names));
        Ok(Filter {
            service: self.service.as_ref().map(|service| qualified(service, namespace)),
            vip: self.vip.clone(),
            backend: self.backend.clone(),
            pod: pod.transpose()?,
        })
    }
}

/// "address" or "address:port" as the maps' views write them; a protocol after it, as in the output, is left out.
fn endpoint(text: &str) -> Result<String, String> {
    let place = text.split_once('/').map_or(text, |(place, _)| place);
    if let Ok(address) = place.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return Ok(address.to_string());
    }
    place
        .parse::<std::net::SocketAddr>()
        .map(|socket| socket.to_string())
        .map_err(|_| "neither an address nor ADDRESS:PORT".to_owned())
}

/// "namespace/name" for a name with or without a namespace.
pub fn qualified(name: &str, namespace: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

/// The address of a pod that is given by address or name.
pub fn pod_address(pod: &str, namespace: &str, names: &Names) -> Result<String, CliError> {
    if pod.parse::<std::net::IpAddr>().is_ok() {
        return Ok(pod.to_owned());
    }
    let name = qualified(pod, namespace);
    names.address_of_pod(&name).map(str::to_owned).ok_or_else(|| {
        CliError::Usage(format!(
            "no running pod {name} is known; give its address where the control plane is away"
        ))
    })
}

/// Rows of each node. A node that cannot be read does not hide the others.
async fn read_all(what: What, nodes: &[Node], request: &Request, names: &Names) -> (Vec<(Node, Rows)>, Failures) {
    let mut failures = Failures::default();
    let mut read = Vec::new();
    for node in nodes {
        let rows = async {
            let reading = node.read(request).await?;
            Ok(rows::rows(what == What::Counters, &reading, names))
        };
        if let Some(rows) = failures.keep(rows.await) {
            read.push((node.clone(), rows));
        }
    }
    (read, failures)
}

fn with_rates(read: &[(Node, Rows)], before: &[(Node, Rows)], time: Duration) -> Vec<(Node, Rows)> {
    let rated = |(node, rows): &(Node, Rows)| {
        let same = |(other, _): &&(Node, Rows)| other.cluster == node.cluster && other.name == node.name;
        let rows = match before.iter().find(same) {
            Some((_, before)) => rows.clone().with_rates(before, time),
            None => rows.clone().with_rates(rows, time),
        };
        (node.clone(), rows)
    };
    read.iter().map(rated).collect()
}

fn write(args: &BpfArgs, read: &[(Node, Rows)], out: &mut impl Write) -> Result<(), CliError> {
    let text = match args.output {
        Some(Format::Json) if args.watch.is_some() => format!("{}\n", document(read)),
        Some(Format::Json) => format!("{:#}\n", document(read)),
        Some(Format::Yaml) if args.watch.is_some() => format!("---\n{}", manifest::value_to_yaml(&document(read))),
        Some(Format::Yaml) => manifest::value_to_yaml(&document(read)),
        format => {
            if !read.is_empty() && read.iter().all(|(_, rows)| rows.items.is_empty()) {
                eprintln!("No entries found");
            }
            let table = table(read, format == Some(Format::Wide)).render(!args.no_headers);
            match args.watch {
                // Cursor home, clear to the end (ECMA-48, CUP and ED).
                Some(_) if std::io::stdout().is_terminal() => format!("\x1b[H\x1b[J{table}"),
                Some(_) => format!("{table}\n"),
                None => table,
            }
        }
    };
    out.write_all(text.as_bytes()).map_err(CliError::Output)
}

/// The rows of all nodes; which node, and which cluster, only where there are several.
fn table(read: &[(Node, Rows)], wide: bool) -> Table {
    let several_nodes = read.len() > 1;
    let several_clusters = read.iter().any(|(node, _)| node.cluster != read[0].0.cluster);
    let place = |node: &Node| {
        let cluster = several_clusters.then(|| node.cluster.clone());
        let name = several_nodes.then(|| node.name.clone());
        cluster.into_iter().chain(name)
    };
    let Some((_, first)) = read.first() else {
        return Table::default();
    };
    let headers = several_clusters
        .then_some("CLUSTER")
        .into_iter()
        .chain(several_nodes.then_some("NODE"))
        .chain(first.headers(wide));
    let mut table = Table::new(headers);
    for (node, rows) in read {
        for item in &rows.items {
            table.push(place(node).chain(item.cells(wide)).collect());
        }
    }
    table
}

/// `kind: List` of the entries, each with its cluster and node.
fn document(read: &[(Node, Rows)]) -> Value {
    let mut items = Vec::new();
    for (node, rows) in read {
        for item in &rows.items {
            let mut json = item.json.clone();
            if let Value::Object(fields) = &mut json {
                fields.insert("cluster".to_owned(), node.cluster.clone().into());
                fields.insert("node".to_owned(), node.name.clone().into());
            }
            items.push(json);
        }
    }
    json!({"kind": "List", "items": items})
}

#[cfg(test)]
mod tests;
