//! `causeway monitor`: what happens to packets and connects, as it happens.
//!
//! A node's agent takes the events out and passes them on to any number of watchers. On a node whose agent does not run, this
//! program takes them out itself.

use std::{collections::BTreeMap, io::Write, os::fd::AsRawFd as _, path::Path, thread, time::Duration};

use causeway_abi::event::{Hook, Verdict};
use causeway_maps::{
    events::{EventReader, EventsError},
    view::{EventFilter, EventView},
};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    agent::Agent,
    bpf::{names, pod_address, qualified},
    context::GlobalArgs,
    error::{self, CliError},
    names::Names,
    nodes::{self, Node, NodeArgs, Place},
    table::{Layout, Table, or_none},
};

/// Names are fetched anew this often while events come.
const REFRESH: Duration = Duration::from_secs(5);
/// Deadlines are moved on, and the ring buffer is looked at, at least this often.
const POLL_MS: i32 = 500;
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

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// A table with more columns
    Wide,
    /// JSON, one event a line
    Json,
}

/// What one node's watch has to say.
enum Told {
    Events(Vec<EventView>),
    /// In all, since it began.
    Lost(u64),
    Ended(CliError),
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

type Teller = mpsc::Sender<(usize, Told)>;

/// Begins to watch a node: through its agent, else its ring buffer.
async fn watch(
    global: &GlobalArgs,
    node: &Node,
    number: usize,
    packets: bool,
    filter: &EventFilter,
    sender: &Teller,
) -> Result<(), CliError> {
    let cluster = Some(node.cluster.as_str()).filter(|cluster| !cluster.is_empty());
    let context = global.context_of(cluster)?;
    let stream = async {
        let agent = node.agent(&context).await?;
        let stream = agent.monitor(packets, filter).await?;
        Ok((agent, stream))
    };
    match (stream.await, &node.place) {
        (Ok((agent, stream)), _) => {
            tokio::spawn(follow(agent, stream, number, sender.clone()));
            Ok(())
        }
        (Err(_), Place::Pins(dir)) => {
            let reader = open(node, dir)?;
            let (filter, sender) = (filter.clone(), sender.clone());
            thread::spawn(move || take(reader, number, packets, &filter, &sender));
            Ok(())
        }
        (Err(error), Place::Agent(_)) => Err(error),
    }
}

fn open(node: &Node, dir: &Path) -> Result<EventReader, CliError> {
    EventReader::open(dir).map_err(|error| match error {
        EventsError::Maps(source) => CliError::NodeMaps {
            node: node.title(),
            source: Box::new(source),
        },
        error => CliError::Events {
            node: node.title(),
            source: Box::new(error),
        },
    })
}

async fn follow(
    agent: Agent,
    mut stream: tonic::Streaming<causeway_proto::v1::MonitorResponse>,
    number: usize,
    sender: Teller,
) {
    loop {
        let told = match stream.message().await {
            Ok(Some(message)) => {
                let events = message
                    .events
                    .iter()
                    .filter_map(|event| serde_json::from_str(event).ok());
                let events = Told::Events(events.collect());
                if sender.send((number, Told::Lost(message.lost))).await.is_err() {
                    return;
                }
                events
            }
            Ok(None) => {
                let status = tonic::Status::unavailable("it ended the stream: was it stopped?");
                Told::Ended(agent.failed(&status))
            }
            Err(status) => Told::Ended(agent.failed(&status)),
        };
        let ended = matches!(told, Told::Ended(_));
        if sender.send((number, told)).await.is_err() || ended {
            return;
        }
    }
}

/// Takes events out of the ring buffer until nobody listens any more.
fn take(mut reader: EventReader, number: usize, packets: bool, filter: &EventFilter, sender: &Teller) {
    loop {
        reader.keep_watching(packets);
        let mut poll = libc::pollfd {
            fd: reader.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, POLL_MS) };
        let mut events = Vec::new();
        while events.len() < 256
            && let Some(event) = reader.next_event()
        {
            events.extend(filter.matches(&event).then_some(event));
        }
        let lost = reader.lost().unwrap_or(0);
        let gone = |told| sender.blocking_send((number, told)).is_err();
        if gone(Told::Lost(lost)) || gone(Told::Events(events)) {
            return;
        }
        reader.refresh_names();
    }
}

/// Writes events as lines.
struct Printer {
    format: Option<Format>,
    with_node: bool,
    headers: bool,
    layout: Layout,
    count: u64,
    failed: bool,
}

impl Printer {
    fn new(format: Option<Format>, with_node: bool, headers: bool) -> Self {
        let mut printer = Self {
            format,
            with_node,
            headers,
            layout: Layout::default(),
            count: 0,
            failed: false,
        };
        // Columns as wide as most of what comes, so that lines stay aligned from the first one on.
        let mut usual = Table::new(printer.headers());
        let width = |header: &&str| match *header {
            "HOOK" | "VERDICT" => 11,
            "FROM" | "TO" => 42,
            "NOW" => 40,
            "FLAGS" => 7,
            _ => 0,
        };
        usual.push(
            printer
                .headers()
                .iter()
                .map(|header| " ".repeat(width(header)))
                .collect(),
        );
        printer.layout.render(&usual, false);
        printer
    }

    fn print(&mut self, node: &Node, event: &EventView, names: &Names, out: &mut impl Write) -> Result<(), CliError> {
        self.count += 1;
        let text = if self.format == Some(Format::Json) {
            format!("{}\n", document(node, event, names))
        } else {
            let mut table = Table::new(self.headers());
            table.push(self.cells(node, event, names));
            let headers = std::mem::take(&mut self.headers);
            self.layout.render(&table, headers)
        };
        out.write_all(text.as_bytes()).map_err(CliError::Output)
    }

    fn headers(&self) -> Vec<&'static str> {
        let wide: &[_] = if self.format == Some(Format::Wide) {
            &["PROTOCOL", "FLAGS", "LENGTH", "IFINDEX"]
        } else {
            &[]
        };
        let mut headers = vec!["TIME"];
        headers.extend(self.with_node.then_some("NODE"));
        headers.extend(["HOOK", "VERDICT", "FROM", "TO", "NOW"]);
        headers.extend(wide);
        headers.push("REASON");
        headers
    }

    fn cells(&self, node: &Node, event: &EventView, names: &Names) -> Vec<String> {
        let mut cells = vec![clock(event.time_unix_ns)];
        cells.extend(self.with_node.then(|| node.name.clone()));
        cells.extend([
            event.hook.clone(),
            event.verdict.clone(),
            if event.source.is_empty() {
                "socket".to_owned()
            } else {
                names.beside(&event.source)
            },
            destination(event, names),
            translation(event, names),
        ]);
        if self.format == Some(Format::Wide) {
            cells.extend([
                event.protocol.clone(),
                or_none(&event.tcp_flags),
                event.length.to_string(),
                event.ifindex.to_string(),
            ]);
        }
        cells.push(event.reason.clone());
        cells
    }
}

/// "10.96.0.10:80 (default/web:http)": the service's name where a service was addressed, else the pod's or node's.
fn destination(event: &EventView, names: &Names) -> String {
    if event.service.is_empty() || event.is_reply {
        names.beside(&event.destination)
    } else {
        format!("{} ({})", event.destination, event.service)
    }
}

/// What the packet goes on with: "to 10.244.2.3:8080 (default/web-1)", or for answers "from 10.96.0.10:80".
fn translation(event: &EventView, names: &Names) -> String {
    let mut parts = Vec::new();
    if let Some(source) = &event.translated_source {
        if event.is_reply {
            parts.push(format!("from {source} ({})", event.service));
        } else {
            parts.push(format!("from {}", names.beside(source)));
        }
    }
    if let Some(destination) = &event.translated_destination {
        parts.push(format!("to {}", names.beside(destination)));
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(" ")
    }
}

/// Time of day, UTC, to the microsecond.
fn clock(unix_ns: u64) -> String {
    let (seconds, micros) = (unix_ns / 1_000_000_000 % 86_400, unix_ns / 1_000 % 1_000_000);
    format!(
        "{:02}:{:02}:{:02}.{micros:06}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn document(node: &Node, event: &EventView, names: &Names) -> Value {
    let mut json = serde_json::to_value(event).expect("views are plain data");
    if let Value::Object(fields) = &mut json {
        let pod = |endpoint: Option<&String>| json!(endpoint.map_or("", |endpoint| names.pod(endpoint)));
        fields.insert("cluster".into(), node.cluster.clone().into());
        fields.insert("node".into(), node.name.clone().into());
        fields.insert("sourcePod".into(), pod(Some(&event.source)));
        let destination = event.translated_destination.as_ref().or(Some(&event.destination));
        fields.insert("destinationPod".into(), pod(destination));
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> EventView {
        EventView {
            time_unix_ns: 1_700_000_000_123_456_789,
            hook: "from-pod".into(),
            verdict: "to-node".into(),
            reason: String::new(),
            protocol: "TCP".into(),
            source: "10.244.1.5:40000".into(),
            destination: "10.96.0.10:80".into(),
            translated_source: None,
            translated_destination: Some("10.244.2.3:8080".into()),
            service: "default/web:http".into(),
            is_reply: false,
            length: 74,
            ifindex: 5,
            tcp_flags: "SYN".into(),
        }
    }

    fn lines(output: Option<Format>, several: bool) -> String {
        let node = Node {
            cluster: "dev".into(),
            name: "node-1".into(),
            place: Place::Pins("/nowhere".into()),
        };
        let mut names = Names::default();
        names.pods.insert("10.244.1.5".into(), "default/client".into());
        names.pods.insert("10.244.2.3".into(), "default/web-1".into());
        let mut printer = Printer::new(output, several, true);
        let dropped = EventView {
            verdict: "refuse".into(),
            reason: "NO_READY_BACKEND".into(),
            translated_destination: None,
            ..event()
        };
        let connect = EventView {
            hook: "connect".into(),
            verdict: "balanced".into(),
            source: String::new(),
            length: 0,
            ifindex: 0,
            tcp_flags: String::new(),
            ..event()
        };
        let mut out = Vec::new();
        for event in [connect, event(), dropped] {
            printer.print(&node, &event, &names, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn events_are_lines_with_names_beside_addresses() {
        insta::assert_snapshot!(lines(None, false), @r"
        TIME              HOOK          VERDICT       FROM                                         TO                                           NOW                                        REASON
        22:13:20.123456   connect       balanced      socket                                       10.96.0.10:80 (default/web:http)             to 10.244.2.3:8080 (default/web-1)
        22:13:20.123456   from-pod      to-node       10.244.1.5:40000 (default/client)            10.96.0.10:80 (default/web:http)             to 10.244.2.3:8080 (default/web-1)
        22:13:20.123456   from-pod      refuse        10.244.1.5:40000 (default/client)            10.96.0.10:80 (default/web:http)             -                                          NO_READY_BACKEND
        ");
        insta::assert_snapshot!(lines(Some(Format::Wide), true), @r"
        TIME              NODE     HOOK          VERDICT       FROM                                         TO                                           NOW                                        PROTOCOL   FLAGS     LENGTH   IFINDEX   REASON
        22:13:20.123456   node-1   connect       balanced      socket                                       10.96.0.10:80 (default/web:http)             to 10.244.2.3:8080 (default/web-1)         TCP        <none>    0        0
        22:13:20.123456   node-1   from-pod      to-node       10.244.1.5:40000 (default/client)            10.96.0.10:80 (default/web:http)             to 10.244.2.3:8080 (default/web-1)         TCP        SYN       74       5
        22:13:20.123456   node-1   from-pod      refuse        10.244.1.5:40000 (default/client)            10.96.0.10:80 (default/web:http)             -                                          TCP        SYN       74       5         NO_READY_BACKEND
        ");
    }

    #[test]
    fn json_has_one_event_a_line() {
        let text = lines(Some(Format::Json), true);
        assert_eq!(text.lines().count(), 3);
        let first: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(first["sourcePod"], json!("default/client"));
        assert_eq!(first["destinationPod"], json!("default/web-1"));
        assert_eq!(first["node"], json!("node-1"));
    }
}
