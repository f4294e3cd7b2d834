use std::collections::BTreeMap;

use causeway_proto::v1::{
    Condition, Container, ContainerPort, EndpointAddress, IntOrString, PodSpec, PodStatus, ServicePort, ServiceSpec,
    int_or_string::Value,
};

use super::*;

fn service(ports: Vec<ServicePort>) -> Service {
    let selector = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let spec = ServiceSpec {
        selector,
        ports,
        cluster_ip: "10.96.0.9".into(),
        ..ServiceSpec::default()
    };
    let mut service = Service {
        spec: Some(spec),
        ..Service::default()
    };
    let meta = service.meta_mut();
    (meta.name, meta.namespace, meta.uid) = ("web".into(), "default".into(), "svc".into());
    service
}

fn port(name: &str, number: i32, target: Option<Value>) -> ServicePort {
    let target_port = target.map(|value| IntOrString { value: Some(value) });
    ServicePort {
        name: name.into(),
        port: number,
        target_port,
        ..ServicePort::default()
    }
}

fn pod(name: &str, ip: &str, ready: bool) -> Pod {
    let condition = Condition {
        r#type: "Ready".into(),
        status: if ready { "True" } else { "False" }.into(),
        ..Condition::default()
    };
    let offered = ContainerPort {
        name: "http".into(),
        container_port: 8080,
        ..ContainerPort::default()
    };
    let container = Container {
        ports: vec![offered],
        ..Container::default()
    };
    let status = PodStatus {
        phase: "Running".into(),
        pod_ip: ip.into(),
        conditions: vec![condition],
        ..PodStatus::default()
    };
    let spec = PodSpec {
        node_name: "n1".into(),
        containers: vec![container],
        ..PodSpec::default()
    };
    let mut pod = Pod {
        spec: Some(spec),
        status: Some(status),
        ..Pod::default()
    };
    let meta = pod.meta_mut();
    (meta.name, meta.namespace, meta.uid) = (name.into(), "default".into(), format!("uid-{name}"));
    meta.labels.insert("app".into(), "web".into());
    pod
}

fn made(service: &Service, pods: &[Pod]) -> Endpoints {
    let cluster = Cluster::new(pods.iter(), ["n1"].into_iter());
    let desired = Desired::of(service, &cluster).expect("has a selector");
    desired.into_endpoints(service, None)
}

fn ips(addresses: &[EndpointAddress]) -> Vec<&str> {
    addresses.iter().map(|address| address.ip.as_str()).collect()
}

#[test]
fn ready_pods_and_others_are_told_apart() {
    let pods = [
        pod("a", "10.0.0.10", true),
        pod("b", "10.0.0.9", true),
        pod("c", "10.0.0.3", false),
    ];
    let endpoints = made(&service(vec![port("", 80, Some(Value::IntValue(8080)))]), &pods);
    let [subset] = endpoints.subsets.as_slice() else {
        panic!("{endpoints:?}")
    };
    assert_eq!(ips(&subset.addresses), ["10.0.0.9", "10.0.0.10"], "in order of numbers");
    assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.3"]);
    assert_eq!((subset.ports[0].port, subset.ports[0].protocol.as_str()), (8080, "TCP"));
    let address = &subset.addresses[0];
    assert_eq!(address.node_name, "n1");
    let target = address.target_ref.as_ref().expect("target");
    assert_eq!(
        (target.kind.as_str(), target.name.as_str(), target.uid.as_str()),
        ("Pod", "b", "uid-b")
    );
    assert_eq!(endpoints.key(), "default/web");
}

#[test]
fn pods_leave_when_they_end() {
    let mut finished = pod("b", "10.0.0.2", true);
    finished.status.as_mut().expect("status").phase = "Failed".into();
    finished.meta_mut().deletion_timestamp = Some(prost_types::Timestamp::default());
    let without_address = pod("c", "", true);
    let mut unlabelled = pod("d", "10.0.0.4", true);
    unlabelled.meta_mut().labels.clear();
    let mut elsewhere = pod("e", "10.0.0.5", true);
    elsewhere.meta_mut().namespace = "other".into();
    let pods = [finished, without_address, unlabelled, elsewhere];
    assert!(made(&service(vec![port("", 80, None)]), &pods).subsets.is_empty());
}

#[test]
fn pods_that_are_being_deleted_are_told_apart() {
    let ending = |name: &str, ip: &str, ready| {
        let mut pod = pod(name, ip, ready);
        pod.meta_mut().deletion_timestamp = Some(prost_types::Timestamp::default());
        pod
    };
    let pods = [
        pod("a", "10.0.0.1", true),
        ending("b", "10.0.0.2", true),
        ending("c", "10.0.0.3", false),
    ];
    let shown = |service: &Service| {
        let endpoints = made(service, &pods);
        let subset = &endpoints.subsets[0];
        [
            &subset.addresses,
            &subset.terminating_addresses,
            &subset.not_ready_addresses,
        ]
        .map(|list| ips(list).into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let mut service = service(vec![port("", 80, None)]);
    assert_eq!(shown(&service), [vec!["10.0.0.1"], vec!["10.0.0.2"], vec!["10.0.0.3"]]);
    let nowhere = Cluster::new(pods[1..].iter(), [].into_iter());
    let desired = Desired::of(&service, &nowhere).expect("has a selector");
    assert!(
        desired.into_endpoints(&service, None).subsets.is_empty(),
        "given up with their node"
    );
    service.spec.as_mut().expect("spec").publish_not_ready_addresses = true;
    assert_eq!(
        shown(&service),
        [vec!["10.0.0.1"], vec!["10.0.0.2", "10.0.0.3"], vec![]]
    );
}

#[test]
fn pods_have_an_address_of_each_family_of_the_service() {
    let mut dual = pod("a", "10.0.0.1", true);
    let pod_ip = |ip: &str| causeway_proto::v1::PodIp { ip: ip.into() };
    dual.status.as_mut().expect("status").pod_ips = vec![pod_ip("10.0.0.1"), pod_ip("fd00::1")];
    let pods = [dual, pod("b", "10.0.0.2", true)];
    let of = |families: &[&str]| {
        let mut service = service(vec![port("", 80, None)]);
        service.spec.as_mut().expect("spec").ip_families = families.iter().map(|name| (*name).into()).collect();
        let endpoints = made(&service, &pods);
        ips(&endpoints.subsets[0].addresses)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&["IPv4"]), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(of(&["IPv6"]), ["fd00::1"]);
    assert_eq!(of(&["IPv4", "IPv6"]), ["10.0.0.1", "10.0.0.2", "fd00::1"]);
    assert_eq!(of(&[]), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn pods_on_a_node_that_is_not_ready_are_not_ready() {
    let pods = [pod("a", "10.0.0.1", true)];
    let service = service(vec![port("", 80, None)]);
    let cluster = Cluster::new(pods.iter(), [].into_iter());
    let desired = Desired::of(&service, &cluster).expect("has a selector");
    let endpoints = desired.into_endpoints(&service, None);
    assert_eq!(ips(&endpoints.subsets[0].not_ready_addresses), ["10.0.0.1"]);
    assert!(endpoints.subsets[0].addresses.is_empty());
}

#[test]
fn not_ready_addresses_are_published_on_demand() {
    let mut service = service(vec![port("", 80, None)]);
    service.spec.as_mut().expect("spec").publish_not_ready_addresses = true;
    let endpoints = made(&service, &[pod("a", "10.0.0.1", false)]);
    assert_eq!(ips(&endpoints.subsets[0].addresses), ["10.0.0.1"]);
}

#[test]
fn named_ports_are_looked_up_in_each_pod() {
    let mut other = pod("b", "10.0.0.2", true);
    other.spec.as_mut().expect("spec").containers[0].ports[0].container_port = 9090;
    let mut nameless = pod("c", "10.0.0.3", true);
    nameless.spec.as_mut().expect("spec").containers[0].ports.clear();
    let pods = [pod("a", "10.0.0.1", true), other, nameless];
    let endpoints = made(
        &service(vec![port("web", 80, Some(Value::StringValue("http".into())))]),
        &pods,
    );
    let shape: Vec<_> = endpoints
        .subsets
        .iter()
        .map(|subset| (subset.ports[0].port, ips(&subset.addresses)))
        .collect();
    assert_eq!(shape, [(8080, vec!["10.0.0.1"]), (9090, vec!["10.0.0.2"])]);
}

#[test]
fn a_pod_offers_the_ports_that_it_has() {
    let ports = vec![
        port("web", 80, Some(Value::StringValue("http".into()))),
        port("admin", 81, Some(Value::IntValue(9000))),
    ];
    let mut nameless = pod("b", "10.0.0.2", true);
    nameless.spec.as_mut().expect("spec").containers[0].ports.clear();
    let endpoints = made(&service(ports), &[pod("a", "10.0.0.1", true), nameless]);
    let shape: Vec<_> = endpoints
        .subsets
        .iter()
        .map(|subset| {
            (
                subset.ports.iter().map(|port| port.port).collect::<Vec<_>>(),
                ips(&subset.addresses),
            )
        })
        .collect();
    assert_eq!(
        shape,
        [(vec![9000], vec!["10.0.0.2"]), (vec![9000, 8080], vec!["10.0.0.1"])]
    );
}

#[test]
fn a_udp_port_does_not_match_a_tcp_one_of_the_same_name() {
    let mut service = service(vec![port("web", 80, Some(Value::StringValue("http".into())))]);
    service.spec.as_mut().expect("spec").ports[0].protocol = "UDP".into();
    assert!(made(&service, &[pod("a", "10.0.0.1", true)]).subsets.is_empty());
}

#[test]
fn services_without_selector_are_untouched() {
    let mut service = service(vec![port("", 80, None)]);
    service.spec.as_mut().expect("spec").selector.clear();
    let mut written = Endpoints::default();
    (written.meta_mut().name, written.meta_mut().namespace) = ("web".into(), "default".into());
    let cluster = Cluster::new([].into_iter(), [].into_iter());
    assert!(
        plan([&service].into_iter(), [&written].into_iter(), &cluster)
            .work
            .is_empty()
    );
    assert!(
        plan([].into_iter(), [&written].into_iter(), &cluster).work.is_empty(),
        "written before their service"
    );
}

#[test]
fn headless_services_have_endpoints_too() {
    let mut service = service(vec![]);
    service.spec.as_mut().expect("spec").cluster_ip = "None".into();
    let endpoints = made(&service, &[pod("a", "10.0.0.1", true)]);
    assert!(endpoints.meta().labels.contains_key("service.kubernetes.io/headless"));
    assert_eq!(ips(&endpoints.subsets[0].addresses), ["10.0.0.1"]);
    assert!(endpoints.subsets[0].ports.is_empty());
}

#[test]
fn endpoints_are_made_changed_and_deleted_with_their_service() {
    let service = service(vec![port("", 80, None)]);
    let pods = [pod("a", "10.0.0.1", true)];
    let cluster = Cluster::new(pods.iter(), ["n1"].into_iter());
    let pass = plan([&service].into_iter(), [].into_iter(), &cluster);
    let Work::Create(created, _) = &pass.work["default/web"] else {
        panic!("{pass:?}")
    };
    let mut stored = (**created).clone();
    (stored.meta_mut().uid, stored.meta_mut().resource_version) = ("ep".into(), "7".into());
    stored.meta_mut().annotations.insert("of".into(), "others".into());
    assert!(
        plan([&service].into_iter(), [&stored].into_iter(), &cluster)
            .work
            .is_empty(),
        "as it should be"
    );

    let nobody = Cluster::new([].into_iter(), [].into_iter());
    let pass = plan([&service].into_iter(), [&stored].into_iter(), &nobody);
    let Work::Update(changed, _) = &pass.work["default/web"] else {
        panic!("{pass:?}")
    };
    assert_eq!(
        (changed.meta().resource_version.as_str(), changed.subsets.len()),
        ("7", 0)
    );
    assert!(changed.meta().annotations.contains_key("of"));

    let pass = plan([].into_iter(), [&stored].into_iter(), &cluster);
    let Work::Delete { preconditions, .. } = &pass.work["default/web"] else {
        panic!("{pass:?}")
    };
    assert_eq!(
        (preconditions.uid.as_str(), preconditions.resource_version.as_str()),
        ("ep", "7")
    );
}
