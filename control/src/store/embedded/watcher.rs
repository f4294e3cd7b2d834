//! One watch: reads what is only on disk first, then follows the commits in memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures::StreamExt;
use redb::ReadableDatabase;
use tokio::{sync::watch, time::Instant};

use super::{
    super::{Revision, StoreError, WatchBatch, WatchStream},
    Shared, blocking, closing, read,
    recent::Recent,
};

/// Changes read from disk, or batches taken from memory, at a time.
const CHUNK: usize = 512;
/// A watch under whose prefix nothing happens tells its progress this often, if there is any.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

struct Watcher {
    /// Weak, so that a forgotten watch does not keep the store open.
    shared: Weak<Shared>,
    directory: std::path::PathBuf,
    committed: watch::Receiver<Revision>,
    recent: Arc<Mutex<Recent>>,
    prefix: String,
    /// Everything up to here has been told or is in `ready`.
    position: Revision,
    told: Revision,
    ready: VecDeque<WatchBatch>,
    next_progress: Instant,
    ended: bool,
}

pub(super) fn stream(shared: &Arc<Shared>, prefix: String, after: Revision) -> WatchStream {
    let watcher = Watcher {
        shared: Arc::downgrade(shared),
        directory: shared.directory.clone(),
        committed: shared.committed.subscribe(),
        recent: Arc::clone(&shared.recent),
        prefix,
        position: after,
        told: after,
        ready: VecDeque::new(),
        next_progress: Instant::now() + PROGRESS_INTERVAL,
        ended: false,
    };
    futures::stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Some((item, watcher))
    })
    .boxed()
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.told = batch.revision;
                self.next_progress = Instant::now() + PROGRESS_INTERVAL;
                return Some(Ok(batch));
            }
            // Before looking, so that a commit between looking and waiting is not missed.
            self.committed.borrow_and_update();
            match self.advance().await {
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                Ok(true) => continue,
                Ok(false) => {}
            }
            tokio::select! {
                changed = self.committed.changed() => if changed.is_err() {
                    self.ended = true;
                    return Some(Err(closing(&self.directory)));
                },
                () = tokio::time::sleep_until(self.next_progress) => {
                    self.next_progress = Instant::now() + PROGRESS_INTERVAL;
                    if self.position > self.told {
                        self.told = self.position;
                        return Some(Ok(WatchBatch { revision: self.position, events: Vec::new() }));
                    }
                }
            }
        }
    }

    /// Fetches batches behind `position`; true if the position moved.
    async fn advance(&mut self) -> Result<bool, StoreError> {
        let start = self.position;
        let recent = self
            .recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .since(start, CHUNK);
        if let Some(batches) = recent {
            for batch in batches {
                self.position = batch.revision;
                let events: Vec<_> = batch
                    .events
                    .iter()
                    .filter(|event| event.key().starts_with(&self.prefix))
                    .cloned()
                    .collect();
                if !events.is_empty() {
                    self.ready.push_back(WatchBatch {
                        revision: batch.revision,
                        events,
                    });
                }
            }
        } else {
            let shared = self.shared.upgrade().ok_or_else(|| closing(&self.directory))?;
            let prefix = self.prefix.clone();
            let history = blocking(shared, move |shared| {
                let transaction = shared.database.begin_read().map_err(redb::Error::from)?;
                read::history(&transaction, &prefix, start, CHUNK)
            })
            .await?;
            self.position = history.up_to;
            self.ready.extend(history.batches);
        }
        Ok(self.position > start)
    }
}
