//! Nodes: the agent's own network and data path, without an agent.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use causeway_agent::{
    bpf::{
        Datapath, DatapathConfig, DatapathError, DesiredPod, DesiredRoute, DesiredService, DesiredServices, MapSizes,
        RouteMode, remove_pins,
    },
    net::{DirectRoute, Network, NodeNetConfig, PodNet, Prefix, Ranges, Routing, Tunnel, pod_link_name},
};
use causeway_maps::{PinnedMaps, pins};

use super::{
    Pod, Settings,
    addresses::{node_of_pod, pod_address, pod_address6, ranges, underlay_address, underlay_address6},
    underlay::{UPLINK, join},
};
use crate::netns::{Cgroup, Netns, connect, socket::domain, socket_in, unique};

const VNI: u32 = 1;
const VXLAN_PORT: u16 = 8472;

/// A node: network namespace, cgroup, pins, data path.
pub struct Node {
    /// Its network namespace.
    pub netns: Netns,
    /// Directory of its pins.
    pub pin_dir: PathBuf,
    /// Its part of the pod network.
    pub tunnel: Tunnel,
    pub(super) number: u8,
    cgroup: Cgroup,
    /// What it was made with; the next [`open`](Self::open) looks at it again.
    pub settings: Settings,
    datapath: Option<Datapath>,
    pods: Vec<DesiredPod>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("number", &self.number)
            .field("pin_dir", &self.pin_dir)
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(super) fn new(number: u8, underlay: &Netns, settings: Settings) -> Self {
        let netns = join(underlay, number, settings.ipv6, settings.xdp.is_some());
        let tunnel = make_network(&netns, number, settings);
        let cluster = format!("cwt{}-{}", std::process::id(), unique());
        let pin_dir = pins::node_dir(Path::new(pins::BPFFS), &cluster, &format!("node{number}"));
        let mut node = Self {
            netns,
            pin_dir,
            tunnel,
            number,
            cgroup: Cgroup::new(),
            settings,
            datapath: None,
            pods: Vec::new(),
        };
        node.open().expect("the data path");
        node
    }

    /// What its data path is made from.
    pub fn config(&self) -> DatapathConfig {
        DatapathConfig {
            bpffs: PathBuf::from(pins::BPFFS),
            pin_dir: self.pin_dir.clone(),
            cgroup_v2_dir: self.cgroup.path().to_owned(),
            tunnel_ifindex: self.tunnel.ifindex,
            uplink_ifindex: self.tunnel.uplink_ifindex,
            tunnel_port: VXLAN_PORT,
            tunnel_id: 1,
            masquerade: true,
            direct_return: self.settings.direct_return,
            native_routing: self.settings.routing == Routing::Native,
            xdp: self.settings.xdp,
            node_addresses: self.underlay_addresses(),
            router_addresses: self.ranges().routers(),
            sizes: sizes(),
            tc: self.settings.tc,
        }
    }

    /// Makes its interfaces and routes as its settings want them.
    pub(super) fn make_network(&mut self) {
        self.tunnel = make_network(&self.netns, self.number, self.settings);
    }

    /// Opens the data path, anew or over the pins that are there.
    pub fn open(&mut self) -> Result<(), DatapathError> {
        let config = self.config();
        self.datapath = Some(self.netns.run(|| Datapath::open(&config))?);
        Ok(())
    }

    /// Opens the data path over the pins that are there, as an agent that was built with other programs.
    pub fn open_object(&mut self, object: &[u8]) -> Result<(), DatapathError> {
        let config = self.config();
        let open = || Datapath::open_object(&config, object);
        self.datapath = Some(self.netns.run(open)?);
        Ok(())
    }

    /// Lets go of the data path, as an agent that dies.
    pub fn close(&mut self) {
        self.datapath = None;
    }

    /// The data path.
    ///
    /// # Panics
    ///
    /// When it is closed.
    pub fn datapath(&self) -> &Datapath {
        self.datapath.as_ref().expect("an open data path")
    }

    /// The pinned maps, as somebody else opens them.
    pub fn maps(&self) -> PinnedMaps {
        PinnedMaps::open(&self.pin_dir).expect("the pinned maps")
    }

    /// Its own address in its pod range.
    pub fn router_address(&self) -> IpAddr {
        pod_address(self.number, 1)
    }

    /// Its address in the underlay.
    pub fn underlay_address(&self) -> IpAddr {
        underlay_address(self.number)
    }

    /// Where a port of it is reached.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.underlay_address(), port)
    }

    /// Its addresses in the underlay.
    pub fn underlay_addresses(&self) -> Vec<IpAddr> {
        let ipv6 = self.settings.ipv6.then(|| underlay_address6(self.number));
        [underlay_address(self.number)].into_iter().chain(ipv6).collect()
    }

    /// Its own IPv6 address in its pod range, in labs that have those.
    pub fn router_address6(&self) -> IpAddr {
        pod_address6(self.number, 1)
    }

    /// Its pod ranges.
    pub fn ranges(&self) -> Ranges {
        ranges(self.number, self.settings.ipv6)
    }

    /// Name of its uplink.
    pub fn uplink(&self) -> &'static str {
        UPLINK
    }

    /// Where others find its pods.
    pub fn routes(&self, routing: Routing) -> Vec<DesiredRoute> {
        let ranges = self.ranges();
        let route = |range: Prefix| DesiredRoute {
            address: range.network(),
            prefix_len: range.length(),
            node: underlay_address(self.number),
            mode: match routing {
                Routing::Vxlan => RouteMode::Vxlan { vni: VNI },
                Routing::Native => RouteMode::Native,
            },
        };
        ranges.iter().map(route).collect()
    }

    /// This node's routes to another's pods, without a tunnel.
    pub fn direct_routes(&self, other: &Self) -> Vec<DirectRoute> {
        let pairs = other.underlay_addresses().into_iter().zip(self.ranges().routers());
        let (ranges, number) = (other.ranges(), other.number);
        let of_family = |gateway| {
            ranges
                .of_family(gateway)
                .unwrap_or_else(|| panic!("a range of node {number}"))
        };
        pairs
            .map(|(gateway, source)| DirectRoute {
                range: of_family(gateway),
                gateway,
                source,
            })
            .collect()
    }

    /// Brings its services to these.
    pub fn serve(&self, services: &[DesiredService]) {
        let desired = DesiredServices {
            services: services.iter().map(|service| self.localise(service)).collect(),
        };
        let report = self.datapath().sync_services(&desired);
        assert!(report.not_applied.is_empty(), "{:?}", report.not_applied);
    }

    /// Backends of this node are local.
    fn localise(&self, service: &DesiredService) -> DesiredService {
        let mut service = service.clone();
        for backend in &mut service.backends {
            backend.local = self.pods.iter().any(|pod| pod.address == backend.id.address);
            backend.node = (!backend.local).then(|| node_of_pod(backend.id.address)).flatten();
        }
        service
    }

    /// A new pod, with the `host`-th address of the node's range.
    pub fn add_pod(&mut self, host: u8) -> Pod {
        let netns = Netns::new();
        let address = pod_address(self.number, host);
        let address6 = self.settings.ipv6.then(|| pod_address6(self.number, host));
        let net = PodNet {
            netns: netns.path(),
            host_link: pod_link_name(&format!("{:02x}{:02x}{:04x}", self.number, host, unique())),
            addresses: [address].into_iter().chain(address6).collect(),
            router_addresses: self.ranges().routers(),
            mtu_bytes: self.tunnel.mtu_bytes,
        };
        let link = self
            .netns
            .block_on(|| async { Network::new()?.attach_pod(&net).await })
            .expect("the pod's network");
        let datapath = self.datapath().clone();
        let pods = net.addresses.iter().map(|address| DesiredPod {
            address: *address,
            ifindex: link.ifindex,
            pod_mac: link.pod_mac,
            host_mac: link.host_mac,
        });
        self.netns
            .run(|| datapath.attach_pod(link.ifindex))
            .expect("the pod's program");
        self.pods.extend(pods);
        datapath.sync_pods(&self.pods).expect("the pod in its map");
        Pod {
            netns,
            address,
            address6,
            link,
            net,
            cgroup: self.cgroup.child(&format!("pod-{host}")),
        }
    }

    /// A socket of a process of the node itself that runs in its cgroup.
    pub fn socket(&self, domain: i32, kind: i32) -> OwnedFd {
        socket_in(&self.netns, Some(self.cgroup.path()), domain, kind)
    }

    /// Connects from a process of the node itself.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        connect(self.socket(domain(to.ip()), libc::SOCK_STREAM), to)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.datapath = None;
        for error in remove_pins(Path::new(pins::BPFFS), &self.pin_dir) {
            eprintln!("pins stay behind: {error}");
        }
    }
}

fn make_network(netns: &Netns, number: u8, settings: Settings) -> Tunnel {
    let cluster = if settings.ipv6 {
        "10.244.0.0/16,fd00:244::/48"
    } else {
        "10.244.0.0/16"
    };
    let config = NodeNetConfig {
        uplink: UPLINK.to_owned(),
        vxlan_port: VXLAN_PORT,
        ipv6_underlay: false,
        routing: settings.routing,
        cluster_ranges: cluster.parse().expect("ranges"),
        pod_ranges: ranges(number, settings.ipv6),
    };
    netns
        .block_on(|| async { Network::new()?.ensure_node(&config).await })
        .expect("the node's network")
}

/// Small: many tests run side by side.
fn sizes() -> MapSizes {
    MapSizes {
        services: 256,
        slots: 65_536,
        backends: 1_024,
        pods: 64,
        routes: 64,
        conntrack: 4_096,
        conntrack_new: 4_096,
        direct_flows: 1_024,
        sockets: 1_024,
        socket_replies: 1_024,
        affinity: 1_024,
        source_ranges: 64,
        fragments: 1_024,
        held_fragments: 128,
    }
}
