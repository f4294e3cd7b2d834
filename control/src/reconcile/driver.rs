//! Runs a reconciler: plan, execute what the plan says key by key, wait until something may have changed.
//!
//! - A wake-up carries nothing; each pass looks at everything and plans anew.
//! - Two executions of one key never overlap.
//! - A key that failed waits longer each time; other keys do not wait for it.
//! - A full pass happens from time to time without any wake-up.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use causeway_proto::{Kind, client::Backoff};
use futures::FutureExt;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    api::{ApiError, Registry},
    store::{Revision, StoreError},
};

/// What a pass found to do.
#[derive(Debug)]
pub struct Pass<W> {
    /// Work by key. A key without work is as it should be.
    pub work: BTreeMap<String, W>,
    /// Look again after this time even if nothing changes: something is due then.
    pub again_in: Option<Duration>,
}

impl<W> Default for Pass<W> {
    fn default() -> Self {
        Self {
            work: BTreeMap::new(),
            again_in: None,
        }
    }
}

impl<W> Pass<W> {
    /// Asks for another look after `delay`, or earlier if that was asked for already.
    pub fn look_again_in(&mut self, delay: Duration) {
        self.again_in = Some(self.again_in.map_or(delay, |present| present.min(delay)));
    }
}

/// Why work on a key failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API refused or failed.
    #[error("{doing}")]
    Api {
        /// What was being done, with the object's name.
        doing: String,
        /// The API's answer.
        #[source]
        source: ApiError,
    },
    /// The store failed.
    #[error("{doing}")]
    Store {
        /// What was being done.
        doing: String,
        /// The store's answer.
        #[source]
        source: StoreError,
    },
    /// Another thing has to happen first; it is not an error to report loudly.
    #[error("{0}")]
    NotYet(String),
    /// The work panicked.
    #[error("panicked: {0}")]
    Panicked(String),
}

impl ReconcileError {
    /// For `map_err`: says what was being done.
    pub fn api(doing: impl Into<String>) -> impl FnOnce(ApiError) -> Self {
        move |source| Self::Api {
            doing: doing.into(),
            source,
        }
    }

    /// For `map_err`: says what was being done.
    pub fn store(doing: impl Into<String>) -> impl FnOnce(StoreError) -> Self {
        move |source| Self::Store {
            doing: doing.into(),
            source,
        }
    }

    /// Someone else changed the object meanwhile: planning anew is the answer, no error.
    fn is_outdated(&self) -> bool {
        match self {
            Self::Api { source, .. } => source.is_conflict() || source.is_not_found(),
            Self::NotYet(_) => true,
            _ => false,
        }
    }
}

/// Makes one kind of thing be as it should be.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// What is to be done for one key.
    type Work: Send + 'static;

    /// For logs and metrics.
    fn name(&self) -> &'static str;

    /// The kinds whose changes wake it. All caches that it reads belong here, unless only time matters.
    fn sources(&self) -> &'static [Kind];

    /// Looks at everything. Must not block: it reads caches and computes.
    fn plan(&self) -> Pass<Self::Work>;

    /// Called right before work on a key begins, before the next plan.
    fn begin(&self, _key: &str, _work: &Self::Work) {}

    /// Does the work of one key. May be aborted at any await.
    async fn execute(&self, key: &str, work: Self::Work) -> Result<(), ReconcileError>;
}

/// How a driver waits.
#[derive(Clone, Copy, Debug)]
pub struct DriverOptions {
    /// Time between full passes without wake-up.
    pub full_pass: Duration,
    /// Changes within this time share a pass.
    pub settle: Duration,
    /// Back-off of a failing key.
    pub first_retry: Duration,
    /// Longest back-off of a failing key.
    pub last_retry: Duration,
    /// Keys worked on at a time.
    pub concurrency: usize,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            full_pass: Duration::from_secs(30),
            settle: Duration::from_millis(10),
            first_retry: Duration::from_millis(50),
            last_retry: Duration::from_secs(30),
            concurrency: 16,
        }
    }
}

/// What is remembered of a key between passes.
struct KeyState {
    backoff: Backoff,
    failed: bool,
    not_before: Instant,
}

/// Drives a reconciler until aborted. Begins once its caches are complete.
pub async fn run<R: Reconciler>(reconciler: Arc<R>, registry: Registry, options: DriverOptions) {
    let mut wakes = Vec::new();
    for kind in reconciler.sources() {
        registry.cache(*kind).synced().await;
        wakes.push(registry.cache(*kind).changed());
    }
    let mut driver = Driver {
        reconciler,
        options,
        states: HashMap::new(),
        running: JoinSet::new(),
        busy: HashMap::new(),
    };
    loop {
        for wake in &mut wakes {
            wake.mark_unchanged();
        }
        let due = driver.pass();
        tokio::select! {
            () = any_change(&mut wakes) => {}
            Some(done) = driver.running.join_next_with_id(), if !driver.running.is_empty() => driver.finished(done),
            () = sleep_until(due) => {}
        }
        sleep(options.settle).await;
        while let Some(done) = driver.running.try_join_next_with_id() {
            driver.finished(done);
        }
    }
}

async fn any_change(wakes: &mut [watch::Receiver<Revision>]) {
    if wakes.is_empty() {
        return std::future::pending().await;
    }
    let changes = wakes.iter_mut().map(|wake| {
        Box::pin(async {
            if wake.changed().await.is_err() {
                // The cache is gone; so will this task be.
                std::future::pending::<()>().await;
            }
        })
    });
    futures::future::select_all(changes).await;
}

type Outcome = Result<(), ReconcileError>;

struct Driver<R: Reconciler> {
    reconciler: Arc<R>,
    options: DriverOptions,
    states: HashMap<String, KeyState>,
    running: JoinSet<Outcome>,
    busy: HashMap<tokio::task::Id, String>,
}

impl<R: Reconciler> Driver<R> {
    /// Plans and starts what can be started; answers when to plan again at the latest.
    fn pass(&mut self) -> Instant {
        let pass = self.reconciler.plan();
        let now = Instant::now();
        let mut due = now + self.options.full_pass;
        if let Some(delay) = pass.again_in {
            due = due.min(now + delay);
        }
        let busy: std::collections::HashSet<&String> = self.busy.values().collect();
        self.states
            .retain(|key, _| pass.work.contains_key(key) || busy.contains(key));
        let mut start = Vec::new();
        for (key, work) in pass.work {
            if busy.contains(&key) {
                // Its end causes the next pass.
                continue;
            }
            if let Some(state) = self.states.get(&key).filter(|state| state.not_before > now) {
                due = due.min(state.not_before);
                continue;
            }
            if busy.len() + start.len() >= self.options.concurrency {
                break;
            }
            start.push((key, work));
        }
        for (key, work) in start {
            self.start(key, work);
        }
        due
    }

    fn start(&mut self, key: String, work: R::Work) {
        self.reconciler.begin(&key, &work);
        let reconciler = Arc::clone(&self.reconciler);
        let name = key.clone();
        let task = self.running.spawn(async move {
            let execution = AssertUnwindSafe(reconciler.execute(&name, work)).catch_unwind();
            execution
                .await
                .unwrap_or_else(|panic| Err(ReconcileError::Panicked(panic_text(panic.as_ref()))))
        });
        self.busy.insert(task.id(), key);
    }

    fn finished(&mut self, done: Result<(tokio::task::Id, Outcome), tokio::task::JoinError>) {
        let (id, outcome) = match done {
            Ok(done) => done,
            Err(error) => (error.id(), Err(ReconcileError::Panicked(error.to_string()))),
        };
        let Some(key) = self.busy.remove(&id) else { return };
        let (first, last) = (self.options.first_retry, self.options.last_retry);
        let state = self.states.entry(key.clone()).or_insert_with(|| KeyState {
            backoff: Backoff::new(first, last),
            failed: false,
            not_before: Instant::now(),
        });
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut state.failed) {
                    tracing::info!(reconciler = self.reconciler.name(), key, "works again");
                }
                state.backoff.reset();
                // Should the plan not agree that it is done, it is not done in a busy loop.
                state.not_before = Instant::now() + self.options.settle;
            }
            Err(error) => {
                let delay = state.backoff.next_delay();
                state.not_before = Instant::now() + delay;
                if error.is_outdated() {
                    tracing::debug!(
                        reconciler = self.reconciler.name(),
                        key,
                        error = chain(&error),
                        "planning anew"
                    );
                } else {
                    state.failed = true;
                    tracing::warn!(
                        reconciler = self.reconciler.name(),
                        key,
                        error = chain(&error),
                        ?delay,
                        "failed"
                    );
                }
            }
        }
    }
}

/// An error with its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown".to_owned())
}
