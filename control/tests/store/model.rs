//! Random histories, compared with a plain map per revision.

use std::{cell::Cell, collections::BTreeMap};

use causeway_control::store::{Revision, Store, StoreError, TransactOutcome, Transaction, WatchEvent};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{embedded, etcd, wait::next_batch};

const KEYS: [&str; 6] = ["/a", "/a/", "/a/1", "/a/2", "/b", "/b/1"];

#[derive(Clone, Debug)]
enum Step {
    /// Keys to put, keys to delete, and whether a stale condition goes along.
    Transact {
        puts: Vec<usize>,
        deletes: Vec<usize>,
        stale: bool,
    },
    /// To this fraction (in 256ths) of the history.
    Compact(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let transact = (vec(key.clone(), 0..3), vec(key, 0..2), prop::bool::weighted(0.2))
        .prop_map(|(puts, deletes, stale)| Step::Transact { puts, deletes, stale });
    vec(
        prop_oneof![12 => transact, 1 => any::<u8>().prop_map(Step::Compact), 1 => Just(Step::Reopen)],
        1..40,
    )
}

type Contents = BTreeMap<String, (Vec<u8>, Revision, Revision)>;

/// All that has happened, by revision.
struct Model {
    history: BTreeMap<Revision, Contents>,
    first: Revision,
    compacted: Revision,
    writes: u32,
}

impl Model {
    fn new(first: Revision) -> Self {
        Self {
            history: BTreeMap::from([(first, Contents::new())]),
            first,
            compacted: first,
            writes: 0,
        }
    }

    fn last(&self) -> (Revision, &Contents) {
        self.history
            .last_key_value()
            .map(|(revision, contents)| (*revision, contents))
            .expect("never empty")
    }

    async fn transact(&mut self, store: &dyn Store, puts: &[usize], deletes: &[usize], stale: bool) {
        self.writes += 1;
        let value = self.writes.to_string().into_bytes();
        let mut transaction = Transaction::new();
        let (last, contents) = self.last();
        let mut next = contents.clone();
        let mut changed: Vec<&str> = Vec::new();
        for key in puts.iter().map(|n| KEYS[*n]) {
            if !changed.contains(&key) {
                changed.push(key);
                transaction = transaction
                    .when(key, contents.get(key).map_or(0, |kv| kv.2))
                    .put(key, value.clone());
            }
        }
        let puts = changed.len();
        for key in deletes.iter().map(|n| KEYS[*n]) {
            if !changed.contains(&key) {
                changed.push(key);
                transaction = transaction.delete(key);
            }
        }
        let effect = puts > 0 || changed[puts..].iter().any(|key| contents.contains_key(*key));
        if stale {
            let outcome = store
                .transact(transaction.when("/never", 7))
                .await
                .expect("transaction");
            assert_eq!(
                outcome,
                TransactOutcome::Conflict {
                    key: "/never".into(),
                    actual: 0
                }
            );
            return;
        }
        let TransactOutcome::Committed(revision) = store.transact(transaction).await.expect("transaction") else {
            panic!("all conditions hold");
        };
        if !effect {
            assert_eq!(revision, last);
            return;
        }
        assert!(revision > last);
        for key in &changed[..puts] {
            let created = next.get(*key).map_or(revision, |kv| kv.1);
            next.insert((*key).to_owned(), (value.clone(), created, revision));
        }
        for key in &changed[puts..] {
            next.remove(*key);
        }
        self.history.insert(revision, next);
    }

    async fn check(&self, store: &dyn Store) {
        for (revision, contents) in &self.history {
            let result = store.list("", None, 0, Some(*revision)).await;
            if *revision < self.compacted {
                assert!(matches!(result, Err(StoreError::Compacted { .. })), "{result:?}");
                continue;
            }
            assert_eq!(as_contents(result.expect("list").items), *contents, "at {revision}");
            for key in KEYS {
                let page = store.list(key, None, 2, Some(*revision)).await.expect("list");
                let expected: Vec<_> = contents.keys().filter(|found| found.starts_with(key)).collect();
                assert_eq!(
                    page.items.iter().map(|kv| &kv.key).collect::<Vec<_>>(),
                    expected[..expected.len().min(2)]
                );
                assert_eq!(page.more, expected.len() > 2);
            }
        }
        self.check_watch(store).await;
    }

    async fn check_watch(&self, store: &dyn Store) {
        let mut revisions = self.history.range(self.compacted..);
        let Some((start, before)) = revisions.next() else {
            return;
        };
        let mut watch = store.watch("", *start).await.expect("watch");
        let mut before = before;
        for (revision, contents) in revisions {
            let batch = next_batch(&mut watch).await.expect("batch");
            assert_eq!(batch.revision, *revision);
            let mut state = before.clone();
            for event in batch.events {
                let previous = match &event {
                    WatchEvent::Put { previous, .. } | WatchEvent::Delete { previous, .. } => previous.clone(),
                };
                let key = event.key().to_owned();
                let old = previous.map(|kv| (kv.value.to_vec(), kv.create_revision, kv.mod_revision));
                assert_eq!(old.as_ref(), before.get(&key), "what was before {key} at {revision}");
                match event {
                    WatchEvent::Put { current, .. } => {
                        state.insert(
                            key,
                            (current.value.to_vec(), current.create_revision, current.mod_revision),
                        );
                    }
                    WatchEvent::Delete { .. } => {
                        state.remove(&key).expect("deletes what was there");
                    }
                }
            }
            assert_eq!(state, *contents);
            before = contents;
        }
    }
}

fn as_contents(items: Vec<causeway_control::store::KeyValue>) -> Contents {
    items
        .into_iter()
        .map(|kv| (kv.key, (kv.value.to_vec(), kv.create_revision, kv.mod_revision)))
        .collect()
}

async fn compact(model: &mut Model, store: &dyn Store, fraction: u8) {
    let span = model.last().0 - model.first;
    let wanted = model.first + span * Revision::from(fraction) / 256;
    let target = *model.history.range(..=wanted).next_back().expect("the first one").0;
    if target > model.compacted {
        store.compact(target).await.expect("compact");
        model.compacted = target;
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime")
}

fn runner(cases: u32) -> TestRunner {
    // No regression file: it would land beside the sources of whoever runs the tests.
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    })
}

#[test]
fn the_embedded_store_behaves_like_the_model() {
    let runtime = runtime();
    let run = |steps: Vec<Step>| {
        runtime.block_on(async {
            let directory = embedded::directory();
            let mut store = embedded::open(directory.path());
            let mut model = Model::new(0);
            for step in steps {
                match step {
                    Step::Transact { puts, deletes, stale } => model.transact(&store, &puts, &deletes, stale).await,
                    Step::Compact(fraction) => compact(&mut model, &store, fraction).await,
                    Step::Reopen => {
                        drop(store);
                        store = embedded::open(directory.path());
                    }
                }
            }
            model.check(&store).await;
        });
        Ok(())
    };
    runner(60).run(&steps(), run).expect("the model holds");
}

#[test]
fn the_etcd_store_behaves_like_the_model() {
    let runtime = runtime();
    // A server for each case would take most of the time, so cases differ by prefix.
    let fixture = runtime.block_on(etcd::Fixture::new());
    let case = Cell::new(0);
    let run = |steps: Vec<Step>| {
        runtime.block_on(async {
            case.set(case.get() + 1);
            let store = fixture.open(&format!("causeway/case{}", case.get())).await;
            let mut model = Model::new(store.revision().await.expect("revision"));
            for step in steps {
                match step {
                    Step::Transact { puts, deletes, stale } => model.transact(&*store, &puts, &deletes, stale).await,
                    Step::Compact(fraction) => compact(&mut model, &*store, fraction).await,
                    Step::Reopen => {}
                }
            }
            model.check(&*store).await;
        });
        Ok(())
    };
    runner(15).run(&steps(), run).expect("the model holds");
}
