//! The single-node store: crash-safe, in one directory, with no server to install.
//!
//! On redb, a copy-on-write B-tree whose commits are atomic and synced. Each version of a key is a row of its own, and a second
//! table orders changes by revision, so lists at a revision and watches from one work across restarts. One thread writes: it puts
//! all requests that wait into one commit, so that concurrent writers share a sync. An answer is given after the sync.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicI64, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use redb::{Database, ReadableDatabase};
use tokio::sync::{oneshot, watch};

use super::{
    KeyValue, Lease, LeaseId, Listing, Revision, Store, StoreError, TransactOutcome, Transaction, WatchStream,
};

mod compaction;
mod directory;
mod leases;
mod read;
mod recent;
mod schema;
mod watcher;
mod writer;

use leases::LeaseTable;
use recent::Recent;
use writer::{Request, Writer};

/// How an embedded store is kept.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Its directory; made if only the last part of the path is missing.
    pub directory: PathBuf,
    /// Replaced versions are forgotten once they are older than this.
    pub retention: Duration,
    /// At most this many revisions are kept, however young.
    pub max_revisions: u64,
    /// Memory for pages of the database, in bytes.
    pub cache_bytes: usize,
}

impl EmbeddedOptions {
    /// Defaults: five minutes of history as in Kubernetes' API server with etcd, 100,000 revisions, 64 MiB of cache.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            retention: Duration::from_mins(5),
            max_revisions: 100_000,
            cache_bytes: 64 << 20,
        }
    }
}

/// A store in a directory of this machine. Closes when the last reference and the last running read end.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<thread::JoinHandle<()>>,
}

/// What the writer, readers and watches have in common.
struct Shared {
    database: Database,
    directory: PathBuf,
    /// Last committed revision; watches wait on it. Its end tells them that the store has closed.
    committed: watch::Sender<Revision>,
    compacted: AtomicI64,
    recent: Arc<Mutex<Recent>>,
    leases: Mutex<LeaseTable>,
    /// Set by the first write that failed: memory and disk may differ from then on.
    failure: Mutex<Option<String>>,
    /// Declared last: released after the database is closed.
    _lock: directory::DirectoryLock,
}

impl Shared {
    fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, LeaseTable> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<StoreError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|text| io_error(&self.directory, text.clone()))
    }
}

fn io_error(directory: &Path, text: String) -> StoreError {
    StoreError::Io {
        path: directory.to_owned(),
        source: text.into(),
    }
}

fn closing(directory: &Path) -> StoreError {
    StoreError::Unavailable {
        endpoints: directory.display().to_string(),
        source: "the store is closing".into(),
    }
}

/// Translates the engine's errors.
fn engine_error(directory: &Path, error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(detail) => StoreError::Corrupt {
            location: directory.display().to_string(),
            detail,
        },
        redb::Error::DatabaseAlreadyOpen => StoreError::Locked {
            path: directory.to_owned(),
            pid: None,
        },
        redb::Error::Io(source) => directory::access_error(directory, source),
        other => StoreError::Io {
            path: directory.to_owned(),
            source: Box::new(other),
        },
    }
}

impl EmbeddedStore {
    /// Opens or creates the store. Blocks while it checks, and after a crash repairs, the file.
    pub fn open(options: &EmbeddedOptions) -> Result<Self, StoreError> {
        let directory = options.directory.clone();
        let lock = directory::prepare(&directory)?;
        let file = directory.join("store.redb");
        let database = Database::builder()
            .set_cache_size(options.cache_bytes)
            .set_check_integrity_on_open(true)
            .create(&file)
            .map_err(|error| engine_error(&directory, error))?;
        let state = schema::initialise(&database).map_err(|error| engine_error(&directory, error))?;
        if state.format != schema::FORMAT {
            return Err(StoreError::Corrupt {
                location: directory.display().to_string(),
                detail: format!(
                    "format {} is not the one of this version, {}",
                    state.format,
                    schema::FORMAT
                ),
            });
        }
        directory::sync(&directory)?;
        let shared = Arc::new(Shared {
            database,
            directory,
            committed: watch::channel(state.revision).0,
            compacted: AtomicI64::new(state.compacted),
            recent: Arc::new(Mutex::new(Recent::starting_after(state.revision))),
            leases: Mutex::new(LeaseTable::restored(state.leases)),
            failure: Mutex::new(None),
            _lock: lock,
        });
        let (requests, receiver) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), receiver, options);
        let writer = thread::Builder::new()
            .name("cw-store".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| directory::access_error(&options.directory, source))?;
        Ok(Self {
            shared,
            requests: Some(requests),
            writer: Some(writer),
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self
            .requests
            .as_ref()
            .is_some_and(|requests| requests.send(request(reply)).is_ok());
        if !sent {
            return Err(self.shared.failure().unwrap_or_else(|| closing(&self.shared.directory)));
        }
        answer.await.unwrap_or_else(|_| Err(closing(&self.shared.directory)))
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, read::ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(shared, move |shared| {
            let transaction = shared.database.begin_read().map_err(redb::Error::from)?;
            read(&transaction)
        })
        .await
    }
}

/// Runs a read where it may wait for the disk.
async fn blocking<T: Send + 'static>(
    shared: Arc<Shared>,
    read: impl FnOnce(&Shared) -> Result<T, read::ReadError> + Send + 'static,
) -> Result<T, StoreError> {
    let directory = shared.directory.clone();
    let result = tokio::task::spawn_blocking(move || read(&shared)).await;
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(read::ReadError::Engine(error))) => Err(engine_error(&directory, error)),
        Ok(Err(read::ReadError::Store(error))) => Err(error),
        Err(failed) => Err(io_error(&directory, failed.to_string())),
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // The writer ends when its last sender goes; it commits what it has taken first.
        drop(self.requests.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(directory = %self.shared.directory.display(), "the store's writer has panicked");
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("directory", &self.shared.directory)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let key = key.to_owned();
        self.read(move |transaction| read::get(transaction, &key)).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listing, StoreError> {
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        self.read(move |transaction| read::list(transaction, &prefix, start_after.as_deref(), limit, at))
            .await
    }

    async fn transact(&self, transaction: Transaction) -> Result<TransactOutcome, StoreError> {
        super::check_distinct(&transaction)?;
        self.ask(|reply| Request::Transact { transaction, reply }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let oldest = self.shared.compacted();
        if after < oldest {
            return Err(StoreError::Compacted {
                requested: after,
                oldest,
            });
        }
        Ok(watcher::stream(&self.shared, prefix.to_owned(), after))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Request::Compact { revision, reply }).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let ttl = Duration::from_secs(super::whole_seconds(ttl));
        self.ask(|reply| Request::Grant { ttl, reply }).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        if self.shared.leases().keep_alive(id) {
            Ok(())
        } else {
            Err(StoreError::LeaseNotFound { id })
        }
    }

    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Request::Revoke { id, reply }).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(*self.shared.committed.borrow())
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.shared.failure().map_or(Ok(()), Err)
    }
}
