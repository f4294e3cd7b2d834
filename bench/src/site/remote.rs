//! A client outside the cluster, a node that balances, and the backends on another node.
//!
//! ```text
//!                      ┌ cw-br0 (underlay) ┐
//!   client 172.30.0.100   node 172.30.0.1   other 172.30.0.2 ── pods 10.244.2.x
//! ```
//!
//! The client reaches services by the node and pods by the other node. Between the nodes is a tunnel: Causeway's own, or an
//! ordinary VXLAN device where there is no Causeway. All frames are whole, as on a wire, so that XDP can take them.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::fd::OwnedFd,
};

use anyhow::{Context as _, Result};

use super::{
    Causeway, Netns, Pod, Settings, Site,
    machine::{Machine, UNDERLAY_PREFIX, UPLINK},
    node::node_network,
    offloads,
    wire::{self, Wire},
};
use crate::{service::EXTERNAL_CIDR, testrun};

const BRIDGE: &str = "cw-br0";
/// The tunnel of nodes without Causeway, and its port, which is not that of the agent's tunnel device.
const PLAIN_TUNNEL: &str = "cw-vx1";
const PLAIN_TUNNEL_PORT: u16 = 8473;
/// Last part of the address before the first backend's.
const FIRST_HOST: u8 = 9;

/// What is beside the node that balances.
#[derive(Debug)]
pub(super) struct Remote {
    /// The other node's data path, gone before its namespace.
    pub(super) causeway: Option<Causeway>,
    _node: Netns,
    /// XDP on the other end of the node's uplink: without it, a veth leaves frames that XDP sends out of its peer where they are
    /// (`veth_xdp_flush` in drivers/net/veth.c).
    _takes_frames: OwnedFd,
    /// The network between them.
    _underlay: Netns,
}

impl Site {
    /// A client outside, and backends on another node; with Causeway on both nodes if there are settings.
    pub fn remote(name: &str, backends: usize, settings: Option<&Settings>) -> Result<Self> {
        let underlay = Netns::new()?;
        underlay.block_on(|| async {
            let wire = Wire::new()?;
            wire.bridge(BRIDGE).await?;
            wire.up(&[BRIDGE, "lo"]).await
        })?;
        let client = machine(&underlay, Machine::CLIENT)?;
        let node = machine(&underlay, Machine::NODE)?;
        let other = machine(&underlay, Machine::OTHER)?;
        client.block_on(|| async {
            let wire = Wire::new()?;
            wire.route(EXTERNAL_CIDR, Machine::NODE.address(), UPLINK).await?;
            let pods = (Machine::OTHER.pods(), 24);
            wire.route(pods, Machine::OTHER.address(), UPLINK).await
        })?;
        client.run(|| offloads::send_whole_frames(UPLINK))?;

        let takes_frames = underlay.run(|| testrun::let_pass(wire::index(&port(Machine::NODE))?))?;

        let tunnel = node_network(&node, Machine::NODE)?;
        let other_tunnel = node_network(&other, Machine::OTHER)?;
        let pods = (1..=backends)
            .map(|number| {
                let host = FIRST_HOST + number as u8;
                let pod = Pod::on(Machine::OTHER, &other, host, other_tunnel.mtu_bytes)?;
                pod.netns.run(|| offloads::send_whole_frames("eth0"))?;
                Ok(pod)
            })
            .collect::<Result<Vec<_>>>()?;

        let (causeway, other_causeway) = if let Some(settings) = settings {
            let near = Causeway::open(name, settings, Machine::NODE, (&node, &tunnel))?;
            near.enter_route(Machine::OTHER)?;
            let own = Settings {
                xdp: false,
                ..*settings
            };
            let far = Causeway::open(&format!("{name}-other"), &own, Machine::OTHER, (&other, &other_tunnel))?;
            far.enter_route(Machine::NODE)?;
            let entries: Vec<_> = pods.iter().filter_map(Pod::desired).collect();
            far.enter_pods(&other, &entries)?;
            (Some(near), Some(far))
        } else {
            plain_tunnel(&node, Machine::NODE, Machine::OTHER, tunnel.mtu_bytes)?;
            plain_tunnel(&other, Machine::OTHER, Machine::NODE, tunnel.mtu_bytes)?;
            (None, None)
        };
        Ok(Self {
            causeway,
            client: Pod::outside(client, Machine::CLIENT.address()),
            backends: pods,
            node,
            direct_return: settings.is_some_and(|settings| settings.direct_return),
            has_xdp: settings.is_some_and(|settings| settings.xdp),
            remote: Some(Remote {
                causeway: other_causeway,
                _node: other,
                _takes_frames: takes_frames,
                _underlay: underlay,
            }),
        })
    }
}

/// The port of the underlay's bridge that a machine is at.
fn port(machine: Machine) -> String {
    format!("cw-port{}", machine.address().octets()[3])
}

/// A namespace whose uplink is a port of the underlay's bridge.
fn machine(underlay: &Netns, machine: Machine) -> Result<Netns> {
    let netns = Netns::new()?;
    let port = port(machine);
    underlay.block_on(|| async {
        let wire = Wire::new()?;
        wire.pair(&port, UPLINK, Some(&netns)).await?;
        wire.enslave(&port, BRIDGE).await?;
        wire.up(&[&port]).await
    })?;
    netns.block_on(|| async {
        let wire = Wire::new()?;
        wire.address(UPLINK, machine.address(), UNDERLAY_PREFIX).await?;
        wire.up(&[UPLINK, "lo"]).await
    })?;
    netns.run(relax_reverse_path_filter)?;
    Ok(netns)
}

/// Answers may come from where questions do not go: with direct server return.
fn relax_reverse_path_filter() -> Result<()> {
    for link in ["all", "default", UPLINK] {
        let path = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
        fs::write(&path, "0").with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

impl Site {
    /// Lets the node learn where its neighbours are, as it would with traffic.
    pub fn greet_neighbours(&self) -> Result<()> {
        self.node.run(|| {
            let socket = UdpSocket::bind((Machine::NODE.address(), 0)).context("cannot open a socket")?;
            for machine in [Machine::OTHER, Machine::CLIENT] {
                // The discard service (RFC 863), which need not be there.
                let _ = socket.send_to(b"?", (machine.address(), 9));
            }
            Ok(())
        })
    }
}

/// A tunnel as an ordinary overlay network makes it.
fn plain_tunnel(node: &Netns, own: Machine, to: Machine, mtu_bytes: u32) -> Result<()> {
    let end = |machine: Machine| -> Ipv4Addr { machine.pod(2) };
    node.block_on(|| async {
        let wire = Wire::new()?;
        let ends = (own.address(), to.address());
        wire.tunnel(PLAIN_TUNNEL, ends, PLAIN_TUNNEL_PORT, mtu_bytes).await?;
        wire.address(PLAIN_TUNNEL, end(own), 32).await?;
        wire.up(&[PLAIN_TUNNEL]).await?;
        wire.route((to.pods(), 24), end(to), PLAIN_TUNNEL).await
    })
}
