//! One watch: an etcd watch that is opened again, behind what was told last, whenever it breaks.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream as EtcdWatch};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::{
    super::{Revision, StoreError, WatchBatch, WatchEvent, WatchStream},
    Connection,
};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

struct Watcher {
    connection: Arc<Connection>,
    prefix: String,
    /// Everything up to here has been told or is in `ready`.
    position: Revision,
    ready: VecDeque<WatchBatch>,
    open: Option<EtcdWatch>,
    retry: Duration,
    ended: bool,
}

/// Begins a watch; fails if no server answers now, retries by itself later.
pub(super) async fn stream(
    connection: &Arc<Connection>,
    prefix: &str,
    after: Revision,
) -> Result<WatchStream, StoreError> {
    let mut watcher = Watcher {
        connection: Arc::clone(connection),
        prefix: prefix.to_owned(),
        position: after,
        ready: VecDeque::new(),
        open: None,
        retry: FIRST_RETRY,
        ended: false,
    };
    watcher.open = Some(watcher.open().await?);
    Ok(futures::stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Some((item, watcher))
    })
    .boxed())
}

impl Watcher {
    /// Begins at `position`, not behind it, and drops that revision's events: etcd then reports compaction exactly when changes
    /// after `position` may be missing.
    async fn open(&self) -> Result<EtcdWatch, StoreError> {
        let (first, end) = self.connection.keyspace.range(&self.prefix, None);
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(self.position.max(1))
            .with_prev_key()
            .with_progress_notify();
        let mut client = self
            .connection
            .client
            .watch_client()
            .max_decoding_message_size(usize::MAX);
        self.connection.bounded(client.watch(first, Some(options))).await
    }

    async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(batch));
            }
            let step = match self.open.as_mut() {
                Some(open) => match open.message().await {
                    Ok(Some(response)) => self.take(&response),
                    Ok(None) => Ok(false),
                    Err(error) => {
                        tracing::debug!(prefix = %self.prefix, %error, "watch broke");
                        Ok(false)
                    }
                },
                None => self.reopen().await,
            };
            match step {
                Ok(true) => {}
                Ok(false) => self.open = None,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }

    async fn reopen(&mut self) -> Result<bool, StoreError> {
        sleep(self.retry).await;
        self.retry = (self.retry * 2).min(LAST_RETRY);
        match self.open().await {
            Ok(open) => {
                self.open = Some(open);
                Ok(true)
            }
            Err(error) if error.is_unavailable() => {
                tracing::warn!(prefix = %self.prefix, %error, "cannot resume watch yet");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// False if etcd has ended the watch for a reason that a new one may not meet.
    fn take(&mut self, response: &WatchResponse) -> Result<bool, StoreError> {
        if response.compact_revision() > 0 {
            return Err(StoreError::Compacted {
                requested: self.position,
                oldest: response.compact_revision(),
            });
        }
        if response.canceled() {
            tracing::warn!(prefix = %self.prefix, reason = response.cancel_reason(), "the server ended a watch");
            return Ok(false);
        }
        self.retry = FIRST_RETRY;
        if response.created() {
            return Ok(true);
        }
        if response.events().is_empty() {
            // Progress, sent only while the watch has caught up.
            let revision = self.connection.revision_of(response.header())?;
            if revision > self.position {
                self.position = revision;
                self.ready.push_back(WatchBatch {
                    revision,
                    events: Vec::new(),
                });
            }
            return Ok(true);
        }
        let mut batches: Vec<WatchBatch> = Vec::new();
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision();
            if revision <= self.position {
                continue;
            }
            let event = self.translate(event)?;
            match batches.last_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(event),
                _ => batches.push(WatchBatch {
                    revision,
                    events: vec![event],
                }),
            }
        }
        for batch in &mut batches {
            batch.events.sort_by(|a, b| a.key().cmp(b.key()));
        }
        if let Some(last) = batches.last() {
            self.position = last.revision;
        }
        self.ready.extend(batches);
        Ok(true)
    }

    fn translate(&self, event: &Event) -> Result<WatchEvent, StoreError> {
        let keyspace = &self.connection.keyspace;
        let previous = event.prev_kv().map(|kv| keyspace.decode(kv.clone())).transpose()?;
        let kv = event
            .kv()
            .ok_or_else(|| self.connection.errors.refused("event without key"))?;
        Ok(match event.event_type() {
            EventType::Put => WatchEvent::Put {
                current: keyspace.decode(kv.clone())?,
                previous,
            },
            EventType::Delete => WatchEvent::Delete {
                key: keyspace.strip(kv.key())?,
                previous,
            },
        })
    }
}

/// Asks for the last compacted revision: etcd tells it only to a watch that begins before it.
pub(super) async fn oldest_revision(connection: &Connection) -> Result<Revision, StoreError> {
    let options = WatchOptions::new().with_start_revision(1);
    let mut client = connection.client.watch_client();
    let mut watch = connection
        .bounded(client.watch(connection.keyspace.full(""), Some(options)))
        .await?;
    let answer = async {
        while let Some(response) = watch.message().await? {
            if response.compact_revision() > 0 {
                return Ok(response.compact_revision());
            }
        }
        Ok(0)
    };
    // A watch that is not told so begins before nothing: the store was never compacted.
    match timeout(Duration::from_secs(1), answer).await {
        Ok(result) => result.map_err(|error| connection.errors.translate(error)),
        Err(_) => Ok(0),
    }
}
