//! What clients saw: the demo program's tallies, and a table of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

/// The demo program's tally, of `fetch` and of `load`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests answered.
    pub answers: u64,
    /// Requests not answered, or not with status 200.
    pub errors: u64,
    /// Answers by pod.
    pub by_pod: BTreeMap<String, u64>,
    /// Answers by node.
    pub by_node: BTreeMap<String, u64>,
    /// Per pod, when the last connection that it answered was begun, in milliseconds since the epoch.
    pub last_connect_unix_ms: BTreeMap<String, u64>,
    /// Half of the requests were answered within this many microseconds.
    pub p50_us: u64,
    /// 99 % of them were.
    pub p99_us: u64,
    /// First failures, with the time at which each request was begun.
    pub failures: Vec<Failure>,
}

/// A request that got no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it was begun, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// How long it took to fail.
    pub after_ms: u64,
    /// Why.
    pub error: String,
}

impl Tally {
    /// Reads the demo program's JSON.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).with_context(|| format!("not a tally: {text:?}"))?;
        let counts = |name: &str| -> BTreeMap<String, u64> {
            let map = value[name].as_object().into_iter().flatten();
            map.map(|(key, count)| (key.clone(), count.as_u64().unwrap_or(0)))
                .collect()
        };
        Ok(Self {
            answers: value["answers"]
                .as_u64()
                .with_context(|| format!("not a tally: {text:?}"))?,
            errors: value["errors"]
                .as_u64()
                .with_context(|| format!("not a tally: {text:?}"))?,
            by_pod: counts("by_pod"),
            by_node: counts("by_node"),
            last_connect_unix_ms: counts("last_connect_unix_ms"),
            p50_us: value["latency_us"]["p50"].as_u64().unwrap_or(0),
            p99_us: value["latency_us"]["p99"].as_u64().unwrap_or(0),
            failures: value["failures"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|failure| Failure {
                    at_unix_ms: failure["at_unix_ms"].as_u64().unwrap_or(0),
                    after_ms: failure["after_ms"].as_u64().unwrap_or(0),
                    error: failure["error"].as_str().unwrap_or_default().to_owned(),
                })
                .collect(),
        })
    }

    /// Adds the counts of another client.
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.errors += other.errors;
        for (pod, count) in &other.by_pod {
            *self.by_pod.entry(pod.clone()).or_default() += count;
        }
        for (node, count) in &other.by_node {
            *self.by_node.entry(node.clone()).or_default() += count;
        }
    }
}

/// A table of clients (rows) and of the pods that answered them (columns, with their nodes), then the share per node.
pub fn table(clients: &[(String, Tally)], node_of: &BTreeMap<String, String>) -> String {
    let mut total = Tally::default();
    for (_, tally) in clients {
        total.add(tally);
    }
    let pods: BTreeSet<&String> = total.by_pod.keys().chain(node_of.keys()).collect();

    let mut rows = vec![header("requests from", &pods), node_row(&pods, node_of)];
    rows.extend(clients.iter().map(|(client, tally)| row(client, &pods, tally, true)));
    if clients.len() > 1 {
        rows.push(row("all", &pods, &total, false));
    }
    let mut text = align(&rows);
    for (node, count) in &total.by_node {
        let permille = count * 1000 / total.answers.max(1);
        let (percent, tenth) = (permille / 10, permille % 10);
        let _ = writeln!(
            text,
            "{node}: {count} of {} answers ({percent}.{tenth} %)",
            total.answers
        );
    }
    text
}

fn header(first: &str, pods: &BTreeSet<&String>) -> Vec<String> {
    let mut cells = vec![first.to_owned()];
    cells.extend(pods.iter().map(|pod| (*pod).clone()));
    cells.extend(["errors", "p50", "p99"].map(str::to_owned));
    cells
}

fn node_row(pods: &BTreeSet<&String>, node_of: &BTreeMap<String, String>) -> Vec<String> {
    let mut cells = vec![String::new()];
    cells.extend(
        pods.iter()
            .map(|pod| node_of.get(*pod).map_or(String::new(), |node| format!("on {node}"))),
    );
    cells.extend(["", "", ""].map(str::to_owned));
    cells
}

fn row(client: &str, pods: &BTreeSet<&String>, tally: &Tally, latencies: bool) -> Vec<String> {
    let mut cells = vec![client.to_owned()];
    cells.extend(pods.iter().map(|pod| tally.by_pod.get(*pod).unwrap_or(&0).to_string()));
    cells.push(tally.errors.to_string());
    let latency = |us: u64| if latencies { format!("{us} µs") } else { String::new() };
    cells.extend([latency(tally.p50_us), latency(tally.p99_us)]);
    cells
}

/// Columns of equal width, the first to the left and the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 {
                write!(line, "{cell:<width$}")
            } else {
                write!(line, "   {cell:>width$}")
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_answered_nobody_show_too() {
        let text = r#"{"answers":3,"errors":1,"by_pod":{"web-a":3},"by_node":{"node-1":3},
            "latency_us":{"p50":90,"p99":1200},"failures":[{"at_unix_ms":5,"after_ms":2,"error":"refused"}]}"#;
        let tally = Tally::parse(text).unwrap();
        assert_eq!(tally.failures[0].error, "refused");
        let node_of = [("web-a", "node-1"), ("web-b", "node-2")].map(|(pod, node)| (pod.to_owned(), node.to_owned()));
        let table = table(&[("node-2".to_owned(), tally)], &node_of.into());
        assert_eq!(
            table,
            "requests from       web-a       web-b   errors     p50       p99\n\
            \x20               on node-1   on node-2\n\
            node-2                  3           0        1   90 µs   1200 µs\n\
            node-1: 3 of 3 answers (100.0 %)\n"
        );
    }

    #[test]
    fn something_else_than_a_tally_is_refused() {
        assert!(Tally::parse("{}").is_err());
        assert!(Tally::parse("no").is_err());
    }
}
