//! What every store promises.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_control::store::{
    KeyValue, Revision, Store, StoreError, TransactOutcome, Transaction, WatchBatch, WatchEvent,
    election::{self, Candidacy},
};
use futures::future::join_all;

use crate::wait::{bounded, next_batch, until};

pub type Shared = Arc<dyn Store>;

pub async fn commit(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.transact(transaction).await.expect("transaction") {
        TransactOutcome::Committed(revision) => revision,
        conflict @ TransactOutcome::Conflict { .. } => panic!("{conflict:?}"),
    }
}

pub async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    commit(store, Transaction::new().put(key, value.to_owned())).await
}

fn pairs(items: &[KeyValue]) -> Vec<(&str, &str)> {
    items
        .iter()
        .map(|kv| (kv.key.as_str(), std::str::from_utf8(&kv.value).expect("text")))
        .collect()
}

async fn all(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<KeyValue> {
    store.list(prefix, None, 0, at).await.expect("list").items
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

pub async fn prefixes_do_not_run_into_each_other(store: Shared) {
    for key in ["/pod", "/pods/a", "/pods/b", "/pods-more/c", "/pods0", "/nodes/a"] {
        put(&*store, key, "v").await;
    }
    assert_eq!(
        pairs(&all(&*store, "/pods/", None).await),
        [("/pods/a", "v"), ("/pods/b", "v")]
    );
    assert_eq!(all(&*store, "", None).await.len(), 6);
    let page = store.list("/pods/", Some("/a"), 0, None).await.expect("list");
    assert_eq!(page.items.len(), 2, "a start before the prefix is the prefix's own");
    let page = store.list("/pods/", Some("/pods0"), 0, None).await.expect("list");
    assert_eq!(
        (page.items.len(), page.more),
        (0, false),
        "a start behind the prefix leaves nothing"
    );
}

pub async fn transactions_are_all_or_nothing(store: Shared) {
    let revision = commit(&*store, Transaction::new().put("/a", "1").put("/b", "1").put("/c", "1")).await;
    let items = all(&*store, "/", None).await;
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(|kv| kv.mod_revision == revision));
    let outcome = store
        .transact(
            Transaction::new()
                .when("/a", revision)
                .when("/b", 0)
                .put("/a", "2")
                .delete("/c")
                .put("/d", "2"),
        )
        .await
        .expect("transaction");
    assert_eq!(
        outcome,
        TransactOutcome::Conflict {
            key: "/b".into(),
            actual: revision
        }
    );
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
    let outcome = store
        .transact(Transaction::new().when("/a", 1234).put("/a", "1"))
        .await
        .expect("transaction");
    assert_eq!(
        outcome,
        TransactOutcome::Conflict {
            key: "/a".into(),
            actual: 0
        }
    );
    let revision = put(&*store, "/a", "1").await;
    let outcome = store
        .transact(Transaction::new().when("/a", 0).put("/a", "2"))
        .await
        .expect("transaction");
    assert_eq!(
        outcome,
        TransactOutcome::Conflict {
            key: "/a".into(),
            actual: revision
        }
    );
    commit(&*store, Transaction::new().when("/a", revision).delete("/a")).await;
    let outcome = store
        .transact(Transaction::new().when("/a", revision).put("/a", "3"))
        .await
        .expect("transaction");
    assert_eq!(
        outcome,
        TransactOutcome::Conflict {
            key: "/a".into(),
            actual: 0
        }
    );
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

pub async fn pages_show_one_revision(store: Shared) {
    for n in 0..10 {
        put(&*store, &format!("/k/{n}"), "old").await;
    }
    let first = store.list("/k/", None, 4, None).await.expect("list");
    assert_eq!((first.items.len(), first.more), (4, true));
    commit(
        &*store,
        Transaction::new().put("/k/5", "new").delete("/k/7").put("/k/4a", "new"),
    )
    .await;
    let mut items = first.items.clone();
    let mut more = first.more;
    while more {
        let last = items.last().expect("some").key.clone();
        let page = store
            .list("/k/", Some(&last), 4, Some(first.revision))
            .await
            .expect("list");
        assert_eq!(page.revision, first.revision);
        assert!(page.items.len() <= 4);
        items.extend(page.items);
        more = page.more;
    }
    let expected: Vec<_> = (0..10).map(|n| format!("/k/{n}")).collect();
    assert_eq!(items.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), expected);
    assert!(items.iter().all(|kv| &kv.value[..] == b"old"));
    let exact = store.list("/k/", None, 10, None).await.expect("list");
    assert_eq!(
        (exact.items.len(), exact.more),
        (10, false),
        "a full last page is the last one"
    );
}

pub async fn lists_look_back(store: Shared) {
    let one = put(&*store, "/a", "1").await;
    let two = put(&*store, "/a", "2").await;
    let gone = commit(&*store, Transaction::new().delete("/a").put("/b", "1")).await;
    assert_eq!(pairs(&all(&*store, "/", Some(one)).await), [("/a", "1")]);
    assert_eq!(pairs(&all(&*store, "/", Some(two)).await), [("/a", "2")]);
    assert_eq!(pairs(&all(&*store, "/", Some(gone)).await), [("/b", "1")]);
    let error = store
        .list("/", None, 0, Some(gone + 1000))
        .await
        .expect_err("the future");
    assert!(
        matches!(error, StoreError::FutureRevision { requested, last } if requested == gone + 1000 && last == gone),
        "{error}"
    );
}

pub async fn a_watch_sees_one_batch_per_revision(store: Shared) {
    let start = put(&*store, "/a/0", "before").await;
    let one = put(&*store, "/a/1", "1").await;
    let mut watch = store.watch("/a/", start).await.expect("watch");
    put(&*store, "/b/1", "elsewhere").await;
    let two = commit(
        &*store,
        Transaction::new()
            .put("/a/3", "2")
            .put("/b/2", "2")
            .put("/a/2", "2")
            .delete("/a/1"),
    )
    .await;
    let three = commit(&*store, Transaction::new().delete("/a/2")).await;
    let batch = next_batch(&mut watch).await.expect("batch");
    assert_eq!((batch.revision, keys(&batch)), (one, "+/a/1".to_owned()));
    let batch = next_batch(&mut watch).await.expect("batch");
    assert_eq!((batch.revision, keys(&batch)), (two, "-/a/1 +/a/2 +/a/3".to_owned()));
    let batch = next_batch(&mut watch).await.expect("batch");
    assert_eq!((batch.revision, keys(&batch)), (three, "-/a/2".to_owned()));
}

/// `+key` for each put, `-key` for each deletion.
fn keys(batch: &WatchBatch) -> String {
    let sign = |event: &WatchEvent| {
        if matches!(event, WatchEvent::Put { .. }) {
            '+'
        } else {
            '-'
        }
    };
    batch
        .events
        .iter()
        .map(|event| format!("{}{}", sign(event), event.key()))
        .collect::<Vec<_>>()
        .join(" ")
}

pub async fn a_watch_shows_what_was_before(store: Shared) {
    let start = store.revision().await.expect("revision");
    let mut watch = store.watch("/", start).await.expect("watch");
    let one = put(&*store, "/a", "1").await;
    let two = put(&*store, "/a", "2").await;
    commit(&*store, Transaction::new().delete("/a")).await;
    // Again from the start, which a store may serve in another way.
    for fresh in [false, true] {
        if fresh {
            watch = store.watch("/", start).await.expect("watch");
        }
        let version = |value: &'static str, mod_revision| KeyValue {
            key: "/a".into(),
            value: value.into(),
            create_revision: one,
            mod_revision,
        };
        let expected = [
            WatchEvent::Put {
                current: version("1", one),
                previous: None,
            },
            WatchEvent::Put {
                current: version("2", two),
                previous: Some(version("1", one)),
            },
            WatchEvent::Delete {
                key: "/a".into(),
                previous: Some(version("2", two)),
            },
        ];
        for event in expected {
            assert_eq!(next_batch(&mut watch).await.expect("batch").events, [event]);
        }
    }
}

pub async fn a_resumed_watch_has_neither_gap_nor_repeat(store: Shared) {
    const WRITES: usize = 60;
    const WRITERS: usize = 4;
    let start = store.revision().await.expect("revision");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for n in 0..WRITES {
                    let change = Transaction::new()
                        .put(format!("/w/{writer}"), n.to_string())
                        .put("/w/shared", "v");
                    revisions.push(commit(&*store, change).await);
                }
                revisions
            })
        })
        .collect();
    let mut seen = Vec::new();
    let mut position = start;
    while seen.len() < WRITES * WRITERS {
        let mut watch = store.watch("/w/", position).await.expect("watch");
        // A different number of batches each time, then the watch is dropped wherever it is.
        for _ in 0..=(seen.len() % 7) {
            let batch = next_batch(&mut watch).await.expect("batch");
            assert_eq!(batch.events.len(), 2, "one batch is one transaction: {batch:?}");
            assert!(batch.revision > position, "batches go up");
            position = batch.revision;
            seen.push(batch.revision);
            if seen.len() == WRITES * WRITERS {
                break;
            }
        }
    }
    let mut written: Vec<_> = join_all(writers)
        .await
        .into_iter()
        .flat_map(|writer| writer.expect("writer"))
        .collect();
    written.sort_unstable();
    assert_eq!(seen, written);
}

pub async fn compaction_forgets_what_was_replaced(store: Shared) {
    let one = put(&*store, "/a", "1").await;
    let two = commit(&*store, Transaction::new().put("/a", "2").put("/dead", "1")).await;
    let three = commit(&*store, Transaction::new().delete("/dead")).await;
    let four = put(&*store, "/a", "4").await;
    let mut following = store.watch("/", three).await.expect("watch");
    store.compact(three).await.expect("compact");
    let error = store.list("/", None, 0, Some(two)).await.expect_err("compacted");
    assert!(
        matches!(error, StoreError::Compacted { requested, oldest } if requested == two && oldest == three),
        "{error}"
    );
    for after in [0, one, two] {
        let error = match store.watch("/", after).await {
            Err(error) => error,
            Ok(mut watch) => next_batch(&mut watch).await.expect_err("compacted"),
        };
        assert!(
            matches!(error, StoreError::Compacted { requested, oldest } if requested == after && oldest == three),
            "after {after}: {error}"
        );
    }
    assert_eq!(pairs(&all(&*store, "/", Some(three)).await), [("/a", "2")]);
    assert_eq!(pairs(&all(&*store, "/", None).await), [("/a", "4")]);
    let mut fresh = store.watch("/", three).await.expect("watch");
    for watch in [&mut following, &mut fresh] {
        let batch = next_batch(watch).await.expect("batch");
        assert_eq!((batch.revision, keys(&batch)), (four, "+/a".to_owned()));
        assert!(matches!(&batch.events[0], WatchEvent::Put { previous: Some(kv), .. } if &kv.value[..] == b"2"));
    }
    store.compact(two).await.expect("what is compacted stays so");
    let error = store.compact(four + 1000).await.expect_err("the future");
    assert!(matches!(error, StoreError::FutureRevision { .. }), "{error}");
    put(&*store, "/dead", "again").await;
    assert_eq!(all(&*store, "/", None).await.len(), 2);
}

pub async fn an_expired_lease_takes_its_keys_at_one_revision(store: Shared) {
    let lease = store.grant(Duration::from_secs(1)).await.expect("grant");
    assert!(lease.ttl >= Duration::from_secs(1));
    put(&*store, "/stays", "v").await;
    let granted = Instant::now();
    let revision = commit(
        &*store,
        Transaction::new()
            .put_leased("/l/a", "1", lease.id)
            .put_leased("/l/b", "1", lease.id),
    )
    .await;
    let mut watch = store.watch("/", revision).await.expect("watch");
    let batch = next_batch(&mut watch).await.expect("batch");
    assert!(
        granted.elapsed() + Duration::from_millis(100) >= lease.ttl,
        "not before its time"
    );
    assert_eq!(keys(&batch), "-/l/a -/l/b");
    assert_eq!(pairs(&all(&*store, "/", None).await), [("/stays", "v")]);
    let error = store.keep_alive(lease.id).await.expect_err("it has ended");
    assert!(
        matches!(error, StoreError::LeaseNotFound { id } if id == lease.id),
        "{error}"
    );
    let error = store
        .transact(Transaction::new().put_leased("/l/c", "1", lease.id))
        .await
        .expect_err("it has ended");
    assert!(
        matches!(error, StoreError::LeaseNotFound { id } if id == lease.id),
        "{error}"
    );
}

pub async fn a_lease_lives_while_it_is_kept_alive(store: Shared) {
    let lease = store.grant(Duration::from_secs(2)).await.expect("grant");
    commit(&*store, Transaction::new().put_leased("/l", "1", lease.id)).await;
    let end = Instant::now() + lease.ttl * 2;
    while Instant::now() < end {
        store.keep_alive(lease.id).await.expect("keep alive");
        assert!(store.get("/l").await.expect("get").is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("the end of the lease", async || {
        store.get("/l").await.expect("get").is_none()
    })
    .await;
}

pub async fn a_revoked_lease_spares_keys_that_left_it(store: Shared) {
    let lease = store.grant(Duration::from_secs(100)).await.expect("grant");
    commit(
        &*store,
        Transaction::new()
            .put_leased("/a", "1", lease.id)
            .put_leased("/b", "1", lease.id),
    )
    .await;
    put(&*store, "/a", "without lease").await;
    store.revoke(lease.id).await.expect("revoke");
    assert_eq!(pairs(&all(&*store, "/", None).await), [("/a", "without lease")]);
    let error = store.revoke(lease.id).await.expect_err("it has ended");
    assert!(
        matches!(error, StoreError::LeaseNotFound { id } if id == lease.id),
        "{error}"
    );
}

pub async fn one_candidate_leads_and_the_next_takes_over(store: Shared) {
    let ttl = Duration::from_secs(5);
    let one = Candidacy::start(Arc::clone(&store), "one".into(), ttl);
    bounded("first leadership", one.leadership().acquired()).await;
    let two = Candidacy::start(Arc::clone(&store), "two".into(), ttl);
    let mut second = two.leadership();
    // Longer than the lease: the first one keeps it.
    let end = Instant::now() + ttl + Duration::from_secs(1);
    while Instant::now() < end {
        assert!(one.leadership().is_leader() && !second.is_leader());
        assert_eq!(election::leader(&*store).await.expect("leader").as_deref(), Some("one"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut first = one.leadership();
    let resigned = Instant::now();
    one.resign().await;
    bounded("the first one's loss", first.lost()).await;
    bounded("second leadership", second.acquired()).await;
    assert!(resigned.elapsed() < ttl, "a resignation needs no expiry");
    assert_eq!(election::leader(&*store).await.expect("leader").as_deref(), Some("two"));
    two.resign().await;
}
