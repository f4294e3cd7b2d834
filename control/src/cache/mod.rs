//! The watch cache: one store watch per kind serves every list and watch of it.
//!
//! A cache is never ahead of the store, and never goes back. Watchers hold a position, not a queue: they read the shared window
//! of changes at their own pace, so a slow one costs no memory and is told to list again once the window has moved past it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use causeway_proto::{Kind, v1::Object};
use tokio::sync::watch;

use crate::store::Revision;

mod feed;
mod filter;
mod state;
mod watcher;

pub use feed::follow;
pub use filter::Filter;
pub use state::{Change, Forgotten, Name, Page};
pub use watcher::Watch;

use state::State;

/// Changes kept per kind for watches to resume and pages to be consistent.
pub const DEFAULT_WINDOW: usize = 16_384;

type Snapshot = Arc<[Arc<Object>]>;

/// The objects of one kind as last told by the store.
pub struct KindCache {
    kind: Kind,
    state: RwLock<State>,
    /// Made on demand; of the revision beside it.
    snapshot: Mutex<Option<(Revision, Snapshot)>>,
    /// Revision of the last change.
    changed: watch::Sender<Revision>,
    /// Revision up to which nothing is missing; `None` before the first complete list.
    progress: watch::Sender<Option<Revision>>,
    watchers: AtomicUsize,
}

impl KindCache {
    /// An empty cache that keeps `window` changes; [`follow`] fills it.
    pub fn new(kind: Kind, window: usize) -> Self {
        Self {
            kind,
            state: RwLock::new(State::new(window)),
            snapshot: Mutex::new(None),
            changed: watch::Sender::new(0),
            progress: watch::Sender::new(None),
            watchers: AtomicUsize::new(0),
        }
    }

    /// The kind it holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// All objects, in order of namespace and name, as of one revision. Cheap while nothing changes.
    pub fn snapshot(&self) -> Arc<[Arc<Object>]> {
        let mut cached = self.cached_snapshot();
        let changed = *self.changed.borrow();
        match &*cached {
            Some((revision, snapshot)) if *revision == changed => snapshot.clone(),
            _ => {
                // A change that comes in between makes the snapshot newer than its label: it is made again next time.
                let snapshot: Snapshot = self.read().objects().cloned().collect();
                *cached = Some((changed, snapshot.clone()));
                snapshot
            }
        }
    }

    /// One object; empty namespace for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read().get(namespace, name).cloned()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.read().objects().len()
    }

    /// True without objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of watches that clients hold.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Everything up to this revision is in; 0 before the first complete list.
    pub fn revision(&self) -> Revision {
        self.read().revision()
    }

    /// True once the cache holds a complete list.
    pub fn is_synced(&self) -> bool {
        self.progress.borrow().is_some()
    }

    /// Returns once the cache holds a complete list.
    pub async fn synced(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.progress.subscribe().wait_for(Option::is_some).await;
    }

    /// Wakes on changes: the value is the revision of the last one and nothing more (level-triggered: take a `snapshot`).
    pub fn changed(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// Returns true once the cache holds everything up to `revision`, false when `bound` ends before that.
    pub async fn reached(&self, revision: Revision, bound: Duration) -> bool {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|at| at.is_some_and(|at| at >= revision));
        tokio::time::timeout(bound, reached)
            .await
            .is_ok_and(|result| result.is_ok())
    }

    /// One page as of `at` (`None`: now), and the revision it shows.
    pub fn page(
        &self,
        at: Option<Revision>,
        after: Option<&Name>,
        limit: usize,
        filter: &Filter,
    ) -> Result<(Page, Revision), Forgotten> {
        let state = self.read();
        let at = at.unwrap_or_else(|| state.revision());
        Ok((state.page(at, after, limit, |object| filter.matches(object))?, at))
    }

    /// Changes after a revision, and the revision up to which these are all.
    fn changes_after(&self, revision: Revision, limit: usize) -> Result<(Vec<Change>, Revision), Forgotten> {
        let state = self.read();
        let changes = state.changes_after(revision, limit)?;
        let complete = match changes.last() {
            Some(last) if changes.len() >= limit => last.revision,
            _ => state.revision().max(revision),
        };
        Ok((changes, complete))
    }

    /// Takes in a complete list.
    fn install(&self, objects: BTreeMap<Name, Arc<Object>>, revision: Revision) {
        let differed = {
            let mut state = self.write();
            if self.is_synced() {
                state.catch_up(&objects, revision)
            } else {
                state.start(objects, revision);
                true
            }
        };
        self.notify(revision, differed);
    }

    /// Takes in all changes of one revision.
    fn apply(&self, revision: Revision, changes: Vec<(Name, Option<Arc<Object>>)>) {
        let any = !changes.is_empty();
        self.write().apply(revision, changes);
        self.notify(revision, any);
    }

    fn notify(&self, revision: Revision, any_change: bool) {
        if any_change {
            self.changed.send_replace(revision);
        }
        self.progress.send_replace(Some(revision));
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached_snapshot(&self) -> MutexGuard<'_, Option<(Revision, Snapshot)>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
