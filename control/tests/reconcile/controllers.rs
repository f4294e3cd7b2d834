//! Controllers, endpoints, garbage, namespaces.

use causeway_control::{
    api::{DeleteOptions, Propagation, allocation::Allocation},
    reconcile::pod_state,
};
use causeway_proto::{
    Kind, Resource,
    v1::{Endpoints, Event, Namespace, Pod, ReplicationController, Service},
};

use crate::cluster::{Cluster, controller, pod, registry_options, service};

const NODES: &[&str] = &["n1", "n2", "n3"];

async fn web(replicas: i32) -> Cluster {
    let cluster = Cluster::with_nodes(NODES).await;
    cluster.create(service("web")).await;
    cluster.create(controller("web", replicas)).await;
    cluster
        .until("all replicas to be ready", || cluster.ready_replicas("web") == replicas)
        .await;
    cluster
}

fn names(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<_> = cluster
        .all::<Pod>()
        .into_iter()
        .map(|pod| pod.meta().name.clone())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_run_everywhere_and_are_endpoints() {
    let cluster = web(3).await;
    assert_eq!(cluster.replicas_by_node().into_values().collect::<Vec<_>>(), [1, 1, 1]);
    cluster
        .until("endpoints", || cluster.endpoints("web") == (names(&cluster), vec![]))
        .await;
    let status = cluster
        .get::<ReplicationController>("default", "web")
        .expect("there")
        .status
        .expect("status");
    assert_eq!(
        (status.replicas, status.available_replicas, status.observed_generation),
        (3, 3, 1)
    );
    assert!(status.conditions.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_makes_and_deletes_pods() {
    let cluster = web(2).await;
    let before = names(&cluster);
    let scale = async |replicas| {
        let scaled = cluster
            .registry
            .scale(Kind::ReplicationController, "default", "web", replicas, None)
            .await;
        scaled.unwrap_or_else(|error| panic!("{error}"));
        cluster
            .until("the new size", || {
                names(&cluster).len() == usize::try_from(replicas).expect("positive")
            })
            .await;
        cluster
            .until("all to be ready", || cluster.ready_replicas("web") == replicas)
            .await;
    };
    scale(7).await;
    assert!(
        before.iter().all(|name| names(&cluster).contains(name)),
        "those that were there stay"
    );
    scale(3).await;
    assert_eq!(
        cluster.replicas_by_node().into_values().collect::<Vec<_>>(),
        [1, 1, 1],
        "crowded nodes give first"
    );
    cluster
        .until("endpoints", || cluster.endpoints("web").0 == names(&cluster))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantined_pod_leaves_and_is_replaced_and_can_come_back() {
    let cluster = web(2).await;
    let suspect = names(&cluster)[0].clone();
    let mut pod = cluster.get::<Pod>("default", &suspect).expect("there");
    pod.meta_mut().labels.remove("app");
    cluster
        .registry
        .update(pod.into_object(), false)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let is_released = || {
        let pod = cluster.get::<Pod>("default", &suspect).expect("it keeps running");
        pod.meta().owner_references.is_empty()
    };
    cluster.until("its release", is_released).await;
    cluster
        .until("its replacement", || {
            names(&cluster).len() == 3 && cluster.ready_replicas("web") == 2
        })
        .await;
    cluster
        .until("it to leave the endpoints", || {
            let (ready, not_ready) = cluster.endpoints("web");
            ready.len() == 2 && !ready.contains(&suspect) && not_ready.is_empty()
        })
        .await;

    let mut pod = cluster.get::<Pod>("default", &suspect).expect("there");
    pod.meta_mut().labels.insert("app".into(), "web".into());
    cluster
        .registry
        .update(pod.into_object(), false)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    cluster.until("one of three to go", || names(&cluster).len() == 2).await;
    let all_owned = || cluster.all::<Pod>().iter().all(|pod| pod.meta().controller().is_some());
    cluster.until("all to be owned", all_owned).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strays_are_adopted() {
    let cluster = Cluster::with_nodes(NODES).await;
    let mut stray = pod("stray");
    stray.meta_mut().labels.insert("app".into(), "web".into());
    cluster.create(stray).await;
    cluster.create(controller("web", 2)).await;
    cluster
        .until("two replicas", || cluster.ready_replicas("web") == 2)
        .await;
    assert_eq!(names(&cluster).len(), 2);
    assert!(
        cluster
            .get::<Pod>("default", "stray")
            .expect("it stays")
            .meta()
            .controller()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_controller_takes_its_pods_along_unless_told_otherwise() {
    let cluster = web(2).await;
    cluster.create(controller("other", 1)).await;
    cluster
        .until("the other one", || cluster.ready_replicas("other") == 1)
        .await;
    let orphan = DeleteOptions {
        propagation: Propagation::Orphan,
        ..DeleteOptions::default()
    };
    cluster
        .delete(Kind::ReplicationController, "default", "other", orphan)
        .await;
    cluster
        .until("its end", || {
            cluster.get::<ReplicationController>("default", "other").is_none()
        })
        .await;
    cluster
        .delete(Kind::ReplicationController, "default", "web", DeleteOptions::default())
        .await;
    cluster
        .until("only the orphan to be left", || names(&cluster).len() == 1)
        .await;
    let left = cluster.all::<Pod>().remove(0);
    assert!(left.meta().name.starts_with("other-") && left.meta().owner_references.is_empty());
    assert!(pod_state::is_active(&left));
    cluster
        .until("endpoints without pods", || {
            cluster.endpoints("web") == (vec![], vec![])
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_waits_for_the_pods() {
    let cluster = web(2).await;
    let foreground = DeleteOptions {
        propagation: Propagation::Foreground,
        ..DeleteOptions::default()
    };
    cluster
        .delete(Kind::ReplicationController, "default", "web", foreground)
        .await;
    cluster
        .until("the end of the controller", || {
            let gone = cluster.get::<ReplicationController>("default", "web").is_none();
            assert!(!gone || names(&cluster).is_empty(), "pods first");
            gone
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_go_with_their_service() {
    let cluster = web(1).await;
    cluster
        .until("endpoints", || cluster.endpoints("web").0.len() == 1)
        .await;
    cluster
        .delete(Kind::Service, "default", "web", DeleteOptions::default())
        .await;
    cluster
        .until("their end", || cluster.get::<Endpoints>("default", "web").is_none())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_ends_when_all_in_it_has_ended() {
    let cluster = Cluster::with_nodes(NODES).await;
    let mut namespace = Namespace::default();
    namespace.meta_mut().name = "team".into();
    cluster.create(namespace).await;
    let mut controller = controller("web", 3);
    controller.meta_mut().namespace = "team".into();
    cluster.create(controller).await;
    let mut service = service("web");
    service.meta_mut().namespace = "team".into();
    cluster.create(service).await;
    cluster.create(pod("elsewhere")).await;
    cluster
        .until("pods", || {
            cluster
                .all::<Pod>()
                .iter()
                .filter(|pod| pod_state::is_ready(pod))
                .count()
                == 4
        })
        .await;
    cluster
        .delete(Kind::Namespace, "", "team", DeleteOptions::default())
        .await;
    cluster
        .until("the end of the namespace", || {
            cluster.get::<Namespace>("", "team").is_none()
        })
        .await;
    for kind in Kind::ALL.iter().filter(|kind| kind.namespaced()) {
        let left = cluster.registry.cache(*kind).snapshot();
        let left: Vec<_> = left
            .iter()
            .filter(|object| object.meta().is_some_and(|meta| meta.namespace == "team"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(names(&cluster), ["elsewhere"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_always_exists_is_made_again() {
    let cluster = Cluster::with_nodes(&[]).await;
    cluster
        .delete(Kind::Namespace, "", "causeway-node-lease", DeleteOptions::default())
        .await;
    cluster
        .until("the namespace to be back", || {
            cluster
                .get::<Namespace>("", "causeway-node-lease")
                .is_some_and(|namespace| !namespace.meta().is_terminating())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vip_claims_of_nobody_are_freed() {
    let mut cluster = Cluster::idle().await;
    let service = cluster.create(service("web")).await;
    let vip = |address: &str| Allocation::Vip(address.parse().expect("address")).key();
    let held = vip(&service.spec.expect("spec").cluster_ip);
    let leaked = vip("10.96.200.200");
    let claim = causeway_control::store::Transaction::new().put(&leaked, "gone default/gone");
    cluster.store.transact(claim).await.expect("claim");
    cluster.reconcile(causeway_control::store::Leadership::always());
    let is_free = async || cluster.store.get(&leaked).await.expect("get").is_none();
    cluster.until_async("the leaked claim to go", is_free).await;
    assert!(cluster.store.get(&held).await.expect("get").is_some());
}

fn balanced(name: &str) -> Service {
    let mut service = service(name);
    service.spec.as_mut().expect("spec").r#type = "LoadBalancer".into();
    service
}

fn ingress(cluster: &Cluster, name: &str) -> Vec<String> {
    let service = cluster.get::<Service>("default", name).expect("the service");
    let balancer = service
        .status
        .and_then(|status| status.load_balancer)
        .unwrap_or_default();
    balancer.ingress.into_iter().map(|ingress| ingress.ip).collect()
}

fn events(cluster: &Cluster, name: &str) -> Vec<String> {
    let of_it = |event: &Event| event.involved_object.as_ref().is_some_and(|object| object.name == name);
    let events = cluster.all::<Event>().into_iter().filter(of_it);
    events
        .map(|event| format!("{}: {}", event.reason, event.message))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_without_range_waits_and_says_why() {
    let mut cluster = Cluster::idle().await;
    cluster.reconcile(causeway_control::store::Leadership::always());
    cluster.create(balanced("web")).await;
    cluster
        .until("an event", || {
            events(&cluster, "web")
                .iter()
                .any(|text| text.starts_with("NoLoadBalancerRange: No load-balancer address: the cluster has no range"))
        })
        .await;
    let service = cluster.get::<Service>("default", "web").expect("the service");
    let conditions = service.status.expect("status").conditions;
    assert_eq!(
        (conditions[0].r#type.as_str(), conditions[0].status.as_str()),
        ("LoadBalancerAddress", "False")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_balancers_get_addresses_and_the_next_in_line_what_is_freed() {
    let mut options = registry_options();
    options.load_balancer_ranges = vec!["192.0.2.8/32".parse().expect("a range")];
    let mut cluster = Cluster::idle_with(options).await;
    cluster.reconcile(causeway_control::store::Leadership::always());
    cluster.create(balanced("first")).await;
    cluster
        .until("the address", || ingress(&cluster, "first") == ["192.0.2.8"])
        .await;
    cluster.create(balanced("second")).await;
    cluster
        .until("a complaint", || {
            events(&cluster, "second")
                .iter()
                .any(|text| text.starts_with("RangeExhausted: "))
        })
        .await;
    cluster
        .delete(Kind::Service, "default", "first", DeleteOptions::default())
        .await;
    cluster
        .until("the freed address", || ingress(&cluster, "second") == ["192.0.2.8"])
        .await;
    cluster
        .until("the complaint to go", || {
            let service = cluster.get::<Service>("default", "second").expect("the service");
            service.status.is_some_and(|status| status.conditions.is_empty())
        })
        .await;
    cluster
        .until("an event", || {
            events(&cluster, "second").contains(&"LoadBalancerAddressAssigned: Assigned address 192.0.2.8".to_owned())
        })
        .await;
}
