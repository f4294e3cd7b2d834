//! A node with a client and backends.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use causeway_agent::net::{Network, Tunnel};

use super::{
    Causeway, Netns, Pod, Settings,
    machine::{Machine, UNDERLAY_PREFIX, UPLINK},
    offloads,
    remote::Remote,
    wire::{self, Wire},
};

const FAR_SIDE: &str = "cw-up1";
/// The node's own address.
pub const NODE_ADDRESS: Ipv4Addr = Machine::NODE.address();
/// Another node's address.
pub const OTHER_NODE_ADDRESS: Ipv4Addr = Machine::OTHER.address();
/// Where frames to nobody go.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x64];
/// Last part of the address of the client's pod; backends follow.
const CLIENT: u8 = 9;

/// A node, and those who talk through it. Everything in it is made by the agent's own code; without [`Causeway`] it merely routes.
#[derive(Debug)]
pub struct Site {
    /// Causeway's part; gone before the namespaces.
    pub causeway: Option<Causeway>,
    /// Who asks: a pod of the node, or a machine outside the cluster.
    pub client: Pod,
    /// The pods that answer, on this node or on another.
    pub backends: Vec<Pod>,
    /// The node's network namespace.
    pub node: Netns,
    /// The other node, where the backends are, if they are not here.
    pub(super) remote: Option<Remote>,
    pub(super) has_xdp: bool,
    pub(super) direct_return: bool,
}

impl Site {
    /// A node that routes between its pods and does nothing else.
    pub fn plain(backends: usize) -> Result<Self> {
        Ok(Self::build(backends)?.0)
    }

    /// A node with Causeway's data path.
    pub fn with_causeway(name: &str, backends: usize, settings: &Settings) -> Result<Self> {
        let (mut site, tunnel) = Self::build(backends)?;
        let causeway = Causeway::open(name, settings, Machine::NODE, (&site.node, &tunnel))?;
        let causeway = site.causeway.insert(causeway);
        let pods = [&site.client].into_iter().chain(&site.backends);
        let pods: Vec<_> = pods.filter_map(Pod::desired).collect();
        causeway.enter_pods(&site.node, &pods)?;
        causeway.enter_route(Machine::OTHER)?;
        Ok(site)
    }

    /// Addresses of the backends.
    pub fn backend_addresses(&self) -> Vec<Ipv4Addr> {
        self.backends.iter().map(|pod| pod.address).collect()
    }

    /// Whether the client is outside the cluster and the backends are on another node.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    fn build(backends: usize) -> Result<(Self, Tunnel)> {
        let node = Netns::new()?;
        node.block_on(make_uplink)?;
        let tunnel = node_network(&node, Machine::NODE)?;
        let pod = |host: u8| Pod::on(Machine::NODE, &node, host, tunnel.mtu_bytes);
        let client = pod(CLIENT)?;
        let backends = (1..=backends)
            .map(|number| pod(CLIENT + number as u8))
            .collect::<Result<_>>()?;
        let site = Self {
            causeway: None,
            client,
            backends,
            node,
            remote: None,
            has_xdp: false,
            direct_return: false,
        };
        Ok((site, tunnel))
    }
}

/// A node's network, by the agent's own code.
pub(super) fn node_network(node: &Netns, machine: Machine) -> Result<Tunnel> {
    let config = machine.network()?;
    node.block_on(|| async { Ok(Network::new()?.ensure_node(&config).await?) })
        .context("cannot make the node's network")
}

/// An uplink that leads nowhere: nothing leaves the node in these measurements, but a node has one, and its MTU decides
/// the pods'. Its neighbours are known, for programs that are run on single packets.
async fn make_uplink() -> Result<()> {
    let wire = Wire::new()?;
    wire.pair(UPLINK, FAR_SIDE, None).await?;
    wire.address(UPLINK, NODE_ADDRESS, UNDERLAY_PREFIX).await?;
    wire.up(&[UPLINK, FAR_SIDE, "lo"]).await?;
    for machine in [Machine::OTHER, Machine::CLIENT] {
        wire.neighbour(UPLINK, machine.address(), NOBODY).await?;
    }
    Ok(())
}

impl Site {
    /// Causeway's part of the other node, if there is one.
    pub fn other(&self) -> Option<&Causeway> {
        self.remote.as_ref()?.causeway.as_ref()
    }

    /// Whether the other node answers clients itself.
    pub fn answers_directly(&self) -> bool {
        self.direct_return
    }

    /// Frames that XDP on the node's uplink has sent out of it again.
    pub fn sent_by_xdp(&self) -> Result<u64> {
        if !self.has_xdp {
            return Ok(0);
        }
        self.node.run(|| offloads::sent_by_xdp(UPLINK))
    }

    /// Gives a link of the node, which sends nothing anywhere and is made here, addresses of its own.
    pub fn hold_addresses(&self, link: &str, addresses: &[Ipv4Addr]) -> Result<()> {
        self.node.block_on(|| async {
            let wire = Wire::new()?;
            if wire::index(link).is_err() {
                wire.dummy(link).await?;
            }
            for address in addresses {
                wire.address(link, *address, 32).await?;
            }
            Ok(())
        })
    }

    /// Index of the node's uplink.
    pub fn uplink(&self) -> Result<u32> {
        self.node.run(|| wire::index(UPLINK))
    }
}
