//! The node's part of the pod network: tunnel device, routes, kernel parameters.

use rtnetlink::LinkVxlan;

use super::{
    IPV6_MIN_MTU_BYTES, Network, NetworkError, Prefix, Ranges, TUNNEL_NAME, VXLAN_OVERHEAD_BYTES,
    VXLAN_OVERHEAD_IPV6_BYTES,
    link::Link,
    reach::{Route, Via},
    sysctl,
};

/// What the node's network is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeNetConfig {
    /// Interface towards the other nodes; its MTU decides the pods'.
    pub uplink: String,
    /// UDP port of the tunnel, host byte order.
    pub vxlan_port: u16,
    /// Whether the nodes reach each other's tunnels over IPv6, whose headers are larger.
    pub ipv6_underlay: bool,
    /// How pods of other nodes are reached.
    pub routing: Routing,
    /// Ranges that all pods of the cluster are in.
    pub cluster_ranges: Ranges,
    /// This node's pod ranges. The second address of each is the node's own.
    pub pod_ranges: Ranges,
}

/// How pods of other nodes are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Routing {
    /// Through a VXLAN tunnel: the network between the nodes need not know of pods.
    #[default]
    Vxlan,
    /// With the pods' own addresses, over a network that carries them: between nodes on one network segment by routes that
    /// each node makes, beyond it by the network's routers.
    Native,
}

/// The node's tunnel device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Interface index of the tunnel device.
    pub ifindex: u32,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// MTU of the pods: what fits the uplink, and with VXLAN the tunnel's headers around it.
    pub mtu_bytes: u32,
}

impl Network {
    /// Makes what is missing of the node's network. A tunnel device that is there is kept, and with it the programs that
    /// are attached to it.
    pub async fn ensure_node(&self, config: &NodeNetConfig) -> Result<Tunnel, NetworkError> {
        let uplink = self.existing_link(&config.uplink).await?;
        let overhead = if config.ipv6_underlay {
            VXLAN_OVERHEAD_IPV6_BYTES
        } else {
            VXLAN_OVERHEAD_BYTES
        };
        let tunnelled_bytes = uplink.mtu_bytes.saturating_sub(overhead);
        // Kept with native routing too: nodes that have yet to change to it send through the tunnel.
        let tunnel = self.ensure_tunnel(config.vxlan_port).await?;
        let has_ipv6 = config.pod_ranges.iter().any(|range| !range.is_ipv4());
        if has_ipv6 {
            if tunnelled_bytes < IPV6_MIN_MTU_BYTES {
                return Err(NetworkError::MtuTooSmall {
                    link: uplink.name,
                    mtu_bytes: tunnelled_bytes,
                });
            }
            sysctl::forward_ipv6(&uplink.name)?;
            sysctl::plain_ipv6(&tunnel.name)?;
        }
        self.bring_up(&tunnel, tunnelled_bytes).await?;
        sysctl::set("ipv4/ip_forward", "1")?;
        sysctl::relax_reverse_path_filter(&tunnel.name)?;
        for range in config.pod_ranges.iter() {
            self.ensure_address(&tunnel, range.router()).await?;
            // Addresses of the own range that no pod has must go neither into the tunnel nor into the network.
            self.ensure_route(own_range(range)).await?;
            if let Some(cluster) = config.cluster_ranges.of_family(range.network()) {
                self.ensure_cluster_route(&tunnel, cluster, range, config.routing)
                    .await?;
            }
        }
        Ok(Tunnel {
            ifindex: tunnel.index,
            uplink_ifindex: uplink.index,
            mtu_bytes: match config.routing {
                Routing::Vxlan => tunnelled_bytes,
                Routing::Native => uplink.mtu_bytes,
            },
        })
    }

    /// Leads the node's own packets to other nodes' pods into the tunnel, or not.
    async fn ensure_cluster_route(
        &self,
        tunnel: &Link,
        cluster: Prefix,
        own: Prefix,
        routing: Routing,
    ) -> Result<(), NetworkError> {
        let route = Route {
            destination: cluster.network(),
            prefix_len: cluster.length(),
            via: Via::Link {
                index: tunnel.index,
                source: Some(own.router()),
            },
        };
        match routing {
            // The node has the whole range: all of it is its own.
            _ if cluster == own => Ok(()),
            Routing::Vxlan => self.ensure_route(route).await,
            Routing::Native => self.delete_route(route).await,
        }
    }

    /// Interface index of a link; pods and nodes are told apart by it in the BPF maps.
    pub async fn ifindex(&self, name: &str) -> Result<u32, NetworkError> {
        Ok(self.existing_link(name).await?.index)
    }

    /// Removes all that was made for a node and its pods: pairs, tunnel device, routes. Goes on after an error, and answers
    /// all of them.
    pub async fn remove_node(&self, uplink: &str, pod_ranges: &Ranges) -> Vec<NetworkError> {
        let mut errors = Vec::new();
        let mut names = match self.pod_links().await {
            Ok(names) => names,
            Err(error) => {
                errors.push(error);
                Vec::new()
            }
        };
        names.push(TUNNEL_NAME.to_owned());
        for name in names {
            errors.extend(self.detach_pod(&name).await.err());
        }
        for range in pod_ranges.iter() {
            errors.extend(self.delete_route(own_range(range)).await.err());
        }
        errors.extend(self.sync_direct_routes(uplink, &[]).await.err());
        errors
    }

    /// One device for all peers: the programs give each packet its tunnel key (collect-metadata mode, ip-link(8)
    /// "external"). Without ARP: the receiving program writes the pod's MAC.
    async fn ensure_tunnel(&self, port: u16) -> Result<Link, NetworkError> {
        if let Some(present) = self.link(TUNNEL_NAME).await? {
            if present.vxlan != Some((port, true)) {
                let expected = format!("a VXLAN device in external mode on port {port}");
                return Err(NetworkError::Foreign {
                    name: present.name,
                    expected,
                });
            }
            return Ok(present);
        }
        let message = rtnetlink::LinkMessageBuilder::<LinkVxlan>::new(TUNNEL_NAME)
            .collect_metadata(true)
            .learning(false)
            .port(port)
            .arp(false)
            .build();
        self.add_link(TUNNEL_NAME, message).await
    }
}

fn own_range(range: Prefix) -> Route {
    Route {
        destination: range.network(),
        prefix_len: range.length(),
        via: Via::Unreachable,
    }
}
