//! A store whose requests are timed and counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::Metrics;
use crate::store::{
    KeyValue, Lease, LeaseId, Listing, Revision, Store, StoreError, TransactOutcome, Transaction, WatchStream,
};

/// Wraps a store; behaves as it does.
#[derive(Debug)]
pub struct MeteredStore<S> {
    inner: S,
    metrics: Timer,
}

struct Timer(Arc<Metrics>);

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Timer")
    }
}

impl<S: Store> MeteredStore<S> {
    /// Times `inner`.
    pub fn new(inner: S, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            metrics: Timer(metrics),
        }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let result = request.await;
        self.metrics.0.store(operation, result.is_err(), start.elapsed());
        result
    }
}

#[async_trait]
impl<S: Store> Store for MeteredStore<S> {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.timed("get", self.inner.get(key)).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listing, StoreError> {
        self.timed("list", self.inner.list(prefix, start_after, limit, at))
            .await
    }

    async fn transact(&self, transaction: Transaction) -> Result<TransactOutcome, StoreError> {
        self.timed("transact", self.inner.transact(transaction)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.timed("watch", self.inner.watch(prefix, after)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.timed("compact", self.inner.compact(revision)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.timed("grant", self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        self.timed("keep_alive", self.inner.keep_alive(id)).await
    }

    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.timed("revoke", self.inner.revoke(id)).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.timed("revision", self.inner.revision()).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.inner.health().await
    }
}
