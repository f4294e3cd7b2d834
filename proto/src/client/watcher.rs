//! List and watch as one stream of changes that never ends.

use super::{Backoff, Client, ClientError, ListOptions, WatchStream};
use crate::{
    kind::Kind,
    v1::{Object, watch_event},
};

/// What a [`Watcher`] saw.
#[derive(Clone, Debug)]
pub enum Change {
    /// The complete set of objects, after the first list and each later one.
    Replaced(Vec<Object>),
    /// An object was added or changed.
    Applied(Object),
    /// An object was deleted or no longer matches the selectors.
    Deleted(Object),
    /// Nothing changed up to here.
    Bookmark,
    /// The control plane cannot be reached or ended the watch. The watcher goes on by itself: it waits and tries again
    /// when it is next asked. `None` for a watch that ended without an error.
    Interrupted(Option<ClientError>),
}

/// Lists, watches from the list's revision, resumes from the last revision seen, and lists again when that revision is
/// compacted. It tries for ever, with back-off.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    kind: Kind,
    options: ListOptions,
    state: State,
    backoff: Backoff,
    wait: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing is known, or what was known is too old to go on from.
    List,
    /// Everything up to this revision was seen.
    Resume(String),
    /// As `Resume`, with a watch that delivers.
    Watch(String, Box<WatchStream>),
}

impl Watcher {
    /// A watcher that has done nothing yet.
    pub fn new(client: Client, kind: Kind, options: ListOptions) -> Self {
        Self {
            client,
            kind,
            options,
            state: State::List,
            backoff: Backoff::default(),
            wait: false,
        }
    }

    /// Uses other delays after failures than [`Backoff::default`].
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The next change. Cancel-safe: a call that is dropped loses nothing.
    pub async fn next(&mut self) -> Change {
        if self.wait {
            tokio::time::sleep(self.backoff.next_delay()).await;
            self.wait = false;
        }
        loop {
            match &mut self.state {
                State::List => match self.client.list_objects(self.kind, &self.options).await {
                    Ok(list) => {
                        self.backoff.reset();
                        self.state = State::Resume(list.resource_version);
                        return Change::Replaced(list.items);
                    }
                    Err(error) => return self.interrupted(Some(error)),
                },
                State::Resume(revision) => match self.client.watch_objects(self.kind, &self.options, revision).await {
                    Ok(stream) => self.state = State::Watch(std::mem::take(revision), Box::new(stream)),
                    Err(error) => return self.interrupted(Some(error)),
                },
                State::Watch(revision, stream) => match stream.next().await {
                    Ok(Some(event)) => {
                        self.backoff.reset();
                        if let Some(change) = read(event, revision) {
                            return change;
                        }
                    }
                    Ok(None) => return self.interrupted(None),
                    Err(error) => return self.interrupted(Some(error)),
                },
            }
        }
    }

    fn interrupted(&mut self, error: Option<ClientError>) -> Change {
        let expired = error.as_ref().is_some_and(ClientError::is_expired);
        self.state = match std::mem::replace(&mut self.state, State::List) {
            State::Resume(revision) | State::Watch(revision, _) if !expired => State::Resume(revision),
            _ => State::List,
        };
        // Also after an expiry: a store that compacts faster than it can be listed must not be listed in a tight loop.
        self.wait = true;
        Change::Interrupted(error)
    }
}

/// What an event says; moves the revision on. `None` for an event of an unknown type without an object.
fn read(event: crate::v1::WatchEvent, revision: &mut String) -> Option<Change> {
    use watch_event::Type;
    let kind = event.r#type();
    let of_object = || {
        event
            .object
            .as_ref()
            .and_then(Object::meta)
            .map(|meta| meta.resource_version.clone())
    };
    let seen = if event.resource_version.is_empty() {
        of_object().unwrap_or_default()
    } else {
        event.resource_version
    };
    if !seen.is_empty() {
        *revision = seen;
    }
    match (kind, event.object) {
        (Type::Bookmark, _) => Some(Change::Bookmark),
        (Type::Added | Type::Modified, Some(object)) => Some(Change::Applied(object)),
        (Type::Deleted, Some(object)) => Some(Change::Deleted(object)),
        _ => None,
    }
}
