//! Which of several control replicas runs the reconcilers.
//!
//! The leader holds a key that ends with a lease. It considers itself leader only while its last successful keep-alive is
//! younger than the lease, so a replica that is cut off stops before another one begins. With the embedded store there is one
//! process only, and it always leads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{LeaseId, Store, StoreError, TransactOutcome, Transaction, WatchEvent};

/// The key that the leader holds.
pub const ELECTION_KEY: &str = "/election/control";

/// Tells whether this process leads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    state: watch::Receiver<bool>,
    /// Keeps the state of [`Leadership::always`] open.
    _always: Option<Arc<watch::Sender<bool>>>,
}

impl Leadership {
    /// For a process that cannot have rivals.
    pub fn always() -> Self {
        let (sender, state) = watch::channel(true);
        Self {
            state,
            _always: Some(Arc::new(sender)),
        }
    }

    /// Whether this process leads now.
    pub fn is_leader(&self) -> bool {
        *self.state.borrow()
    }

    /// Returns once this process leads; never, if its candidacy has ended.
    pub async fn acquired(&mut self) {
        let ended = self.state.wait_for(|leads| *leads).await.is_err();
        if ended {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once this process does not lead any more.
    pub async fn lost(&mut self) {
        // A candidacy that has ended leads nothing.
        drop(self.state.wait_for(|leads| !*leads).await);
    }
}

/// A running candidacy. Dropping it resigns too, but nobody can wait for that.
#[derive(Debug)]
pub struct Candidacy {
    leadership: Leadership,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Candidacy {
    /// Runs for leadership of [`ELECTION_KEY`]. `identity` names this replica to people; `ttl` is how long others wait after the leader fell silent.
    pub fn start(store: Arc<dyn Store>, identity: String, ttl: Duration) -> Self {
        let (announce, state) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let candidate = Candidate {
            store,
            identity,
            ttl,
            announce,
        };
        let task = tokio::spawn(candidate.run(stopped));
        Self {
            leadership: Leadership { state, _always: None },
            stop,
            task,
        }
    }

    /// The state to follow.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Gives leadership up, so that another replica takes over at once.
    pub async fn resign(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the candidacy has panicked");
        }
    }
}

/// The identity of the present leader.
pub async fn leader(store: &dyn Store) -> Result<Option<String>, StoreError> {
    Ok(store
        .get(ELECTION_KEY)
        .await?
        .map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
}

/// The end of the sender stops too.
async fn wait_for_stop(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

struct Candidate {
    store: Arc<dyn Store>,
    identity: String,
    ttl: Duration,
    announce: watch::Sender<bool>,
}

impl Candidate {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        loop {
            let lease = tokio::select! {
                result = self.campaign() => match result {
                    Ok(lease) => lease,
                    Err(error) => {
                        tracing::warn!(%error, "cannot run for leadership");
                        sleep(self.ttl / 10).await;
                        continue;
                    }
                },
                () = wait_for_stop(&mut stopped) => return,
            };
            tracing::info!(identity = %self.identity, "leading");
            let stop = tokio::select! {
                () = self.hold(lease) => false,
                () = wait_for_stop(&mut stopped) => true,
            };
            self.announce.send_replace(false);
            tracing::info!(identity = %self.identity, "not leading any more");
            // Best effort: the lease ends by itself as well.
            let _ = timeout(self.ttl, self.store.revoke(lease)).await;
            if stop {
                return;
            }
        }
    }

    /// Returns once the key is ours. The lease is made anew for each try: waiting can take longer than it lives.
    async fn campaign(&self) -> Result<LeaseId, StoreError> {
        loop {
            let started = Instant::now();
            let lease = self.store.grant(self.ttl).await?.id;
            let claim = Transaction::new()
                .when(ELECTION_KEY, 0)
                .put_leased(ELECTION_KEY, self.identity.clone(), lease);
            match self.store.transact(claim).await {
                Ok(TransactOutcome::Committed(_)) if started.elapsed() < self.ttl / 2 => {
                    self.announce.send_replace(true);
                    return Ok(lease);
                }
                Ok(TransactOutcome::Committed(_)) => self.store.revoke(lease).await?,
                Ok(TransactOutcome::Conflict { actual, .. }) => {
                    self.store.revoke(lease).await?;
                    self.vacancy(actual).await?;
                }
                Err(error) => {
                    // The claim may have been carried out.
                    let _ = self.store.revoke(lease).await;
                    return Err(error);
                }
            }
        }
    }

    /// Waits until the key, last changed at `since`, is deleted.
    async fn vacancy(&self, since: i64) -> Result<(), StoreError> {
        let mut watch = match self.store.watch(ELECTION_KEY, since).await {
            Err(error) if error.is_compacted() => {
                sleep(self.ttl / 10).await;
                return Ok(());
            }
            other => other?,
        };
        while let Some(batch) = watch.next().await {
            match batch {
                Ok(batch) => {
                    if batch
                        .events
                        .iter()
                        .any(|event| matches!(event, WatchEvent::Delete { .. }))
                    {
                        return Ok(());
                    }
                }
                Err(error) if error.is_compacted() => {
                    sleep(self.ttl / 10).await;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Keeps the lease alive; returns when it may have ended, early enough that nobody else leads yet.
    async fn hold(&self, lease: LeaseId) {
        let mut renewed = Instant::now();
        let limit = self.ttl * 2 / 3;
        while let Some(left) = limit.checked_sub(renewed.elapsed()) {
            let asked = Instant::now();
            match timeout(left, self.store.keep_alive(lease)).await {
                Ok(Ok(())) => renewed = asked,
                Ok(Err(StoreError::LeaseNotFound { .. })) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew leadership"),
            }
            sleep(self.ttl / 6).await;
        }
    }
}
