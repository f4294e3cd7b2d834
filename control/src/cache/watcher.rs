//! One client's watch: a filter and a position in the window of changes.

use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering, time::Duration};

use causeway_proto::v1::{Object, WatchEvent, watch_event::Type};
use tokio::{sync::watch, time::Interval};
use tokio_util::sync::CancellationToken;

use super::{Change, Filter, Forgotten, KindCache};
use crate::{api::ApiError, store::Revision};

/// Changes read from the window at once.
const BATCH: usize = 256;

/// A client's watch. Cancel-safe: a dropped `next` loses nothing.
pub struct Watch {
    cache: Arc<KindCache>,
    filter: Filter,
    /// Present objects still to be sent, and the revision they are of.
    initial: Option<(std::vec::IntoIter<Arc<Object>>, Revision)>,
    /// Everything up to here has been put into `queue`.
    position: Revision,
    queue: VecDeque<WatchEvent>,
    changed: watch::Receiver<Revision>,
    bookmarks: Interval,
    stop: CancellationToken,
    ended: bool,
}

impl Watch {
    /// Begins after `revision`, or with the present objects. The cache must be synced.
    pub fn new(
        cache: Arc<KindCache>,
        filter: Filter,
        revision: Option<Revision>,
        bookmark_interval: Duration,
        stop: CancellationToken,
    ) -> Result<Self, ApiError> {
        let changed = cache.changed();
        let kind = cache.kind();
        let expired = |requested| {
            move |forgotten: Forgotten| ApiError::Expired {
                kind,
                requested,
                oldest: forgotten.oldest,
            }
        };
        let (initial, position) = if let Some(revision) = revision {
            cache.changes_after(revision, 1).map_err(expired(revision))?;
            (None, revision)
        } else {
            let (page, revision) = cache.page(None, None, 0, &filter).map_err(expired(0))?;
            (Some((page.items.into_iter(), revision)), revision)
        };
        let mut bookmarks =
            tokio::time::interval_at(tokio::time::Instant::now() + bookmark_interval, bookmark_interval);
        bookmarks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        cache.watchers.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            cache,
            filter,
            initial,
            position,
            queue: VecDeque::new(),
            changed,
            bookmarks,
            stop,
            ended: false,
        })
    }

    /// The next event. After an error (it fell behind, the server stops) nothing follows.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.next_present() {
                return Some(Ok(event));
            }
            self.changed.mark_unchanged();
            if let Err(error) = self.read() {
                self.ended = true;
                return Some(Err(error));
            }
            if !self.queue.is_empty() {
                continue;
            }
            tokio::select! {
                () = self.stop.cancelled() => {
                    self.ended = true;
                    return Some(Err(ApiError::Unavailable("the control plane is stopping; watch again".into())));
                }
                // The sender lives in the cache that `self` holds, so this cannot fail.
                _ = self.changed.changed() => {}
                _ = self.bookmarks.tick() => {
                    if let Err(error) = self.read() {
                        self.ended = true;
                        return Some(Err(error));
                    }
                    self.queue.push_back(bookmark(self.position));
                }
            }
        }
    }

    /// What can be sent without looking for changes.
    fn next_present(&mut self) -> Option<WatchEvent> {
        if let Some((objects, revision)) = &mut self.initial {
            let revision = *revision;
            let Some(object) = objects.next() else {
                self.initial = None;
                return Some(bookmark(revision));
            };
            // Only the bookmark says that all has been sent: a watch that breaks off before must begin anew, which is what 0 asks for.
            return Some(WatchEvent {
                r#type: Type::Added.into(),
                object: Some(Object::clone(&object)),
                resource_version: "0".into(),
            });
        }
        self.queue.pop_front()
    }

    /// Fills the queue with the changes after `position`.
    fn read(&mut self) -> Result<(), ApiError> {
        let (changes, complete) =
            self.cache
                .changes_after(self.position, BATCH)
                .map_err(|forgotten| ApiError::Expired {
                    kind: self.cache.kind(),
                    requested: self.position,
                    oldest: forgotten.oldest,
                })?;
        for (at, change) in changes.iter().enumerate() {
            let more_of_it = changes.get(at + 1).is_some_and(|next| next.revision == change.revision);
            // Who resumes between two changes of one revision must get the second: only the last one moves the position.
            let resume = if more_of_it { self.position } else { change.revision };
            self.queue.extend(event(change, &self.filter, resume));
            self.position = resume;
        }
        self.position = self.position.max(complete);
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cache.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn bookmark(revision: Revision) -> WatchEvent {
    WatchEvent {
        r#type: Type::Bookmark.into(),
        object: None,
        resource_version: revision.to_string(),
    }
}

/// A change as a watch with this filter sees it: an object that begins to match is added, one that stops is deleted.
fn event(change: &Change, filter: &Filter, resume: Revision) -> Option<WatchEvent> {
    let shown = |object: &Option<Arc<Object>>| object.clone().filter(|object| filter.matches(object));
    let (kind, object) = match (shown(&change.before), shown(&change.after)) {
        (None, None) => return None,
        (None, Some(after)) => (Type::Added, Object::clone(&after)),
        (Some(_), Some(after)) => (Type::Modified, Object::clone(&after)),
        (Some(before), None) => {
            let mut last = Object::clone(&before);
            if let Some(meta) = last.meta_mut() {
                meta.resource_version = change.revision.to_string();
            }
            (Type::Deleted, last)
        }
    };
    Some(WatchEvent {
        r#type: kind.into(),
        object: Some(object),
        resource_version: resume.to_string(),
    })
}
