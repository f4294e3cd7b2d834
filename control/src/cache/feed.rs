//! Fills a cache from the store: one list, then one watch, and again from the list when the watch ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use causeway_proto::v1::Object;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{KindCache, Name};
use crate::{
    api::stored,
    store::{Revision, Store, StoreError, WatchBatch, WatchEvent},
};

const PAGE: usize = 1000;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Keeps a cache up with the store until `stop`.
pub async fn follow(cache: Arc<KindCache>, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut pause = RETRY_MIN;
    loop {
        let before = cache.revision();
        tokio::select! {
            () = stop.cancelled() => return,
            result = list_and_watch(&cache, store.as_ref()) => if let Err(error) = result {
                tracing::warn!(kind = %cache.kind(), error = &error as &dyn std::error::Error, "watch cache lost the store, listing again");
            },
        }
        pause = if cache.revision() > before {
            RETRY_MIN
        } else {
            (pause * 2).min(RETRY_MAX)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn list_and_watch(cache: &KindCache, store: &dyn Store) -> Result<(), StoreError> {
    let prefix = stored::prefix(cache.kind());
    let (objects, revision) = list(cache, store, &prefix).await?;
    tracing::debug!(kind = %cache.kind(), objects = objects.len(), revision, "listed");
    cache.install(objects, revision);
    let mut batches = store.watch(&prefix, revision).await?;
    while let Some(batch) = batches.next().await {
        apply(cache, batch?);
    }
    Ok(())
}

async fn list(
    cache: &KindCache,
    store: &dyn Store,
    prefix: &str,
) -> Result<(BTreeMap<Name, Arc<Object>>, Revision), StoreError> {
    let mut objects = BTreeMap::new();
    let mut page = store.list(prefix, None, PAGE, None).await?;
    loop {
        let last = page.items.last().map(|item| item.key.clone());
        for item in page.items {
            if let Some((name, object)) = decode(cache, &item.key, &item.value, item.mod_revision) {
                objects.insert(name, object);
            }
        }
        match last.filter(|_| page.more) {
            Some(last) => page = store.list(prefix, Some(&last), PAGE, Some(page.revision)).await?,
            None => return Ok((objects, page.revision)),
        }
    }
}

fn apply(cache: &KindCache, batch: WatchBatch) {
    let change = |event| match event {
        WatchEvent::Put { current, .. } => {
            let (name, object) = decode(cache, &current.key, &current.value, current.mod_revision)?;
            Some((name, Some(object)))
        }
        WatchEvent::Delete { key, .. } => Some((stored::name_of(cache.kind(), &key)?, None)),
    };
    cache.apply(batch.revision, batch.events.into_iter().filter_map(change).collect());
}

/// What cannot be read is left out, loudly: one broken object must not hide all others.
fn decode(cache: &KindCache, key: &str, value: &[u8], revision: Revision) -> Option<(Name, Arc<Object>)> {
    let name = stored::name_of(cache.kind(), key);
    match (name, stored::decode(key, value, revision)) {
        (Some(name), Ok(object)) => Some((name, Arc::new(object))),
        (None, _) => {
            tracing::error!(key, "stored key is not of its kind");
            None
        }
        (_, Err(error)) => {
            tracing::error!(key, error = &error as &dyn std::error::Error, "stored object left out");
            None
        }
    }
}
