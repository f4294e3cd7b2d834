//! Native routing: the pod range of every other node has a route by way of that node's own address.
//!
//! These routes carry a protocol number of their own, by which they are told from everybody else's: only they are changed or
//! removed, and a range for which somebody else has made a route is left to that route.

use std::{collections::HashMap, net::IpAddr};

use futures::TryStreamExt;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use nix::libc::{EHOSTUNREACH, ENETUNREACH};
use rtnetlink::RouteMessageBuilder;

use super::{
    Network, NetworkError, Prefix,
    error::errno,
    reach::{Route, Via},
};

/// Who made a route (`rtm_protocol`, rtnetlink(7)): a number that iproute2's `rt_protos` gives to nobody.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(143);

/// How a node's pods are reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirectRoute {
    /// Their addresses.
    pub range: Prefix,
    /// Address of their node, of the same family.
    pub gateway: IpAddr,
    /// Source address that this node's own processes get.
    pub source: IpAddr,
}

/// What became of the routes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirectReport {
    /// Routes made or replaced.
    pub written: usize,
    /// Routes removed, whose range no other node has any more.
    pub removed: usize,
    /// Ranges whose node is not on the uplink's own network: it is up to the routers there to know them.
    pub not_on_link: Vec<DirectRoute>,
    /// Ranges that somebody else has made a route for, which stays.
    pub others: Vec<DirectRoute>,
}

/// A route as the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Present {
    range: Prefix,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    index: Option<u32>,
    is_ours: bool,
}

impl Network {
    /// Brings the direct routes to what is desired, which must be the complete list.
    pub async fn sync_direct_routes(
        &self,
        uplink: &str,
        desired: &[DirectRoute],
    ) -> Result<DirectReport, NetworkError> {
        let index = self.existing_link(uplink).await?.index;
        let present = self.present_routes().await?;
        let mut report = DirectReport::default();
        let (to_write, mut stale, others) = plan(index, desired, &present);
        report.others = others;
        for wanted in to_write {
            let route = Route {
                destination: wanted.range.network(),
                prefix_len: wanted.range.length(),
                via: Via::Gateway {
                    index,
                    gateway: wanted.gateway,
                    source: Some(wanted.source),
                },
            };
            match self.set_route(route, PROTOCOL).await {
                Ok(()) => report.written += 1,
                Err(NetworkError::Route { ref source, .. })
                    if matches!(errno(source), Some(ENETUNREACH | EHOSTUNREACH)) =>
                {
                    report.not_on_link.push(wanted);
                    // What led to the range before is wrong now.
                    stale.extend(
                        present
                            .iter()
                            .filter(|other| other.is_ours && other.range == wanted.range),
                    );
                }
                Err(error) => return Err(error),
            }
        }
        for route in stale {
            self.delete_present(route).await?;
            report.removed += 1;
        }
        Ok(report)
    }

    async fn delete_present(&self, route: Present) -> Result<(), NetworkError> {
        let via = match (route.index, route.gateway) {
            (Some(index), Some(gateway)) => Via::Gateway {
                index,
                gateway,
                source: None,
            },
            _ => Via::Anywhere,
        };
        let route = Route {
            destination: route.range.network(),
            prefix_len: route.range.length(),
            via,
        };
        self.unset_route(route, PROTOCOL).await
    }

    /// All routes to prefixes in the main table, of both families.
    async fn present_routes(&self) -> Result<Vec<Present>, NetworkError> {
        let mut present = Vec::new();
        for message in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let listed: Vec<RouteMessage> = self
                .handle
                .route()
                .get(message)
                .execute()
                .try_collect()
                .await
                .map_err(NetworkError::Routes)?;
            present.extend(listed.iter().filter_map(understand));
        }
        Ok(present)
    }
}

/// Routes to write, routes to remove, ranges that are left to others.
fn plan(
    uplink: u32,
    desired: &[DirectRoute],
    present: &[Present],
) -> (Vec<DirectRoute>, Vec<Present>, Vec<DirectRoute>) {
    let mut by_range: HashMap<Prefix, Vec<&Present>> = HashMap::new();
    for route in present {
        by_range.entry(route.range).or_default().push(route);
    }
    let (mut to_write, mut others) = (Vec::new(), Vec::new());
    for wanted in desired {
        let there = by_range.get(&wanted.range).map_or(&[][..], Vec::as_slice);
        let is_as_wanted = |route: &&Present| {
            route.is_ours
                && (route.gateway, route.source, route.index)
                    == (Some(wanted.gateway), Some(wanted.source), Some(uplink))
        };
        if there.iter().any(|route| !route.is_ours) {
            others.push(*wanted);
        } else if !there.iter().any(is_as_wanted) {
            to_write.push(*wanted);
        }
    }
    let is_wanted =
        |range| desired.iter().any(|wanted| wanted.range == range) && !others.iter().any(|o| o.range == range);
    let stale = present
        .iter()
        .filter(|route| route.is_ours && !is_wanted(route.range))
        .copied()
        .collect();
    (to_write, stale, others)
}

fn understand(message: &RouteMessage) -> Option<Present> {
    let is_main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    if !is_main || message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut destination, mut gateway, mut source, mut index) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    Some(Present {
        range: Prefix::new(destination?, message.header.destination_prefix_length)?,
        gateway,
        source,
        index,
        is_ours: message.header.protocol == PROTOCOL,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(range: &str, gateway: &str) -> DirectRoute {
        DirectRoute {
            range: range.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            source: "10.244.1.1".parse().unwrap(),
        }
    }

    fn present(range: &str, gateway: &str, is_ours: bool) -> Present {
        let DirectRoute { range, gateway, source } = wanted(range, gateway);
        Present {
            range,
            gateway: Some(gateway),
            source: Some(source),
            index: Some(2),
            is_ours,
        }
    }

    #[test]
    fn only_what_differs_is_written_and_only_own_routes_go() {
        let there = [
            present("10.244.2.0/24", "172.30.0.2", true),
            present("10.244.3.0/24", "172.30.0.9", true),
            present("10.244.4.0/24", "172.30.0.4", true),
            present("10.244.5.0/24", "172.30.0.5", false),
            present("10.0.0.0/8", "172.30.0.1", false),
        ];
        let desired = [
            wanted("10.244.2.0/24", "172.30.0.2"),
            wanted("10.244.3.0/24", "172.30.0.3"),
            wanted("10.244.5.0/24", "172.30.0.6"),
            wanted("10.244.6.0/24", "172.30.0.7"),
        ];
        let (write, stale, others) = plan(2, &desired, &there);
        assert_eq!(write, [desired[1], desired[3]]);
        assert_eq!(stale, [there[2]]);
        assert_eq!(others, [desired[2]]);
    }

    #[test]
    fn a_route_over_another_uplink_is_written_anew() {
        let there = [present("10.244.2.0/24", "172.30.0.2", true)];
        let desired = [wanted("10.244.2.0/24", "172.30.0.2")];
        assert_eq!(plan(3, &desired, &there).0, desired);
        assert_eq!(plan(2, &desired, &there), (Vec::new(), Vec::new(), Vec::new()));
    }

    #[test]
    fn an_own_route_gives_way_to_somebody_elses() {
        let there = [
            present("10.244.2.0/24", "172.30.0.2", true),
            present("10.244.2.0/24", "172.30.0.8", false),
        ];
        let desired = [wanted("10.244.2.0/24", "172.30.0.2")];
        let (write, stale, others) = plan(2, &desired, &there);
        assert_eq!((write, stale, others), (Vec::new(), vec![there[0]], desired.to_vec()));
    }
}
