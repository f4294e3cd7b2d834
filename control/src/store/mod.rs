//! The ordered, versioned key-value store under the API server. Only the API server and leader election use it.
//!
//! Every committed transaction has a revision, one higher than the one before it or more. Reads can be pinned to a revision and
//! watches begin after one, as far back as the last compaction. `embedded` and `etcd` keep the same promises, and one
//! conformance suite (`tests/store_conformance.rs`) holds both to them.

use std::{collections::HashSet, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub mod election;
pub mod embedded;
mod error;
pub mod etcd;

pub use election::Leadership;
pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use error::StoreError;
pub use etcd::{EtcdOptions, EtcdStore};

/// Counts committed transactions; 0 is "before everything". As key version: 0 is "absent".
pub type Revision = i64;

/// Names a lease; never reused while its keys exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A key with one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Key, without the prefix that a store puts before all keys.
    pub key: String,
    /// Value, opaque to the store.
    pub value: Bytes,
    /// Revision at which the key came to be (again).
    pub create_revision: Revision,
    /// Revision of this version.
    pub mod_revision: Revision,
}

/// One page of keys in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Keys and values as of `revision`.
    pub items: Vec<KeyValue>,
    /// What the page shows; pass it as `at` for the following pages, or to [`Store::watch`].
    pub revision: Revision,
    /// More keys follow the last one.
    pub more: bool,
}

/// What has to hold for a transaction to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Key to look at.
    pub key: String,
    /// The revision of its last change; 0: it must not exist.
    pub mod_revision: Revision,
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates or replaces a key.
    Put {
        /// Key.
        key: String,
        /// New value.
        value: Bytes,
        /// The key is deleted when this lease ends. `None` detaches the key from any lease.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; nothing happens if it does not exist.
    Delete {
        /// Key.
        key: String,
    },
}

impl Operation {
    /// The key that it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// All operations at one revision if all conditions hold, else nothing. A key may be changed once at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// The changes, of distinct keys.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the condition that `key` was last changed at `mod_revision` (0: does not exist).
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, mod_revision: Revision) -> Self {
        self.conditions.push(Condition {
            key: key.into(),
            mod_revision,
        });
        self
    }

    /// Adds a put without lease.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.operations.push(Operation::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        });
        self
    }

    /// Adds a put of a key that ends with a lease.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.operations.push(Operation::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        });
        self
    }

    /// Adds a deletion.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.operations.push(Operation::Delete { key: key.into() });
        self
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactOutcome {
    /// Durable, at this revision. A transaction that changes nothing answers the revision it found.
    Committed(Revision),
    /// A condition did not hold; nothing was changed.
    Conflict {
        /// Key of the first condition that did not hold.
        key: String,
        /// Revision of its last change; 0: it does not exist.
        actual: Revision,
    },
}

/// One change seen by a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was created (`previous` is `None`) or replaced.
    Put {
        /// The new version.
        current: KeyValue,
        /// The version before it, unless it has been compacted.
        previous: Option<KeyValue>,
    },
    /// A key was deleted.
    Delete {
        /// Key.
        key: String,
        /// The last version, unless it has been compacted.
        previous: Option<KeyValue>,
    },
}

impl WatchEvent {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { current, .. } => &current.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// All changes under a watch's prefix at one revision. Without events it tells progress: nothing up to `revision` is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// Revision of the changes; strictly greater than that of the batch before, except for progress, where it may be equal.
    pub revision: Revision,
    /// The changes, in order of the keys.
    pub events: Vec<WatchEvent>,
}

/// Batches without gap or repeat. After an error nothing follows; loss of a connection is no error, the watch resumes by itself.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

/// A lease as granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives from its last keep-alive; a store may grant more than was asked for, never less.
    pub ttl: Duration,
}

/// See the module's documentation. Methods may be called concurrently; a future dropped before it answered may or may not have
/// had its effect.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The present version of a key; linearizable.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// Keys with a prefix, in byte order, after `start_after` (exclusive), `limit` at most (0: all), as of `at` (`None`: now,
    /// linearizable). [`StoreError::Compacted`] if `at` is older than the last compaction.
    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listing, StoreError>;

    /// Commits durably, or reports the condition that did not hold.
    async fn transact(&self, transaction: Transaction) -> Result<TransactOutcome, StoreError>;

    /// All changes under a prefix with a revision greater than `after`. [`StoreError::Compacted`], now or later in the stream, if
    /// changes after `after` are no longer kept.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets versions that were replaced or deleted at or before a revision. Lists at, and watches after, that revision and
    /// later ones still work.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Grants a lease that lives for `ttl` (whole seconds, rounded up) without keep-alive.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Lets a lease live for its time from now on. [`StoreError::LeaseNotFound`] if it has ended.
    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease: its keys are deleted at one revision.
    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError>;

    /// The revision of the last committed transaction; linearizable.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Whether reads and writes would work now.
    async fn health(&self) -> Result<(), StoreError>;
}

/// Refuses a transaction that changes a key twice.
fn check_distinct(transaction: &Transaction) -> Result<(), StoreError> {
    let mut seen = HashSet::new();
    match transaction
        .operations
        .iter()
        .find(|operation| !seen.insert(operation.key()))
    {
        Some(operation) => Err(StoreError::DuplicateKey {
            key: operation.key().to_owned(),
        }),
        None => Ok(()),
    }
}

/// A lease's time in the unit that stores count in: seconds, rounded up, at least one.
fn whole_seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}
