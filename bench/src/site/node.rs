//! A node with a client pod and backend pods.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use causeway_agent::{
    bpf::{Datapath, DatapathConfig, DesiredPod, MapSizes, TcAttachment, remove_pins},
    net::{Network, NodeNetConfig, PodLink, PodNet, Routing, Tunnel, pod_link_name},
};
use causeway_maps::{PinnedMaps, pins, view};
use rtnetlink::{LinkUnspec, LinkVeth};

use super::{Cgroup, Netns, leftovers};

const UPLINK: &str = "cw-up0";
const FAR_SIDE: &str = "cw-up1";
/// The node's own address.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Another node's address.
pub const OTHER_NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
const VXLAN_PORT: u16 = 8472;
/// Last part of the address of the client's pod; backends follow.
const CLIENT: u8 = 9;

/// A node and its pods. Everything in it is made by the agent's own code; without [`Causeway`] it merely routes.
#[derive(Debug)]
pub struct Site {
    /// Causeway's part; gone before the namespaces.
    pub causeway: Option<Causeway>,
    /// The pod that asks.
    pub client: Pod,
    /// The pods that answer.
    pub backends: Vec<Pod>,
    /// The node's network namespace.
    pub node: Netns,
}

/// A pod: a network namespace with one address.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: Netns,
    /// Its address.
    pub address: Ipv4Addr,
    link: PodLink,
}

impl Pod {
    /// Index of the host side of its interface, in the node's namespace.
    pub fn ifindex(&self) -> u32 {
        self.link.ifindex
    }
}

/// The data path of a node.
pub struct Causeway {
    /// Programs and maps.
    pub datapath: Datapath,
    /// Processes in here are balanced at `connect`.
    pub cgroup: Cgroup,
    /// Directory of the pins.
    pub pin_dir: PathBuf,
}

impl Causeway {
    /// The kernel's id of one of its programs; the last one loaded, should an older one not be gone yet.
    pub fn program(&self, name: &str) -> Result<u32> {
        // The kernel keeps 15 characters of a name.
        let known: String = name.chars().take(15).collect();
        let maps = PinnedMaps::open(&self.pin_dir).context("cannot open the pinned maps")?;
        let programs = view::programs(&maps, None).context("cannot list the programs")?;
        let ids = programs
            .iter()
            .filter(|program| program.name == known)
            .map(|program| program.id);
        ids.max().with_context(|| format!("the program {name} is not loaded"))
    }
}

impl std::fmt::Debug for Causeway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Causeway")
            .field("pin_dir", &self.pin_dir)
            .finish_non_exhaustive()
    }
}

impl Drop for Causeway {
    fn drop(&mut self) {
        for error in remove_pins(Path::new(pins::BPFFS), &self.pin_dir) {
            eprintln!("pins stay behind: {error}");
        }
    }
}

impl Site {
    /// A node that routes between its pods and does nothing else.
    pub fn plain(backends: usize) -> Result<Self> {
        Ok(Self::build(backends)?.0)
    }

    /// A node with Causeway's data path.
    pub fn with_causeway(name: &str, backends: usize, sizes: MapSizes) -> Result<Self> {
        let (mut site, tunnel) = Self::build(backends)?;
        let cgroup = Cgroup::new(name)?;
        let pin_dir = leftovers::pin_dir(name);
        let config = DatapathConfig {
            bpffs: PathBuf::from(pins::BPFFS),
            pin_dir: pin_dir.clone(),
            cgroup_v2_dir: cgroup.path().to_owned(),
            tunnel_ifindex: tunnel.ifindex,
            uplink_ifindex: tunnel.uplink_ifindex,
            tunnel_port: VXLAN_PORT,
            tunnel_id: 1,
            masquerade: true,
            direct_return: false,
            xdp: None,
            node_addresses: vec![NODE_ADDRESS.into()],
            router_addresses: vec![ROUTER_ADDRESS.into()],
            sizes,
            tc: TcAttachment::Probe,
        };
        let opened = site
            .node
            .run(|| Datapath::open(&config).context("cannot open the data path"));
        let datapath = match opened {
            Ok(datapath) => datapath,
            Err(error) => {
                for error in remove_pins(Path::new(pins::BPFFS), &pin_dir) {
                    eprintln!("pins stay behind: {error}");
                }
                return Err(error);
            }
        };
        let causeway = site.causeway.insert(Causeway {
            datapath,
            cgroup,
            pin_dir,
        });
        let pods: Vec<DesiredPod> = [&site.client]
            .into_iter()
            .chain(&site.backends)
            .map(|pod| DesiredPod {
                address: pod.address.into(),
                ifindex: pod.link.ifindex,
                pod_mac: pod.link.pod_mac,
                host_mac: pod.link.host_mac,
            })
            .collect();
        let datapath = &causeway.datapath;
        site.node.run(|| {
            for pod in &pods {
                datapath
                    .attach_pod(pod.ifindex)
                    .context("cannot attach a pod's program")?;
            }
            datapath.sync_pods(&pods).context("cannot enter the pods")?;
            Ok(())
        })?;
        Ok(site)
    }

    /// Addresses of the backends.
    pub fn backend_addresses(&self) -> Vec<Ipv4Addr> {
        self.backends.iter().map(|pod| pod.address).collect()
    }

    fn build(backends: usize) -> Result<(Self, Tunnel)> {
        let node = Netns::new()?;
        node.block_on(make_uplink)?;
        let config = NodeNetConfig {
            uplink: UPLINK.to_owned(),
            vxlan_port: VXLAN_PORT,
            ipv6_underlay: false,
            routing: Routing::Vxlan,
            cluster_ranges: "10.244.0.0/16".parse()?,
            pod_ranges: "10.244.1.0/24".parse()?,
        };
        let tunnel = node
            .block_on(|| async { Ok(Network::new()?.ensure_node(&config).await?) })
            .context("cannot make the node's network")?;
        let pod = |host: u8| Pod::new(&node, host, tunnel.mtu_bytes);
        let client = pod(CLIENT)?;
        let backends = (1..=backends)
            .map(|number| pod(CLIENT + number as u8))
            .collect::<Result<_>>()?;
        let site = Self {
            causeway: None,
            client,
            backends,
            node,
        };
        Ok((site, tunnel))
    }
}

impl Pod {
    fn new(node: &Netns, host: u8, mtu_bytes: u32) -> Result<Self> {
        let netns = Netns::new()?;
        let address = Ipv4Addr::new(10, 244, 1, host);
        let net = PodNet {
            netns: netns.path(),
            host_link: pod_link_name(&format!("{host:08x}")),
            addresses: vec![address.into()],
            router_addresses: vec![ROUTER_ADDRESS.into()],
            mtu_bytes,
        };
        let link = node
            .block_on(|| async { Ok(Network::new()?.attach_pod(&net).await?) })
            .with_context(|| format!("cannot make the network of the pod {address}"))?;
        Ok(Self { netns, address, link })
    }
}

/// An uplink that leads nowhere: nothing leaves the node in these measurements, but a node has one, and its MTU decides
/// the pods'.
async fn make_uplink() -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    handle
        .link()
        .add(LinkVeth::new(UPLINK, FAR_SIDE).build())
        .execute()
        .await
        .context("cannot make the uplink")?;
    let index = |name: &str| nix::net::if_::if_nametoindex(name).map_err(|error| anyhow!("no link {name}: {error}"));
    handle
        .address()
        .add(index(UPLINK)?, IpAddr::from(NODE_ADDRESS), 24)
        .execute()
        .await
        .context("cannot give the uplink an address")?;
    for name in [UPLINK, FAR_SIDE, "lo"] {
        handle
            .link()
            .set(LinkUnspec::new_with_index(index(name)?).up().build())
            .execute()
            .await
            .with_context(|| format!("cannot bring {name} up"))?;
    }
    Ok(())
}
