//! `causeway monitor`: what happens to packets and connects, as it happens.
//!
//! A node's agent takes the events out and passes them on to any number of watchers. On a node whose agent does not run, this
//! program takes them out itself.

mod lines;
mod watch;

use std::{collections::BTreeMap, io::Write, time::Duration};

use causeway_abi::event::{Hook, Verdict};
use causeway_maps::view::EventFilter;
use clap::Args;
use tokio::sync::mpsc;

use self::{
    lines::{Format, Printer},
    watch::{Told, watch},
};
use crate::{
    bpf::{names, pod_address, qualified},
    context::GlobalArgs,
    error::{self, CliError},
    names::Names,
    nodes::{self, NodeArgs},
};

/// Names are fetched anew this often while events come.
const REFRESH: Duration = Duration::from_secs(5);
/// Lines that may wait for a slow reader of the output.
const BACKLOG: usize = 4096;

/// Options of `causeway monitor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Shown are drops, refusals and new connections; with --packets every packet.\n\nExamples:\n  \
    causeway monitor\n  \
    causeway monitor --verdict drop,refuse\n  \
    causeway monitor --service default/web --node node-2\n  \
    causeway monitor --pod web-x7k2p --packets -o json"
)]
pub struct MonitorArgs {
    /// Only packets from or to this pod: [NAMESPACE/]NAME or ADDRESS[:PORT]
    #[arg(long, value_name = "POD", value_delimiter = ',')]
    pod: Vec<String>,

    /// Only what goes to or comes from this service: [NAMESPACE/]NAME[:PORT]
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    service: Vec<String>,

    /// Only what ended so
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = verdicts())]
    verdict: Vec<String>,

    /// Only what was seen there
    #[arg(long, value_name = "HOOK", value_delimiter = ',', value_parser = hooks())]
    hook: Vec<String>,

    /// Every packet, not only drops, refusals and new connections
    #[arg(long)]
    packets: bool,

    /// End after so many events
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,

    /// Output format
    #[arg(short, long, value_enum)]
    output: Option<Format>,

    #[command(flatten)]
    nodes: NodeArgs,

    /// Leave out the line of column names
    #[arg(long)]
    no_headers: bool,
}

fn verdicts() -> clap::builder::PossibleValuesParser {
    Verdict::ALL.map(Verdict::name).into()
}

fn hooks() -> clap::builder::PossibleValuesParser {
    Hook::ALL.map(Hook::name).into()
}

/// Shows events until it is interrupted.
pub async fn run(global: &GlobalArgs, args: &MonitorArgs, out: &mut impl Write) -> Result<(), CliError> {
    let found = nodes::find(global, &args.nodes).await?;
    let mut known = names(global, &found).await?;
    let filter = filter(args, global.namespace(), &known)?;
    let (sender, mut told) = mpsc::channel(BACKLOG);
    for (number, node) in found.iter().enumerate() {
        watch(global, node, number, args.packets, &filter, &sender).await?;
    }
    drop(sender);
    let mut printer = Printer::new(args.output, found.len() > 1, !args.no_headers);
    let mut lost = BTreeMap::new();
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.reset();
    loop {
        tokio::select! {
            message = told.recv() => match message {
                Some((number, Told::Events(events))) => {
                    for event in events {
                        printer.print(&found[number], &event, &known, out)?;
                        if args.count.is_some_and(|count| printer.count >= count) {
                            break;
                        }
                    }
                    out.flush().map_err(CliError::Output)?;
                }
                Some((number, Told::Lost(count))) => {
                    if lost.insert(number, count) != Some(count) && count > 0 {
                        eprintln!("node {}: {count} events lost so far", found[number].name);
                    }
                }
                Some((_, Told::Ended(problem))) => {
                    error::report(&problem);
                    printer.failed = true;
                }
                None => break,
            },
            _ = refresh.tick() => known = names(global, &found).await?,
            _ = tokio::signal::ctrl_c() => break,
        }
        if args.count.is_some_and(|count| printer.count >= count) {
            break;
        }
    }
    eprintln!("{} events, {} lost", printer.count, lost.values().sum::<u64>());
    if printer.failed {
        Err(CliError::Reported)
    } else {
        Ok(())
    }
}

fn filter(args: &MonitorArgs, namespace: &str, names: &Names) -> Result<EventFilter, CliError> {
    let address = |pod: &String| {
        if pod.parse::<std::net::SocketAddr>().is_ok() {
            return Ok(pod.clone());
        }
        pod_address(pod, namespace, names)
    };
    Ok(EventFilter {
        addresses: args.pod.iter().map(address).collect::<Result<_, _>>()?,
        services: args
            .service
            .iter()
            .map(|service| qualified(service, namespace))
            .collect(),
        verdicts: args.verdict.clone(),
        hooks: args.hook.clone(),
    })
}
