//! Services with pods behind them.

use std::net::SocketAddr;

use causeway_agent::bpf::{BackendId, DesiredBackend, DesiredService, VipId};
use causeway_maps::Protocol;

use super::Pod;

/// A TCP service at `vip`, with port `port` of these pods behind it, all ready.
pub fn tcp_service(vip: SocketAddr, port: u16, pods: &[&Pod]) -> DesiredService {
    service(vip, Protocol::TCP, port, pods)
}

/// A UDP service at `vip`, with port `port` of these pods behind it, all ready.
pub fn udp_service(vip: SocketAddr, port: u16, pods: &[&Pod]) -> DesiredService {
    service(vip, Protocol::UDP, port, pods)
}

fn service(vip: SocketAddr, protocol: Protocol, port: u16, pods: &[&Pod]) -> DesiredService {
    let address = |pod: &Pod| {
        if vip.is_ipv4() {
            pod.address
        } else {
            pod.address6.expect("a lab with IPv6")
        }
    };
    let backend = |pod: &&Pod| DesiredBackend::ready(BackendId::new(address(pod), port, protocol));
    let id = VipId {
        address: vip.ip(),
        port: vip.port(),
        protocol,
    };
    let backends = pods.iter().map(backend).collect();
    DesiredService::cluster_ip(id, format!("default/test:{}", vip.port()), backends)
}
