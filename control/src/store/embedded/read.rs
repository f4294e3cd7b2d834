//! Reads of one consistent snapshot: a key, a page of keys, a stretch of history.

use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable};

use super::{
    super::{KeyValue, Listing, Revision, StoreError, WatchBatch, WatchEvent},
    schema::{self, CHANGES, META, META_COMPACTED, META_REVISION, VERSIONS, Version},
};

/// Either the engine failed or the question has no answer.
pub(super) enum ReadError {
    Engine(redb::Error),
    Store(StoreError),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

pub(super) fn get(transaction: &ReadTransaction, key: &str) -> Result<Option<KeyValue>, ReadError> {
    let versions = transaction.open_table(VERSIONS)?;
    let version = schema::live_at(&versions, key, Revision::MAX)?;
    Ok(version.map(|version| version.into_key_value(key)))
}

pub(super) fn list(
    transaction: &ReadTransaction,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
    at: Option<Revision>,
) -> Result<Listing, ReadError> {
    let meta = transaction.open_table(META)?;
    let last = schema::counter(&meta, META_REVISION)?;
    let oldest = schema::counter(&meta, META_COMPACTED)?;
    let revision = at.unwrap_or(last);
    if revision < oldest {
        return Err(ReadError::Store(StoreError::Compacted {
            requested: revision,
            oldest,
        }));
    }
    if revision > last {
        return Err(ReadError::Store(StoreError::FutureRevision {
            requested: revision,
            last,
        }));
    }
    let versions = transaction.open_table(VERSIONS)?;
    let from = match start_after {
        Some(key) if key >= prefix => Bound::Excluded((key, Revision::MAX)),
        _ => Bound::Included((prefix, 0)),
    };
    let mut page = Page {
        items: Vec::new(),
        limit,
        more: false,
    };
    let mut newest: Option<(String, Version)> = None;
    for row in versions.range::<(&str, i64)>((from, Bound::Unbounded))? {
        let (id, version) = row?;
        let (key, version_revision) = id.value();
        if !key.starts_with(prefix) {
            break;
        }
        if newest.as_ref().is_some_and(|(seen, _)| seen != key) && page.add(newest.take()) {
            break;
        }
        if version_revision <= revision {
            newest = Some((key.to_owned(), Version::decode(version_revision, version.value())));
        }
    }
    page.add(newest.take());
    Ok(Listing {
        items: page.items,
        revision,
        more: page.more,
    })
}

struct Page {
    items: Vec<KeyValue>,
    limit: usize,
    more: bool,
}

impl Page {
    /// Adds a key unless it is deleted; true when the page is full and another key was found behind it.
    fn add(&mut self, newest: Option<(String, Version)>) -> bool {
        if let Some((key, version)) = newest.filter(|(_, version)| !version.is_deletion())
            && !self.more
        {
            if self.limit != 0 && self.items.len() == self.limit {
                self.more = true;
            } else {
                self.items.push(version.into_key_value(&key));
            }
        }
        self.more
    }
}

/// Some revisions that follow one another.
pub(super) struct History {
    pub batches: Vec<WatchBatch>,
    /// Nothing is missing up to here.
    pub up_to: Revision,
}

/// Reads changes under a prefix from `after` on, about `max_changes` of all keys.
pub(super) fn history(
    transaction: &ReadTransaction,
    prefix: &str,
    after: Revision,
    max_changes: usize,
) -> Result<History, ReadError> {
    let meta = transaction.open_table(META)?;
    let oldest = schema::counter(&meta, META_COMPACTED)?;
    if after < oldest {
        return Err(ReadError::Store(StoreError::Compacted {
            requested: after,
            oldest,
        }));
    }
    let last = schema::counter(&meta, META_REVISION)?;
    let versions = transaction.open_table(VERSIONS)?;
    let changes = transaction.open_table(CHANGES)?;
    let mut history = History {
        batches: Vec::new(),
        up_to: last.max(after),
    };
    let mut revision = after;
    for (seen, row) in changes.range((after + 1, "")..)?.enumerate() {
        let (change, _) = row?;
        let (change_revision, key) = change.value();
        if change_revision != revision && seen >= max_changes {
            history.up_to = revision;
            break;
        }
        revision = change_revision;
        if !key.starts_with(prefix) {
            continue;
        }
        let event = event_of(&versions, key, revision)?;
        match history.batches.last_mut() {
            Some(batch) if batch.revision == revision => batch.events.push(event),
            _ => history.batches.push(WatchBatch {
                revision,
                events: vec![event],
            }),
        }
    }
    Ok(history)
}

fn event_of(
    versions: &impl ReadableTable<schema::VersionKey, schema::VersionValue>,
    key: &str,
    revision: Revision,
) -> Result<WatchEvent, ReadError> {
    let previous = schema::live_at(versions, key, revision - 1)?.map(|version| version.into_key_value(key));
    let current = schema::version_at(versions, key, revision)?.filter(|version| version.mod_revision == revision);
    match current {
        Some(version) if version.is_deletion() => Ok(WatchEvent::Delete {
            key: key.to_owned(),
            previous,
        }),
        Some(version) => Ok(WatchEvent::Put {
            current: version.into_key_value(key),
            previous,
        }),
        None => Err(ReadError::Store(StoreError::Corrupt {
            location: format!("key {key}"),
            detail: format!("changed at revision {revision}, but that version is missing"),
        })),
    }
}
