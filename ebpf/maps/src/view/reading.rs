//! One request for any of the views, and its answer: the same from the maps of this machine as from another node's agent.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    AffinityView, BackendView, DropView, FlowView, MapView, NodeView, PodView, ProgramView, RouteView, ServiceView,
    SocketView, TableView,
};
use crate::{MapsError, PinnedMaps};

/// What to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// `SERVICES` with their backends and counters.
    Services,
    /// `BACKENDS` in use.
    Backends,
    /// Maglev tables.
    Slots,
    /// `CONNTRACK` and `CONNTRACK_NEW`.
    Conntrack,
    /// `SOCKET_ORIGINS` and `SOCKET_REPLIES`.
    Sockets,
    /// `AFFINITY`.
    Affinity,
    /// `PODS`.
    Pods,
    /// `ROUTES`.
    Routes,
    /// `DROPS`.
    Drops,
    /// `NODE`.
    Node,
    /// The programs.
    Programs,
    /// The maps themselves.
    Maps,
}

/// Which entries to read; what is not said matches all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// "namespace/name" or "namespace/name:port".
    pub service: Option<String>,
    /// "address" or "address:port" of a VIP.
    pub vip: Option<String>,
    /// "address" or "address:port" of a backend.
    pub backend: Option<String>,
    /// A pod's address.
    pub pod: Option<String>,
}

impl Filter {
    /// Whether a service's name is the one asked for.
    pub fn service_matches(&self, name: &str) -> bool {
        self.service.as_ref().is_none_or(|wanted| service_matches(name, wanted))
    }

    fn vip(&self, vip: &str) -> bool {
        self.vip.as_ref().is_none_or(|wanted| endpoint_matches(vip, wanted))
    }

    /// Whether one of the backends is the one asked for; so for the pod.
    fn backends<'a>(&self, backends: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
        let any = |wanted: &String| backends.clone().any(|backend| endpoint_matches(backend, wanted));
        self.backend.as_ref().is_none_or(any) && self.pod.as_ref().is_none_or(any)
    }

    /// Whether one of the addresses is the pod's.
    fn pod<'a>(&self, mut addresses: impl Iterator<Item = &'a str>) -> bool {
        self.pod
            .as_ref()
            .is_none_or(|wanted| addresses.any(|address| endpoint_matches(address, wanted)))
    }
}

/// Whether "namespace/name:port" is the service called "namespace/name" or "namespace/name:port".
pub fn service_matches(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || (rest.starts_with(':') && !wanted.contains(':')))
}

/// Whether "address:port/PROTOCOL", "address:port" or "address" is at the address, or at the address and port, wanted.
pub fn endpoint_matches(endpoint: &str, wanted: &str) -> bool {
    let socket = endpoint.split('/').next().unwrap_or(endpoint);
    socket == wanted || address_of(endpoint) == wanted.trim_matches(['[', ']'])
}

/// The address of "address:port/PROTOCOL", "address:port", "[address]:port" or "address".
pub fn address_of(endpoint: &str) -> &str {
    let socket = endpoint.split('/').next().unwrap_or(endpoint);
    if let Some(bracketed) = socket.strip_prefix('[') {
        return bracketed.split(']').next().unwrap_or(bracketed);
    }
    match socket.split_once(':') {
        Some((address, rest)) if !rest.contains(':') => address,
        _ => socket,
    }
}

/// What to read, and of it what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What to read.
    pub what: What,
    /// Which entries.
    #[serde(default)]
    pub filter: Filter,
    /// For programs: count runs for so long.
    #[serde(default)]
    pub sample: Option<Duration>,
}

/// A backend with the services that lead to it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendEntry {
    /// The backend.
    #[serde(flatten)]
    pub backend: BackendView,
    /// "namespace/name:port" of each service.
    pub services: Vec<String>,
}

/// What was read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "what", content = "items")]
pub enum Reading {
    /// See [`What`]; so for the others.
    Services(Vec<ServiceView>),
    /// Backends.
    Backends(Vec<BackendEntry>),
    /// Tables.
    Slots(Vec<TableView>),
    /// Flows.
    Conntrack(Vec<FlowView>),
    /// Sockets.
    Sockets(Vec<SocketView>),
    /// Clients.
    Affinity(Vec<AffinityView>),
    /// Pods.
    Pods(Vec<PodView>),
    /// Routes.
    Routes(Vec<RouteView>),
    /// Drops.
    Drops(Vec<DropView>),
    /// The node.
    Node(NodeView),
    /// Programs.
    Programs(Vec<ProgramView>),
    /// Maps.
    Maps(Vec<MapView>),
}

/// Reads the maps pinned below a node's directory.
pub fn read(node_dir: &Path, request: &Request) -> Result<Reading, MapsError> {
    let maps = PinnedMaps::open(node_dir)?;
    read_maps(&maps, request)
}

/// As [`read`], from maps that are open.
pub fn read_maps(maps: &PinnedMaps, request: &Request) -> Result<Reading, MapsError> {
    let filter = &request.filter;
    Ok(match request.what {
        What::Services => Reading::Services(services(maps, filter)?),
        What::Backends => Reading::Backends(backends(maps, filter)?),
        What::Slots => Reading::Slots(super::tables(maps, filter)?),
        What::Conntrack => {
            let mut flows = super::flows(maps)?;
            flows.retain(|flow| {
                filter.service_matches(&flow.service)
                    && filter.vip(&flow.vip)
                    && filter
                        .backend
                        .as_ref()
                        .is_none_or(|wanted| endpoint_matches(&flow.backend, wanted))
                    && filter.pod([&*flow.source, &*flow.destination, &*flow.backend].into_iter())
            });
            Reading::Conntrack(flows)
        }
        What::Sockets => {
            let mut sockets = super::sockets(maps)?;
            sockets.retain(|socket| {
                filter.service_matches(&socket.service)
                    && filter.vip(&socket.vip)
                    && filter.backends(&std::iter::once(&*socket.backend))
            });
            Reading::Sockets(sockets)
        }
        What::Affinity => {
            let mut clients = super::affinities(maps)?;
            clients.retain(|client| {
                filter.service_matches(&client.service)
                    && filter
                        .backend
                        .as_ref()
                        .is_none_or(|wanted| endpoint_matches(&client.backend, wanted))
                    && filter.pod([&*client.client, &*client.backend].into_iter())
            });
            Reading::Affinity(clients)
        }
        What::Pods => {
            let mut pods = super::pods(maps)?;
            pods.retain(|pod| filter.pod(std::iter::once(&*pod.address)));
            Reading::Pods(pods)
        }
        What::Routes => Reading::Routes(super::routes(maps)?),
        What::Drops => Reading::Drops(super::drops(maps)?),
        What::Node => Reading::Node(super::node(maps)?),
        What::Programs => Reading::Programs(super::programs(maps, request.sample)?),
        What::Maps => Reading::Maps(super::inventory(maps)?),
    })
}

fn services(maps: &PinnedMaps, filter: &Filter) -> Result<Vec<ServiceView>, MapsError> {
    let mut services = super::services(maps)?;
    services.retain(|service| {
        let backends = service.backends.iter().map(|backend| &*backend.backend.address);
        filter.service_matches(&service.name) && filter.vip(&service.vip) && filter.backends(&backends)
    });
    Ok(services)
}

fn backends(maps: &PinnedMaps, filter: &Filter) -> Result<Vec<BackendEntry>, MapsError> {
    let services = super::services(maps)?;
    let mut entries: Vec<_> = super::backends(maps)
        .into_iter()
        .map(|backend| BackendEntry {
            backend,
            services: Vec::new(),
        })
        .collect();
    // Entries are sorted by index.
    for service in services.iter().filter(|service| filter.vip(&service.vip)) {
        for one in &service.backends {
            if let Ok(at) = entries.binary_search_by_key(&one.backend.index, |entry| entry.backend.index) {
                entries[at].services.push(service.name.clone());
            }
        }
    }
    entries.retain(|entry| {
        let by_service = filter.service.is_none() || entry.services.iter().any(|name| filter.service_matches(name));
        let by_vip = filter.vip.is_none() || !entry.services.is_empty();
        by_service && by_vip && filter.backends(&std::iter::once(&*entry.backend.address))
    });
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_with_or_without_port() {
        assert!(service_matches("default/web:http", "default/web"));
        assert!(service_matches("default/web:http", "default/web:http"));
        assert!(!service_matches("default/web:http", "default/web:https"));
        assert!(!service_matches("default/web2:http", "default/web"));
    }

    #[test]
    fn endpoints_are_named_with_or_without_port() {
        for (endpoint, wanted, matches) in [
            ("10.0.0.1:80/TCP", "10.0.0.1", true),
            ("10.0.0.1:80/TCP", "10.0.0.1:80", true),
            ("10.0.0.1:80/TCP", "10.0.0.1:8", false),
            ("10.0.0.10:80/TCP", "10.0.0.1", false),
            ("[fd00::1]:80/TCP", "fd00::1", true),
            ("[fd00::1]:80/TCP", "[fd00::1]:80", true),
            ("fd00::1", "fd00::1", true),
            ("10.0.0.1", "10.0.0.1", true),
        ] {
            assert_eq!(endpoint_matches(endpoint, wanted), matches, "{endpoint} {wanted}");
        }
    }

    #[test]
    fn readings_survive_the_way_to_another_machine() {
        let reading = Reading::Drops(vec![DropView {
            reason: "NO_READY_BACKEND".into(),
            packets: 1,
            bytes: 2,
        }]);
        let text = serde_json::to_string(&reading).unwrap();
        assert_eq!(serde_json::from_str::<Reading>(&text).unwrap(), reading);
    }
}
