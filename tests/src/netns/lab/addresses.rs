//! Who has which address: everything follows from a node's number, and a pod's number on its node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_agent::net::{Prefix, Ranges};

/// A node's pod ranges.
pub(super) fn ranges(number: u8, ipv6: bool) -> Ranges {
    let ipv4 = Prefix::new(pod_address(number, 0), 24);
    let ipv6 = ipv6.then(|| Prefix::new(pod_address6(number, 0), 64));
    let ranges: Option<Vec<_>> = [ipv4].into_iter().chain(ipv6).collect();
    ranges.as_deref().and_then(Ranges::new).expect("ranges")
}

/// A node's or an outsider's address in the underlay.
pub(super) fn underlay_address(number: u8) -> IpAddr {
    underlay_v4(number).into()
}

/// The same of IPv6.
pub(super) fn underlay_address6(number: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, number.into()))
}

/// A pod's address.
pub(super) fn pod_address(number: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 244, number, host))
}

/// The same of IPv6.
pub(super) fn pod_address6(number: u8, host: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, number.into(), 0, 0, 0, host.into()))
}

/// The address in the underlay of the node whose pod has an IPv4 address.
pub(super) fn node_of_pod(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(pod) => Some(underlay_v4(pod.octets()[2])),
        IpAddr::V6(_) => None,
    }
}

fn underlay_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, number)
}
