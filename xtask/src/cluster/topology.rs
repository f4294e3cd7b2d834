//! The network between the nodes: a bridge in one namespace, a veth uplink from every node to it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Spec;
use crate::{command, netns};

/// Name of a node's uplink inside its namespace.
pub(super) const UPLINK: &str = "eth0";
/// Name of the bridge.
const BRIDGE: &str = "cw-br0";

/// Makes namespaces, links and addresses. All links are made inside the namespaces: the machine's own is not touched.
pub(super) fn create(spec: &Spec) -> Result<()> {
    let underlay = spec.underlay_netns();
    let nodes = spec.node_names();
    let mut global = format!("netns add {underlay}\n");
    for node in &nodes {
        let _ = writeln!(global, "netns add {}", spec.netns(node));
    }
    for name in nodes.iter().map(|node| spec.netns(node)).chain([underlay.clone()]) {
        if netns::path(&name).exists() {
            bail!(
                "network namespace {name} exists already, and is not this cluster's; remove it: ip netns delete {name}"
            );
        }
    }
    batch(None, &global)?;
    batch(Some(&underlay), &bridge(spec))?;
    for (number, node) in (1..).zip(&nodes) {
        batch(Some(&spec.netns(node)), &uplink(spec, number))?;
    }
    Ok(())
}

fn bridge(spec: &Spec) -> String {
    let mut lines = format!(
        "link set lo up\nlink add {BRIDGE} type bridge\naddr add {}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n",
        spec.bridge_ip()
    );
    if spec.has_ipv6() {
        let _ = writeln!(lines, "addr add {}/64 dev {BRIDGE} nodad", spec.bridge_ip6());
    }
    for (number, node) in (1..).zip(spec.node_names()) {
        let port = format!("cw-up{number}");
        let _ = writeln!(
            lines,
            "link add {port} type veth peer name {UPLINK} netns {}",
            spec.netns(&node)
        );
        let _ = writeln!(lines, "link set {port} master {BRIDGE} up");
    }
    lines
}

fn uplink(spec: &Spec, number: usize) -> String {
    let mut lines = format!(
        "link set lo up\naddr add {}/24 dev {UPLINK}\nlink set {UPLINK} up\nroute add default via {}\n",
        spec.node_ip(number),
        spec.bridge_ip()
    );
    if spec.has_ipv6() {
        // No other machine is in these namespaces, so nobody's address has to be looked for first.
        let _ = writeln!(lines, "addr add {}/64 dev {UPLINK} nodad", spec.node_ip6(number));
        let _ = writeln!(lines, "route add default via {}", spec.bridge_ip6());
    }
    lines
}

/// Runs several `ip` commands in one process (ip(8), `-batch`).
fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-netns", namespace]);
    }
    ip.args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = ip.spawn().context("cannot run ip (package iproute2)")?;
    let mut stdin = child.stdin.take().context("ip has no standard input")?;
    stdin.write_all(lines.as_bytes()).context("cannot write to ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for ip")?;
    command::checked(&ip, &output)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::cluster::{IpFamilies, Store, remove};

    struct Removed(String);

    impl Drop for Removed {
        fn drop(&mut self) {
            let report = remove::remove(&self.0);
            assert!(report.left.is_empty(), "{report:?}");
        }
    }

    #[test]
    fn nodes_reach_each_other_and_the_control_plane_over_their_uplinks() {
        let mut spec = Spec::new(&format!("t{}xn", std::process::id()), 2, Store::Embedded).unwrap();
        spec.underlay = [172, 31, 254];
        spec.families = IpFamilies::Dual;
        let _removed = Removed(spec.name.clone());
        create(&spec).unwrap();
        assert!(create(&spec).unwrap_err().to_string().contains("exists already"));

        let (node_1, node_2) = (
            spec.netns("node-1"),
            [spec.node_ip(2).into(), IpAddr::from(spec.node_ip6(2))],
        );
        for (netns, ip) in [
            (node_1.clone(), IpAddr::from(spec.node_ip(1))),
            (node_1, spec.node_ip6(1).into()),
            (spec.underlay_netns(), spec.bridge_ip().into()),
            (spec.underlay_netns(), spec.bridge_ip6().into()),
        ] {
            let listener = netns::run_in(&netns, || Ok(TcpListener::bind(SocketAddr::from((ip, 6550)))?)).unwrap();
            let to = listener.local_addr().unwrap();
            let connect = || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?.local_addr()?);
            let from = netns::run_in(&spec.netns("node-2"), connect).unwrap();
            assert!(node_2.contains(&from.ip()), "{from}");
        }
    }
}
