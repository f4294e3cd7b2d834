//! The machines of a site, by number: addresses and names.

use std::net::Ipv4Addr;

use anyhow::Result;
use causeway_agent::net::{NodeNetConfig, Routing};

/// The uplink of every machine.
pub(super) const UPLINK: &str = "cw-up0";
/// UDP port of the tunnel.
pub(super) const VXLAN_PORT: u16 = 8472;
/// Bits of the network between nodes.
pub(super) const UNDERLAY_PREFIX: u8 = 24;

/// A machine in the network between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Machine {
    number: u8,
}

impl Machine {
    /// The node that balances.
    pub(super) const NODE: Self = Self { number: 1 };
    /// The other node, where there is one.
    pub(super) const OTHER: Self = Self { number: 2 };
    /// A client outside the cluster.
    pub(super) const CLIENT: Self = Self { number: 100 };

    /// Its address in the network between nodes.
    pub(super) const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.number)
    }

    /// First address of the range of its pods, a /24.
    pub(super) const fn pods(self) -> Ipv4Addr {
        self.pod(0)
    }

    /// Its own address in that range.
    pub(super) const fn router(self) -> Ipv4Addr {
        self.pod(1)
    }

    /// The address of a pod of its.
    pub(super) const fn pod(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, host)
    }

    /// What the agent's code makes a node's network from.
    pub(super) fn network(self) -> Result<NodeNetConfig> {
        Ok(NodeNetConfig {
            uplink: UPLINK.to_owned(),
            vxlan_port: VXLAN_PORT,
            ipv6_underlay: false,
            routing: Routing::Vxlan,
            cluster_ranges: "10.244.0.0/16".parse()?,
            pod_ranges: format!("{}/24", self.pods()).parse()?,
        })
    }
}
