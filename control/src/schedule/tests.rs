use std::collections::BTreeMap;

use causeway_proto::{
    Resource,
    v1::{
        Condition, Container, ContainerPort, Node, NodeSpec, NodeStatus, OwnerReference, Pod, PodSpec, Quantity,
        ResourceRequirements, Service, ServiceSpec, Taint, Toleration,
    },
};
use proptest::prelude::*;

use super::{
    Resources, Snapshot, schedule,
    scheduler::{Work, plan},
};

fn amounts(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                (*name).to_owned(),
                Quantity {
                    value: (*value).to_owned(),
                },
            )
        })
        .collect()
}

fn node(name: &str, cpu: &str, memory: &str) -> Node {
    let ready = Condition {
        r#type: "Ready".into(),
        status: "True".into(),
        ..Condition::default()
    };
    let allocatable = amounts(&[("cpu", cpu), ("memory", memory), ("pods", "10")]);
    let mut node = Node {
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            allocatable,
            conditions: vec![ready],
            ..NodeStatus::default()
        }),
        ..Node::default()
    };
    node.meta_mut().name = name.into();
    node.meta_mut()
        .labels
        .insert("kubernetes.io/hostname".into(), name.into());
    node
}

fn pod(name: &str, requests: &[(&str, &str)]) -> Pod {
    let resources = ResourceRequirements {
        requests: amounts(requests),
        ..ResourceRequirements::default()
    };
    let container = Container {
        resources: Some(resources),
        ..Container::default()
    };
    let mut pod = Pod {
        spec: Some(PodSpec {
            containers: vec![container],
            ..PodSpec::default()
        }),
        ..Pod::default()
    };
    pod.meta_mut().name = name.into();
    pod.meta_mut().uid = format!("uid-{name}");
    pod.meta_mut().namespace = "default".into();
    pod
}

fn with_host_port(name: &str, protocol: &str, address: &str, port: i32) -> Pod {
    let mut pod = pod(name, &[]);
    pod.spec.as_mut().unwrap().containers[0].ports = vec![ContainerPort {
        container_port: 80,
        host_port: port,
        host_ip: address.into(),
        protocol: protocol.into(),
        ..ContainerPort::default()
    }];
    pod
}

fn owned(name: &str, controller: &str) -> Pod {
    let mut pod = pod(name, &[]);
    pod.meta_mut().labels.insert("app".into(), controller.into());
    pod.meta_mut().owner_references = vec![OwnerReference {
        uid: controller.into(),
        controller: Some(true),
        ..OwnerReference::default()
    }];
    pod
}

fn on(mut pod: Pod, node: &str) -> Pod {
    pod.spec.as_mut().expect("spec").node_name = node.into();
    pod
}

fn taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint {
        key: key.into(),
        value: value.into(),
        effect: effect.into(),
    }
}

fn choose(pod: &Pod, nodes: &[Node], pods: &[Pod]) -> Result<String, String> {
    schedule(pod, &Snapshot::new(nodes, pods, [])).map_err(|reasons| reasons.to_string())
}

#[test]
fn reasons_read_as_kubectl_prints_them() {
    let mut silent = node("a", "4", "1Gi");
    silent.status.as_mut().expect("status").conditions[0].status = "Unknown".into();
    let nodes = [silent, node("b", "500m", "1Gi"), node("c", "500m", "64Mi")];
    let wants = pod("p", &[("cpu", "1"), ("memory", "128Mi")]);
    assert_eq!(
        choose(&wants, &nodes, &[]).expect_err("fits nowhere"),
        "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were not ready, 2 Insufficient cpu"
    );
    assert_eq!(
        choose(&wants, &[], &[]).expect_err("no node"),
        "no nodes available to schedule pods"
    );
}

#[test]
fn requests_of_pods_on_a_node_count() {
    let nodes = [node("a", "1", "1Gi")];
    let wants = pod("p", &[("cpu", "600m")]);
    assert_eq!(choose(&wants, &nodes, &[]).as_deref(), Ok("a"));
    let other = on(pod("o", &[("cpu", "500m")]), "a");
    assert!(choose(&wants, &nodes, std::slice::from_ref(&other)).is_err());
    let mut finished = other;
    finished.status.get_or_insert_default().phase = "Succeeded".into();
    assert_eq!(
        choose(&wants, &nodes, &[finished]).as_deref(),
        Ok("a"),
        "finished pods use nothing"
    );
    let exact = pod("p", &[("cpu", "1000m"), ("memory", "1Gi")]);
    assert_eq!(choose(&exact, &nodes, &[]).as_deref(), Ok("a"), "all of it may be used");
}

#[test]
fn init_containers_run_before_the_others() {
    let mut wants = pod("p", &[("cpu", "200m")]);
    let spec = wants.spec.as_mut().expect("spec");
    let init = |cpu| Container {
        resources: Some(ResourceRequirements {
            limits: amounts(&[("cpu", cpu)]),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    };
    spec.init_containers = vec![init("300m"), init("100m")];
    assert_eq!(Resources::requested_by(&wants).get("cpu").expect("cpu").milli(), 300);
}

#[test]
fn a_node_takes_so_many_pods_and_no_more() {
    let nodes = [node("a", "100", "100Gi")];
    let pods: Vec<_> = (0..10).map(|n| on(pod(&n.to_string(), &[]), "a")).collect();
    assert_eq!(choose(&pod("p", &[]), &nodes, &pods[..9]).as_deref(), Ok("a"));
    let error = choose(&pod("p", &[]), &nodes, &pods).expect_err("full");
    assert_eq!(error, "0/1 nodes are available: 1 Too many pods");
}

#[test]
fn selectors_taints_and_cordons_are_respected() {
    let mut cordoned = node("b", "1", "1Gi");
    cordoned.spec.as_mut().expect("spec").unschedulable = true;
    let mut tainted = node("c", "1", "1Gi");
    tainted.spec.as_mut().expect("spec").taints = vec![taint("gpu", "yes", "NoSchedule")];
    let nodes = [node("a", "1", "1Gi"), cordoned, tainted];
    let mut wants = pod("p", &[]);
    let spec = wants.spec.as_mut().expect("spec");
    spec.node_selector.insert("kubernetes.io/hostname".into(), "c".into());
    assert_eq!(
        choose(&wants, &nodes, &[]).expect_err("tainted"),
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
         1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable"
    );
    let equal = Toleration {
        key: "gpu".into(),
        value: "yes".into(),
        ..Toleration::default()
    };
    for (toleration, fits) in [
        (equal.clone(), true),
        (
            Toleration {
                value: "no".into(),
                ..equal.clone()
            },
            false,
        ),
        (
            Toleration {
                effect: "NoExecute".into(),
                ..equal.clone()
            },
            false,
        ),
        (
            Toleration {
                value: String::new(),
                operator: "Exists".into(),
                ..equal.clone()
            },
            true,
        ),
        (
            Toleration {
                operator: "Exists".into(),
                ..Toleration::default()
            },
            true,
        ),
    ] {
        let mut wants = wants.clone();
        wants.spec.as_mut().expect("spec").tolerations = vec![toleration.clone()];
        assert_eq!(choose(&wants, &nodes, &[]).is_ok(), fits, "{toleration:?}");
    }
}

#[test]
fn soft_taints_are_a_last_resort() {
    let mut soft = node("a", "8", "8Gi");
    soft.spec.as_mut().expect("spec").taints = vec![taint("slow", "", "PreferNoSchedule")];
    let nodes = [soft, node("b", "1", "1Gi")];
    assert_eq!(choose(&pod("p", &[]), &nodes, &[]).as_deref(), Ok("b"));
    assert_eq!(choose(&pod("p", &[("cpu", "2")]), &nodes, &[]).as_deref(), Ok("a"));
}

#[test]
fn replicas_spread_before_load_is_looked_at() {
    let nodes = [node("a", "64", "64Gi"), node("b", "1", "1Gi"), node("c", "1", "1Gi")];
    let mut pods = vec![on(pod("busy", &[("cpu", "500m")]), "b")];
    let mut chosen = Vec::new();
    for n in 0..6 {
        let replica = owned(&format!("web-{n}"), "web");
        let node = choose(&replica, &nodes, &pods).expect("fits");
        chosen.push(node.clone());
        pods.push(on(replica, &node));
    }
    chosen.sort();
    assert_eq!(chosen, ["a", "a", "b", "b", "c", "c"]);
}

#[test]
fn pods_of_one_service_spread_whoever_owns_them() {
    let nodes = [node("a", "8", "8Gi"), node("b", "1", "1Gi")];
    let selector = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let mut service = Service {
        spec: Some(ServiceSpec {
            selector,
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    service.meta_mut().namespace = "default".into();
    let mut bare = pod("bare", &[]);
    bare.meta_mut().labels.insert("app".into(), "web".into());
    let pods = [on(owned("web-1", "web"), "a")];
    assert_eq!(
        schedule(&bare, &Snapshot::new(&nodes, &pods, [&service])).as_deref(),
        Ok("b")
    );
    service.meta_mut().namespace = "other".into();
    assert_eq!(
        schedule(&bare, &Snapshot::new(&nodes, &pods, [&service])).as_deref(),
        Ok("a"),
        "not its service"
    );
}

#[test]
fn the_least_loaded_node_wins_and_names_break_ties() {
    let nodes = [node("b", "2", "2Gi"), node("a", "2", "2Gi")];
    assert_eq!(choose(&pod("p", &[]), &nodes, &[]).as_deref(), Ok("a"));
    let busy = on(pod("o", &[("cpu", "1")]), "a");
    assert_eq!(choose(&pod("p", &[]), &nodes, &[busy]).as_deref(), Ok("b"));
    let silent = on(pod("o", &[]), "a");
    assert_eq!(
        choose(&pod("p", &[]), &nodes, &[silent]).as_deref(),
        Ok("b"),
        "pods that ask for nothing use something"
    );
}

#[test]
fn a_burst_is_placed_as_if_bound_one_by_one() {
    let nodes = [node("a", "8", "8Gi"), node("b", "8", "8Gi"), node("c", "8", "8Gi")];
    let waiting: Vec<_> = (0..9).map(|n| owned(&format!("web-{n}"), "web")).collect();
    let pass = plan(Snapshot::new(&nodes, [], []), &waiting);
    let mut counts = BTreeMap::<String, usize>::new();
    for work in pass.work.into_values() {
        let Work::Bind { node, .. } = work else {
            panic!("{work:?}")
        };
        *counts.entry(node).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn a_burst_does_not_overcommit_a_node() {
    let nodes = [node("a", "1", "1Gi")];
    let waiting: Vec<_> = (0..3).map(|n| pod(&format!("p{n}"), &[("cpu", "500m")])).collect();
    let pass = plan(Snapshot::new(&nodes, [], []), &waiting);
    let bound = pass
        .work
        .values()
        .filter(|work| matches!(work, Work::Bind { .. }))
        .count();
    assert_eq!(bound, 2);
    assert!(matches!(&pass.work["default/p2"], Work::Mark { message, .. } if message.contains("Insufficient cpu")));
}

proptest! {
    /// Whatever is chosen fits, and if nothing is chosen nothing fits.
    #[test]
    fn choices_fit(
        sizes in prop::collection::vec((1_i64..8, any::<bool>()), 0..5),
        load in prop::collection::vec((0_usize..5, 1_i64..30), 0..20),
        wanted in 1_i64..60,
    ) {
        let nodes: Vec<_> = sizes.iter().enumerate().map(|(n, (cpu, ready))| {
            let mut node = node(&format!("n{n}"), &cpu.to_string(), "64Gi");
            if !ready {
                node.status.as_mut().expect("status").conditions.clear();
            }
            node
        }).collect();
        let pods: Vec<_> = load.iter().enumerate().map(|(n, (at, cpu))| {
            on(pod(&format!("p{n}"), &[("cpu", &format!("{}m", cpu * 100))]), &format!("n{at}"))
        }).collect();
        let fits = |n: usize| {
            let (cpu, ready) = sizes[n];
            let here: Vec<_> = load.iter().filter(|(at, _)| *at == n).collect();
            let used: i64 = here.iter().map(|(_, cpu)| cpu).sum();
            ready && here.len() < 10 && used + wanted <= cpu * 10
        };
        let wants = pod("wants", &[("cpu", &format!("{}m", wanted * 100))]);
        match choose(&wants, &nodes, &pods) {
            Ok(name) => prop_assert!(fits(name[1..].parse().expect("number"))),
            Err(reasons) => prop_assert!(!(0..sizes.len()).any(fits), "{}", reasons),
        }
    }
}

#[test]
fn a_port_of_a_node_goes_to_one_pod() {
    let nodes = [node("a", "4", "4Gi")];
    let mut there = with_host_port("there", "TCP", "", 8080);
    there.spec.as_mut().unwrap().node_name = "a".into();
    let mut at_one_address = with_host_port("one", "TCP", "172.30.0.1", 9090);
    at_one_address.spec.as_mut().unwrap().node_name = "a".into();
    let pods = [there, at_one_address];
    let fits = |protocol: &str, address: &str, port: i32| {
        let pod = with_host_port("new", protocol, address, port);
        schedule(&pod, &Snapshot::new(&nodes, &pods, [])).map_err(|why| why.to_string())
    };
    let refused =
        Err("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports".to_owned());
    assert_eq!(fits("TCP", "", 8080), refused);
    assert_eq!(fits("TCP", "172.30.0.1", 8080), refused);
    assert_eq!(fits("TCP", "0.0.0.0", 9090), refused);
    assert_eq!(fits("TCP", "172.30.0.1", 9090), refused);
    for (protocol, address, port) in [("UDP", "", 8080), ("TCP", "", 8081), ("TCP", "172.30.0.2", 9090)] {
        assert_eq!(
            fits(protocol, address, port).as_deref(),
            Ok("a"),
            "{protocol} {address} {port}"
        );
    }
    assert!(schedule(&pod("none", &[]), &Snapshot::new(&nodes, &pods, [])).is_ok());
}
