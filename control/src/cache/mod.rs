//! The watch cache: one store watch per kind serves every list and watch of it.

use std::sync::Arc;

use causeway_proto::v1::{Object, WatchEvent};
use tokio::sync::watch;

use crate::api::ApiError;

/// The objects of one kind as last told by the store.
pub struct KindCache {}

impl KindCache {
    /// All objects, in order of namespace and name, as of one revision. Cheap while nothing changes.
    pub fn snapshot(&self) -> Arc<[Arc<Object>]> {
        todo!()
    }

    /// One object; empty namespace for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        todo!("{namespace} {name}")
    }

    /// Returns once the cache holds a complete list.
    pub async fn synced(&self) {
        todo!()
    }

    /// Wakes on changes: the value is the cache's revision and nothing more (level-triggered: take a `snapshot`).
    pub fn changed(&self) -> watch::Receiver<u64> {
        todo!()
    }
}

/// A client's watch.
pub struct Watch {}

impl Watch {
    /// The next event; `None` when the server stops. After an error nothing follows.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        todo!()
    }
}
