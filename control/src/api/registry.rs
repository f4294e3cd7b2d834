//! The one door to objects: rules of reading and writing them, over the store and the watch cache.

use std::sync::Arc;

use causeway_proto::{
    Kind,
    v1::{Object, Preconditions, apply_response::Outcome, patch_request},
};

use crate::{
    api::ApiError,
    cache::{KindCache, Watch},
};

/// Which objects of a kind, and how many at once.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Empty: all namespaces.
    pub namespace: String,
    /// "app=web,tier in (a, b)"; empty: all.
    pub label_selector: String,
    /// "spec.nodeName=n1"; empty: all.
    pub field_selector: String,
    /// Objects per page; 0: all.
    pub limit: usize,
    /// `continue_token` of the page before; empty: first page.
    pub continue_token: String,
}

/// One page; all pages of a list are of one revision.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// Revision of the list; a watch continues from here.
    pub revision: u64,
    /// For the next page; empty on the last.
    pub continue_token: String,
    /// In order of namespace and name.
    pub items: Vec<Arc<Object>>,
}

/// Where a watch begins and what it shows.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Empty: all namespaces.
    pub namespace: String,
    /// As in [`ListOptions`].
    pub label_selector: String,
    /// As in [`ListOptions`].
    pub field_selector: String,
    /// Changes after this one; `None`: the present objects as ADDED, a BOOKMARK, then changes.
    pub revision: Option<u64>,
}

/// What becomes of objects owned by a deleted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The owner goes at once, the garbage collector takes the rest.
    #[default]
    Background,
    /// The owner stays (finalizer `foregroundDeletion`) until what it owns is gone.
    Foreground,
    /// The owned stay, without owner (finalizer `orphan` until they are released).
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Empty fields are not checked.
    pub preconditions: Preconditions,
    /// Seconds; `None`: the object's own; 0: at once.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of owned objects.
    pub propagation: Propagation,
}

/// Objects of all kinds. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<()>,
}

impl Registry {
    /// The watch cache of a kind: level-triggered readers (reconcilers) take snapshots of it.
    pub fn cache(&self, kind: Kind) -> &KindCache {
        todo!("{kind:?}")
    }

    /// The object as the cache knows it, which includes every write that this process has answered.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
        todo!("{kind:?} {namespace} {name}")
    }

    /// A page of objects.
    pub async fn list(&self, kind: Kind, options: &ListOptions) -> Result<ObjectList, ApiError> {
        todo!("{kind:?} {options:?}")
    }

    /// Changes of objects.
    pub async fn watch(&self, kind: Kind, options: &WatchOptions) -> Result<Watch, ApiError> {
        todo!("{kind:?} {options:?}")
    }

    /// Defaults, validates and stores a new object; answers it as stored.
    pub async fn create(&self, object: Object, dry_run: bool) -> Result<Object, ApiError> {
        todo!("{object:?} {dry_run}")
    }

    /// Replaces all but status. Compare-and-swap if `metadata.resourceVersion` is set, else the last writer wins.
    /// Removing the last finalizer of an object that is being deleted removes it.
    pub async fn update(&self, object: Object, dry_run: bool) -> Result<Object, ApiError> {
        todo!("{object:?} {dry_run}")
    }

    /// Replaces only status; metadata but name, namespace, uid and resourceVersion are ignored.
    pub async fn update_status(&self, object: Object, dry_run: bool) -> Result<Object, ApiError> {
        todo!("{object:?} {dry_run}")
    }

    /// Changes an object by a JSON patch (RFC 6902) or merge patch (RFC 7386).
    #[expect(clippy::too_many_arguments, reason = "the fields of PatchRequest")]
    pub async fn patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch_type: patch_request::Type,
        patch: &str,
        preconditions: &Preconditions,
        dry_run: bool,
    ) -> Result<Object, ApiError> {
        todo!("{kind:?} {namespace} {name} {patch_type:?} {patch} {preconditions:?} {dry_run}")
    }

    /// Creates, or three-way merges; `manifest` is one object as JSON text.
    pub async fn apply(&self, manifest: &str, dry_run: bool) -> Result<(Object, Outcome), ApiError> {
        todo!("{manifest} {dry_run}")
    }

    /// Deletes, or marks as being deleted; answers the object as it was last seen (with `deletionTimestamp` if it stays).
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Object, ApiError> {
        todo!("{kind:?} {namespace} {name} {options:?}")
    }

    /// Assigns a pending pod to a node. An empty `uid` is not checked.
    pub async fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Result<Object, ApiError> {
        todo!("{namespace} {pod} {uid} {node}")
    }

    /// Sets the replica count; refused when `current` is given and differs.
    pub async fn scale(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        replicas: i32,
        current: Option<i32>,
    ) -> Result<Object, ApiError> {
        todo!("{kind:?} {namespace} {name} {replicas} {current:?}")
    }
}
