//! Pods, and machines outside the cluster.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use causeway_agent::{
    bpf::DesiredPod,
    net::{Network, PodLink, PodNet, pod_link_name},
};

use super::{Netns, machine::Machine};

/// A pod, or a machine outside the cluster: a network namespace with one address.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: Netns,
    /// Its address.
    pub address: Ipv4Addr,
    /// How it hangs on its node; none for a machine outside.
    link: Option<PodLink>,
}

impl Pod {
    /// A pod on a node, made by the agent's own code. `host` is the last part of its address.
    pub(super) fn on(machine: Machine, node: &Netns, host: u8, mtu_bytes: u32) -> Result<Self> {
        let netns = Netns::new()?;
        let address = machine.pod(host);
        let net = PodNet {
            netns: netns.path(),
            host_link: pod_link_name(&format!("{host:08x}")),
            addresses: vec![address.into()],
            router_addresses: vec![machine.router().into()],
            mtu_bytes,
        };
        let link = node
            .block_on(|| async { Ok(Network::new()?.attach_pod(&net).await?) })
            .with_context(|| format!("cannot make the network of the pod {address}"))?;
        Ok(Self {
            netns,
            address,
            link: Some(link),
        })
    }

    /// A machine outside the cluster.
    pub(super) fn outside(netns: Netns, address: Ipv4Addr) -> Self {
        Self {
            netns,
            address,
            link: None,
        }
    }

    /// Index of the host side of its interface, in the node's namespace; 0 for a machine outside.
    pub fn ifindex(&self) -> u32 {
        self.link.map_or(0, |link| link.ifindex)
    }

    /// As the data path is to know it.
    pub(super) fn desired(&self) -> Option<DesiredPod> {
        let link = self.link?;
        Some(DesiredPod {
            address: self.address.into(),
            ifindex: link.ifindex,
            pod_mac: link.pod_mac,
            host_mac: link.host_mac,
        })
    }
}
