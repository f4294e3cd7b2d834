use causeway_proto::v1::{ClientIpConfig, EndpointPort, SessionAffinityConfig};

use super::*;

const NODE: &str = "node-a";

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: "default".into(),
        name: name.into(),
        ..ObjectMeta::default()
    }
}

fn port(name: &str, protocol: &str, port: i32) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: protocol.into(),
        port,
        ..ServicePort::default()
    }
}

fn service(name: &str, spec: ServiceSpec) -> Arc<Service> {
    Arc::new(Service {
        metadata: Some(metadata(name)),
        spec: Some(spec),
        status: None,
    })
}

fn spec(address: &str, ports: Vec<ServicePort>) -> ServiceSpec {
    ServiceSpec {
        cluster_ip: address.into(),
        ports,
        ..ServiceSpec::default()
    }
}

fn address(ip: &str, node: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.into(),
        node_name: node.into(),
        ..EndpointAddress::default()
    }
}

fn endpoint_port(name: &str, protocol: &str, port: i32) -> EndpointPort {
    EndpointPort {
        name: name.into(),
        protocol: protocol.into(),
        port,
    }
}

fn endpoints(name: &str, subsets: Vec<EndpointSubset>) -> Arc<Endpoints> {
    Arc::new(Endpoints {
        metadata: Some(metadata(name)),
        subsets,
    })
}

/// One ready local pod, one that is not ready and runs elsewhere.
fn two_pods(ports: Vec<EndpointPort>) -> EndpointSubset {
    EndpointSubset {
        addresses: vec![address("10.244.1.2", NODE)],
        not_ready_addresses: vec![address("10.244.2.2", "node-b")],
        ports,
        ..EndpointSubset::default()
    }
}

fn backend(ip: &str, port: u16, ready: bool, local: bool) -> DesiredBackend {
    DesiredBackend {
        ready,
        local,
        ..DesiredBackend::ready(BackendId::new(ip.parse().unwrap(), port, Protocol::TCP))
    }
}

fn view() -> NodeView {
    NodeView {
        topology: Topology::new(NODE, []),
        addresses: vec!["172.30.0.11".parse().unwrap(), "10.244.1.1".parse().unwrap()],
    }
}

fn wanted(services: &[Arc<Service>], endpoints: &[Arc<Endpoints>]) -> DesiredServices {
    desired_services(services, endpoints, &view(), |_, listed| listed)
}

/// "10.96.0.10:80 cluster", with what is special.
fn shown(service: &DesiredService) -> Vec<String> {
    let show = |frontend: &Frontend| {
        let mut text = format!("{}:{} {:?}", frontend.vip.address, frontend.vip.port, frontend.scope);
        if frontend.local_only {
            text.push_str(" local");
        }
        for range in &frontend.source_ranges {
            text.extend([format!(" {}/{}", range.address, range.prefix_len)]);
        }
        text
    };
    service.frontends.iter().map(show).collect()
}

#[test]
fn pods_that_are_not_ready_are_in_without_their_bit() {
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let endpoints = [endpoints("web", vec![two_pods(vec![endpoint_port("", "TCP", 8080)])])];
    let desired = wanted(&services, &endpoints);
    let [web] = desired.services.as_slice() else {
        panic!("{desired:?}")
    };
    assert_eq!(web.name, "default/web:80");
    assert_eq!(web.frontends[0].vip.address.to_string(), "10.96.0.10");
    assert_eq!(
        web.backends,
        [
            backend("10.244.1.2", 8080, true, true),
            backend("10.244.2.2", 8080, false, false)
        ]
    );
}

#[test]
fn each_port_gets_the_endpoint_ports_of_its_name_and_protocol() {
    let ports = vec![
        port("http", "TCP", 80),
        port("dns", "UDP", 53),
        port("dns-tcp", "TCP", 53),
    ];
    let services = [service("all", spec("10.96.0.10", ports))];
    let subset = two_pods(vec![
        endpoint_port("http", "TCP", 8080),
        endpoint_port("dns", "UDP", 5353),
        endpoint_port("dns-tcp", "TCP", 5353),
        endpoint_port("http", "UDP", 1),
    ]);
    let desired = wanted(&services, &[endpoints("all", vec![subset])]);
    let ports: Vec<_> = desired
        .services
        .iter()
        .map(|s| {
            (
                s.name.as_str(),
                s.frontends[0].vip.protocol.to_string(),
                s.backends.iter().map(|b| b.id.port).collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(
        ports,
        [
            ("default/all:dns-tcp", "TCP".into(), vec![5353, 5353]),
            ("default/all:dns", "UDP".into(), vec![5353, 5353]),
            ("default/all:http", "TCP".into(), vec![8080, 8080]),
        ]
    );
}

#[test]
fn headless_and_unallocated_services_have_no_vip() {
    let services = [
        service("headless", spec("None", vec![port("", "TCP", 80)])),
        service("new", spec("", vec![port("", "TCP", 80)])),
    ];
    assert_eq!(wanted(&services, &[]), DesiredServices::default());
}

#[test]
fn a_service_without_endpoints_is_there_to_refuse() {
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let desired = wanted(&services, &[]);
    assert_eq!(desired.services.len(), 1);
    assert_eq!(desired.services[0].backends, []);
}

#[test]
fn endpoints_of_another_name_or_namespace_do_not_count() {
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let mut elsewhere = Endpoints::clone(&endpoints("web", vec![two_pods(vec![endpoint_port("", "TCP", 80)])]));
    elsewhere.metadata = Some(ObjectMeta {
        namespace: "other".into(),
        name: "web".into(),
        ..ObjectMeta::default()
    });
    let named = endpoints("web2", vec![two_pods(vec![endpoint_port("", "TCP", 80)])]);
    let desired = wanted(&services, &[Arc::new(elsewhere), named]);
    assert_eq!(desired.services[0].backends, []);
}

#[test]
fn affinity_lasts_as_long_as_configured() {
    let affine = |config| ServiceSpec {
        session_affinity: "ClientIP".into(),
        session_affinity_config: config,
        ..spec("10.96.0.10", vec![port("", "TCP", 80)])
    };
    let client_ip = Some(ClientIpConfig {
        timeout_seconds: Some(60),
    });
    let seconds = |spec| wanted(&[service("web", spec)], &[]).services[0].affinity_seconds;
    assert_eq!(seconds(affine(Some(SessionAffinityConfig { client_ip }))), 60);
    assert_eq!(seconds(affine(None)), 10_800);
    assert_eq!(seconds(spec("10.96.0.10", vec![port("", "TCP", 80)])), 0);
}

#[test]
fn an_address_in_two_subsets_is_one_backend() {
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let ready = EndpointSubset {
        addresses: vec![address("10.244.2.2", "node-b")],
        ports: vec![endpoint_port("", "TCP", 8080)],
        ..EndpointSubset::default()
    };
    let subsets = vec![two_pods(vec![endpoint_port("", "TCP", 8080)]), ready];
    let desired = wanted(&services, &[endpoints("web", subsets)]);
    let backends = &desired.services[0].backends;
    assert_eq!(
        backends,
        &[
            backend("10.244.1.2", 8080, true, true),
            backend("10.244.2.2", 8080, true, false)
        ]
    );
}

#[test]
fn of_two_services_with_one_vip_the_first_by_name_has_it() {
    let ports = || vec![port("", "TCP", 80)];
    let services = [
        service("b", spec("10.96.0.10", ports())),
        service("a", spec("10.96.0.10", ports())),
    ];
    let desired = wanted(&services, &[]);
    let names: Vec<_> = desired.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["default/a:80"]);
}

#[test]
fn publishing_not_ready_addresses_is_part_of_a_backends_identity() {
    let publishing = ServiceSpec {
        publish_not_ready_addresses: true,
        ..spec("10.96.0.10", vec![port("", "TCP", 80)])
    };
    let endpoints = [endpoints("web", vec![two_pods(vec![endpoint_port("", "TCP", 8080)])])];
    let desired = wanted(&[service("web", publishing)], &endpoints);
    assert!(
        desired.services[0]
            .backends
            .iter()
            .all(|backend| backend.id.ready_always)
    );
}

#[test]
fn node_ports_are_reached_at_every_address_of_the_node_from_both_sides() {
    let mut with_port = port("", "TCP", 80);
    with_port.node_port = 30_080;
    let spec = ServiceSpec {
        r#type: "NodePort".into(),
        ..spec("10.96.0.10", vec![with_port])
    };
    let desired = wanted(&[service("web", spec)], &[]);
    assert_eq!(
        shown(&desired.services[0]),
        [
            "10.96.0.10:80 Cluster",
            "172.30.0.11:30080 Cluster",
            "172.30.0.11:30080 External",
            "10.244.1.1:30080 Cluster",
            "10.244.1.1:30080 External",
        ]
    );
}

fn balanced(policy: &str) -> Arc<Service> {
    let spec = ServiceSpec {
        r#type: "LoadBalancer".into(),
        external_traffic_policy: policy.into(),
        internal_traffic_policy: "Local".into(),
        load_balancer_source_ranges: vec!["203.0.113.9/24".into(), "10.0.0.0/8".into(), "2001:db8::/32".into()],
        external_ips: vec!["198.51.100.7".into(), "2001:db8::7".into()],
        ..spec("10.96.0.10", vec![port("", "TCP", 80)])
    };
    let mut service = Service::clone(&service("web", spec));
    let ingress = vec![causeway_proto::v1::LoadBalancerIngress { ip: "192.0.2.1".into() }];
    service.status = Some(causeway_proto::v1::ServiceStatus {
        load_balancer: Some(causeway_proto::v1::LoadBalancerStatus { ingress }),
        ..Default::default()
    });
    Arc::new(service)
}

#[test]
fn each_address_has_the_policy_of_its_side() {
    assert_eq!(
        shown(&wanted(&[balanced("Local")], &[]).services[0]),
        [
            "10.96.0.10:80 Cluster local",
            "192.0.2.1:80 Cluster",
            "192.0.2.1:80 External local 10.0.0.0/8 203.0.113.0/24 2001:db8::/32",
            "198.51.100.7:80 Cluster",
            "198.51.100.7:80 External local",
        ]
    );
    let cluster = shown(&wanted(&[balanced("Cluster")], &[]).services[0]);
    assert_eq!(cluster[4], "198.51.100.7:80 External");
}

#[test]
fn a_cluster_ip_cannot_be_taken_over() {
    let thief = ServiceSpec {
        external_ips: vec!["10.96.0.10".into()],
        ..spec("10.96.0.66", vec![port("", "TCP", 80)])
    };
    let services = [
        service("a-thief", thief),
        service("web", spec("10.96.0.10", vec![port("", "TCP", 80)])),
    ];
    let desired = wanted(&services, &[]);
    assert_eq!(desired.services[0].name, "default/web:80");
    assert_eq!(shown(&desired.services[0]), ["10.96.0.10:80 Cluster"]);
    assert_eq!(
        shown(&desired.services[1]),
        ["10.96.0.66:80 Cluster", "10.96.0.10:80 External"],
        "what nobody else has is given"
    );
}

#[test]
fn both_families_have_their_own_backends() {
    let dual = ServiceSpec {
        cluster_ips: vec!["10.96.0.10".into(), "fd00:96::10".into()],
        ..spec("10.96.0.10", vec![port("", "TCP", 80)])
    };
    let subset = EndpointSubset {
        addresses: vec![address("10.244.1.2", NODE), address("fd00:244:1::2", NODE)],
        ports: vec![endpoint_port("", "TCP", 8080)],
        ..EndpointSubset::default()
    };
    let desired = wanted(&[service("web", dual)], &[endpoints("web", vec![subset])]);
    let [v4, v6] = desired.services.as_slice() else {
        panic!("{desired:?}")
    };
    assert_eq!(v4.backends, [backend("10.244.1.2", 8080, true, true)]);
    assert_eq!(v6.backends, [backend("fd00:244:1::2", 8080, true, true)]);
    assert_eq!(shown(v6), ["fd00:96::10:80 Cluster"]);
    assert_eq!(v4.name, v6.name);
}

#[test]
fn pods_that_are_ending_are_marked() {
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let subset = EndpointSubset {
        terminating_addresses: vec![address("10.244.2.3", "node-b")],
        ..two_pods(vec![endpoint_port("", "TCP", 8080)])
    };
    let desired = wanted(&services, &[endpoints("web", vec![subset])]);
    let ending = DesiredBackend {
        terminating: true,
        ..backend("10.244.2.3", 8080, true, false)
    };
    assert_eq!(desired.services[0].backends[2], ending);
}

#[test]
fn what_the_node_knows_of_its_pods_counts_for_what_is_near() {
    let near = ServiceSpec {
        traffic_distribution: "PreferSameNode".into(),
        ..spec("10.96.0.10", vec![port("", "TCP", 80)])
    };
    let subset = EndpointSubset {
        addresses: vec![address("10.244.1.2", NODE), address("10.244.2.2", "node-b")],
        ports: vec![endpoint_port("", "TCP", 8080)],
        ..EndpointSubset::default()
    };
    let (services, endpoints) = ([service("web", near)], [endpoints("web", vec![subset])]);
    let chosen = |known: fn(IpAddr, Readiness) -> Readiness| {
        let desired = desired_services(&services, &endpoints, &view(), known);
        let service = &desired.services[0];
        let chosen = service.choice(service.frontends[0].local_only);
        chosen.map(|backend| backend.id.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(|_, listed| listed), ["10.244.1.2"]);
    let down = |_, listed| Readiness { ready: false, ..listed };
    assert_eq!(chosen(down), ["10.244.1.2", "10.244.2.2"]);
    assert!(services.iter().any(|service| depends_on_readiness(service)));
}

#[test]
fn backends_elsewhere_know_the_underlay_address_of_their_node() {
    use causeway_proto::v1::{Node, NodeAddress, NodeStatus};
    let node = |name: &str, address: &str| {
        let address = NodeAddress {
            r#type: "InternalIP".into(),
            address: address.into(),
        };
        Node {
            metadata: Some(metadata(name)),
            status: Some(NodeStatus {
                addresses: vec![address],
                ..NodeStatus::default()
            }),
            ..Node::default()
        }
    };
    let nodes = [node(NODE, "172.30.0.11"), node("node-b", "172.30.0.12")];
    let view = NodeView {
        topology: Topology::new(NODE, &nodes),
        addresses: Vec::new(),
    };
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let mut subset = two_pods(vec![endpoint_port("", "TCP", 8080)]);
    subset.addresses.push(address("192.0.2.1", ""));
    let endpoints = [endpoints("web", vec![subset])];
    let desired = desired_services(&services, &endpoints, &view, |_, listed| listed);
    let nodes: Vec<_> = desired.services[0].backends.iter().map(|b| b.node).collect();
    assert_eq!(nodes, [None, Some("172.30.0.12".parse().unwrap()), None]);
}
