//! What the data path is told at start.

use std::{net::IpAddr, path::PathBuf};

/// Everything [`super::Datapath::open`] needs.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Where bpffs is, or is to be, mounted: `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// Directory of this node's pins below it: [`causeway_maps::pins::node_dir`].
    pub pin_dir: PathBuf,
    /// The node's own directory in the v2 cgroup tree; sockets of processes below it are balanced at `connect`.
    pub cgroup_v2_dir: PathBuf,
    /// Interface index of the VXLAN device; 0 for none.
    pub tunnel_ifindex: u32,
    /// Interface index of the uplink; 0 for none.
    pub uplink_ifindex: u32,
    /// UDP port of VXLAN.
    pub tunnel_port: u16,
    /// VXLAN network identifier.
    pub tunnel_id: u32,
    /// Whether packets that pods send to the network get the node's address.
    pub masquerade: bool,
    /// Whether backends on other nodes answer clients in the network directly, instead of through this node.
    pub direct_return: bool,
    /// Whether pods of other nodes are reached by the kernel's routes and not through the tunnel.
    pub native_routing: bool,
    /// Underlay addresses of the node, at most one of each family.
    pub node_addresses: Vec<IpAddr>,
    /// The node's addresses in its pod ranges, at most one of each family.
    pub router_addresses: Vec<IpAddr>,
    /// Sizes of the maps, fixed when they are created.
    pub sizes: MapSizes,
    /// How programs are attached to interfaces.
    pub tc: TcAttachment,
    /// Where on the uplink XDP runs, if at all.
    pub xdp: Option<XdpAttachment>,
}

/// Sizes of the maps in entries. Arrays take their memory when they are made, hashes as they fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSizes {
    /// VIP ports; also the number of service counters and names.
    pub services: u32,
    /// Maglev table slots of all services together, 8 bytes each.
    pub slots: u32,
    /// Backends, 40 bytes each.
    pub backends: u32,
    /// Pods on this node.
    pub pods: u32,
    /// Pod ranges of other nodes.
    pub routes: u32,
    /// Flow directions (two for each flow) of traffic that no socket hook saw.
    pub conntrack: u32,
    /// The same for flows only the client of which was seen.
    pub conntrack_new: u32,
    /// Flows to backends on other nodes, with direct server return, that are written down.
    pub direct_flows: u32,
    /// Sockets that are connected through a VIP.
    pub sockets: u32,
    /// Unconnected UDP sockets times the backends they sent to.
    pub socket_replies: u32,
    /// Clients of services with session affinity, once for each service.
    pub affinity: u32,
    /// Prefixes of clients that services let in from the network.
    pub source_ranges: u32,
    /// Datagrams in fragments, the first of which was seen or is waited for.
    pub fragments: u32,
    /// Fragments that wait for the first one of their datagram, 2 KiB each, which are taken when the map is made.
    pub held_fragments: u16,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            services: 65_536,
            slots: 4_194_304,
            backends: 131_072,
            pods: 4_096,
            routes: 16_384,
            conntrack: 131_072,
            conntrack_new: 65_536,
            direct_flows: 65_536,
            sockets: 262_144,
            socket_replies: 65_536,
            affinity: 65_536,
            source_ranges: 16_384,
            fragments: 8_192,
            held_fragments: 1_024,
        }
    }
}

/// How programs are attached to interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TcAttachment {
    /// By a tcx link (kernel 6.6 and later), and by a clsact filter where the kernel refuses that.
    #[default]
    Probe,
    /// By a clsact filter.
    Clsact,
}

/// Where XDP runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpAttachment {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
}

impl MapSizes {
    /// Sizes by map name.
    pub(super) fn by_name(&self) -> [(&'static str, u32); 16] {
        use causeway_maps::shape;
        [
            (shape::SERVICES.name, self.services),
            (shape::SERVICE_COUNTERS.name, self.services),
            (shape::SERVICE_NAMES.name, self.services),
            (shape::SLOTS.name, self.slots),
            (shape::BACKENDS.name, self.backends),
            (shape::PODS.name, self.pods),
            (shape::ROUTES.name, self.routes),
            (shape::CONNTRACK.name, self.conntrack),
            (shape::CONNTRACK_NEW.name, self.conntrack_new),
            (shape::DIRECT_FLOWS.name, self.direct_flows),
            (shape::SOCKET_ORIGINS.name, self.sockets),
            (shape::SOCKET_REPLIES.name, self.socket_replies),
            (shape::AFFINITY.name, self.affinity),
            (shape::SOURCE_RANGES.name, self.source_ranges),
            (shape::FRAGMENTS.name, self.fragments),
            (shape::HELD.name, self.held_fragments.into()),
        ]
    }
}
