//! Following live sandboxes, so that a change is known at once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::broadcast, task::AbortHandle};

use super::{client::Client, files::PodDir, holder::protocol::Request, spec::SandboxId};

/// Ids kept for a receiver that is slow.
const BACKLOG: usize = 1024;

/// Pause before another try to reach a holder that lives but does not answer.
const RETRY: Duration = Duration::from_millis(200);

/// One task per live sandbox. Dropping this ends them.
#[derive(Debug)]
pub(super) struct Watchers {
    sender: broadcast::Sender<SandboxId>,
    tasks: Mutex<HashMap<SandboxId, AbortHandle>>,
}

impl Watchers {
    pub fn new() -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
            tasks: Mutex::default(),
        }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<SandboxId> {
        self.sender.subscribe()
    }

    pub fn announce(&self, id: &SandboxId) {
        // Nobody listening is fine.
        drop(self.sender.send(id.clone()));
    }

    /// Follows the sandbox in `dir` until its holder is dead. Following one twice is following it once.
    pub fn follow(&self, id: &SandboxId, dir: &PodDir) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.get(id).is_some_and(|task| !task.is_finished()) {
            return;
        }
        let task = tokio::spawn(follow(self.sender.clone(), id.clone(), dir.clone()));
        tasks.insert(id.clone(), task.abort_handle());
    }

    /// Stops following.
    pub fn forget(&self, id: &SandboxId) {
        if let Some(task) = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(id) {
            task.abort();
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.tasks
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .for_each(AbortHandle::abort);
    }
}

async fn follow(sender: broadcast::Sender<SandboxId>, id: SandboxId, dir: PodDir) {
    loop {
        // Every break in the conversation may have hidden a change, and the last one tells that the holder is dead.
        drop(sender.send(id.clone()));
        let Ok(mut client) = Client::connect(&dir).await else {
            if dir.holder().is_none() {
                return;
            }
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let mut heard = client.ask(&Request::Watch).await;
        while heard.is_ok() {
            drop(sender.send(id.clone()));
            heard = client.next().await;
        }
    }
}
