//! Under which addresses a service's port is reached, and on what conditions. Pure.

use std::net::IpAddr;

use causeway_maps::Protocol;
use causeway_proto::v1::{Service, ServicePort, ServiceSpec};

use crate::bpf::{Frontend, Scope, SourceRange, VipId};

/// What a frontend is made from. Where two services claim one, the earlier in this order has it: what users write freely comes last,
/// so that nobody takes over another service's cluster IP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// `clusterIPs`.
    ClusterIp,
    /// `nodePort`, at this node's addresses.
    NodePort,
    /// `status.loadBalancer`.
    LoadBalancer,
    /// `externalIPs`.
    ExternalIp,
    /// `hostPort` of a pod of this node.
    HostPort,
}

impl Class {
    /// All, in order of precedence.
    pub const ALL: [Self; 5] = [
        Self::ClusterIp,
        Self::NodePort,
        Self::LoadBalancer,
        Self::ExternalIp,
        Self::HostPort,
    ];
}

/// The service's cluster IPs; "None" and "" are no addresses.
pub fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let single = std::slice::from_ref(&spec.cluster_ip);
    let all = if spec.cluster_ips.is_empty() {
        single
    } else {
        spec.cluster_ips.as_slice()
    };
    all.iter().filter_map(|address| address.parse().ok()).collect()
}

/// All frontends of a port whose address is of the family of `cluster_ip`.
///
/// `internalTrafficPolicy` is about the cluster IP alone. At the other addresses, pods and the node's own sockets reach all
/// backends, whatever the policy for outside traffic is, as in Kubernetes: their address is known in the cluster anyway.
pub fn frontends(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    protocol: Protocol,
    cluster_ip: IpAddr,
    node_addresses: &[IpAddr],
) -> Vec<(Class, Frontend)> {
    let Some(number) = port_number(port.port) else {
        return Vec::new();
    };
    let vip = |address, port| VipId {
        address,
        port,
        protocol,
    };
    let mut found = vec![(
        Class::ClusterIp,
        Frontend {
            local_only: spec.internal_traffic_policy == "Local",
            ..Frontend::cluster(vip(cluster_ip, number))
        },
    )];
    let local_only = spec.external_traffic_policy == "Local";
    let mut both = |class, vip, source_ranges: &[SourceRange]| {
        found.push((class, Frontend::cluster(vip)));
        let external = Frontend {
            vip,
            scope: Scope::External,
            local_only,
            source_ranges: source_ranges.to_vec(),
        };
        found.push((class, external));
    };
    let same_family = |address: &IpAddr| address.is_ipv4() == cluster_ip.is_ipv4();
    let texts = |texts: Vec<&str>| -> Vec<IpAddr> {
        let parsed = texts.into_iter().filter_map(|text| text.parse().ok());
        parsed.filter(same_family).collect()
    };
    if matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer")
        && let Some(number) = port_number(port.node_port)
    {
        for address in node_addresses.iter().copied().filter(same_family) {
            both(Class::NodePort, vip(address, number), &[]);
        }
    }
    if spec.r#type == "LoadBalancer" {
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = status.map_or(&[][..], |balancer| &balancer.ingress);
        let source_ranges = source_ranges(spec);
        for address in texts(ingress.iter().map(|ingress| ingress.ip.as_str()).collect()) {
            both(Class::LoadBalancer, vip(address, number), &source_ranges);
        }
    }
    for address in texts(spec.external_ips.iter().map(String::as_str).collect()) {
        both(Class::ExternalIp, vip(address, number), &[]);
    }
    found
}

/// Ranges of both families: with any of them, only clients in one are let in.
fn source_ranges(spec: &ServiceSpec) -> Vec<SourceRange> {
    let parse = |text: &String| {
        let (address, length) = text.trim().split_once('/')?;
        let range = SourceRange {
            address: address.parse().ok()?,
            prefix_len: length.parse().ok()?,
        };
        let bits = if range.address.is_ipv4() { 32 } else { 128 };
        (range.prefix_len <= bits).then(|| masked(range))
    };
    let mut ranges: Vec<SourceRange> = spec.load_balancer_source_ranges.iter().filter_map(parse).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// Kubernetes takes "10.1.2.3/8" for 10.0.0.0/8.
fn masked(range: SourceRange) -> SourceRange {
    let bits = u32::from(range.prefix_len);
    let address = match range.address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    };
    SourceRange { address, ..range }
}

/// A usable port.
pub fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|number| *number != 0)
}
