//! Events as lines of a table, or as JSON.

use std::io::Write;

use causeway_maps::view::EventView;
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    error::CliError,
    names::Names,
    nodes::Node,
    table::{Layout, Table, or_none},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A table with more columns
    Wide,
    /// JSON, one event a line
    Json,
}

/// Writes events as lines.
pub struct Printer {
    format: Option<Format>,
    with_node: bool,
    headers: bool,
    layout: Layout,
    pub count: u64,
    pub failed: bool,
}

impl Printer {
    pub fn new(format: Option<Format>, with_node: bool, headers: bool) -> Self {
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

    /// Writes one.
    pub fn print(
        &mut self,
        node: &Node,
        event: &EventView,
        names: &Names,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
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
    use crate::nodes::Place;

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
