//! Several control replicas: one reconciles, another takes over, nothing is done twice.

use std::{sync::Arc, time::Duration};

use causeway_control::{api::Registry, reconcile::spawn_all, store::election::Candidacy};
use causeway_proto::v1::Pod;

use crate::cluster::{Cluster, config, controller, registry_options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_leaders_creates_no_pod_twice() {
    let mut cluster = Cluster::idle().await;
    let ttl = Duration::from_secs(10);
    let one = Candidacy::start(Arc::clone(&cluster.store), "one".into(), ttl);
    cluster.reconcile(one.leadership());
    // The second replica has caches of its own.
    let registry = Registry::start(Arc::clone(&cluster.store), registry_options());
    registry.bootstrap().await.unwrap_or_else(|error| panic!("{error}"));
    cluster.until("a leader", || one.leadership().is_leader()).await;
    let two = Candidacy::start(Arc::clone(&cluster.store), "two".into(), ttl);
    let second = spawn_all(registry, config(), two.leadership());

    cluster.create(controller("web", 60)).await;
    cluster.until("some pods", || cluster.all::<Pod>().len() > 5).await;
    one.resign().await;
    cluster
        .until("the other to lead", || two.leadership().is_leader())
        .await;
    cluster.until("all pods", || cluster.all::<Pod>().len() >= 60).await;
    // Whatever would be created too much would come with the next passes.
    cluster.create(controller("marker", 1)).await;
    cluster
        .until("a later pod", || {
            cluster
                .all::<Pod>()
                .iter()
                .any(|pod| pod.metadata.as_ref().is_some_and(|m| m.name.starts_with("marker-")))
        })
        .await;
    assert_eq!(cluster.all::<Pod>().len(), 61);
    drop(second);
    two.resign().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_leader_reconciles() {
    let mut cluster = Cluster::idle().await;
    let holder = Candidacy::start(Arc::clone(&cluster.store), "holder".into(), Duration::from_secs(10));
    cluster.until("a leader", || holder.leadership().is_leader()).await;
    let waiting = Candidacy::start(Arc::clone(&cluster.store), "waiting".into(), Duration::from_secs(10));
    cluster.reconcile(waiting.leadership());
    cluster.create(controller("web", 3)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(cluster.all::<Pod>().is_empty());
    holder.resign().await;
    cluster.until("pods", || cluster.all::<Pod>().len() == 3).await;
    waiting.resign().await;
}
