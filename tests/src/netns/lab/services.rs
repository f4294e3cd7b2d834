//! Services with pods behind them.

use std::net::SocketAddr;

use causeway_agent::bpf::{BackendId, DesiredBackend, DesiredService, Frontend, Scope, VipId};
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

/// A service that is reached at another address and port, too, from these sides.
pub fn also_at(mut service: DesiredService, at: SocketAddr, scopes: &[Scope]) -> DesiredService {
    for scope in scopes {
        let first = service.frontends[0].clone();
        service.frontends.push(Frontend {
            vip: VipId {
                address: at.ip(),
                port: at.port(),
                ..first.vip
            },
            scope: *scope,
            ..first
        });
    }
    service
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
