//! kill -9 at random instants: no acknowledged write is lost, and no unacknowledged one is half there.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use causeway_control::store::{Revision, Store, Transaction};
use rand::RngExt;

use crate::{embedded, suite::commit};

const DIRECTORY: &str = "CAUSEWAY_TEST_STORE_DIRECTORY";
const ROUNDS: usize = 25;
const WRITERS: usize = 3;

/// Writes until it is killed; one line on standard output for each acknowledged write: writer, number, revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not a test: the child process of the test below"]
async fn child_that_writes() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        panic!("{DIRECTORY} says where to write")
    };
    let store = std::sync::Arc::new(embedded::open(&PathBuf::from(directory)));
    let writers = (0..WRITERS).map(|writer| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            for number in next_number(&*store, writer).await.. {
                // Two keys that must always agree, and one of many so that the tree grows and compaction has work.
                let change = Transaction::new()
                    .put(format!("/count/{writer}"), number.to_string())
                    .put(format!("/mirror/{writer}"), number.to_string())
                    .put(format!("/many/{writer}/{}", number % 97), vec![b'x'; 700]);
                let revision = commit(&*store, change).await;
                acknowledge(&format!("ack {writer} {number} {revision}\n"));
                if number % 40 == 39 {
                    store.compact(revision - 20).await.expect("compact");
                }
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// In one write, so that lines of writers do not mix.
fn acknowledge(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .expect("stdout");
}

async fn next_number(store: &dyn Store, writer: usize) -> u64 {
    number(store, &format!("/count/{writer}"))
        .await
        .map_or(0, |last| last + 1)
}

async fn number(store: &dyn Store, key: &str) -> Option<u64> {
    let kv = store.get(key).await.expect("get")?;
    Some(std::str::from_utf8(&kv.value).expect("text").parse().expect("number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_by_a_crash() {
    let directory = embedded::directory();
    let program = std::env::current_exe().expect("own path");
    let mut acknowledged: BTreeMap<usize, (u64, Revision)> = BTreeMap::new();
    let mut writes = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(&program)
            .args([
                "--exact",
                "crash::child_that_writes",
                "--ignored",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let reader = BufReader::new(child.stdout.take().expect("piped"));
        let lines = thread::spawn(move || {
            // Whatever was flushed before the kill is read to its end; a torn last line is not an acknowledgement.
            reader
                .lines()
                .map_while(Result::ok)
                .filter_map(|line| parse(&line))
                .collect::<Vec<_>>()
        });
        let patience = Duration::from_micros(rand::rng().random_range(100_000..600_000));
        thread::sleep(patience);
        child.kill().expect("kill -9");
        child.wait().expect("reap");
        for (writer, number, revision) in lines.join().expect("reader") {
            let last = acknowledged.insert(writer, (number, revision));
            assert!(
                last.is_none_or(|last| last < (number, revision)),
                "round {round}: {last:?} before {number}"
            );
            writes += 1;
        }
        let store = embedded::open(directory.path());
        let revision = store.revision().await.expect("revision");
        for (writer, (number_acknowledged, at)) in &acknowledged {
            let count = number(&store, &format!("/count/{writer}")).await;
            assert!(
                count >= Some(*number_acknowledged),
                "round {round}: {number_acknowledged} was lost, {count:?} is there"
            );
            assert!(
                count <= Some(number_acknowledged + 1),
                "round {round}: at most one write was under way"
            );
            assert_eq!(
                count,
                number(&store, &format!("/mirror/{writer}")).await,
                "round {round}: half a transaction"
            );
            assert!(revision >= *at, "round {round}: revision {revision} is behind {at}");
        }
        check_history(&store, revision).await;
    }
    assert!(writes > ROUNDS, "only {writes} writes were acknowledged");
}

fn parse(line: &str) -> Option<(usize, u64, Revision)> {
    let mut words = line.split("ack ").nth(1)?.split(' ');
    Some((
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    ))
}

/// The history that is kept leads from the oldest list to the present one.
async fn check_history(store: &dyn Store, revision: Revision) {
    let oldest = match store.list("/", None, 1, Some(0)).await {
        Err(causeway_control::store::StoreError::Compacted { oldest, .. }) => oldest,
        _ => 0,
    };
    let listing = |at| async move {
        let items = store.list("/", None, 0, Some(at)).await.expect("list").items;
        items
            .into_iter()
            .map(|kv| (kv.key, kv.mod_revision))
            .collect::<BTreeMap<_, _>>()
    };
    let mut state = listing(oldest).await;
    let mut position = oldest;
    if oldest < revision {
        let mut watch = store.watch("/", oldest).await.expect("watch");
        while position < revision {
            let batch = crate::wait::next_batch(&mut watch).await.expect("batch");
            assert_eq!(batch.revision, position + 1, "no revision is missing");
            position = batch.revision;
            for event in batch.events {
                state.insert(event.key().to_owned(), position);
            }
        }
    }
    assert_eq!(state, listing(revision).await);
}
