//! The example of `examples/`: deploys it, waits for it, sends requests to its virtual IP from everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::Cluster;
use super::running::{is_ready, name};
use super::traffic::Tally;
use crate::progress::Progress;
use crate::{command, compile, http};

/// Service and replication controller of the example.
pub const SERVICE: &str = "web";
/// Labels of its pods.
pub const SELECTOR: &str = "app=web";
/// Port on which every pod of the demo image serves.
pub const POD_PORT: u16 = 8080;
/// Bound for pods to become Ready.
const READY: Duration = Duration::from_mins(1);
/// Bound for the first answer, from when the endpoints are there.
const ANSWER: Duration = Duration::from_mins(1);

/// A pod that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Node it runs on.
    pub node: String,
    /// Address.
    pub ip: Ipv4Addr,
}

impl Pod {
    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        (self.ip, POD_PORT).into()
    }

    fn of(object: &Value) -> Result<Self, String> {
        let name = name(object);
        let ip = object["status"]["podIP"].as_str().unwrap_or_default();
        let ip = ip.parse().map_err(|_| format!("{name} has no address yet"))?;
        Ok(Self {
            node: object["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
            name,
            ip,
        })
    }
}

impl Cluster {
    /// Applies the example's service and one client pod per node.
    pub fn deploy_example(&self) -> Result<()> {
        let examples = compile::workspace().join("examples");
        self.causeway_ok(&["apply", "-f", &examples.join("web.yaml").display().to_string()])?;
        let template = examples.join("client.yaml");
        let template = fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
        let clients: Vec<_> = self
            .spec()
            .node_names()
            .iter()
            .map(|node| template.replace("node-1", node))
            .collect();
        self.apply(&clients.join("---\n"))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let mut apply = self.command();
        apply
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = apply
            .spawn()
            .with_context(|| format!("cannot run {}", command::text(&apply)))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // A command that ends early says why on its standard error; the broken pipe says less.
        let _ = std::io::Write::write_all(&mut stdin, manifest.as_bytes());
        drop(stdin);
        let output = child
            .wait_with_output()
            .with_context(|| format!("cannot wait for {}", command::text(&apply)))?;
        command::checked(&apply, &output)
    }

    /// Waits until exactly `count` pods match `selector` and all of them are Ready.
    pub fn wait_for_pods(&mut self, progress: &Progress, selector: &str, count: usize) -> Result<Vec<Pod>> {
        self.wait(
            progress,
            &format!("{count} Ready pods with {selector}"),
            READY,
            |cluster| {
                let pods = cluster
                    .list(&["pods", "-l", selector])
                    .map_err(|error| format!("{error:#}"))?;
                if pods.len() == count && pods.iter().all(is_ready) {
                    pods.iter().map(Pod::of).collect()
                } else {
                    Err(pods.iter().map(describe).collect::<Vec<_>>().join(", "))
                }
            },
        )
    }

    /// Waits until the endpoints of a service hold exactly `count` ready addresses.
    pub fn wait_for_endpoints(&mut self, progress: &Progress, service: &str, count: usize) -> Result<()> {
        self.wait(progress, &format!("{count} endpoints of {service}"), READY, |cluster| {
            let ready = cluster.ready_endpoints(service).map_err(|error| format!("{error:#}"))?;
            if ready.len() == count {
                Ok(())
            } else {
                Err(format!("ready: {}", ready.join(", ")))
            }
        })
    }

    /// Names of the pods that a service's endpoints list as ready.
    pub fn ready_endpoints(&self, service: &str) -> Result<Vec<String>> {
        let endpoints = self.causeway_json(&["get", "endpoints", service])?;
        let subsets = endpoints["subsets"].as_array().into_iter().flatten();
        let addresses = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
        Ok(addresses
            .map(|address| address["targetRef"]["name"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    /// The virtual IP of a service.
    pub fn virtual_ip(&self, service: &str) -> Result<Ipv4Addr> {
        let object = self.causeway_json(&["get", "service", service])?;
        let ip = object["spec"]["clusterIP"].as_str().unwrap_or_default();
        ip.parse()
            .with_context(|| format!("service {service} has no virtual IP but {ip:?}"))
    }

    /// Sends `count` requests from a node itself, every one on a connection of its own.
    pub fn fetch_from_node(&self, node: &str, url: &str, count: u64) -> Result<Tally> {
        self.tally_on(node, &["fetch", "--url", url, "--count", &count.to_string()])
    }

    fn tally_on(&self, node: &str, args: &[&str]) -> Result<Tally> {
        let mut demo = self.demo_on(node, args)?;
        let output = demo
            .output()
            .with_context(|| format!("cannot run {}", command::text(&demo)))?;
        Tally::parse(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("on {node}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Lets a pod send `count` requests, every one on a connection of its own.
    pub fn fetch_from_pod(&self, pod: &Pod, url: &str, count: u64) -> Result<Tally> {
        let path = format!("/fetch?url={url}&count={count}");
        ask_client(&self.spec().netns(&pod.node), pod, &path, Duration::from_mins(1))
    }

    /// Lets a pod send `count` datagrams to a service's UDP port.
    pub fn datagrams_from_pod(&self, pod: &Pod, to: SocketAddr, count: u64) -> Result<Tally> {
        let path = format!("/datagrams?to={to}&count={count}");
        ask_client(&self.spec().netns(&pod.node), pod, &path, Duration::from_mins(1))
    }

    /// Sends `count` datagrams to a service's UDP port from a node itself.
    pub fn datagrams_from_node(&self, node: &str, to: SocketAddr, count: u64) -> Result<Tally> {
        self.tally_on(
            node,
            &["datagrams", "--to", &to.to_string(), "--count", &count.to_string()],
        )
    }

    /// Begins to send requests from a pod: for `duration`, from four workers, every one on a connection of its own.
    pub fn begin_load_from_pod(&self, pod: &Pod, url: &str, duration: Duration) -> Load {
        let path = format!(
            "/load?url={url}&duration_ms={}&concurrency=4&interval_ms=2",
            duration.as_millis()
        );
        let (netns, pod) = (self.spec().netns(&pod.node), pod.clone());
        Load {
            worker: thread::spawn(move || ask_client(&netns, &pod, &path, duration + Duration::from_secs(20))),
        }
    }

    /// The same from a node itself.
    pub fn begin_load_from_node(&self, node: &str, url: &str, duration: Duration) -> Result<Load> {
        let seconds = duration.as_secs_f64().to_string();
        let args = [
            "load",
            "--url",
            url,
            "--duration",
            &seconds,
            "--concurrency",
            "4",
            "--interval-ms",
            "2",
        ];
        let mut load = self.demo_on(node, &args)?;
        Ok(Load {
            worker: thread::spawn(move || {
                let output = load
                    .output()
                    .with_context(|| format!("cannot run {}", command::text(&load)))?;
                Tally::parse(&String::from_utf8_lossy(&output.stdout))
            }),
        })
    }

    /// Waits until the node itself gets an answer from `url`.
    pub fn wait_for_answer(&mut self, progress: &Progress, node: &str, url: &str) -> Result<()> {
        self.wait(
            progress,
            &format!("an answer from {url} on {node}"),
            ANSWER,
            |cluster| {
                let tally = cluster
                    .fetch_from_node(node, url, 1)
                    .map_err(|error| format!("{error:#}"))?;
                tally
                    .failures
                    .first()
                    .map_or(Ok(()), |failure| Err(failure.error.clone()))
            },
        )
    }

    /// Sends `count` requests to `url` from every client pod and from every node.
    pub fn fetch_from_everywhere(
        &self,
        progress: &Progress,
        clients: &[Pod],
        url: &str,
        count: u64,
    ) -> Result<Vec<(String, Tally)>> {
        let mut tallies = Vec::new();
        for client in clients {
            progress.detail(&format!("from pod {}", client.name));
            tallies.push((format!("pod {}", client.name), self.fetch_from_pod(client, url, count)?));
        }
        for node in self.spec().node_names() {
            progress.detail(&format!("from {node} itself"));
            tallies.push((format!("{node} itself"), self.fetch_from_node(&node, url, count)?));
        }
        Ok(tallies)
    }
}

/// Requests under way.
pub struct Load {
    worker: JoinHandle<Result<Tally>>,
}

impl Load {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.worker.is_finished()
    }

    /// Waits for the end.
    pub fn finish(self) -> Result<Tally> {
        self.worker
            .join()
            .map_err(|_| anyhow!("the thread of a load panicked"))?
    }
}

fn ask_client(netns: &str, pod: &Pod, path: &str, timeout: Duration) -> Result<Tally> {
    let answer = http::request(netns, "GET", pod.address(), path, timeout)?;
    if answer.status != 200 {
        bail!("{} answers {} to {path}: {}", pod.name, answer.status, answer.body);
    }
    Tally::parse(&answer.body)
}

/// Which pod runs where.
pub fn nodes_of(pods: &[Pod]) -> BTreeMap<String, String> {
    pods.iter().map(|pod| (pod.name.clone(), pod.node.clone())).collect()
}

/// One pod in a progress line: what it waits for.
fn describe(pod: &Value) -> String {
    let status = &pod["status"];
    let waiting = &status["containerStatuses"][0]["state"]["waiting"];
    let state = [&waiting["reason"], &status["reason"], &status["phase"]]
        .into_iter()
        .find_map(Value::as_str);
    let ready = if is_ready(pod) {
        "Ready"
    } else {
        state.unwrap_or("Pending")
    };
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    // Why it ended says more than that it will be tried again.
    let message = [&last["message"], &waiting["message"], &status["message"]]
        .into_iter()
        .find_map(Value::as_str)
        .unwrap_or_default();
    let separator = if message.is_empty() { "" } else { ": " };
    format!("{} {ready}{separator}{message}", name(pod))
}
