//! Ports of the node that lead to pods (`hostPort`): from the node's pods to what the data path should hold. Pure.
//!
//! To the data path such a port is a service like any other: frontends at the node's addresses, and one backend, the pod. It works as
//! long as the pod runs, whatever its readiness probes say. What a service has of its own, a pod cannot have.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use causeway_maps::Protocol;
use causeway_proto::v1::{ContainerPort, Pod};

use super::{
    service_frontends::{Class, port_number},
    services_index::{Candidate, ServiceName},
};
use crate::bpf::{BackendId, DesiredBackend, DesiredService, DesiredServices, Frontend, Scope, VipId};

/// How a name begins, by which a pod is told from a service. No namespace has such a name, so no service can be its owner.
const PREFIX: &str = "hostPort/";

/// The name under which a pod's host ports are kept among services.
pub fn name_of((namespace, name): (String, String)) -> ServiceName {
    (format!("{PREFIX}{namespace}"), name)
}

/// The pod behind the name of its host ports; `None` for a service.
pub fn pod_named((namespace, name): &ServiceName) -> Option<(&str, &str)> {
    Some((namespace.strip_prefix(PREFIX)?, name))
}

/// A pod's host ports and the frontends that it claims by them.
pub fn candidates(pod: &Arc<Pod>, addresses: &[IpAddr]) -> Vec<Candidate> {
    let candidate = |mut service: DesiredService| {
        let frontends = std::mem::take(&mut service.frontends).into_iter();
        (service, frontends.map(|frontend| (Class::HostPort, frontend)).collect())
    };
    let services = host_ports(std::slice::from_ref(pod), addresses);
    services.into_iter().map(candidate).collect()
}

/// The host ports of the node's pods, at the node's `addresses`.
pub fn host_ports(pods: &[Arc<Pod>], addresses: &[IpAddr]) -> Vec<DesiredService> {
    let mut pods: Vec<&Arc<Pod>> = pods.iter().filter(|pod| has_own_address(pod)).collect();
    pods.sort_by_key(|pod| pod.metadata.as_ref().map(|meta| (&meta.namespace, &meta.name)));
    let mut services = Vec::new();
    for pod in pods {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let ports = containers.flat_map(|container| &container.ports);
        for port in ports.filter(|port| port.host_port != 0) {
            services.extend(pod_addresses(pod).filter_map(|address| service(pod, port, address, addresses)));
        }
    }
    services
}

/// Adds host ports to the services, and tells in words which ports a pod cannot have, by the name of its service.
pub fn add_host_ports(services: &mut DesiredServices, host_ports: Vec<DesiredService>) -> BTreeSet<(String, String)> {
    let mut refused = BTreeSet::new();
    if host_ports.is_empty() {
        return refused;
    }
    let frontends = services.services.iter().flat_map(|service| &service.frontends);
    let mut taken: HashSet<_> = frontends.map(|frontend| (frontend.vip, frontend.scope)).collect();
    for mut service in host_ports {
        service.frontends.retain(|frontend| {
            let is_free = taken.insert((frontend.vip, frontend.scope));
            if !is_free {
                refused.insert((service.name.clone(), taken_port(&frontend.vip)));
            }
            is_free
        });
        if !service.frontends.is_empty() {
            services.services.push(service);
        }
    }
    refused
}

/// Why a pod does not get a port.
pub fn taken_port(vip: &VipId) -> String {
    let VipId {
        address,
        port,
        protocol,
    } = vip;
    format!("port {port}/{protocol} of {address} belongs to a service or to another pod")
}

/// Whether a pod runs, or is about to, in a network of its own.
fn has_own_address(pod: &Pod) -> bool {
    let is_over = pod
        .status
        .as_ref()
        .is_some_and(|status| matches!(status.phase.as_str(), "Succeeded" | "Failed"));
    !is_over && pod.spec.as_ref().is_some_and(|spec| !spec.host_network)
}

fn pod_addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        let all = status.pod_ips.iter().map(|one| &one.ip);
        let single = Some(&status.pod_ip).filter(|_| status.pod_ips.is_empty());
        all.chain(single).filter_map(|ip| ip.parse().ok())
    })
}

fn service(pod: &Pod, port: &ContainerPort, address: IpAddr, node: &[IpAddr]) -> Option<DesiredService> {
    let meta = pod.metadata.as_ref()?;
    let protocol = Protocol::from_name(&port.protocol)?;
    let (number, container_port) = (port_number(port.host_port)?, port_number(port.container_port)?);
    let wanted: Option<IpAddr> = port.host_ip.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified());
    let at = node.iter().filter(|ip| ip.is_ipv4() == address.is_ipv4());
    let at = at.filter(|ip| wanted.is_none_or(|wanted| wanted == **ip));
    let frontends: Vec<_> = at
        .flat_map(|ip| {
            let cluster = Frontend::cluster(VipId {
                address: *ip,
                port: number,
                protocol,
            });
            let external = Frontend {
                scope: Scope::External,
                ..cluster.clone()
            };
            [cluster, external]
        })
        .collect();
    let id = BackendId {
        ready_always: true,
        ..BackendId::new(address, container_port, protocol)
    };
    let backend = DesiredBackend {
        local: true,
        ..DesiredBackend::ready(id)
    };
    (!frontends.is_empty()).then(|| DesiredService {
        name: format!("{PREFIX}{}/{}:{number}", meta.namespace, meta.name),
        affinity_seconds: 0,
        frontends,
        backends: vec![backend],
    })
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{Container, ObjectMeta, PodIp, PodSpec, PodStatus};

    use super::*;

    fn pod(name: &str, ips: &[&str], ports: &[(&str, i32, i32, &str)]) -> Arc<Pod> {
        let port = |(protocol, host_port, container_port, host_ip): &(&str, i32, i32, &str)| ContainerPort {
            protocol: (*protocol).to_owned(),
            host_port: *host_port,
            container_port: *container_port,
            host_ip: (*host_ip).to_owned(),
            ..ContainerPort::default()
        };
        let container = Container {
            ports: ports.iter().map(port).collect(),
            ..Container::default()
        };
        Arc::new(Pod {
            metadata: Some(ObjectMeta {
                namespace: "default".into(),
                name: name.into(),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                containers: vec![container],
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: "Running".into(),
                pod_ip: ips.first().copied().unwrap_or_default().into(),
                pod_ips: ips.iter().map(|ip| PodIp { ip: (*ip).into() }).collect(),
                ..PodStatus::default()
            }),
        })
    }

    fn node() -> Vec<IpAddr> {
        ["172.30.0.1", "10.244.1.1", "fd00:172::1"]
            .map(|ip| ip.parse().unwrap())
            .into()
    }

    fn texts(services: &[DesiredService]) -> Vec<String> {
        let frontend = |service: &DesiredService, frontend: &Frontend| {
            let (vip, id) = (frontend.vip, service.backends[0].id);
            let (vip_port, port, protocol) = (vip.port, id.port, vip.protocol);
            format!(
                "{} {}:{vip_port}/{protocol} {:?} -> {}:{port}",
                service.name, vip.address, frontend.scope, id.address
            )
        };
        let all = services.iter();
        all.flat_map(|service| service.frontends.iter().map(move |one| frontend(service, one)))
            .collect()
    }

    #[test]
    fn a_host_port_is_at_every_address_of_the_node_of_the_pods_families() {
        let pods = [pod("web", &["10.244.1.5", "fd00:244::5"], &[("TCP", 8080, 80, "")])];
        assert_eq!(
            texts(&host_ports(&pods, &node())),
            [
                "hostPort/default/web:8080 172.30.0.1:8080/TCP Cluster -> 10.244.1.5:80",
                "hostPort/default/web:8080 172.30.0.1:8080/TCP External -> 10.244.1.5:80",
                "hostPort/default/web:8080 10.244.1.1:8080/TCP Cluster -> 10.244.1.5:80",
                "hostPort/default/web:8080 10.244.1.1:8080/TCP External -> 10.244.1.5:80",
                "hostPort/default/web:8080 fd00:172::1:8080/TCP Cluster -> fd00:244::5:80",
                "hostPort/default/web:8080 fd00:172::1:8080/TCP External -> fd00:244::5:80",
            ]
        );
    }

    #[test]
    fn a_host_ip_narrows_it_and_pods_without_need_have_none() {
        let ports = [
            ("UDP", 53, 5353, "172.30.0.1"),
            ("TCP", 0, 80, ""),
            ("TCP", 81, 81, "192.0.2.1"),
        ];
        let mut hosted = pod("hosted", &["172.30.0.1"], &[("TCP", 9090, 9090, "")]);
        Arc::make_mut(&mut hosted).spec.as_mut().unwrap().host_network = true;
        let mut over = pod("over", &["10.244.1.6"], &[("TCP", 82, 82, "")]);
        Arc::make_mut(&mut over).status.as_mut().unwrap().phase = "Succeeded".into();
        let unborn = pod("unborn", &[], &[("TCP", 83, 83, "")]);
        let pods = [pod("dns", &["10.244.1.5"], &ports), hosted, over, unborn];
        assert_eq!(
            texts(&host_ports(&pods, &node())),
            [
                "hostPort/default/dns:53 172.30.0.1:53/UDP Cluster -> 10.244.1.5:5353",
                "hostPort/default/dns:53 172.30.0.1:53/UDP External -> 10.244.1.5:5353",
            ]
        );
    }

    #[test]
    fn services_and_earlier_pods_come_first() {
        let vip = VipId {
            address: node()[0],
            port: 30_080,
            protocol: Protocol::TCP,
        };
        let mut services = DesiredServices {
            services: vec![DesiredService::cluster_ip(vip, "default/a:http", Vec::new())],
        };
        let pods = [
            pod(
                "b",
                &["10.244.1.5"],
                &[("TCP", 30_080, 80, "172.30.0.1"), ("TCP", 8080, 80, "172.30.0.1")],
            ),
            pod("c", &["10.244.1.6"], &[("TCP", 8080, 80, "172.30.0.1")]),
        ];
        let refused = add_host_ports(&mut services, host_ports(&pods, &node()));
        let names: BTreeSet<_> = refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["hostPort/default/b:30080", "hostPort/default/c:8080"]
        );
        assert_eq!(
            refused.first().unwrap().1,
            "port 30080/TCP of 172.30.0.1 belongs to a service or to another pod"
        );
        let kept: Vec<_> = services.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(
            kept,
            ["default/a:http", "hostPort/default/b:30080", "hostPort/default/b:8080"]
        );
    }

    #[test]
    fn a_name_leads_back_to_its_pod() {
        let name = name_of(("default".into(), "web-1".into()));
        assert_eq!(pod_named(&name), Some(("default", "web-1")));
        assert_eq!(pod_named(&("default".into(), "web".into())), None);
    }
}
