//! Nodes on a bridged underlay, and their pods.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
};

use causeway_agent::{
    bpf::{
        BackendId, Datapath, DatapathConfig, DatapathError, DesiredBackend, DesiredPod, DesiredRoute, DesiredService,
        DesiredServices, MapSizes, RouteMode, TcAttachment, VipId, XdpAttachment, remove_pins,
    },
    net::{DirectRoute, Network, NodeNetConfig, PodLink, PodNet, Prefix, Ranges, Routing, Tunnel, pod_link_name},
};
use causeway_maps::{PinnedMaps, Protocol, pins};
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoKind, InfoVeth},
    },
};

use super::{
    Cgroup, Netns, TcpServer, UdpServer, ask, connect, offload::leave_no_checksums, passing::PassingXdp,
    process::command_in, socket_in, unique,
};

const VNI: u32 = 1;
const VXLAN_PORT: u16 = 8472;
const UPLINK: &str = "cw-up0";
const BRIDGE: &str = "cw-br0";

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

/// A node: network namespace, cgroup, pins, data path.
pub struct Node {
    /// Its network namespace.
    pub netns: Netns,
    /// Directory of its pins.
    pub pin_dir: PathBuf,
    /// Its part of the pod network.
    pub tunnel: Tunnel,
    number: u8,
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

/// A pod: a network namespace and a cgroup.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: Netns,
    /// Its address.
    pub address: IpAddr,
    /// Its IPv6 address, in labs that have those.
    pub address6: Option<IpAddr>,
    /// Its veth pair.
    pub link: PodLink,
    /// What was asked for.
    pub net: PodNet,
    cgroup: PathBuf,
}

/// A machine outside of the cluster.
#[derive(Debug)]
pub struct Outsider {
    /// Its network namespace.
    pub netns: Netns,
    /// Its address.
    pub address: IpAddr,
    /// Its IPv6 address.
    pub address6: IpAddr,
}

impl Outsider {
    /// A socket of one of its processes.
    pub fn socket(&self, kind: i32) -> OwnedFd {
        socket_in(&self.netns, None, libc::AF_INET, kind)
    }

    /// Connects from it.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        let socket = socket_in(&self.netns, None, domain(to.ip()), libc::SOCK_STREAM);
        connect(socket, to)
    }

    /// Who answers so many connections, how often.
    pub fn tally(&self, times: usize, to: SocketAddr) -> BTreeMap<String, usize> {
        let mut tally = BTreeMap::new();
        for _ in 0..times {
            let stream = self.connect(to).expect("a connection");
            assert_eq!(stream.peer_addr().expect("its peer"), to);
            *tally.entry(ask(&stream).expect("an answer")).or_default() += 1;
        }
        tally
    }
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
                let port = format!("cw-port{}", node.number);
                underlay.run(|| passing.attach(index(&port)));
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
        let netns = Netns::new();
        let descriptor = netns.as_fd().as_raw_fd();
        let address = underlay_address(number);
        self.underlay
            .block_on(|| plug(format!("cw-port{number}"), descriptor, address));
        let address6 = underlay_address6(number);
        netns.block_on(|| address_uplink(vec![(address, 24), (address6, 64)]));
        if self.nodes.iter().any(|node| node.settings.xdp.is_some()) {
            netns.run(|| leave_no_checksums(UPLINK));
        }
        Outsider {
            netns,
            address,
            address6,
        }
    }

    /// The namespace of the bridge.
    pub fn underlay(&self) -> &Netns {
        &self.underlay
    }
}

async fn make_bridge() {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    handle
        .link()
        .add(LinkBridge::new(BRIDGE).up().build())
        .execute()
        .await
        .expect("a bridge");
}

/// A veth pair between the bridge and a node.
async fn plug(port: String, node: i32, address: IpAddr) {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(UPLINK.to_owned())
        .setns_by_fd(node)
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(port.clone())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .unwrap_or_else(|error| panic!("a link for {address}: {error}"));
    let (bridge, port) = (index(BRIDGE), index(&port));
    let change = LinkUnspec::new_with_index(port).controller(bridge).up().build();
    handle.link().set(change).execute().await.expect("a port of the bridge");
}

async fn address_uplink(addresses: Vec<(IpAddr, u8)>) {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    let uplink = index(UPLINK);
    for (address, prefix_len) in addresses {
        let mut request = handle.address().add(uplink, address, prefix_len);
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.expect("an address for the uplink");
    }
    for link in [uplink, index("lo")] {
        handle
            .link()
            .set(LinkUnspec::new_with_index(link).up().build())
            .execute()
            .await
            .expect("a link that is up");
    }
}

fn index(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).unwrap_or_else(|error| panic!("the link {link}: {error}"))
}

impl Node {
    fn new(number: u8, underlay: &Netns, settings: Settings) -> Self {
        let netns = Netns::new();
        let descriptor = netns.as_fd().as_raw_fd();
        let address = underlay_address(number);
        underlay.block_on(|| plug(format!("cw-port{number}"), descriptor, address));
        let mut addresses = vec![(address, 24)];
        if settings.ipv6 {
            addresses.push((underlay_address6(number), 64));
        }
        netns.block_on(|| address_uplink(addresses));
        if settings.xdp.is_some() {
            netns.run(|| leave_no_checksums(UPLINK));
        }
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

    fn make_network(&mut self) {
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
            backend.node = match backend.id.address {
                IpAddr::V4(address) if !backend.local => Some(Ipv4Addr::new(172, 30, 0, address.octets()[2])),
                _ => None,
            };
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

impl Pod {
    /// A socket of one of its processes, which socket hooks see.
    pub fn socket(&self, domain: i32, kind: i32) -> OwnedFd {
        socket_in(&self.netns, Some(&self.cgroup), domain, kind)
    }

    /// A command of one of its processes, whose sockets hooks see.
    pub fn command(&self, program: &str) -> Command {
        command_in(&self.netns.path(), Some(&self.cgroup), program)
    }

    /// The same, whose sockets hooks do not see.
    pub fn unhooked_command(&self, program: &str) -> Command {
        command_in(&self.netns.path(), None, program)
    }

    /// A socket in its network namespace that no socket hook sees: its packets are balanced one by one.
    pub fn unhooked_socket(&self, domain: i32, kind: i32) -> OwnedFd {
        socket_in(&self.netns, None, domain, kind)
    }

    /// Connects from one of its processes.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        connect(self.socket(domain(to.ip()), libc::SOCK_STREAM), to)
    }

    /// Connects past the socket hooks.
    pub fn connect_unhooked(&self, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        connect(self.unhooked_socket(domain(to.ip()), libc::SOCK_STREAM), to)
    }

    /// Where a port of it is reached directly.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Where a port of it is reached directly over IPv6.
    ///
    /// # Panics
    ///
    /// In a lab without IPv6.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address6.expect("a lab with IPv6"), port)
    }

    /// Starts a TCP server that says `name` over IPv6.
    pub fn serve_tcp6(&self, port: u16, name: &str) -> TcpServer {
        TcpServer::start(self.socket(libc::AF_INET6, libc::SOCK_STREAM), self.at6(port), name)
    }

    /// Starts a UDP server that says `name` over IPv6.
    pub fn serve_udp6(&self, port: u16, name: &str) -> UdpServer {
        UdpServer::start(self.socket(libc::AF_INET6, libc::SOCK_DGRAM), self.at6(port), name)
    }

    /// Starts a TCP server that says `name`.
    pub fn serve_tcp(&self, port: u16, name: &str) -> TcpServer {
        TcpServer::start(self.socket(libc::AF_INET, libc::SOCK_STREAM), self.at(port), name)
    }

    /// Starts a UDP server that says `name`.
    pub fn serve_udp(&self, port: u16, name: &str) -> UdpServer {
        UdpServer::start(self.socket(libc::AF_INET, libc::SOCK_DGRAM), self.at(port), name)
    }
}

/// A TCP service at `vip`, with port `port` of these pods behind it, all ready.
pub fn tcp_service(vip: SocketAddr, port: u16, pods: &[&Pod]) -> DesiredService {
    service(vip, Protocol::TCP, port, pods)
}

/// A UDP service at `vip`, with port `port` of these pods behind it, all ready.
pub fn udp_service(vip: SocketAddr, port: u16, pods: &[&Pod]) -> DesiredService {
    service(vip, Protocol::UDP, port, pods)
}

fn service(vip: SocketAddr, protocol: Protocol, port: u16, pods: &[&Pod]) -> DesiredService {
    let address = |pod: &Pod| {
        if vip.is_ipv4() {
            pod.address
        } else {
            pod.address6.expect("a lab with IPv6")
        }
    };
    let backend = |pod: &&Pod| DesiredBackend {
        id: BackendId {
            address: address(pod),
            port,
            protocol,
            ready_always: false,
        },
        ready: true,
        terminating: false,
        local: false,
        node: None,
        preferred: true,
    };
    let id = VipId {
        address: vip.ip(),
        port: vip.port(),
        protocol,
    };
    let backends = pods.iter().map(backend).collect();
    DesiredService::cluster_ip(id, format!("default/test:{}", vip.port()), backends)
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

fn ranges(number: u8, ipv6: bool) -> Ranges {
    let ipv4 = Prefix::new(pod_address(number, 0), 24);
    let ipv6 = ipv6.then(|| Prefix::new(pod_address6(number, 0), 64));
    let ranges: Option<Vec<_>> = [ipv4].into_iter().chain(ipv6).collect();
    ranges.as_deref().and_then(Ranges::new).expect("ranges")
}

/// The domain of a socket for an address.
fn domain(address: IpAddr) -> i32 {
    if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

fn underlay_address6(number: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, number.into()))
}

fn pod_address6(number: u8, host: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, number.into(), 0, 0, 0, host.into()))
}

fn underlay_address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(172, 30, 0, number))
}

fn pod_address(number: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 244, number, host))
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
        socket_replies: 1_024,
        affinity: 1_024,
        source_ranges: 64,
        fragments: 1_024,
        held_fragments: 128,
    }
}
