//! `CONNTRACK`, `CONNTRACK_NEW`, `DIRECT_FLOWS` and `DROPS` in words.

use causeway_abi::{
    DropReason,
    conntrack::{DIRECTION_REPLY, Flow, FlowKey, TCP_CLOSING, TCP_ESTABLISHED, TCP_RESET},
    service::{SCOPE_NODE, ServiceKey},
};
use serde::{Deserialize, Serialize};

use super::ServiceNames;
use crate::{MapsError, PinnedMaps, Protocol, address};

/// A flow that is balanced packet by packet, seen in one direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    /// "TCP", "UDP", …
    pub protocol: String,
    /// "Forward" (client to VIP) or "Reply" (backend to client).
    pub direction: String,
    /// "address:port".
    pub source: String,
    /// "address:port".
    pub destination: String,
    /// What the client addressed, "address:port".
    pub vip: String,
    /// Backend, "address:port".
    pub backend: String,
    /// Whether the backend is still the one the flow began with.
    pub backend_current: bool,
    /// "New", "Established", "Closing", "Reset"; or "Direct" for one that goes to another node as it is.
    pub state: String,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// "namespace/name:port" of the service; empty when it is gone.
    #[serde(default)]
    pub service: String,
}

/// How often something was dropped for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropView {
    /// Name of the reason.
    pub reason: String,
    /// Packets (or connects).
    pub packets: u64,
    /// Their bytes; 0 for connects.
    pub bytes: u64,
}

/// The flows, forward before reply.
pub fn flows(maps: &PinnedMaps) -> Result<Vec<FlowView>, MapsError> {
    let now_ns = monotonic_ns();
    let mut names = ServiceNames::default();
    let mut entries = maps.conntrack.entries()?;
    entries.extend(maps.conntrack_new.entries()?);
    entries.sort_by_key(|(key, _)| (key.direction, key.source, key.source_port_be));
    let mut views: Vec<_> = entries
        .iter()
        .map(|(key, flow)| flow_view(maps, key, flow, now_ns, &mut names))
        .collect();
    views.extend(direct_flows(maps, now_ns, &mut names)?);
    Ok(views)
}

/// Flows that only their backend's node translates; there is one half of them.
fn direct_flows(maps: &PinnedMaps, now_ns: u64, names: &mut ServiceNames) -> Result<Vec<FlowView>, MapsError> {
    let mut entries = maps.direct_flows.entries()?;
    entries.sort_by_key(|(key, _)| (key.source, key.source_port_be));
    let mut views = Vec::with_capacity(entries.len());
    for (key, flow) in entries {
        let service = maps.services.get(&ServiceKey {
            address: key.destination,
            port_be: key.destination_port_be,
            protocol: key.protocol,
            scope: SCOPE_NODE,
        })?;
        let backend = maps.backends.read(flow.backend).unwrap_or_default();
        let vip = address::socket(key.destination, key.destination_port_be).to_string();
        views.push(FlowView {
            protocol: Protocol(key.protocol).to_string(),
            direction: "Forward".to_owned(),
            source: address::socket(key.source, key.source_port_be).to_string(),
            destination: vip.clone(),
            vip,
            backend: address::socket(backend.address, backend.port_be).to_string(),
            backend_current: backend.generation == flow.generation,
            state: "Direct".to_owned(),
            idle_seconds: now_ns.saturating_sub(flow.last_seen_ns) / 1_000_000_000,
            service: service.map_or_else(String::new, |service| names.of(maps, service.service_id)),
        });
    }
    Ok(views)
}

fn flow_view(maps: &PinnedMaps, key: &FlowKey, flow: &Flow, now_ns: u64, names: &mut ServiceNames) -> FlowView {
    let current = maps
        .backends
        .read(flow.backend)
        .is_some_and(|backend| backend.generation == flow.generation);
    FlowView {
        protocol: Protocol(key.protocol).to_string(),
        direction: if key.direction == DIRECTION_REPLY {
            "Reply"
        } else {
            "Forward"
        }
        .to_owned(),
        source: address::socket(key.source, key.source_port_be).to_string(),
        destination: address::socket(key.destination, key.destination_port_be).to_string(),
        vip: address::socket(flow.vip, flow.vip_port_be).to_string(),
        backend: address::socket(flow.backend_address, flow.backend_port_be).to_string(),
        backend_current: current,
        state: match flow.tcp_state {
            TCP_ESTABLISHED => "Established",
            TCP_CLOSING => "Closing",
            TCP_RESET => "Reset",
            _ => "New",
        }
        .to_owned(),
        idle_seconds: now_ns.saturating_sub(flow.last_seen_ns) / 1_000_000_000,
        service: names.of(maps, flow.service_id),
    }
}

/// Every drop reason with its count.
pub fn drops(maps: &PinnedMaps) -> Result<Vec<DropView>, MapsError> {
    DropReason::ALL
        .into_iter()
        .map(|reason| {
            let sum = maps.drops.sum(reason as u32)?;
            Ok(DropView {
                reason: reason.name().to_owned(),
                packets: sum.packets,
                bytes: sum.bytes,
            })
        })
        .collect()
}

/// The clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
