//! Nodes: their pod ranges, their silence.

use std::{collections::BTreeSet, time::Instant};

use causeway_control::{
    api::DeleteOptions,
    reconcile::{objects::condition, pod_state},
};
use causeway_proto::{
    Kind, Resource,
    v1::{Endpoints, Node, Pod},
};
use futures::future::join_all;

use crate::cluster::{Cluster, EVICTION, GRACE, controller, service};

fn ranges(cluster: &Cluster) -> Vec<String> {
    cluster
        .all::<Node>()
        .into_iter()
        .filter_map(|node| node.spec)
        .map(|spec| spec.pod_cidr)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_gets_a_range_of_its_own_and_keeps_it() {
    let cluster = Cluster::with_nodes(&[]).await;
    join_all((0..20).map(|number| {
        let mut node = Node::default();
        node.meta_mut().name = format!("n{number}");
        cluster.create(node)
    }))
    .await;
    let complete = || ranges(&cluster).len() == 20 && ranges(&cluster).iter().all(|range| !range.is_empty());
    cluster.until("all ranges", complete).await;
    let before = ranges(&cluster);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 20, "{before:?}");
    let freed = cluster
        .get::<Node>("", "n7")
        .expect("there")
        .spec
        .expect("spec")
        .pod_cidr;
    cluster.delete(Kind::Node, "", "n7", DeleteOptions::default()).await;
    let mut node = Node::default();
    node.meta_mut().name = "later".into();
    cluster.create(node).await;
    cluster.until("the last range", complete).await;
    let later = cluster
        .get::<Node>("", "later")
        .expect("there")
        .spec
        .expect("spec")
        .pod_cidr;
    assert_eq!(later, freed, "what is free again is used again");
    assert_eq!(
        ranges(&cluster).into_iter().collect::<BTreeSet<_>>(),
        before.into_iter().collect()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_its_endpoints_then_its_pods_and_returns() {
    let cluster = Cluster::with_nodes(&["n1", "n2"]).await;
    cluster.create(service("web")).await;
    cluster.create(controller("web", 4)).await;
    cluster
        .until("four ready endpoints", || cluster.endpoints("web").0.len() == 4)
        .await;

    let stopped = Instant::now();
    cluster.stop_agent("n1");
    let on_n2 = || {
        let pods = cluster.all::<Pod>();
        let mut names: Vec<_> = pods
            .iter()
            .filter(|pod| pod_state::node_name(pod) == "n2")
            .map(|pod| pod.meta().name.clone())
            .collect();
        names.sort();
        names
    };
    cluster
        .until("the endpoints on n1 to leave", || cluster.endpoints("web").0.len() == 2)
        .await;
    assert!(stopped.elapsed() >= GRACE / 2, "not at the first missed renewal");
    let node = cluster.get::<Node>("", "n1").expect("there");
    let said = condition(&node.status.as_ref().expect("status").conditions, "Ready")
        .expect("condition")
        .clone();
    assert_eq!(
        (said.status.as_str(), said.reason.as_str()),
        ("Unknown", "NodeStatusUnknown")
    );
    let is_tainted = || {
        let node = cluster.get::<Node>("", "n1").expect("there");
        node.spec.is_some_and(|spec| {
            spec.taints
                .iter()
                .any(|taint| taint.key == "node.kubernetes.io/unreachable")
        })
    };
    cluster.until("the taint", is_tainted).await;

    cluster
        .until("four pods on n2", || {
            cluster.ready_replicas("web") == 4 && on_n2().len() == 4
        })
        .await;
    assert!(stopped.elapsed() >= EVICTION, "not before the eviction time-out");
    cluster
        .until("their endpoints", || cluster.endpoints("web") == (on_n2(), vec![]))
        .await;

    cluster.start_agent("n1").await;
    cluster.until("the taint to go", || !is_tainted()).await;
    cluster
        .until("the evicted pods to end", || cluster.all::<Pod>().len() == 4)
        .await;
    let scaled = cluster
        .registry
        .scale(Kind::ReplicationController, "default", "web", 8, None)
        .await;
    scaled.unwrap_or_else(|error| panic!("{error}"));
    cluster
        .until("pods on n1 again", || {
            cluster.replicas_by_node().into_values().collect::<Vec<_>>() == [4, 4]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_not_taken_for_dead_because_the_store_was_away() {
    let cluster = Cluster::with_nodes(&["n1", "n2"]).await;
    cluster.create(service("web")).await;
    cluster.create(controller("web", 2)).await;
    cluster
        .until("two ready endpoints", || cluster.endpoints("web").0.len() == 2)
        .await;
    let before = cluster
        .get::<Endpoints>("default", "web")
        .expect("there")
        .meta()
        .resource_version
        .clone();

    cluster.outage.begin();
    cluster.stop_agent("n1");
    cluster.stop_agent("n2");
    tokio::time::sleep(GRACE * 2).await;
    cluster.outage.end();
    // Agents notice that the store is back with their next renewal, the control plane may be quicker.
    tokio::time::sleep(GRACE / 2).await;
    cluster.start_agent("n1").await;
    cluster.start_agent("n2").await;
    // As long as a wrong verdict would need to come.
    tokio::time::sleep(GRACE).await;
    let after = cluster
        .get::<Endpoints>("default", "web")
        .expect("there")
        .meta()
        .resource_version
        .clone();
    assert_eq!(after, before, "nobody may have touched the endpoints");
    assert!(cluster.all::<Node>().iter().all(pod_state::node_is_ready));

    cluster.stop_agent("n1");
    cluster
        .until("a real silence to be noticed", || cluster.endpoints("web").0.len() == 1)
        .await;
}
