//! `causeway bpf check`: what the cluster wants against what the kernel holds.

use std::{fmt::Write as _, io::Write};

use causeway_proto::{
    manifest,
    v1::{CheckResponse, Difference},
};
use serde_json::{Value, json};

use super::Format;
use crate::{
    context::GlobalArgs,
    error::{CliError, Failures},
    nodes::Node,
    table::Table,
};

/// Asks each node's agent, and fails when any node differs.
pub async fn run(
    global: &GlobalArgs,
    nodes: &[Node],
    format: Option<Format>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let mut failures = Failures::default();
    let mut checked = Vec::new();
    for node in nodes {
        let answer = async {
            let cluster = Some(node.cluster.as_str()).filter(|cluster| !cluster.is_empty());
            node.agent(&global.context_of(cluster)?).await?.check().await
        };
        if let Some(response) = failures.keep(answer.await) {
            checked.push((node.clone(), response));
        }
    }
    let text = match format {
        Some(Format::Json) => format!("{:#}\n", document(&checked)),
        Some(Format::Yaml) => manifest::value_to_yaml(&document(&checked)),
        _ => words(&checked),
    };
    out.write_all(text.as_bytes()).map_err(CliError::Output)?;
    failures.finish()?;
    if checked.iter().all(|(_, response)| response.differences.is_empty()) {
        Ok(())
    } else {
        Err(CliError::Reported)
    }
}

fn words(checked: &[(Node, CheckResponse)]) -> String {
    let mut text = String::new();
    for (node, response) in checked {
        let compared = format!(
            "{} services, {} backends, {} pods, {} routes",
            response.services, response.backends, response.pods, response.routes
        );
        let name = node.title();
        match response.differences.len() {
            0 => {
                let _ = writeln!(text, "node {name}: as it should be ({compared})");
            }
            count => {
                let noun = if count == 1 { "difference" } else { "differences" };
                let _ = writeln!(text, "node {name}: {count} {noun} ({compared})");
                let mut table = Table::new(["KIND", "NAME", "PROBLEM"]);
                for Difference { kind, name, problem } in &response.differences {
                    table.push(vec![kind.clone(), name.clone(), problem.clone()]);
                }
                for line in table.render(false).lines() {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
    }
    text
}

fn document(checked: &[(Node, CheckResponse)]) -> Value {
    let item = |(node, response): &(Node, CheckResponse)| {
        let differences: Vec<Value> = response
            .differences
            .iter()
            .map(|one| json!({"kind": one.kind, "name": one.name, "problem": one.problem}))
            .collect();
        json!({
            "cluster": node.cluster,
            "node": node.name,
            "compared": {
                "services": response.services, "backends": response.backends,
                "pods": response.pods, "routes": response.routes,
            },
            "differences": differences,
        })
    };
    json!({"kind": "List", "items": checked.iter().map(item).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Place;

    fn node(name: &str) -> Node {
        Node {
            cluster: "dev".into(),
            name: name.into(),
            place: Place::Pins("/nowhere".into()),
        }
    }

    #[test]
    fn differences_stand_below_their_node() {
        let fine = CheckResponse {
            services: 2,
            backends: 5,
            pods: 3,
            routes: 2,
            differences: Vec::new(),
        };
        let difference = |kind: &str, name: &str, problem: &str| Difference {
            kind: kind.into(),
            name: name.into(),
            problem: problem.into(),
        };
        let broken = CheckResponse {
            differences: vec![
                difference(
                    "Service",
                    "default/web:http",
                    "has no entry in the kernel for 10.96.0.10:80/TCP",
                ),
                difference(
                    "Pod",
                    "default/web-1",
                    "with address 10.244.1.2 is not in the kernel: it is unreachable",
                ),
            ],
            ..fine.clone()
        };
        insta::assert_snapshot!(words(&[(node("node-1"), fine), (node("node-2"), broken)]), @r"
        node node-1 of cluster dev: as it should be (2 services, 5 backends, 3 pods, 2 routes)
        node node-2 of cluster dev: 2 differences (2 services, 5 backends, 3 pods, 2 routes)
          Service   default/web:http   has no entry in the kernel for 10.96.0.10:80/TCP
          Pod       default/web-1      with address 10.244.1.2 is not in the kernel: it is unreachable
        ");
    }
}
