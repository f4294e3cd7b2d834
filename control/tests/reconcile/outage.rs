//! A store that can be made to be away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use causeway_control::store::{
    EmbeddedStore, KeyValue, Lease, LeaseId, Listing, Revision, Store, StoreError, TransactOutcome, Transaction,
    WatchStream,
};

/// The switch. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Outage(Arc<AtomicBool>);

impl Outage {
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.0.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable {
                endpoints: "test".into(),
                source: "switched off".into(),
            });
        }
        Ok(())
    }
}

/// Watches stay open during an outage: they resume by themselves in any store.
#[derive(Debug)]
pub struct Interruptible {
    inner: EmbeddedStore,
    outage: Outage,
}

impl Interruptible {
    pub fn new(inner: EmbeddedStore, outage: Outage) -> Self {
        Self { inner, outage }
    }
}

#[async_trait]
impl Store for Interruptible {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.outage.check()?;
        self.inner.get(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listing, StoreError> {
        self.outage.check()?;
        self.inner.list(prefix, start_after, limit, at).await
    }

    async fn transact(&self, transaction: Transaction) -> Result<TransactOutcome, StoreError> {
        self.outage.check()?;
        self.inner.transact(transaction).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.outage.check()?;
        self.inner.watch(prefix, after).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.outage.check()?;
        self.inner.compact(revision).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.outage.check()?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        self.outage.check()?;
        self.inner.keep_alive(id).await
    }

    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.outage.check()?;
        self.inner.revoke(id).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.outage.check()?;
        self.inner.revision().await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.outage.check()?;
        self.inner.health().await
    }
}
