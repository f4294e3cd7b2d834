//! Writes: all of a transaction or nothing, at one revision, on conditions.

use std::{collections::BTreeSet, sync::Arc};

use causeway_control::store::{Revision, Store, StoreError, TransactOutcome, Transaction};
use futures::future::join_all;

use super::{Shared, all, commit, pairs, put};

/// That a transaction is refused because of a key's revision.
async fn assert_conflict(store: &dyn Store, transaction: Transaction, key: &str, actual: Revision) {
    let outcome = store.transact(transaction).await.expect("transaction");
    let key = key.to_owned();
    assert_eq!(outcome, TransactOutcome::Conflict { key, actual });
}

pub async fn a_key_has_its_versions(store: Shared) {
    assert_eq!(store.get("/a").await.expect("get"), None);
    let created = put(&*store, "/a", "1").await;
    let changed = put(&*store, "/a", "2").await;
    assert!(changed > created);
    let kv = store.get("/a").await.expect("get").expect("present");
    assert_eq!(
        (kv.create_revision, kv.mod_revision, &kv.value[..]),
        (created, changed, &b"2"[..])
    );
    commit(&*store, Transaction::new().delete("/a")).await;
    assert_eq!(store.get("/a").await.expect("get"), None);
    let again = put(&*store, "/a", "3").await;
    let kv = store.get("/a").await.expect("get").expect("present");
    assert_eq!((kv.create_revision, kv.mod_revision), (again, again));
    assert_eq!(store.revision().await.expect("revision"), again);
    store.health().await.expect("healthy");
}

pub async fn transactions_are_all_or_nothing(store: Shared) {
    let revision = commit(&*store, Transaction::new().put("/a", "1").put("/b", "1").put("/c", "1")).await;
    let items = all(&*store, "/", None).await;
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(|kv| kv.mod_revision == revision));
    assert_conflict(
        &*store,
        Transaction::new()
            .when("/a", revision)
            .when("/b", 0)
            .put("/a", "2")
            .delete("/c")
            .put("/d", "2"),
        "/b",
        revision,
    )
    .await;
    assert_eq!(all(&*store, "/", None).await, items);
    let next = commit(
        &*store,
        Transaction::new()
            .when("/a", revision)
            .put("/a", "2")
            .delete("/c")
            .put("/d", "2"),
    )
    .await;
    assert!(next > revision);
    assert_eq!(
        pairs(&all(&*store, "/", None).await),
        [("/a", "2"), ("/b", "1"), ("/d", "2")]
    );
}

pub async fn a_conflict_names_the_key_and_its_revision(store: Shared) {
    assert_conflict(&*store, Transaction::new().when("/a", 1234).put("/a", "1"), "/a", 0).await;
    let revision = put(&*store, "/a", "1").await;
    assert_conflict(&*store, Transaction::new().when("/a", 0).put("/a", "2"), "/a", revision).await;
    commit(&*store, Transaction::new().when("/a", revision).delete("/a")).await;
    assert_conflict(&*store, Transaction::new().when("/a", revision).put("/a", "3"), "/a", 0).await;
    commit(&*store, Transaction::new().when("/a", 0).put("/a", "4")).await;
}

pub async fn a_transaction_without_effect_takes_no_revision(store: Shared) {
    let revision = put(&*store, "/a", "1").await;
    assert_eq!(commit(&*store, Transaction::new().delete("/absent")).await, revision);
    assert_eq!(commit(&*store, Transaction::new().when("/a", revision)).await, revision);
    assert_eq!(store.revision().await.expect("revision"), revision);
}

pub async fn a_key_may_change_once_per_transaction(store: Shared) {
    let error = store
        .transact(Transaction::new().put("/a", "1").delete("/a"))
        .await
        .expect_err("twice");
    assert!(
        matches!(&error, StoreError::DuplicateKey { key } if key == "/a"),
        "{error}"
    );
}

pub async fn concurrent_writers_get_distinct_ordered_revisions(store: Shared) {
    let before = store.revision().await.expect("revision");
    let writers = (0..8).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..25 {
                revisions.push(put(&*store, &format!("/{writer}/{n}"), "v").await);
            }
            revisions
        })
    });
    let mut seen = BTreeSet::new();
    for revisions in join_all(writers).await {
        let revisions = revisions.expect("writer");
        assert!(
            revisions.is_sorted_by(|a, b| a < b),
            "a writer's revisions go up: {revisions:?}"
        );
        seen.extend(revisions);
    }
    assert_eq!(seen.len(), 200, "no revision is given twice");
    assert!(seen.first().is_some_and(|first| *first > before));
}

pub async fn compare_and_swap_loses_no_increment(store: Shared) {
    let counters = (0..6).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..20 {
                loop {
                    let old = store.get("/counter").await.expect("get");
                    let revision = old.as_ref().map_or(0, |kv| kv.mod_revision);
                    let value: u32 = old.map_or(0, |kv| {
                        std::str::from_utf8(&kv.value).expect("text").parse().expect("number")
                    });
                    let change = Transaction::new()
                        .when("/counter", revision)
                        .put("/counter", (value + 1).to_string());
                    if matches!(
                        store.transact(change).await.expect("transaction"),
                        TransactOutcome::Committed(_)
                    ) {
                        break;
                    }
                }
            }
        })
    });
    for counter in join_all(counters).await {
        counter.expect("counter");
    }
    let kv = store.get("/counter").await.expect("get").expect("present");
    assert_eq!(&kv.value[..], b"120");
}
