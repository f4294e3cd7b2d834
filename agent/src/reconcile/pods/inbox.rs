//! How the rest of the agent speaks to a pod's worker: the newest known object, and a wake-up without content.

use std::sync::{Mutex, PoisonError};

use causeway_proto::{Resource, v1::Pod};
use tokio::sync::Notify;

/// One pod's inbox.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    newest: Option<Pod>,
    gone: bool,
}

impl Inbox {
    /// Looks at the pod again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for a wake-up since the last one. Cancel-safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Brings a version of the pod; an older one than is known is ignored.
    pub fn deliver(&self, pod: Pod) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.newest.as_ref().is_none_or(|known| version(known) < version(&pod)) {
            state.newest = Some(pod);
            drop(state);
            self.wake();
        }
    }

    /// The API server does not have the pod any more.
    pub fn gone(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut state.gone, true) {
            drop(state);
            self.wake();
        }
    }

    /// The newest version brought so far, and whether the pod is gone.
    pub fn look(&self) -> (Option<Pod>, bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (state.newest, state.gone)
    }
}

/// The object's version as a number; versions of one object grow.
pub fn version(pod: &Pod) -> u64 {
    pod.meta().resource_version.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::ObjectMeta;

    use super::*;

    fn pod(version: u64) -> Pod {
        let metadata = Some(ObjectMeta {
            resource_version: version.to_string(),
            ..ObjectMeta::default()
        });
        Pod {
            metadata,
            ..Pod::default()
        }
    }

    #[test]
    fn the_newest_version_wins_whatever_the_order() {
        let inbox = Inbox::default();
        for version in [5, 9, 7] {
            inbox.deliver(pod(version));
        }
        assert_eq!(inbox.look(), (Some(pod(9)), false));
        inbox.gone();
        assert!(inbox.look().1);
    }
}
