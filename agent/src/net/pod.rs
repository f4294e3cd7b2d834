//! A pod's part of the network: its veth pair and the routes on both sides.

use std::{fs::File, net::IpAddr, os::fd::AsRawFd, path::PathBuf};

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    Network, NetworkError, host_prefix,
    link::Link,
    namespace, next_hop,
    reach::{Route, Via},
    sysctl,
};

/// Name of the pod's side of the pair.
const POD_SIDE: &str = "eth0";

/// What a pod's network is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodNet {
    /// The pod's network namespace: `/proc/<pid>/ns/net`.
    pub netns: PathBuf,
    /// Name of the host side: [`pod_link_name`].
    pub host_link: String,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Source addresses with which the node's own processes reach the pod: the node's own in its pod ranges.
    pub router_addresses: Vec<IpAddr>,
    /// MTU of both sides.
    pub mtu_bytes: u32,
}

/// A pod's veth pair, as the data path needs to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodLink {
    /// Interface index of the host side.
    pub ifindex: u32,
    /// MAC of `eth0` in the pod.
    pub pod_mac: [u8; 6],
    /// MAC of the host side.
    pub host_mac: [u8; 6],
}

/// Name of the host side of a pod's pair: "cw" and the first eight hexadecimal digits of the pod's uid.
pub fn pod_link_name(uid: &str) -> String {
    let digits = uid.chars().filter(char::is_ascii_hexdigit).take(8);
    "cw".chars().chain(digits).collect()
}

impl Network {
    /// Makes what is missing of a pod's network.
    pub async fn attach_pod(&self, pod: &PodNet) -> Result<PodLink, NetworkError> {
        let inside = Self::in_namespace(&pod.netns).await?;
        let (host, peer) = self.ensure_pair(&inside, pod).await?;
        let link = PodLink {
            ifindex: host.index,
            pod_mac: peer.ethernet()?,
            host_mac: host.ethernet()?,
        };
        if pod.has_ipv6() {
            namespace::run_in(&pod.netns, || sysctl::plain_ipv6(POD_SIDE)).await?;
        }
        inside.configure_pod_side(&peer, pod, link.host_mac).await?;
        self.configure_host_side(&host, pod, link.pod_mac).await?;
        Ok(link)
    }

    /// Removes a pod's pair, and with it routes and neighbour entries; one that is gone already is fine.
    pub async fn detach_pod(&self, host_link: &str) -> Result<(), NetworkError> {
        match self.link(host_link).await? {
            Some(host) => self.delete_link(&host).await,
            None => Ok(()),
        }
    }

    /// Names of the host sides of all pods' pairs.
    pub async fn pod_links(&self) -> Result<Vec<String>, NetworkError> {
        let links = self.links().await?;
        Ok(links.into_iter().filter(is_pod_link).map(|link| link.name).collect())
    }

    async fn ensure_pair(&self, inside: &Self, pod: &PodNet) -> Result<(Link, Link), NetworkError> {
        let (host, peer) = (self.link(&pod.host_link).await?, inside.link(POD_SIDE).await?);
        if let (Some(host), Some(peer)) = (&host, &peer)
            && is_pair(host, peer)
        {
            return Ok((host.clone(), peer.clone()));
        }
        // Ends of other pairs: remains of an earlier sandbox.
        if let Some(host) = host {
            self.delete_link(&host).await?;
        }
        if let Some(peer) = peer {
            inside.delete_link(&peer).await?;
        }
        let namespace = File::open(&pod.netns).map_err(|source| NetworkError::Namespace {
            path: pod.netns.clone(),
            source,
        })?;
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_SIDE)
            .mtu(pod.mtu_bytes)
            .build();
        peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(pod.host_link.as_str())
            .mtu(pod.mtu_bytes)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let host = self.add_link(&pod.host_link, pair).await?;
        Ok((host, inside.existing_link(POD_SIDE).await?))
    }

    async fn configure_pod_side(&self, eth0: &Link, pod: &PodNet, host_mac: [u8; 6]) -> Result<(), NetworkError> {
        let loopback = self.existing_link("lo").await?;
        self.bring_up(&loopback, loopback.mtu_bytes).await?;
        self.bring_up(eth0, pod.mtu_bytes).await?;
        for address in &pod.addresses {
            self.ensure_address(eth0, *address).await?;
            let gateway = next_hop(*address);
            self.ensure_neighbour(eth0, gateway, host_mac).await?;
            self.ensure_route(Route {
                destination: gateway,
                prefix_len: host_prefix(gateway),
                via: Via::Link {
                    index: eth0.index,
                    source: None,
                },
            })
            .await?;
            self.ensure_route(Route {
                destination: unspecified(*address),
                prefix_len: 0,
                via: Via::Gateway {
                    index: eth0.index,
                    gateway,
                    source: None,
                },
            })
            .await?;
        }
        Ok(())
    }

    async fn configure_host_side(&self, host: &Link, pod: &PodNet, pod_mac: [u8; 6]) -> Result<(), NetworkError> {
        if pod.has_ipv6() {
            sysctl::plain_ipv6(&host.name)?;
        }
        self.bring_up(host, pod.mtu_bytes).await?;
        sysctl::relax_reverse_path_filter(&host.name)?;
        for address in &pod.addresses {
            self.ensure_neighbour(host, *address, pod_mac).await?;
            let routers = &pod.router_addresses;
            let router = routers.iter().find(|router| router.is_ipv4() == address.is_ipv4());
            self.ensure_route(Route {
                destination: *address,
                prefix_len: host_prefix(*address),
                via: Via::Link {
                    index: host.index,
                    source: router.copied(),
                },
            })
            .await?;
        }
        Ok(())
    }
}

impl PodNet {
    fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }
}

/// Whether two links are the two ends of one pair: each knows the other's index.
fn is_pair(host: &Link, peer: &Link) -> bool {
    host.peer_index == Some(peer.index) && peer.peer_index == Some(host.index)
}

/// Whether a link looks like one that [`pod_link_name`] named.
fn is_pod_link(link: &Link) -> bool {
    let is_digits = |digits: &str| digits.len() == 8 && digits.chars().all(|digit| digit.is_ascii_hexdigit());
    link.kind == "veth" && link.name.strip_prefix("cw").is_some_and(is_digits)
}

const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernels_fifteen_characters_and_are_recognised() {
        let name = pod_link_name("1a2b3c4d-5e6f-4711-8a9b-0c1d2e3f4a5b");
        assert_eq!(name, "cw1a2b3c4d");
        let link = |name: &str, kind: &str| Link {
            index: 1,
            name: name.into(),
            mac: None,
            mtu_bytes: 1500,
            kind: kind.into(),
            peer_index: None,
            vxlan: None,
        };
        assert!(is_pod_link(&link(&name, "veth")));
        assert!(!is_pod_link(&link("cw-vxlan0", "vxlan")));
        assert!(!is_pod_link(&link("cw-up0", "veth")));
        assert!(!is_pod_link(&link(&name, "dummy")));
    }
}
