use std::cell::Cell;

use causeway_proto::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, ObjectMeta, ServicePort, ServiceSpec, ServiceStatus,
};
use proptest::prelude::*;

use super::*;
use crate::{
    bpf::{DesiredService, DesiredServices},
    reconcile::{services::desired_services, topology::Topology},
};

const NODE: &str = "node-a";

/// A cluster as the agent sees it.
#[derive(Default)]
struct Cluster {
    services: BTreeMap<ServiceName, Arc<Service>>,
    endpoints: BTreeMap<ServiceName, Arc<Endpoints>>,
}

impl Cluster {
    fn look(&self, name: &ServiceName) -> Seen {
        Seen::Service(self.services.get(name).cloned(), self.endpoints.get(name).cloned())
    }

    fn complete(&self, unready: &BTreeSet<IpAddr>) -> DesiredServices {
        let services: Vec<_> = self.services.values().cloned().collect();
        let endpoints: Vec<_> = self.endpoints.values().cloned().collect();
        desired_services(&services, &endpoints, &view(), |pod, listed| {
            known(unready, pod, listed)
        })
    }
}

fn view() -> NodeView {
    NodeView {
        topology: Topology::new(NODE, []),
        addresses: vec!["172.30.0.11".parse().unwrap()],
    }
}

fn known(unready: &BTreeSet<IpAddr>, pod: IpAddr, listed: Readiness) -> Readiness {
    Readiness {
        ready: listed.ready && !unready.contains(&pod),
        ..listed
    }
}

/// All that a planning comes to.
fn run<K: Fn(IpAddr, Readiness) -> Readiness>(mut planning: Planning<'_, K>) -> (Vec<ServicesOf>, Planned) {
    let owners = planning.by_ref().collect();
    (owners, planning.finish())
}

fn name(number: u8) -> ServiceName {
    ("default".into(), format!("s{number}"))
}

fn metadata(number: u8) -> ObjectMeta {
    let (namespace, name) = name(number);
    ObjectMeta {
        namespace,
        name,
        ..ObjectMeta::default()
    }
}

/// A service whose cluster IP and external address are among few, so that services claim each other's.
fn service(number: u8, cluster_ip: u8, external: Option<u8>, close: bool) -> Arc<Service> {
    let port = ServicePort {
        protocol: "TCP".into(),
        port: 80,
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: format!("10.96.0.{cluster_ip}"),
        external_ips: external.map(|last| format!("10.96.0.{last}")).into_iter().collect(),
        traffic_distribution: if close { "PreferSameNode" } else { "" }.into(),
        ports: vec![port],
        ..ServiceSpec::default()
    };
    Arc::new(Service {
        metadata: Some(metadata(number)),
        spec: Some(spec),
        status: None::<ServiceStatus>,
    })
}

fn pod(number: u8) -> IpAddr {
    IpAddr::from([10, 244, number % 2, number])
}

/// Pods with even numbers run here.
fn endpoints(number: u8, pods: &[u8]) -> Arc<Endpoints> {
    let address = |number: &u8| EndpointAddress {
        ip: pod(*number).to_string(),
        node_name: if number.is_multiple_of(2) { NODE } else { "node-b" }.into(),
        ..EndpointAddress::default()
    };
    let port = EndpointPort {
        protocol: "TCP".into(),
        port: 8080,
        ..EndpointPort::default()
    };
    Arc::new(Endpoints {
        metadata: Some(metadata(number)),
        subsets: vec![EndpointSubset {
            addresses: pods.iter().map(address).collect(),
            ports: vec![port],
            ..EndpointSubset::default()
        }],
    })
}

#[derive(Clone, Debug)]
enum Change {
    Service(u8, u8, Option<u8>, bool),
    NoService(u8),
    Endpoints(u8, Vec<u8>),
    Readiness(u8, bool),
}

fn change() -> impl Strategy<Value = Change> {
    let numbers = || 0_u8..5;
    prop_oneof![
        4 => (numbers(), 1_u8..6, proptest::option::of(1_u8..6), any::<bool>())
            .prop_map(|(of, ip, external, close)| Change::Service(of, ip, external, close)),
        1 => numbers().prop_map(Change::NoService),
        3 => (numbers(), proptest::collection::vec(0_u8..6, 0..5)).prop_map(|(of, pods)| Change::Endpoints(of, pods)),
        2 => (0_u8..6, any::<bool>()).prop_map(|(pod, ready)| Change::Readiness(pod, ready)),
    ]
}

/// All that was planned so far, in the order of a complete list.
fn all(planned: &BTreeMap<String, Vec<DesiredService>>) -> DesiredServices {
    let mut services: Vec<_> = planned.values().flatten().cloned().collect();
    services.sort_by_key(|service| service.frontends.first().map(|frontend| (frontend.scope, frontend.vip)));
    DesiredServices { services }
}

proptest! {
    #[test]
    fn planning_by_name_leads_to_the_complete_list(changes in proptest::collection::vec(change(), 1..40)) {
        let mut cluster = Cluster::default();
        let mut unready = BTreeSet::new();
        let mut planner = ServicePlanner::default();
        planner.set_view(view());
        let mut planned = BTreeMap::new();
        for change in changes {
            let names = match change {
                Change::Service(of, ip, external, close) => {
                    cluster.services.insert(name(of), service(of, ip, external, close));
                    BTreeSet::from([name(of)])
                }
                Change::NoService(of) => {
                    cluster.services.remove(&name(of));
                    BTreeSet::from([name(of)])
                }
                Change::Endpoints(of, pods) => {
                    cluster.endpoints.insert(name(of), endpoints(of, &pods));
                    BTreeSet::from([name(of)])
                }
                Change::Readiness(number, ready) => {
                    if ready { unready.remove(&pod(number)); } else { unready.insert(pod(number)); }
                    planner.followers([pod(number)])
                }
            };
            let look = |name: &ServiceName| cluster.look(name);
            for of in planner.plan(names, look, |pod, listed| known(&unready, pod, listed)) {
                planned.insert(of.owner, of.services);
            }
            let (mut by_name, mut complete) = (all(&planned), cluster.complete(&unready));
            // Where nothing depends on it, a verdict is in the maps by itself.
            for service in by_name.services.iter_mut().chain(&mut complete.services) {
                for backend in &mut service.backends {
                    backend.ready = true;
                }
            }
            prop_assert_eq!(by_name, complete);
        }
    }
}

#[test]
fn a_change_is_looked_at_alone() {
    let mut cluster = Cluster::default();
    for number in 0..100 {
        cluster
            .services
            .insert(name(number), service(number, number + 1, None, false));
        cluster.endpoints.insert(name(number), endpoints(number, &[0, 1]));
    }
    let looked = Cell::new(0);
    let look = |name: &ServiceName| {
        looked.set(looked.get() + 1);
        cluster.look(name)
    };
    let mut planner = ServicePlanner::default();
    assert!(planner.set_view(view()));
    assert!(!planner.set_view(view()), "a heartbeat");
    let names: Vec<_> = cluster.services.keys().cloned().collect();
    assert_eq!(planner.plan(names, look, |_, listed| listed).count(), 100);
    assert_eq!(looked.replace(0), 100);
    let one = planner.plan([name(7)], look, |_, listed| listed).collect::<Vec<_>>();
    assert_eq!((one.len(), looked.get()), (1, 1));
    assert_eq!(one[0].owner, "default/s7");
}

#[test]
fn pods_of_this_node_are_listed_until_their_endpoints_say_otherwise() {
    let pods = |numbers: &[u8]| numbers.iter().map(|number| pod(*number)).collect::<BTreeSet<_>>();
    let mut cluster = Cluster::default();
    cluster.services.insert(name(1), service(1, 1, None, false));
    cluster.endpoints.insert(name(1), endpoints(1, &[1, 2, 4]));
    let mut planner = ServicePlanner::default();
    planner.set_view(view());
    let plan = |planner: &mut ServicePlanner, cluster: &Cluster| {
        let planning = planner.plan([name(1)], |name| cluster.look(name), |_, listed| listed);
        run(planning).1.listed
    };
    assert_eq!(plan(&mut planner, &cluster), [(pods(&[]), pods(&[2, 4]))]);
    assert_eq!(plan(&mut planner, &cluster), []);
    let mut ending = Endpoints::clone(&endpoints(1, &[1, 2]));
    ending.subsets[0].terminating_addresses = endpoints(1, &[4]).subsets[0].addresses.clone();
    cluster.endpoints.insert(name(1), Arc::new(ending));
    assert_eq!(plan(&mut planner, &cluster), [(pods(&[2, 4]), pods(&[2]))]);
}

#[test]
fn health_checks_are_told_when_they_change() {
    let mut cluster = Cluster::default();
    let mut local = Service::clone(&service(1, 1, None, false));
    let spec = local.spec.as_mut().unwrap();
    spec.r#type = "LoadBalancer".into();
    spec.external_traffic_policy = "Local".into();
    spec.health_check_node_port = 30_100;
    cluster.services.insert(name(1), Arc::new(local));
    let mut planner = ServicePlanner::default();
    planner.set_view(view());
    let plan = |planner: &mut ServicePlanner, cluster: &Cluster| {
        run(planner.plan([name(1)], |name| cluster.look(name), |_, listed| listed));
        planner.changed_checks().map(|checks| checks[&30_100].pods.len())
    };
    assert_eq!(plan(&mut planner, &cluster), Some(0));
    assert_eq!(plan(&mut planner, &cluster), None);
    cluster.endpoints.insert(name(1), endpoints(1, &[2, 3]));
    assert_eq!(plan(&mut planner, &cluster), Some(1));
    cluster.services.clear();
    run(planner.plan([name(1)], |name| cluster.look(name), |_, listed| listed));
    assert_eq!(planner.changed_checks().map(|checks| checks.len()), Some(0));
}

#[test]
fn a_pod_gets_a_port_of_the_node_that_no_service_has() {
    use causeway_proto::v1::{Container, ContainerPort, Pod, PodSpec, PodStatus};
    let port = ContainerPort {
        protocol: "TCP".into(),
        host_port: 80,
        container_port: 8080,
        ..ContainerPort::default()
    };
    let container = Container {
        ports: vec![port],
        ..Container::default()
    };
    let pod = Arc::new(Pod {
        metadata: Some(metadata(1)),
        spec: Some(PodSpec {
            containers: vec![container],
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: "Running".into(),
            pod_ip: "10.244.1.2".into(),
            ..PodStatus::default()
        }),
    });
    let mut cluster = Cluster::default();
    let mut planner = ServicePlanner::default();
    planner.set_view(view());
    let of_pod = host_ports::name_of(name(1));
    let look = |cluster: &Cluster, name: &ServiceName| match host_ports::pod_named(name) {
        Some(_) => Seen::Pod(Some(Arc::clone(&pod))),
        None => cluster.look(name),
    };
    let (first, beside) = run(planner.plan([of_pod.clone()], |name| look(&cluster, name), |_, listed| listed));
    assert_eq!(first[0].owner, "hostPort/default/s1");
    assert_eq!((first[0].services[0].frontends.len(), beside.lost.len()), (2, 0));

    // A service takes the node's address and port: the pod loses it, and has it again afterwards.
    let mut taking = Service::clone(&service(2, 9, None, false));
    taking.spec.as_mut().unwrap().external_ips = vec!["172.30.0.11".into()];
    cluster.services.insert(name(2), Arc::new(taking));
    let (taken, beside) = run(planner.plan([name(2)], |name| look(&cluster, name), |_, listed| listed));
    let services: Vec<_> = taken.iter().map(|of| (of.owner.as_str(), of.services.len())).collect();
    assert_eq!(services, [("default/s2", 1), ("hostPort/default/s1", 0)]);
    assert_eq!(beside.lost.len(), 2);
    assert_eq!(beside.lost[0].0, "hostPort/default/s1:80");
    cluster.services.clear();
    let (back, _) = run(planner.plan([name(2)], |name| look(&cluster, name), |_, listed| listed));
    assert_eq!(back[1].services, first[0].services);
}
