//! One worker for every pod of this node: those the API server binds here, and those this node still remembers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_proto::{Resource, client::Store, v1::Pod};
use tokio::{sync::broadcast, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    adopt::{addresses_of, first_record},
    context::Context,
    execute::chain,
    inbox::Inbox,
    machine::Machine,
    record::Record,
    worker::Worker,
};
use crate::runtime::{SandboxId, SandboxState};

/// Everything is compared again this often, whatever happens.
const FULL_PASS: Duration = Duration::from_secs(30);

/// The node's pods.
pub struct Manager<M: Machine> {
    context: Arc<Context<M>>,
    pods: Store<Pod>,
    workers: BTreeMap<String, Arc<Inbox>>,
    running: JoinSet<()>,
    /// Whose worker a task is.
    tasks: HashMap<tokio::task::Id, String>,
    /// Pods whose worker has ended while the API server still has them (finalizers of others): nothing is left to do.
    done: BTreeSet<String>,
    /// Sandboxes that no record explains, found at start.
    strays: BTreeMap<String, SandboxState>,
}

/// What a pass should do: pure, see [`compare`].
#[derive(Debug, PartialEq, Eq, Default)]
struct Comparison {
    /// Uids that need a worker.
    start: Vec<String>,
    /// Uids of workers whose pod the API server does not have any more.
    gone: Vec<String>,
}

/// Compares the pods the API server binds here with the workers. Before the first complete list (`desired` is `None`)
/// absence means nothing.
fn compare<'a>(
    desired: Option<impl IntoIterator<Item = &'a str>>,
    workers: &BTreeSet<&str>,
    done: &BTreeSet<String>,
) -> Comparison {
    let Some(desired) = desired else {
        return Comparison::default();
    };
    let desired: BTreeSet<&str> = desired.into_iter().collect();
    Comparison {
        start: desired
            .iter()
            .filter(|uid| !workers.contains(*uid) && !done.contains(**uid))
            .map(ToString::to_string)
            .collect(),
        gone: workers
            .iter()
            .filter(|uid| !desired.contains(*uid))
            .map(ToString::to_string)
            .collect(),
    }
}

impl<M: Machine> Manager<M> {
    /// A manager that begins with the remembered pods; `strays` are sandboxes without a record.
    pub fn new(context: Arc<Context<M>>, pods: Store<Pod>, records: Vec<Record>, strays: Vec<SandboxState>) -> Self {
        let mut manager = Self {
            context,
            pods,
            workers: BTreeMap::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            done: BTreeSet::new(),
            strays: strays.into_iter().map(|state| (state.id.0.clone(), state)).collect(),
        };
        for record in records {
            manager.spawn(record, true);
        }
        manager
    }

    /// Runs until `stop`. The pods go on.
    pub async fn run(mut self, mut sandboxes: broadcast::Receiver<SandboxId>, stop: CancellationToken) {
        let mut changes = self.pods.changes();
        let mut full = tokio::time::interval(FULL_PASS);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changes.changed() => self.pass().await,
                _ = full.tick() => self.pass().await,
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                event = sandboxes.recv() => match event {
                    Ok(id) => self.wake(&id.0),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.workers.values().for_each(|inbox| inbox.wake()),
                    // The runtime is gone: the agent is about to stop. The full passes go on.
                    Err(broadcast::error::RecvError::Closed) => sandboxes = broadcast::channel(1).1,
                },
            }
        }
    }

    fn wake(&self, uid: &str) {
        if let Some(inbox) = self.workers.get(uid) {
            inbox.wake();
        }
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
        let Some(uid) = self.tasks.remove(&id) else { return };
        self.workers.remove(&uid);
        match ended {
            Ok(_) => drop(self.done.insert(uid)),
            // Only a defect gets here. The next pass gives the pod another worker, from what is on disk.
            Err(error) => tracing::error!(uid, %error, "a pod's worker failed"),
        }
        self.context.metrics.set_pods(self.workers.len());
    }

    async fn pass(&mut self) {
        let pods = self.pods.snapshot();
        let synced = self.pods.is_synced();
        let by_uid: BTreeMap<&str, &Arc<Pod>> = pods.iter().map(|pod| (pod.meta().uid.as_str(), pod)).collect();
        let workers = self.workers.keys().map(String::as_str).collect();
        let comparison = compare(synced.then(|| by_uid.keys().copied()), &workers, &self.done);
        if synced {
            self.done.retain(|uid| by_uid.contains_key(uid.as_str()));
        }
        for uid in &comparison.gone {
            if let Some(inbox) = self.workers.get(uid) {
                inbox.gone();
            }
        }
        for (uid, pod) in &by_uid {
            if let Some(inbox) = self.workers.get(*uid) {
                inbox.deliver(Pod::clone(pod));
            }
        }
        for uid in comparison.start {
            if let Some(pod) = by_uid.get(uid.as_str()) {
                match self.context.records.get(&uid) {
                    Ok(Some(record)) => self.spawn(record, true),
                    Ok(None) => {
                        let stray = self.strays.remove(&uid);
                        self.spawn(first_record(Pod::clone(pod), stray.as_ref(), SystemTime::now()), false);
                    }
                    Err(error) => tracing::error!(uid, error = chain(&error), "pod not started"),
                }
            }
        }
        if synced {
            self.remove_strays().await;
        }
    }

    fn spawn(&mut self, record: Record, from_disk: bool) {
        let uid = record.uid().to_owned();
        let inbox = Arc::new(Inbox::default());
        let worker = Worker::new(Arc::clone(&self.context), Arc::clone(&inbox), record, from_disk);
        self.workers.insert(uid.clone(), inbox);
        let task = self.running.spawn(worker.run());
        self.tasks.insert(task.id(), uid);
        self.context.metrics.set_pods(self.workers.len());
    }

    /// Removes sandboxes that belong to no pod, now that all pods are known.
    async fn remove_strays(&mut self) {
        let strays: Vec<_> = self
            .strays
            .values()
            .map(|state| (state.id.0.clone(), addresses_of(state)))
            .collect();
        for (uid, addresses) in strays {
            tracing::info!(uid, "removing a sandbox that belongs to no pod");
            match self.context.machine.remove(&SandboxId(uid.clone()), &addresses).await {
                Ok(()) => {
                    self.strays.remove(&uid);
                    self.context.addresses.release(&uid);
                }
                Err(error) => tracing::warn!(uid, error = chain(&error), "sandbox not removed, will be tried again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<'a>(uids: &[&'a str]) -> BTreeSet<&'a str> {
        uids.iter().copied().collect()
    }

    #[test]
    fn before_the_first_complete_list_nothing_is_concluded() {
        let none: Option<Vec<&str>> = None;
        assert_eq!(compare(none, &set(&["a"]), &BTreeSet::new()), Comparison::default());
    }

    #[test]
    fn bound_pods_get_workers_and_lost_ones_are_told() {
        let done = BTreeSet::from(["c".to_owned()]);
        let got = compare(Some(["b", "c", "d"]), &set(&["a", "b"]), &done);
        assert_eq!(
            got,
            Comparison {
                start: vec!["d".into()],
                gone: vec!["a".into()]
            }
        );
    }
}
