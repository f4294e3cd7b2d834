//! A local copy of the objects of one kind that always converges on the control plane's.
//!
//! The copy outlives the control plane: while that is away the last state stays. Readers see it through a [`Store`] and
//! wait for changes through [`Changes`], which carry no data (level-triggered: wake up, take a snapshot, compare).

use std::{
    collections::BTreeMap,
    marker::PhantomData,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::{sync::watch, task::AbortHandle};

use super::{Change, Client, DirtyKeys, ListOptions, Watcher, dirty::Readers};
use crate::{
    resource::Resource,
    v1::{Object, ObjectMeta},
};

/// Namespace and name.
pub type Key = (String, String);

/// Starts the background task that keeps a [`Store`].
#[derive(Debug)]
pub struct Reflector<T>(PhantomData<T>);

impl<T: Resource> Reflector<T> {
    /// Keeps a copy of the objects that `options` select, until the last clone of the store is dropped.
    #[must_use = "the copy is kept only as long as its store"]
    pub fn spawn(client: Client, options: ListOptions) -> Store<T> {
        Self::spawn_from(Watcher::new(client, T::KIND, options))
    }

    /// As [`Self::spawn`], from a watcher made elsewhere, which must be one of this kind.
    #[must_use = "the copy is kept only as long as its store"]
    pub fn spawn_from(watcher: Watcher) -> Store<T> {
        let shared = Arc::new(Shared {
            objects: RwLock::default(),
            changes: watch::Sender::new(()),
            readers: Readers::default(),
            synced: watch::Sender::new(false),
        });
        let task = tokio::spawn(keep(Arc::clone(&shared), watcher)).abort_handle();
        Store {
            shared,
            task: Arc::new(Task(task)),
        }
    }
}

struct Shared<T> {
    objects: RwLock<BTreeMap<Key, Arc<T>>>,
    changes: watch::Sender<()>,
    readers: Readers,
    synced: watch::Sender<bool>,
}

/// Ends the background task with the last store.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep<T: Resource>(shared: Arc<Shared<T>>, mut watcher: Watcher) {
    let mut reachable = true;
    loop {
        let change = watcher.next().await;
        if let Change::Interrupted(error) = &change {
            // Once for each time it goes away, not once for each try.
            if reachable && let Some(error) = error {
                tracing::warn!(kind = T::KIND.name(), %error, "watch interrupted; the last known state stays");
            }
            reachable = error.is_none();
            continue;
        }
        if !reachable {
            tracing::info!(kind = T::KIND.name(), "watch resumed");
            reachable = true;
        }
        shared.apply(change);
    }
}

impl<T: Resource> Shared<T> {
    fn apply(&self, change: Change) {
        let mut changed = Vec::new();
        let replaced = matches!(change, Change::Replaced(_));
        match change {
            Change::Replaced(items) => {
                let fresh: BTreeMap<Key, Arc<T>> = items.into_iter().filter_map(entry).collect();
                self.write(|objects| {
                    // An object that did not change keeps its allocation, so that readers can compare pointers.
                    let kept = |(key, new): (Key, Arc<T>)| match objects.remove(&key) {
                        Some(old) if *old == *new => (key, old),
                        _ => {
                            changed.push(key.clone());
                            (key, new)
                        }
                    };
                    let next: BTreeMap<Key, Arc<T>> = fresh.into_iter().map(kept).collect();
                    changed.extend(std::mem::replace(objects, next).into_keys());
                });
                self.synced.send_replace(true);
            }
            Change::Applied(object) => {
                if let Some((key, object)) = entry(object) {
                    changed.push(key.clone());
                    self.write(|objects| objects.insert(key, object));
                }
            }
            Change::Deleted(object) => {
                let key = object.meta().map(key);
                changed.extend(key.filter(|key| self.write(|objects| objects.remove(key)).is_some()));
            }
            Change::Bookmark | Change::Interrupted(_) => {}
        }
        // After the objects: who is told finds them changed.
        if !changed.is_empty() {
            self.readers.mark(&changed);
        }
        if replaced || !changed.is_empty() {
            self.changes.send_replace(());
        }
    }

    fn write<R>(&self, change: impl FnOnce(&mut BTreeMap<Key, Arc<T>>) -> R) -> R {
        change(&mut self.objects.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn key(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone(), meta.name.clone())
}

fn entry<T: Resource>(object: Object) -> Option<(Key, Arc<T>)> {
    let object = T::from_object(object)?;
    Some((key(object.meta()), Arc::new(object)))
}

/// The local copy. Clones share it.
pub struct Store<T> {
    shared: Arc<Shared<T>>,
    task: Arc<Task>,
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            task: Arc::clone(&self.task),
        }
    }
}

impl<T> std::fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("synced", &*self.shared.synced.borrow())
            .finish_non_exhaustive()
    }
}

impl<T: Resource> Store<T> {
    /// All objects, by namespace and name.
    pub fn snapshot(&self) -> Vec<Arc<T>> {
        self.read(|objects| objects.values().cloned().collect())
    }

    /// One object. `namespace` is empty for kinds of the cluster.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.read(|objects| objects.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// True once the first complete list is in. Before that, absence means nothing.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits for the first complete list.
    pub async fn synced(&self) {
        // Fails only when the sender is gone, and this holds it.
        let _ = self.shared.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// A subscription to changes. Its first wait returns at once if there was any state when it was made, so nothing is
    /// missed between reading and subscribing.
    pub fn changes(&self) -> Changes {
        let mut receiver = self.shared.changes.subscribe();
        if self.is_synced() {
            receiver.mark_changed();
        }
        Changes(receiver)
    }

    /// A subscription to the names of what changes, beginning with all that is there.
    pub fn dirty(&self) -> DirtyKeys {
        // Under the lock, so that nothing changes between the look and the subscription.
        self.read(|objects| self.shared.readers.add(objects.keys().cloned()))
    }

    fn read<R>(&self, look: impl FnOnce(&BTreeMap<Key, Arc<T>>) -> R) -> R {
        look(&self.shared.objects.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells that a store changed since it was last asked; not how, nor how often.
#[derive(Clone, Debug)]
pub struct Changes(watch::Receiver<()>);

impl Changes {
    /// Waits for a change since the last call. Cancel-safe. Never returns again once the store is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
