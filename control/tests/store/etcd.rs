//! What is special to the store on etcd: it goes away and comes back.

use std::{sync::Arc, time::Duration};

use causeway_control::store::{
    EtcdOptions, EtcdStore, Store, StoreError,
    election::{self, Candidacy},
};

use crate::{
    etcd_server::EtcdServer,
    suite::{Shared, put},
    wait::{bounded, next_batch, until},
};

pub struct Fixture {
    store: Shared,
    server: EtcdServer,
}

async fn open(server: &EtcdServer, prefix: &str) -> Shared {
    let mut options = EtcdOptions::new(vec![server.endpoint()], prefix);
    options.request_timeout = Duration::from_secs(10);
    Arc::new(EtcdStore::connect(&options).await.expect("connect"))
}

impl Fixture {
    pub async fn new() -> Self {
        let server = EtcdServer::start();
        let store = open(&server, "causeway/test").await;
        until("etcd's first answer", async || store.health().await.is_ok()).await;
        Self { store, server }
    }

    pub fn store(&self) -> Shared {
        Arc::clone(&self.store)
    }

    /// Another cluster on the same server.
    pub async fn open(&self, prefix: &str) -> Shared {
        open(&self.server, prefix).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_the_store_is_unavailable_until_one_comes() {
    let mut server = EtcdServer::stopped();
    let mut options = EtcdOptions::new(vec![server.endpoint()], "causeway/test");
    options.request_timeout = Duration::from_secs(1);
    let store = EtcdStore::connect(&options).await.expect("opening needs no server");
    for error in [
        store.get("/a").await.expect_err("no server"),
        store.list("/", None, 0, None).await.expect_err("no server"),
        store.health().await.expect_err("no server"),
        store.watch("/", 0).await.err().expect("no server"),
    ] {
        assert!(error.is_unavailable(), "{error}");
        assert!(error.to_string().contains(&server.endpoint()), "{error}");
    }
    assert!(server.resume(), "etcd starts");
    until("recovery", async || store.health().await.is_ok()).await;
    put(&store, "/a", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_behind_where_it_was_when_the_server_returns() {
    let mut fixture = Fixture::new().await;
    let store = fixture.store();
    let start = store.revision().await.expect("revision");
    let mut watch = store.watch("/w/", start).await.expect("watch");
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for round in 0..3 {
        for n in 0..10 {
            expected.push(put(&*store, &format!("/w/{n}"), &round.to_string()).await);
        }
        for _ in 0..5 {
            seen.push(next_batch(&mut watch).await.expect("batch").revision);
        }
        fixture.server.kill();
        let error = store.get("/w/0").await.expect_err("the server is gone");
        assert!(
            error.is_unavailable() && error.to_string().contains("127.0.0.1"),
            "{error}"
        );
        assert!(fixture.server.resume(), "etcd starts again");
        until("recovery", async || store.health().await.is_ok()).await;
    }
    while seen.len() < expected.len() {
        seen.push(next_batch(&mut watch).await.expect("batch").revision);
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_share_a_server_without_seeing_each_other() {
    let fixture = Fixture::new().await;
    let one = fixture.store();
    let two = fixture.open("causeway/test2").await;
    let start = put(&*one, "/a", "1").await;
    let mut watch = two.watch("", start).await.expect("watch");
    put(&*one, "/a", "2").await;
    assert!(two.list("", None, 0, None).await.expect("list").items.is_empty());
    let theirs = put(&*two, "/b", "1").await;
    let batch = next_batch(&mut watch).await.expect("batch");
    assert_eq!((batch.revision, batch.events.len()), (theirs, 1));
    assert_eq!(one.list("", None, 0, None).await.expect("list").items.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_put_together_from_pages() {
    let fixture = Fixture::new().await;
    let store = fixture.store();
    for n in 0..1100 {
        put(&*store, &format!("/k/{n:04}"), "v").await;
    }
    let listing = store.list("/k/", None, 0, None).await.expect("list");
    assert_eq!((listing.items.len(), listing.more), (1100, false));
    assert!(listing.items.is_sorted_by(|a, b| a.key < b.key));
    let listing = store.list("/k/", None, 700, None).await.expect("list");
    assert_eq!((listing.items.len(), listing.more), (700, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_leading() {
    let mut fixture = Fixture::new().await;
    let candidacy = Candidacy::start(fixture.store(), "one".into(), Duration::from_secs(3));
    let mut leadership = candidacy.leadership();
    bounded("leadership", leadership.acquired()).await;
    fixture.server.kill();
    bounded("loss of leadership", leadership.lost()).await;
    assert!(fixture.server.resume(), "etcd starts again");
    bounded("leadership again", leadership.acquired()).await;
    let store = fixture.store();
    assert_eq!(election::leader(&*store).await.expect("leader").as_deref(), Some("one"));
    candidacy.resign().await;
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_refused_by_name() {
    let options = EtcdOptions::new(vec!["http://not a url".into()], "c");
    let error = EtcdStore::connect(&options).await.expect_err("no URL");
    assert!(
        matches!(error, StoreError::Refused { .. }) && error.to_string().contains("not a url"),
        "{error}"
    );
}
