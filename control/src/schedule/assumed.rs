//! Pods that were given a node but are not yet seen bound: they take up room already.

use std::collections::HashMap;

use causeway_proto::{Resource, v1::Pod};

use crate::reconcile::pod_state;

/// Node by pod uid.
#[derive(Debug, Default)]
pub(super) struct Assumed(HashMap<String, String>);

impl Assumed {
    pub(super) fn insert(&mut self, uid: &str, node: &str) {
        self.0.insert(uid.to_owned(), node.to_owned());
    }

    /// The binding failed.
    pub(super) fn remove(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    pub(super) fn node(&self, uid: &str) -> Option<&str> {
        self.0.get(uid).map(String::as_str)
    }

    /// Forgets pods that are seen bound, or are gone.
    pub(super) fn settle<'p>(&mut self, pods: impl Iterator<Item = &'p Pod>) {
        if self.0.is_empty() {
            return;
        }
        let waiting: std::collections::HashSet<&str> = pods
            .filter(|pod| pod_state::node_name(pod).is_empty())
            .map(|pod| pod.meta().uid.as_str())
            .collect();
        self.0.retain(|uid, _| waiting.contains(uid.as_str()));
    }
}
