//! The client, the watcher and the reflector against a control plane made up in this process.

mod fake;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fake::Fake;
use serde_json::json;

use super::*;
use crate::{
    Resource,
    v1::{ObjectMeta, Pod, PodSpec},
};

/// Longest wait for anything here; reached only by a failing test.
const BOUND: Duration = Duration::from_secs(20);

fn pod(name: &str, node: &str) -> Pod {
    let metadata = ObjectMeta {
        name: name.into(),
        namespace: "default".into(),
        labels: BTreeMap::from([("app".into(), "web".into())]),
        ..Default::default()
    };
    Pod {
        metadata: Some(metadata),
        spec: Some(PodSpec {
            node_name: node.into(),
            ..Default::default()
        }),
        status: None,
    }
}

fn reflect(fake: &Fake) -> Store<Pod> {
    let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
    let watcher = Watcher::new(fake.client(), Pod::KIND, ListOptions::default()).with_backoff(backoff);
    Reflector::spawn_from(watcher)
}

/// Waits, by the store's own notifications, until the copy holds these names.
async fn until_names(store: &Store<Pod>, wanted: &[&str]) {
    let mut changes = store.changes();
    let names = |store: &Store<Pod>| {
        store
            .snapshot()
            .iter()
            .map(|pod| pod.meta().name.clone())
            .collect::<Vec<_>>()
    };
    let wait = async {
        while names(store) != wanted {
            changes.changed().await;
        }
    };
    assert!(
        tokio::time::timeout(BOUND, wait).await.is_ok(),
        "wanted {wanted:?}, have {:?}",
        names(store)
    );
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("takes too long")
}

#[tokio::test]
async fn lists_page_through_at_one_revision() {
    let fake = Fake::start();
    for index in 0..1_203 {
        fake.put(pod(&format!("pod-{index:04}"), ""));
    }
    let list = fake
        .client()
        .list::<Pod>(&ListOptions::default())
        .await
        .expect("listed");
    assert_eq!(list.items.len(), 1_203);
    assert_eq!(list.resource_version, "1203");
    assert_eq!(fake.lists(), 3);
}

#[tokio::test]
async fn errors_keep_their_code_and_their_violations() {
    let fake = Fake::start();
    let client = fake.client();
    let error = client.get::<Pod>("default", "none").await.expect_err("there is none");
    assert!(error.is_not_found(), "{error}");
    let error = client.create(Pod::default()).await.expect_err("it has no name");
    assert!(error.is_invalid());
    assert_eq!(
        error.to_string(),
        "pod is invalid\n  metadata.name: is required\n  spec: is required"
    );
}

#[tokio::test]
async fn an_absent_control_plane_is_named_in_the_error() {
    let client = Client::connect("unix:///nonexistent/causeway.sock").expect("a target");
    let error = client.get::<Pod>("default", "web").await.expect_err("nobody listens");
    assert!(error.is_unavailable());
    assert_eq!(
        error.to_string(),
        "cannot reach the control plane at unix:///nonexistent/causeway.sock: no such file or directory"
    );
    assert!(Client::connect("localhost:6550").is_err());
}

#[tokio::test]
async fn a_client_reconnects_when_the_control_plane_returns() {
    let mut fake = Fake::start();
    fake.put(pod("web", ""));
    let client = fake.client();
    client.get::<Pod>("default", "web").await.expect("there");
    fake.stop().await;
    let error = client.get::<Pod>("default", "web").await.expect_err("stopped");
    assert!(error.is_unavailable(), "{error}");
    fake.serve();
    let again = async {
        while client.get::<Pod>("default", "web").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    bounded(again).await;
}

#[tokio::test]
async fn a_store_follows_additions_changes_and_deletions() {
    let fake = Fake::start();
    fake.put(pod("a", ""));
    let store = reflect(&fake);
    bounded(store.synced()).await;
    assert!(store.is_synced());
    until_names(&store, &["a"]).await;
    fake.put(pod("b", ""));
    until_names(&store, &["a", "b"]).await;
    fake.put(pod("b", "node-1"));
    fake.remove("a");
    until_names(&store, &["b"]).await;
    let node = store
        .get("default", "b")
        .and_then(|pod| pod.spec.as_ref().map(|spec| spec.node_name.clone()));
    assert_eq!(node.as_deref(), Some("node-1"));
    assert!(store.get("default", "a").is_none());
}

#[tokio::test]
async fn a_broken_watch_resumes_from_the_last_revision_without_a_new_list() {
    let fake = Fake::start();
    let store = reflect(&fake);
    fake.put(pod("a", ""));
    until_names(&store, &["a"]).await;
    bounded(fake.until_watches(1)).await;
    fake.end_watches();
    bounded(fake.until_watches(2)).await;
    fake.put(pod("b", ""));
    until_names(&store, &["a", "b"]).await;
    assert_eq!(fake.lists(), 1);
}

#[tokio::test]
async fn a_compacted_revision_makes_it_list_again_and_forget_what_is_gone() {
    let fake = Fake::start();
    fake.put(pod("a", ""));
    fake.put(pod("b", ""));
    let store = reflect(&fake);
    until_names(&store, &["a", "b"]).await;
    let kept = store.get("default", "b").expect("there");
    bounded(fake.until_watches(1)).await;
    fake.refuse_watches(true);
    fake.end_watches();
    fake.remove("a");
    fake.put(pod("c", ""));
    fake.compact();
    fake.refuse_watches(false);
    until_names(&store, &["b", "c"]).await;
    assert_eq!(fake.lists(), 2);
    let same = store.get("default", "b").expect("still there");
    assert!(
        Arc::ptr_eq(&kept, &same),
        "an object that did not change keeps its allocation"
    );
}

#[tokio::test]
async fn a_store_keeps_its_state_while_the_control_plane_is_away() {
    let mut fake = Fake::start();
    fake.put(pod("a", ""));
    let store = reflect(&fake);
    until_names(&store, &["a"]).await;
    fake.stop().await;
    fake.put(pod("b", ""));
    until_names(&store, &["a"]).await;
    assert!(store.is_synced());
    fake.serve();
    until_names(&store, &["a", "b"]).await;
}

#[tokio::test]
async fn a_store_started_while_the_control_plane_is_away_syncs_when_it_comes() {
    let mut fake = Fake::start();
    fake.stop().await;
    fake.put(pod("a", ""));
    let store = reflect(&fake);
    assert!(!store.is_synced());
    fake.serve();
    bounded(store.synced()).await;
    until_names(&store, &["a"]).await;
}

#[tokio::test]
async fn patches_and_applies_carry_their_json() {
    let fake = Fake::start();
    fake.put(pod("web", ""));
    let client = fake.client();
    let patch = json!({"metadata": {"labels": {"env": null}}});
    client
        .patch_merge::<Pod>("default", "web", &patch)
        .await
        .expect("patched");
    assert_eq!(fake.last_patch(), patch.to_string());
    let manifest = json!({"apiVersion": "v1", "kind": "Pod"});
    let applied = client.apply(&manifest).await.expect("applied");
    assert_eq!(applied.outcome, crate::v1::apply_response::Outcome::Unchanged);
    assert_eq!(fake.last_patch(), manifest.to_string());
}

#[tokio::test]
async fn names_of_what_changed_are_told() {
    let fake = Fake::start();
    fake.put(pod("a", ""));
    fake.put(pod("b", ""));
    let store = reflect(&fake);
    let names = |dirty: &DirtyKeys| dirty.take().into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    let early = store.dirty();
    bounded(store.synced()).await;
    bounded(early.marked()).await;
    until_dirty(&early, &["a", "b"]).await;
    let late = store.dirty();
    bounded(late.marked()).await;
    assert_eq!(names(&late), ["a", "b"], "what is there has not been looked at yet");
    fake.put(pod("b", "node-1"));
    until_dirty(&late, &["b"]).await;
    fake.remove("a");
    until_dirty(&late, &["a"]).await;
    until_dirty(&early, &["a", "b"]).await;
    assert!(late.take().is_empty());
}

/// Waits until exactly these have been told, in however many parts.
async fn until_dirty(dirty: &DirtyKeys, wanted: &[&str]) {
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < wanted.len() {
        bounded(dirty.marked()).await;
        seen.extend(dirty.take().into_iter().map(|(_, name)| name));
    }
    assert!(seen.iter().map(String::as_str).eq(wanted.iter().copied()), "{seen:?}");
}
