//! Watches: every change once, in order, until compaction forgets it.

use std::sync::Arc;

use causeway_control::store::{KeyValue, StoreError, Transaction, WatchEvent};
use futures::future::join_all;

use super::{Shared, all, commit, keys, pairs, put};
use crate::wait::next_batch;

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
