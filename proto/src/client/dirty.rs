//! Which objects of a store may have changed.
//!
//! A hint for readers of large stores, which must not look at everything after every change: the names say where to look, not what
//! to find there. Whoever uses it still looks at everything from time to time.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Notify;

use super::reflector::Key;

/// The objects of a store that may have changed since they were last asked for. For one waiter.
#[derive(Debug)]
pub struct DirtyKeys(Arc<Marks>);

impl DirtyKeys {
    /// Waits until there are any. Cancel-safe.
    pub async fn marked(&self) {
        loop {
            // Before the look, so that a mark in between is not missed.
            let notified = self.0.notify.notified();
            if !self.0.keys.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// Takes them all.
    pub fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.0.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What one reader has not looked at yet.
#[derive(Debug, Default)]
struct Marks {
    keys: Mutex<BTreeSet<Key>>,
    notify: Notify,
}

/// All readers.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Vec<Weak<Marks>>>);

impl Readers {
    /// A new reader, who has to look at `keys` first.
    pub fn add(&self, keys: impl Iterator<Item = Key>) -> DirtyKeys {
        let marks = Arc::new(Marks {
            keys: Mutex::new(keys.collect()),
            notify: Notify::new(),
        });
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(&marks));
        DirtyKeys(marks)
    }

    /// Tells every reader of these.
    pub fn mark(&self, keys: &[Key]) {
        let readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for marks in readers.iter().filter_map(Weak::upgrade) {
            let mut marked = marks.keys.lock().unwrap_or_else(PoisonError::into_inner);
            marked.extend(keys.iter().cloned());
            drop(marked);
            marks.notify.notify_one();
        }
    }
}
