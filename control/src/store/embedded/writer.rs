//! The one thread that changes the database.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use redb::{Error, ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::{
    super::{Lease, LeaseId, Operation, Revision, StoreError, TransactOutcome, Transaction, WatchBatch, WatchEvent},
    EmbeddedOptions, Shared,
    compaction::{self, Policy},
    engine_error, io_error,
    schema::{
        self, CHANGES, LEASE_KEYS, LEASES, META, META_COMPACTED, META_LAST_LEASE, META_REVISION, VERSIONS, Version,
        VersionKey, VersionValue,
    },
};

/// Requests that share one commit at most.
const MAX_GROUP: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Request {
    Transact {
        transaction: Transaction,
        reply: Reply<TransactOutcome>,
    },
    Grant {
        ttl: Duration,
        reply: Reply<Lease>,
    },
    Revoke {
        id: LeaseId,
        reply: Reply<()>,
    },
    Compact {
        revision: Revision,
        reply: Reply<()>,
    },
}

/// An answer that waits for the commit; given an error, the commit failed.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

fn answer<T: Send + 'static>(reply: Reply<T>, result: Result<T, StoreError>) -> Answer {
    // A caller that has gone away does not want its answer.
    Box::new(move |committed| drop(reply.send(committed.and(result))))
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    policy: Policy,
    next_policy: Instant,
    /// Where automatic compaction is heading.
    target: Revision,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, requests: mpsc::Receiver<Request>, options: &EmbeddedOptions) -> Self {
        let policy = Policy::new(options.retention, options.max_revisions);
        Self {
            shared,
            requests,
            policy,
            next_policy: Instant::now(),
            target: 0,
        }
    }

    /// Works until every sender is gone.
    pub(super) fn run(mut self) {
        loop {
            let mut group = Vec::new();
            match self.requests.recv_timeout(self.patience()) {
                Ok(request) => group.push(request),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            group.extend(self.requests.try_iter().take(MAX_GROUP - 1));
            let now = Instant::now();
            if now >= self.next_policy {
                self.next_policy = now + self.policy.interval();
                let last = *self.shared.committed.borrow();
                self.target = self.target.max(self.policy.target(now, last));
            }
            let expired = self.shared.leases().take_expired(now);
            if !group.is_empty() || !expired.is_empty() {
                self.commit(group, &expired);
            }
            if self.target > self.shared.compacted() {
                self.compact(self.target, 1);
            }
        }
    }

    fn patience(&self) -> Duration {
        if self.target > self.shared.compacted() && self.shared.failure().is_none() {
            return Duration::ZERO;
        }
        let lease = self.shared.leases().next_deadline();
        let next = lease.map_or(self.next_policy, |deadline| deadline.min(self.next_policy));
        next.saturating_duration_since(Instant::now())
    }

    fn commit(&mut self, group: Vec<Request>, expired: &[LeaseId]) {
        if let Some(failure) = self.shared.failure() {
            tracing::debug!(requests = group.len(), %failure, "refused to write");
            for request in group {
                self.refuse(request);
            }
            return;
        }
        let mut compactions = Vec::new();
        let mut answers: Vec<Answer> = Vec::new();
        let result = self.write(group, expired, &mut answers, &mut compactions);
        if let Err(error) = &result {
            self.fail(error);
        }
        let directory = &self.shared.directory;
        for answer in answers {
            answer(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io_error(directory, error.to_string())),
            });
        }
        for (revision, reply) in compactions {
            let last = *self.shared.committed.borrow();
            let result = if revision > last {
                Err(StoreError::FutureRevision {
                    requested: revision,
                    last,
                })
            } else {
                self.compact(revision, usize::MAX);
                self.shared.failure().map_or(Ok(()), Err)
            };
            answer(reply, result)(Ok(()));
        }
    }

    /// Commits a group; on success memory follows before anyone is answered.
    fn write(
        &self,
        group: Vec<Request>,
        expired: &[LeaseId],
        answers: &mut Vec<Answer>,
        compactions: &mut Vec<(Revision, Reply<()>)>,
    ) -> Result<(), Error> {
        let transaction = self.shared.database.begin_write()?;
        let mut granted = Vec::new();
        let mut ended = expired.to_vec();
        let batches = {
            let mut tables = Tables::open(&transaction)?;
            for id in expired {
                tables.end_lease(*id)?;
            }
            for request in group {
                match request {
                    Request::Transact { transaction, reply } => {
                        let result = tables.transact(transaction)?;
                        answers.push(answer(reply, result));
                    }
                    Request::Grant { ttl, reply } => {
                        let lease = tables.grant(ttl)?;
                        granted.push(lease);
                        answers.push(answer(reply, Ok(lease)));
                    }
                    Request::Revoke { id, reply } => {
                        let existed = tables.end_lease(id)?;
                        ended.push(id);
                        answers.push(answer(
                            reply,
                            if existed {
                                Ok(())
                            } else {
                                Err(StoreError::LeaseNotFound { id })
                            },
                        ));
                    }
                    Request::Compact { revision, reply } => compactions.push((revision, reply)),
                }
            }
            tables.finish()?
        };
        transaction.commit()?;
        {
            let mut leases = self.shared.leases();
            for lease in granted {
                leases.insert(lease.id, lease.ttl);
            }
            for id in ended {
                leases.remove(id);
            }
        }
        if let Some(last) = batches.last().map(|batch| batch.revision) {
            let mut recent = self.shared.recent();
            for batch in batches {
                recent.push(batch);
            }
            drop(recent);
            self.shared.committed.send_replace(last);
        }
        Ok(())
    }

    fn compact(&self, target: Revision, max_steps: usize) {
        for _ in 0..max_steps {
            if self.shared.compacted() >= target || self.shared.failure().is_some() {
                return;
            }
            match self.compaction_step(target) {
                Ok(done) => self.shared.compacted.store(done, Ordering::Release),
                Err(error) => self.fail(&error),
            }
        }
    }

    fn compaction_step(&self, target: Revision) -> Result<Revision, Error> {
        let transaction = self.shared.database.begin_write()?;
        let done = {
            let mut versions = transaction.open_table(VERSIONS)?;
            let mut changes = transaction.open_table(CHANGES)?;
            let done = compaction::step(&mut versions, &mut changes, target)?;
            transaction.open_table(META)?.insert(META_COMPACTED, done)?;
            done
        };
        transaction.commit()?;
        Ok(done)
    }

    fn fail(&self, error: &Error) {
        tracing::error!(directory = %self.shared.directory.display(), %error, "writing failed; no further writes are accepted");
        let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| error.to_string());
    }

    fn refuse(&self, request: Request) {
        let failure = self
            .shared
            .failure()
            .unwrap_or_else(|| engine_error(&self.shared.directory, Error::PreviousIo));
        match request {
            Request::Transact { reply, .. } => answer(reply, Err(failure))(Ok(())),
            Request::Grant { reply, .. } => answer(reply, Err(failure))(Ok(())),
            Request::Revoke { reply, .. } | Request::Compact { reply, .. } => answer(reply, Err(failure))(Ok(())),
        }
    }
}

/// The open tables of one write transaction, and what it has done so far.
struct Tables<'t> {
    versions: Table<'t, VersionKey, VersionValue>,
    changes: Table<'t, (i64, &'static str), ()>,
    leases: Table<'t, i64, u64>,
    lease_keys: Table<'t, (i64, &'static str), ()>,
    meta: Table<'t, &'static str, i64>,
    revision: Revision,
    batches: Vec<WatchBatch>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, Error> {
        let meta = transaction.open_table(META)?;
        let revision = schema::counter(&meta, META_REVISION)?;
        Ok(Self {
            versions: transaction.open_table(VERSIONS)?,
            changes: transaction.open_table(CHANGES)?,
            leases: transaction.open_table(LEASES)?,
            lease_keys: transaction.open_table(LEASE_KEYS)?,
            meta,
            revision,
            batches: Vec::new(),
        })
    }

    fn finish(mut self) -> Result<Vec<WatchBatch>, Error> {
        self.meta.insert(META_REVISION, self.revision)?;
        Ok(self.batches)
    }

    /// The inner error is the caller's, the outer one ends the whole group.
    fn transact(&mut self, transaction: Transaction) -> Result<Result<TransactOutcome, StoreError>, Error> {
        for condition in transaction.conditions {
            let actual = schema::live_at(&self.versions, &condition.key, Revision::MAX)?;
            let actual = actual.map_or(0, |version| version.mod_revision);
            if actual != condition.mod_revision {
                return Ok(Ok(TransactOutcome::Conflict {
                    key: condition.key,
                    actual,
                }));
            }
        }
        for operation in &transaction.operations {
            if let Operation::Put { lease: Some(id), .. } = operation
                && self.leases.get(id.0)?.is_none()
            {
                return Ok(Err(StoreError::LeaseNotFound { id: *id }));
            }
        }
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for operation in transaction.operations {
            events.extend(self.apply(operation, revision)?);
        }
        self.close_revision(revision, events);
        Ok(Ok(TransactOutcome::Committed(self.revision)))
    }

    fn close_revision(&mut self, revision: Revision, mut events: Vec<WatchEvent>) {
        if !events.is_empty() {
            events.sort_by(|a, b| a.key().cmp(b.key()));
            self.batches.push(WatchBatch { revision, events });
            self.revision = revision;
        }
    }

    fn apply(&mut self, operation: Operation, revision: Revision) -> Result<Option<WatchEvent>, Error> {
        match operation {
            Operation::Put { key, value, lease } => {
                let previous = schema::live_at(&self.versions, &key, Revision::MAX)?;
                self.detach(&key, previous.as_ref())?;
                let lease = lease.map_or(0, |id| id.0);
                if lease != 0 {
                    self.lease_keys.insert((lease, key.as_str()), ())?;
                }
                let create_revision = previous.as_ref().map_or(revision, |version| version.create_revision);
                self.versions
                    .insert((key.as_str(), revision), (create_revision, lease, value.as_ref()))?;
                self.changes.insert((revision, key.as_str()), ())?;
                let previous = previous.map(|version| version.into_key_value(&key));
                let version = Version {
                    mod_revision: revision,
                    create_revision,
                    lease,
                    value,
                };
                Ok(Some(WatchEvent::Put {
                    current: version.into_key_value(&key),
                    previous,
                }))
            }
            Operation::Delete { key } => {
                let Some(previous) = schema::live_at(&self.versions, &key, Revision::MAX)? else {
                    return Ok(None);
                };
                self.detach(&key, Some(&previous))?;
                self.versions.insert((key.as_str(), revision), (0, 0, [].as_slice()))?;
                self.changes.insert((revision, key.as_str()), ())?;
                let previous = Some(previous.into_key_value(&key));
                Ok(Some(WatchEvent::Delete { key, previous }))
            }
        }
    }

    fn detach(&mut self, key: &str, previous: Option<&Version>) -> Result<(), Error> {
        if let Some(lease) = previous.map(|version| version.lease).filter(|lease| *lease != 0) {
            self.lease_keys.remove((lease, key))?;
        }
        Ok(())
    }

    fn grant(&mut self, ttl: Duration) -> Result<Lease, Error> {
        let id = schema::counter(&self.meta, META_LAST_LEASE)? + 1;
        self.meta.insert(META_LAST_LEASE, id)?;
        self.leases.insert(id, ttl.as_secs())?;
        Ok(Lease { id: LeaseId(id), ttl })
    }

    /// Deletes a lease and its keys, at one revision; false if there is none.
    fn end_lease(&mut self, id: LeaseId) -> Result<bool, Error> {
        if self.leases.remove(id.0)?.is_none() {
            return Ok(false);
        }
        let keys = self.lease_keys.range((id.0, "")..(id.0 + 1, ""))?;
        let keys = keys
            .map(|row| row.map(|(key, _)| key.value().1.to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for key in keys {
            events.extend(self.apply(Operation::Delete { key }, revision)?);
        }
        self.close_revision(revision, events);
        Ok(true)
    }
}
