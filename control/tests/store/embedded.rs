//! What is special to the embedded store: its directory, and what is in it after it was closed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use causeway_control::store::{EmbeddedOptions, EmbeddedStore, Store, StoreError, Transaction, WatchEvent};
use futures::StreamExt;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

use crate::{
    suite::{Shared, commit, put},
    wait::{bounded, next_batch, until},
};

pub struct Fixture {
    store: Shared,
    _directory: TempDir,
}

pub fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("causeway-store-")
        .tempdir()
        .expect("temporary directory")
}

pub fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(&EmbeddedOptions::new(path)).expect("open")
}

impl Fixture {
    pub fn new() -> Self {
        let directory = directory();
        Self {
            store: Arc::new(open(directory.path())),
            _directory: directory,
        }
    }

    pub fn store(&self) -> Shared {
        Arc::clone(&self.store)
    }
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let directory = directory();
    let store = open(directory.path());
    put(&store, "/a", "1").await;
    let two = put(&store, "/a", "2").await;
    let three = commit(&store, Transaction::new().delete("/a").put("/b", "3")).await;
    store.compact(two).await.expect("compact");
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.revision().await.expect("revision"), three);
    let old = store.list("/", None, 0, Some(two)).await.expect("list");
    assert_eq!(old.items.iter().map(|kv| &kv.value[..]).collect::<Vec<_>>(), [b"2"]);
    assert!(
        store
            .list("/", None, 0, Some(two - 1))
            .await
            .is_err_and(|error| error.is_compacted())
    );
    assert!(store.watch("/", two - 1).await.is_err_and(|error| error.is_compacted()));
    let mut watch = store.watch("/", two).await.expect("watch");
    let four = put(&store, "/a", "4").await;
    assert!(four > three);
    let batch = next_batch(&mut watch).await.expect("batch");
    assert_eq!((batch.revision, batch.events.len()), (three, 2));
    assert!(
        matches!(&batch.events[0], WatchEvent::Delete { key, previous: Some(kv) } if key == "/a" && &kv.value[..] == b"2")
    );
    assert_eq!(next_batch(&mut watch).await.expect("batch").revision, four);
}

#[tokio::test]
async fn leases_outlive_the_process_and_still_end() {
    let directory = directory();
    let store = open(directory.path());
    let lease = store.grant(Duration::from_secs(1)).await.expect("grant");
    commit(&store, Transaction::new().put_leased("/l", "1", lease.id)).await;
    drop(store);
    let store = open(directory.path());
    store.keep_alive(lease.id).await.expect("a lease gets its time again");
    assert!(store.get("/l").await.expect("get").is_some());
    until("the end of the lease", async || {
        store.get("/l").await.expect("get").is_none()
    })
    .await;
    let next = store.grant(Duration::from_secs(1)).await.expect("grant");
    assert_ne!(next.id, lease.id);
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_pid_of_the_first() {
    let directory = directory();
    let store = open(directory.path());
    let error = EmbeddedStore::open(&EmbeddedOptions::new(directory.path())).expect_err("in use");
    assert!(
        matches!(&error, StoreError::Locked { path, pid } if path == directory.path() && *pid == Some(std::process::id())),
        "{error:?}"
    );
    drop(store);
    open(directory.path());
}

#[tokio::test]
async fn a_watch_that_nobody_reads_does_not_keep_the_store_open() {
    let directory = directory();
    let store = open(directory.path());
    let mut watch = store.watch("/", 0).await.expect("watch");
    drop(store);
    let store = open(directory.path());
    let error = bounded("the end of the watch", watch.next())
        .await
        .expect("an end")
        .expect_err("closed");
    assert!(error.is_unavailable(), "{error}");
    drop(store);
}

#[test]
fn a_missing_parent_is_named() {
    let directory = directory();
    let path = directory.path().join("no/such/place");
    let error = EmbeddedStore::open(&EmbeddedOptions::new(&path)).expect_err("missing");
    assert!(
        matches!(&error, StoreError::Directory { path: named, .. } if *named == path),
        "{error:?}"
    );
    assert!(error.to_string().contains("no/such/place"));
    let file = directory.path().join("file");
    fs::write(&file, "").expect("write");
    let error = EmbeddedStore::open(&EmbeddedOptions::new(&file)).expect_err("not a directory");
    assert!(error.to_string().contains("file"), "{error}");
}

/// A file system that is mounted read-only for the thread that asked, and gone with it.
fn on_read_only_mount(directory: PathBuf, test: impl FnOnce(&Path) + Send + 'static) {
    let none: Option<&str> = None;
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace of its own (needs root)");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        mount(Some(&directory), &directory, none, MsFlags::MS_BIND, none).expect("bind mount");
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &directory, none, flags, none).expect("read-only remount");
        test(&directory);
        umount2(&directory, MntFlags::MNT_DETACH).expect("unmount");
    };
    thread::spawn(run).join().expect("the test in the mount namespace");
}

#[test]
fn a_read_only_directory_is_named() {
    let directory = directory();
    on_read_only_mount(directory.path().to_owned(), |path| {
        for path in [path.to_owned(), path.join("new")] {
            let error = EmbeddedStore::open(&EmbeddedOptions::new(&path)).expect_err("read-only");
            assert!(
                matches!(&error, StoreError::ReadOnly { path: named, .. } if *named == path),
                "{error:?}"
            );
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    });
}

#[test]
fn a_store_that_became_read_only_is_named() {
    let directory = directory();
    drop(open(directory.path()));
    on_read_only_mount(directory.path().to_owned(), |path| {
        let error = EmbeddedStore::open(&EmbeddedOptions::new(path)).expect_err("read-only");
        assert!(matches!(&error, StoreError::ReadOnly { .. }), "{error:?}");
    });
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let directory = directory();
    fs::write(directory.path().join("store.redb"), vec![7; 100_000]).expect("write");
    let error = EmbeddedStore::open(&EmbeddedOptions::new(directory.path())).expect_err("no store");
    assert!(
        error.to_string().contains(&directory.path().display().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn history_is_compacted_by_count_and_what_lives_stays() {
    let directory = directory();
    let mut options = EmbeddedOptions::new(directory.path());
    options.max_revisions = 50;
    options.retention = Duration::from_secs(2);
    let store = EmbeddedStore::open(&options).expect("open");
    put(&store, "/first", "1").await;
    for n in 0..200 {
        put(&store, &format!("/k/{}", n % 5), "v").await;
    }
    until("compaction", async || {
        store.watch("/", 100).await.is_err_and(|error| error.is_compacted())
    })
    .await;
    assert!(store.get("/first").await.expect("get").is_some());
    assert_eq!(store.list("/", None, 0, None).await.expect("list").items.len(), 6);
}

#[tokio::test]
async fn history_is_compacted_by_age() {
    let directory = directory();
    let mut options = EmbeddedOptions::new(directory.path());
    options.retention = Duration::from_millis(500);
    let store = EmbeddedStore::open(&options).expect("open");
    let one = put(&store, "/a", "1").await;
    let two = put(&store, "/a", "2").await;
    until("compaction", async || {
        store
            .list("/", None, 0, Some(one))
            .await
            .is_err_and(|error| error.is_compacted())
    })
    .await;
    let kv = store.get("/a").await.expect("get").expect("present");
    assert_eq!((kv.create_revision, kv.mod_revision), (one, two));
}

#[tokio::test]
async fn a_quiet_watch_tells_progress() {
    let directory = directory();
    let store = open(directory.path());
    let mut watch = store.watch("/quiet/", 0).await.expect("watch");
    let revision = put(&store, "/loud", "1").await;
    let batch = bounded("progress", watch.next())
        .await
        .expect("a batch")
        .expect("no error");
    assert_eq!((batch.revision, batch.events.len()), (revision, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watch_reads_on_from_disk() {
    let directory = directory();
    let store = Arc::new(open(directory.path()));
    let mut watch = store.watch("/", 0).await.expect("watch");
    // More than is kept in memory.
    let writers = (0..16).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..320 {
                put(&*store, &format!("/{writer}/{n}"), "v").await;
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("writer");
    }
    for expected in 1..=16 * 320 {
        assert_eq!(next_batch(&mut watch).await.expect("batch").revision, expected);
    }
}
