//! Tells the API server a pod's status, however long it is away, without holding up the pod's worker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_proto::{
    Resource,
    client::{Backoff, Client, ClientError},
    v1::{Pod, PodStatus},
};
use tokio::sync::Notify;

use super::inbox::Inbox;

/// Writes the status of one pod. Dropping it stops the writing.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What the API server should say, on the basis of which object. Taken by the task.
    pending: Option<(Pod, PodStatus)>,
    /// The last status asked for.
    asked: Option<PodStatus>,
    /// Version of the object that the last write answered with.
    acknowledged: Option<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(&self, written: &PodStatus, stored: &Pod) {
        let mut state = self.lock();
        if state.asked.as_ref() == Some(written) {
            state.acknowledged = Some(super::inbox::version(stored));
        }
    }
}

impl Writer {
    /// Starts the writing task of one pod; what the API server answers goes to `inbox`.
    pub fn start(client: Client, inbox: Arc<Inbox>) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(write_all(client, Arc::clone(&shared), inbox)).abort_handle();
        Self { shared, task }
    }

    /// Asks for `status` on `pod`, the newest known object. Does nothing when the API server says so already, or was told.
    pub fn publish(&self, pod: &Pod, status: PodStatus) {
        if must_write(&self.shared.lock(), pod, &status) {
            let mut state = self.shared.lock();
            state.asked = Some(status.clone());
            state.acknowledged = None;
            state.pending = Some((pod.clone(), status));
            drop(state);
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether `status` has to be written over `pod`'s. A write that was acknowledged is repeated only when somebody has
/// changed the object since.
fn must_write(state: &State, pod: &Pod, status: &PodStatus) -> bool {
    if state.asked.as_ref() != Some(status) {
        return state.pending.is_some() || pod.status.as_ref() != Some(status);
    }
    match state.acknowledged {
        None => false,
        Some(version) => pod.status.as_ref() != Some(status) && super::inbox::version(pod) > version,
    }
}

async fn write_all(client: Client, shared: Arc<Shared>, inbox: Arc<Inbox>) {
    let mut backoff = Backoff::default();
    loop {
        let pending = shared.lock().pending.take();
        let Some((pod, status)) = pending else {
            shared.changed.notified().await;
            continue;
        };
        match write(&client, &pod, status.clone()).await {
            Ok(Some(stored)) => {
                backoff.reset();
                shared.acknowledge(&status, &stored);
                inbox.deliver(stored);
            }
            // The pod is gone; the watch will say so too.
            Ok(None) => {}
            Err(error) => {
                if error.is_unavailable() {
                    tracing::debug!(pod = pod.key(), %error, "pod status not written yet");
                } else {
                    tracing::warn!(pod = pod.key(), %error, "pod status refused, will be tried again");
                }
                shared.lock().pending.get_or_insert((pod, status));
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Writes the status; `None` when the pod is not there any more.
async fn write(client: &Client, pod: &Pod, status: PodStatus) -> Result<Option<Pod>, ClientError> {
    let with_status = |mut pod: Pod| {
        pod.status = Some(status.clone());
        pod
    };
    let meta = pod.meta();
    let answer = match client.update_status(with_status(pod.clone())).await {
        Err(error) if error.is_conflict() => match client.get::<Pod>(&meta.namespace, &meta.name).await {
            Ok(fresh) if fresh.meta().uid != meta.uid => return Ok(None),
            Ok(fresh) => client.update_status(with_status(fresh)).await,
            Err(error) => Err(error),
        },
        answer => answer,
    };
    match answer {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::ObjectMeta;

    use super::*;

    fn pod(version: u64, phase: &str) -> Pod {
        let metadata = Some(ObjectMeta {
            resource_version: version.to_string(),
            ..ObjectMeta::default()
        });
        Pod {
            metadata,
            status: Some(status(phase)),
            ..Pod::default()
        }
    }

    fn status(phase: &str) -> PodStatus {
        PodStatus {
            phase: phase.into(),
            ..PodStatus::default()
        }
    }

    #[test]
    fn a_status_is_written_once_and_again_only_over_others_changes() {
        let mut state = State::default();
        assert!(!must_write(&state, &pod(1, "Running"), &status("Running")));
        assert!(must_write(&state, &pod(1, "Pending"), &status("Running")));
        state.asked = Some(status("Running"));
        assert!(
            !must_write(&state, &pod(1, "Pending"), &status("Running")),
            "on its way"
        );
        state.acknowledged = Some(5);
        assert!(
            !must_write(&state, &pod(4, "Pending"), &status("Running")),
            "the watch is behind"
        );
        assert!(
            !must_write(&state, &pod(5, "Other"), &status("Running")),
            "the server sees it differently"
        );
        assert!(
            must_write(&state, &pod(6, "Unknown"), &status("Running")),
            "somebody changed it"
        );
        assert!(must_write(&state, &pod(5, "Running"), &status("Failed")));
    }

    #[test]
    fn going_back_to_what_the_server_says_replaces_a_write_that_waits() {
        let state = State {
            pending: Some((pod(1, "A"), status("B"))),
            asked: Some(status("B")),
            acknowledged: None,
        };
        assert!(must_write(&state, &pod(1, "A"), &status("A")));
    }
}
