//! The node's part of the pod network: tunnel device, routes, kernel parameters.

use std::net::IpAddr;

use rtnetlink::LinkVxlan;

use super::{
    Network, NetworkError, TUNNEL_NAME, VXLAN_OVERHEAD_BYTES,
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
    /// First address and prefix length of the range that all pods of the cluster are in.
    pub cluster_range: (IpAddr, u8),
    /// First address and prefix length of this node's pod range.
    pub pod_range: (IpAddr, u8),
    /// The node's own address in its pod range.
    pub router_address: IpAddr,
}

/// The node's tunnel device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Interface index of the tunnel device.
    pub ifindex: u32,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// MTU of tunnel and pods: what fits the uplink with the tunnel's headers around it.
    pub mtu_bytes: u32,
}

impl Network {
    /// Makes what is missing of the node's network. A tunnel device that is there is kept, and with it the programs that
    /// are attached to it.
    pub async fn ensure_node(&self, config: &NodeNetConfig) -> Result<Tunnel, NetworkError> {
        let uplink = self.existing_link(&config.uplink).await?;
        let mtu_bytes = uplink.mtu_bytes.saturating_sub(VXLAN_OVERHEAD_BYTES);
        let tunnel = self.ensure_tunnel(config.vxlan_port).await?;
        self.bring_up(&tunnel, mtu_bytes).await?;
        self.ensure_address(&tunnel, config.router_address).await?;
        sysctl::set("ipv4/ip_forward", "1")?;
        sysctl::relax_reverse_path_filter(&tunnel.name)?;
        let (destination, prefix_len) = config.cluster_range;
        let via = Via::Link {
            index: tunnel.index,
            source: Some(config.router_address),
        };
        self.ensure_route(Route {
            destination,
            prefix_len,
            via,
        })
        .await?;
        // Addresses of the own range that no pod has must not go into the tunnel.
        let (destination, prefix_len) = config.pod_range;
        self.ensure_route(Route {
            destination,
            prefix_len,
            via: Via::Unreachable,
        })
        .await?;
        Ok(Tunnel {
            ifindex: tunnel.index,
            uplink_ifindex: uplink.index,
            mtu_bytes,
        })
    }

    /// Interface index of a link; pods and nodes are told apart by it in the BPF maps.
    pub async fn ifindex(&self, name: &str) -> Result<u32, NetworkError> {
        Ok(self.existing_link(name).await?.index)
    }

    /// Removes all that was made for a node and its pods: pairs, tunnel device, routes. Goes on after an error, and answers
    /// all of them.
    pub async fn remove_node(&self, pod_range: (IpAddr, u8)) -> Vec<NetworkError> {
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
        let (destination, prefix_len) = pod_range;
        let own_range = Route {
            destination,
            prefix_len,
            via: Via::Unreachable,
        };
        errors.extend(self.delete_route(own_range).await.err());
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
