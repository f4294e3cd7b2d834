//! Looks into the store itself, for decisions that a lagging cache must not make: each kind's cache is right about a revision, but
//! they are not all at the same one.

use causeway_proto::{Kind, v1::Object};

use crate::{
    api::{ApiError, Registry, stored},
    store::Revision,
};

/// The object as it is now.
pub(super) async fn get(
    registry: &Registry,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<Object>, ApiError> {
    let key = stored::key(kind, namespace, name);
    let found = registry.store().get(&key).await?;
    found
        .map(|found| stored::decode(&key, &found.value, found.mod_revision))
        .transpose()
}

/// Whether an object of that uid exists now.
pub(super) async fn exists(
    registry: &Registry,
    kind: Kind,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<bool, ApiError> {
    let found = get(registry, kind, namespace, name).await?;
    Ok(found.is_some_and(|object| object.meta().is_some_and(|meta| meta.uid == uid)))
}

/// Whether any object of a kind is in a namespace now.
pub(super) async fn any_in(registry: &Registry, kind: Kind, namespace: &str) -> Result<bool, ApiError> {
    let prefix = stored::key(kind, namespace, "");
    Ok(!registry.store().list(&prefix, None, 1, None).await?.items.is_empty())
}

/// Waits until the caches of these kinds show everything that has happened up to now, or for `bound`. A cache under which nothing
/// happens may not tell how far it is; after `bound` it has had the time to be told.
pub(super) async fn settle(registry: &Registry, kinds: &[Kind], bound: std::time::Duration) -> Result<(), ApiError> {
    let now: Revision = registry.store().revision().await?;
    let waits = kinds.iter().map(|kind| registry.cache(*kind).reached(now, bound));
    futures::future::join_all(waits).await;
    Ok(())
}
