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
    let id = BackendId {
        address: ip.parse().unwrap(),
        port,
        protocol: Protocol::TCP,
        ready_always: false,
    };
    DesiredBackend {
        id,
        ready,
        terminating: false,
        local,
    }
}

#[test]
fn pods_that_are_not_ready_are_in_without_their_bit() {
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let endpoints = [endpoints("web", vec![two_pods(vec![endpoint_port("", "TCP", 8080)])])];
    let desired = desired_services(&services, &endpoints, NODE);
    let [web] = desired.services.as_slice() else {
        panic!("{desired:?}")
    };
    assert_eq!(web.name, "default/web:80");
    assert_eq!(web.vip.address.to_string(), "10.96.0.10");
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
    let desired = desired_services(&services, &[endpoints("all", vec![subset])], NODE);
    let ports: Vec<_> = desired
        .services
        .iter()
        .map(|s| {
            (
                s.name.as_str(),
                s.vip.protocol.to_string(),
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
    assert_eq!(desired_services(&services, &[], NODE), DesiredServices::default());
}

#[test]
fn a_service_without_endpoints_is_there_to_refuse() {
    let services = [service("web", spec("10.96.0.10", vec![port("", "TCP", 80)]))];
    let desired = desired_services(&services, &[], NODE);
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
    let desired = desired_services(&services, &[Arc::new(elsewhere), named], NODE);
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
    let seconds = |spec| desired_services(&[service("web", spec)], &[], NODE).services[0].affinity_seconds;
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
    let desired = desired_services(&services, &[endpoints("web", subsets)], NODE);
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
    let desired = desired_services(&services, &[], NODE);
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
    let desired = desired_services(&[service("web", publishing)], &endpoints, NODE);
    assert!(
        desired.services[0]
            .backends
            .iter()
            .all(|backend| backend.id.ready_always)
    );
}
