//! What every store promises.

mod leases;
mod lists;
mod transactions;
mod watches;

use std::sync::Arc;

use causeway_control::store::{KeyValue, Revision, Store, TransactOutcome, Transaction, WatchBatch, WatchEvent};

pub use self::{leases::*, lists::*, transactions::*, watches::*};

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

pub fn pairs(items: &[KeyValue]) -> Vec<(&str, &str)> {
    items
        .iter()
        .map(|kv| (kv.key.as_str(), std::str::from_utf8(&kv.value).expect("text")))
        .collect()
}

pub async fn all(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<KeyValue> {
    store.list(prefix, None, 0, at).await.expect("list").items
}

/// `+key` for each put, `-key` for each deletion.
pub fn keys(batch: &WatchBatch) -> String {
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
