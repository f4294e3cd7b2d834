//! The store on an etcd cluster, for several control replicas.
//!
//! All keys carry a configurable prefix, so clusters can share an etcd. Revisions are etcd's: other users of the same etcd make
//! them jump. Opening does not need a server; requests answer [`StoreError::Unavailable`] while none is reachable.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, PutOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse,
};
use tokio::{task::JoinHandle, time::timeout};

use super::{
    KeyValue, Lease, LeaseId, Listing, Operation, Revision, Store, StoreError, TransactOutcome, Transaction,
    WatchStream,
};

mod compactor;
mod error;
mod keys;
mod watcher;

use error::ErrorContext;
use keys::Keyspace;

/// Keys per request; longer lists are put together from several requests at one revision.
const PAGE: usize = 500;

/// Where an etcd store is.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `http://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Goes before all keys, without slashes at its ends: `causeway/dev`.
    pub prefix: String,
    /// Replaced versions are compacted once they are older than this; `None` leaves compaction to others.
    pub retention: Option<Duration>,
    /// A request that takes longer has failed.
    pub request_timeout: Duration,
}

impl EtcdOptions {
    /// Defaults: compaction after five minutes, as Kubernetes' API server does; five seconds for a request.
    pub fn new(endpoints: Vec<String>, prefix: impl Into<String>) -> Self {
        Self {
            endpoints,
            prefix: prefix.into(),
            retention: Some(Duration::from_mins(5)),
            request_timeout: Duration::from_secs(5),
        }
    }
}

/// A store on etcd.
pub struct EtcdStore {
    connection: Arc<Connection>,
    compactor: Option<JoinHandle<()>>,
}

/// What requests, watches and the compactor have in common.
struct Connection {
    client: Client,
    keyspace: Keyspace,
    errors: ErrorContext,
    request_timeout: Duration,
}

impl Connection {
    /// Bounds a request and translates its error.
    async fn bounded<T>(&self, request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, StoreError> {
        match timeout(self.request_timeout, request).await {
            Ok(result) => result.map_err(|error| self.errors.translate(error)),
            Err(elapsed) => Err(self.errors.unavailable(elapsed)),
        }
    }

    fn revision_of(&self, header: Option<&ResponseHeader>) -> Result<Revision, StoreError> {
        header
            .map(ResponseHeader::revision)
            .ok_or_else(|| self.errors.unavailable("response without header"))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let key = self.keyspace.full("");
        let options = GetOptions::new().with_keys_only();
        let response = self.bounded(self.client.kv_client().get(key, Some(options))).await?;
        self.revision_of(response.header())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        match self.bounded(self.client.kv_client().compact(revision, None)).await {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
            Err(StoreError::FutureRevision { .. }) => Err(StoreError::FutureRevision {
                requested: revision,
                last: self.revision().await?,
            }),
            Err(error) => Err(error),
        }
    }

    /// One request's worth of keys from `from` on.
    async fn page(
        &self,
        range: (&[u8], &[u8]),
        limit: usize,
        at: Option<Revision>,
    ) -> Result<(Vec<KeyValue>, Revision, bool), StoreError> {
        let mut options = GetOptions::new()
            .with_range(range.1)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        if let Some(revision) = at {
            options = options.with_revision(revision);
        }
        let mut client = self.client.kv_client().max_decoding_message_size(usize::MAX);
        let mut response = match self.bounded(client.get(range.0, Some(options))).await {
            Ok(response) => response,
            Err(error) => return Err(self.complete(error, at.unwrap_or(0)).await),
        };
        let revision = self.revision_of(response.header())?;
        let more = response.more();
        let items = response
            .take_kvs()
            .into_iter()
            .map(|kv| self.keyspace.decode(kv))
            .collect::<Result<_, _>>()?;
        Ok((items, at.unwrap_or(revision), more))
    }

    /// Adds to an error about a revision what etcd's answer to a read leaves out.
    async fn complete(&self, error: StoreError, requested: Revision) -> StoreError {
        match error {
            StoreError::Compacted { .. } => match watcher::oldest_revision(self).await {
                Ok(oldest) => StoreError::Compacted { requested, oldest },
                Err(error) => error,
            },
            StoreError::FutureRevision { .. } => StoreError::FutureRevision {
                requested,
                last: self.revision().await.unwrap_or(0),
            },
            other => other,
        }
    }
}

impl EtcdStore {
    /// Prepares connections to the endpoints; fails only if they are not URLs.
    pub async fn connect(options: &EtcdOptions) -> Result<Self, StoreError> {
        let errors = ErrorContext::new(&options.endpoints);
        // etcd refuses pings more frequent than every 5 s (--grpc-keepalive-min-time).
        let connect_options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(2))
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        let client = Client::connect(&options.endpoints, Some(connect_options))
            .await
            .map_err(|error| errors.translate(error))?;
        let connection = Arc::new(Connection {
            client,
            keyspace: Keyspace::new(&options.prefix, errors.endpoints()),
            errors,
            request_timeout: options.request_timeout,
        });
        let compactor = options
            .retention
            .map(|retention| tokio::spawn(compactor::run(Arc::clone(&connection), retention)));
        Ok(Self { connection, compactor })
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        if let Some(compactor) = &self.compactor {
            compactor.abort();
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("endpoints", &self.connection.errors.endpoints())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let connection = &self.connection;
        let mut client = connection.client.kv_client().max_decoding_message_size(usize::MAX);
        let mut response = connection
            .bounded(client.get(connection.keyspace.full(key), None))
            .await?;
        response
            .take_kvs()
            .pop()
            .map(|kv| connection.keyspace.decode(kv))
            .transpose()
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listing, StoreError> {
        if let Some(requested) = at.filter(|revision| *revision <= 0) {
            // To etcd these mean "now".
            let oldest = watcher::oldest_revision(&self.connection).await?;
            return Err(StoreError::Compacted { requested, oldest });
        }
        let (mut from, end) = self.connection.keyspace.range(prefix, start_after);
        let mut listing = Listing {
            items: Vec::new(),
            revision: 0,
            more: true,
        };
        let mut at = at;
        while listing.more && (limit == 0 || listing.items.len() < limit) {
            let wanted = if limit == 0 {
                PAGE
            } else {
                (limit - listing.items.len()).min(PAGE)
            };
            let (items, revision, more) = self.connection.page((&from, &end), wanted, at).await?;
            at = Some(revision);
            listing.revision = revision;
            listing.more = more;
            if let Some(last) = items.last() {
                from = self.connection.keyspace.after(&last.key);
            }
            listing.items.extend(items);
        }
        Ok(listing)
    }

    async fn transact(&self, transaction: Transaction) -> Result<TransactOutcome, StoreError> {
        super::check_distinct(&transaction)?;
        let connection = &self.connection;
        let full = |key: &str| connection.keyspace.full(key);
        let leases: Vec<_> = transaction.operations.iter().filter_map(lease_of).collect();
        let compares: Vec<_> = transaction
            .conditions
            .iter()
            .map(|condition| Compare::mod_revision(full(&condition.key), CompareOp::Equal, condition.mod_revision))
            .collect();
        let reads: Vec<_> = transaction
            .conditions
            .iter()
            .map(|condition| TxnOp::get(full(&condition.key), Some(GetOptions::new().with_keys_only())))
            .collect();
        let operations: Vec<_> = transaction
            .operations
            .into_iter()
            .map(|operation| match operation {
                Operation::Put { key, value, lease } => {
                    let options = lease.map(|id| PutOptions::new().with_lease(id.0));
                    TxnOp::put(full(&key), Vec::from(value), options)
                }
                Operation::Delete { key } => TxnOp::delete(full(&key), None),
            })
            .collect();
        let request = Txn::new().when(compares).and_then(operations).or_else(reads);
        let response = match connection.bounded(connection.client.kv_client().txn(request)).await {
            Err(StoreError::LeaseNotFound { .. }) => {
                return Err(StoreError::LeaseNotFound {
                    id: leases.first().copied().unwrap_or(LeaseId(0)),
                });
            }
            other => other?,
        };
        if response.succeeded() {
            return Ok(TransactOutcome::Committed(connection.revision_of(response.header())?));
        }
        for (condition, read) in transaction.conditions.into_iter().zip(response.op_responses()) {
            let TxnOpResponse::Get(found) = read else { continue };
            let actual = found.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision);
            if actual != condition.mod_revision {
                return Ok(TransactOutcome::Conflict {
                    key: condition.key,
                    actual,
                });
            }
        }
        Err(connection
            .errors
            .refused("a transaction failed although its conditions hold"))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        watcher::stream(&self.connection, prefix, after).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        if revision <= 0 {
            Ok(())
        } else {
            self.connection.compact(revision).await
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = i64::try_from(super::whole_seconds(ttl)).unwrap_or(i64::MAX);
        let response = self
            .connection
            .bounded(self.connection.client.lease_client().grant(seconds, None))
            .await?;
        let granted = u64::try_from(response.ttl()).unwrap_or(1);
        Ok(Lease {
            id: LeaseId(response.id()),
            ttl: Duration::from_secs(granted),
        })
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        let mut client = self.connection.client.lease_client();
        match self.connection.bounded(client.keep_alive(id.0)).await {
            Err(StoreError::LeaseNotFound { .. }) => Err(StoreError::LeaseNotFound { id }),
            other => other.map(drop),
        }
    }

    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        match self
            .connection
            .bounded(self.connection.client.lease_client().revoke(id.0))
            .await
        {
            Err(StoreError::LeaseNotFound { .. }) => Err(StoreError::LeaseNotFound { id }),
            other => other.map(drop),
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.connection.revision().await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.connection.revision().await.map(drop)
    }
}

fn lease_of(operation: &Operation) -> Option<LeaseId> {
    match operation {
        Operation::Put { lease, .. } => *lease,
        Operation::Delete { .. } => None,
    }
}
