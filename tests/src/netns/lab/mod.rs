//! Nodes on a bridged underlay, and their pods.
//!
//! [`node`] runs the agent's network and data-path code in a namespace, [`pod`] and [`outsider`] are who talks through it, [`underlay`]
//! is the wire between them, [`addresses`] says who has which address, and [`services`] what to ask a node to serve.

mod addresses;
mod node;
mod outsider;
mod pod;
mod services;
mod underlay;

use causeway_agent::{
    bpf::{DesiredService, TcAttachment, XdpAttachment},
    net::{Network, Routing},
};

use self::{
    addresses::{underlay_address, underlay_address6},
    underlay::{UPLINK, index, join, make_bridge, port_name},
};
pub use self::{
    node::Node,
    outsider::Outsider,
    pod::Pod,
    services::{also_at, tcp_service, udp_service},
};
use super::{Netns, passing::PassingXdp};

/// What a lab is made of.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Number of nodes.
    pub nodes: u8,
    /// How programs are attached to interfaces.
    pub tc: TcAttachment,
    /// Nodes and pods have IPv6 addresses beside those of IPv4.
    pub ipv6: bool,
    /// How pods of other nodes are reached.
    pub routing: Routing,
    /// Where XDP runs on the uplinks.
    pub xdp: Option<XdpAttachment>,
    /// Backends' nodes answer clients in the network directly.
    pub direct_return: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: 1,
            tc: TcAttachment::Probe,
            ipv6: false,
            routing: Routing::Vxlan,
            xdp: None,
            direct_return: false,
        }
    }
}

/// Some nodes that reach each other over a bridge.
#[derive(Debug)]
pub struct Lab {
    /// The nodes.
    pub nodes: Vec<Node>,
    underlay: Netns,
    _ports: Option<PassingXdp>,
}

impl Lab {
    /// Nodes 1, 2, … with routes to each other's pods.
    pub fn new(settings: Settings) -> Self {
        let underlay = Netns::new();
        underlay.block_on(make_bridge);
        let nodes: Vec<_> = (1..=settings.nodes)
            .map(|number| Node::new(number, &underlay, settings))
            .collect();
        let ports = settings.xdp.map(|_| {
            let mut passing = PassingXdp::load();
            for node in &nodes {
                underlay.run(|| passing.attach(index(&port_name(node.number))));
            }
            passing
        });
        let lab = Self {
            nodes,
            underlay,
            _ports: ports,
        };
        for node in &lab.nodes {
            lab.connect_to_others(node);
        }
        lab
    }

    /// Gives a node its routes to the others, as its settings want them.
    fn connect_to_others(&self, node: &Node) {
        let others = || self.nodes.iter().filter(|other| other.number != node.number);
        let routes: Vec<_> = others().flat_map(|other| other.routes(node.settings.routing)).collect();
        node.datapath().sync_routes(&routes).expect("routes to the other nodes");
        let direct: Vec<_> = match node.settings.routing {
            Routing::Vxlan => Vec::new(),
            Routing::Native => others().flat_map(|other| node.direct_routes(other)).collect(),
        };
        node.netns
            .block_on(|| async { Network::new()?.sync_direct_routes(UPLINK, &direct).await })
            .expect("direct routes to the other nodes");
    }

    /// Changes how a node reaches the others' pods, as an agent that is started with another setting.
    pub fn change_routing(&mut self, node: usize, routing: Routing) {
        let changed = &mut self.nodes[node];
        changed.settings.routing = routing;
        changed.make_network();
        changed.open().expect("the data path");
        self.connect_to_others(&self.nodes[node]);
    }

    /// One node.
    pub fn single() -> Self {
        Self::new(Settings::default())
    }

    /// Two nodes.
    pub fn pair() -> Self {
        Self::new(Settings {
            nodes: 2,
            ..Settings::default()
        })
    }

    /// Brings all nodes' services to these.
    pub fn serve(&self, services: &[DesiredService]) {
        for node in &self.nodes {
            node.serve(services);
        }
    }

    /// A machine on the underlay that is no node and knows no route to pods.
    pub fn outsider(&self, number: u8) -> Outsider {
        let xdp = self.nodes.iter().any(|node| node.settings.xdp.is_some());
        Outsider {
            netns: join(&self.underlay, number, true, xdp),
            address: underlay_address(number),
            address6: underlay_address6(number),
        }
    }

    /// The namespace of the bridge.
    pub fn underlay(&self) -> &Netns {
        &self.underlay
    }
}
