//! The scheduler at work.

use causeway_control::reconcile::{objects::condition, pod_state};
use causeway_proto::v1::{Pod, Quantity};

use crate::cluster::{Cluster, controller, pod};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_pods_spreads_evenly() {
    let cluster = Cluster::with_nodes(&["n1", "n2", "n3"]).await;
    cluster.create(controller("web", 30)).await;
    cluster
        .until("all replicas", || cluster.ready_replicas("web") == 30)
        .await;
    assert_eq!(
        cluster.replicas_by_node().into_values().collect::<Vec<_>>(),
        [10, 10, 10]
    );
    assert_eq!(cluster.all::<Pod>().len(), 30, "none too many");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_so_and_is_placed_once_it_fits() {
    let cluster = Cluster::with_nodes(&["n1"]).await;
    let mut picky = pod("picky");
    picky
        .spec
        .as_mut()
        .expect("spec")
        .node_selector
        .insert("kubernetes.io/hostname".into(), "n2".into());
    cluster.create(picky).await;
    let expected = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector";
    let says_so = || {
        let pod = cluster.get::<Pod>("default", "picky").expect("there");
        let conditions = pod.status.map(|status| status.conditions).unwrap_or_default();
        condition(&conditions, "PodScheduled").is_some_and(|said| said.status == "False" && said.message == expected)
    };
    cluster.until("the condition", says_so).await;
    cluster
        .until("the event", || {
            cluster
                .events("picky", "FailedScheduling")
                .iter()
                .any(|e| e.message == expected)
        })
        .await;
    cluster.start_agent("n2").await;
    let runs = || {
        cluster
            .get::<Pod>("default", "picky")
            .is_some_and(|pod| pod_state::is_ready(&pod))
    };
    cluster.until("it to run", runs).await;
    cluster
        .until("the event", || !cluster.events("picky", "Scheduled").is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_becomes_free_is_used() {
    let cluster = Cluster::with_nodes(&["n1"]).await;
    let big = |name: &str| {
        let mut pod = pod(name);
        let resources = pod.spec.as_mut().expect("spec").containers[0]
            .resources
            .get_or_insert_default();
        resources.requests.insert("cpu".into(), Quantity { value: "3".into() });
        pod
    };
    cluster.create(big("first")).await;
    let is_ready = |name: &str| {
        cluster
            .get::<Pod>("default", name)
            .is_some_and(|pod| pod_state::is_ready(&pod))
    };
    cluster.until("the first", || is_ready("first")).await;
    cluster.create(big("second")).await;
    cluster
        .until("the event", || !cluster.events("second", "FailedScheduling").is_empty())
        .await;
    cluster
        .delete(
            causeway_proto::Kind::Pod,
            "default",
            "first",
            causeway_control::api::DeleteOptions::default(),
        )
        .await;
    cluster.until("the second", || is_ready("second")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_other_schedulers_are_left_alone() {
    let cluster = Cluster::with_nodes(&["n1"]).await;
    let mut theirs = pod("theirs");
    theirs.spec.as_mut().expect("spec").scheduler_name = "other".into();
    cluster.create(theirs).await;
    cluster.create(pod("ours")).await;
    cluster
        .until("ours", || {
            cluster
                .get::<Pod>("default", "ours")
                .is_some_and(|pod| pod_state::is_ready(&pod))
        })
        .await;
    let theirs = cluster.get::<Pod>("default", "theirs").expect("there");
    assert_eq!(pod_state::node_name(&theirs), "");
    cluster
        .registry
        .bind("default", "theirs", "", "n1")
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    cluster
        .until("theirs", || {
            cluster
                .get::<Pod>("default", "theirs")
                .is_some_and(|pod| pod_state::is_ready(&pod))
        })
        .await;
}
