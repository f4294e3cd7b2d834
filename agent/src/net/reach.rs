//! How addresses are reached: a link's own addresses, routes, neighbour entries.

use std::net::IpAddr;

use netlink_packet_route::{
    address::AddressHeaderFlags,
    route::{RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use nix::libc::{EEXIST, ESRCH};
use rtnetlink::RouteMessageBuilder;

use super::{Network, NetworkError, error::errno, host_prefix, link::Link};

/// A route of the main table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub destination: IpAddr,
    pub prefix_len: u8,
    pub via: Via,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Via {
    /// Everything behind a link, directly; with the source address that the node's own processes get.
    Link { index: u32, source: Option<IpAddr> },
    /// A router behind a link; with the source address that the node's own processes get.
    Gateway {
        index: u32,
        gateway: IpAddr,
        source: Option<IpAddr>,
    },
    /// Nowhere: senders are told at once.
    Unreachable,
    /// For removal: wherever it leads.
    Anywhere,
}

impl Route {
    fn message(&self, protocol: RouteProtocol) -> Result<RouteMessage, NetworkError> {
        let invalid = |reason: String| NetworkError::InvalidRoute {
            destination: self.destination,
            prefix_len: self.prefix_len,
            reason,
        };
        let to = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(self.destination, self.prefix_len)
            .map_err(|error| invalid(error.to_string()))?
            .protocol(protocol);
        let built = match self.via {
            Via::Link { index, source: None } => to.output_interface(index).scope(RouteScope::Link),
            Via::Link {
                index,
                source: Some(source),
            } => to
                .output_interface(index)
                .scope(RouteScope::Link)
                .pref_source(source)
                .map_err(|error| invalid(error.to_string()))?,
            Via::Gateway { index, gateway, source } => {
                let to = to
                    .output_interface(index)
                    .gateway(gateway)
                    .map_err(|error| invalid(error.to_string()))?;
                match source {
                    Some(source) => to.pref_source(source).map_err(|error| invalid(error.to_string()))?,
                    None => to,
                }
            }
            Via::Unreachable => to.kind(RouteType::Unreachable),
            Via::Anywhere => to,
        };
        Ok(built.build())
    }
}

impl Network {
    /// Gives a link a host-prefix address.
    pub(super) async fn ensure_address(&self, link: &Link, address: IpAddr) -> Result<(), NetworkError> {
        let mut request = self
            .handle
            .address()
            .add(link.index, address, host_prefix(address))
            .replace();
        if address.is_ipv6() {
            // Usable at once: nobody else can have it.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.execute().await {
            Err(source) if errno(&source) != Some(EEXIST) => Err(NetworkError::Address {
                address,
                link: link.name.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Sets a route, in the place of one to the same destination.
    pub(super) async fn ensure_route(&self, route: Route) -> Result<(), NetworkError> {
        self.set_route(route, RouteProtocol::Static).await
    }

    /// As [`ensure_route`](Self::ensure_route), as a route of `protocol`.
    pub(super) async fn set_route(&self, route: Route, protocol: RouteProtocol) -> Result<(), NetworkError> {
        let request = self.handle.route().add(route.message(protocol)?).replace();
        request.execute().await.map_err(|source| route.failed("set", source))
    }

    /// Removes a route; one that is gone already is fine.
    pub(super) async fn delete_route(&self, route: Route) -> Result<(), NetworkError> {
        self.unset_route(route, RouteProtocol::Static).await
    }

    /// As [`delete_route`](Self::delete_route), of a route of `protocol`.
    pub(super) async fn unset_route(&self, route: Route, protocol: RouteProtocol) -> Result<(), NetworkError> {
        match self.handle.route().del(route.message(protocol)?).execute().await {
            Err(source) if errno(&source) != Some(ESRCH) => Err(route.failed("remove", source)),
            _ => Ok(()),
        }
    }

    /// Sets a permanent neighbour entry.
    pub(super) async fn ensure_neighbour(
        &self,
        link: &Link,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetworkError> {
        let request = self
            .handle
            .neighbours()
            .add(link.index, address)
            .link_layer_address(&mac)
            .replace();
        request.execute().await.map_err(|source| NetworkError::Neighbour {
            address,
            link: link.name.clone(),
            source,
        })
    }
}

impl Route {
    fn failed(&self, verb: &'static str, source: rtnetlink::Error) -> NetworkError {
        NetworkError::Route {
            verb,
            destination: self.destination,
            prefix_len: self.prefix_len,
            source,
        }
    }
}
