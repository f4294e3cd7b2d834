//! Lists: by prefix, in pages, at earlier revisions.

use causeway_control::store::{StoreError, Transaction};

use super::{Shared, all, commit, pairs, put};

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
