//! What a controller has done and must see before it counts again, so that a cache that lags does not make it do it twice.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use causeway_proto::{Resource, v1::Pod};

/// After this time something else must have happened to the pod, such as being deleted before it was seen.
const PATIENCE: Duration = Duration::from_mins(1);

/// Pods, by uid, that were created or deleted but not yet seen so.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    created: HashMap<String, Instant>,
    deleted: HashMap<String, Instant>,
}

impl Expectations {
    pub(super) fn created(&mut self, uid: &str, now: Instant) {
        self.created.insert(uid.to_owned(), now);
    }

    pub(super) fn deleted(&mut self, uid: &str, now: Instant) {
        self.deleted.insert(uid.to_owned(), now);
    }

    /// The deletion failed.
    pub(super) fn not_deleted(&mut self, uid: &str) {
        self.deleted.remove(uid);
    }

    /// Forgets what is seen or too old; true if nothing is left to wait for.
    pub(super) fn settle(&mut self, pods: &[&Pod], now: Instant) -> bool {
        if self.created.is_empty() && self.deleted.is_empty() {
            return true;
        }
        let present: HashMap<&str, bool> = pods
            .iter()
            .map(|pod| (pod.meta().uid.as_str(), pod.meta().is_terminating()))
            .collect();
        let is_young = |since: &Instant| now.duration_since(*since) < PATIENCE;
        self.created
            .retain(|uid, since| !present.contains_key(uid.as_str()) && is_young(since));
        self.deleted
            .retain(|uid, since| present.get(uid.as_str()) == Some(&false) && is_young(since));
        self.created.is_empty() && self.deleted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Pod {
        let mut pod = Pod::default();
        pod.meta_mut().uid = uid.into();
        pod
    }

    #[test]
    fn creations_settle_when_seen() {
        let mut expectations = Expectations::default();
        let now = Instant::now();
        assert!(expectations.settle(&[], now));
        expectations.created("a", now);
        assert!(!expectations.settle(&[&pod("b")], now));
        assert!(expectations.settle(&[&pod("a")], now));
        assert!(expectations.settle(&[], now), "seen once is enough");
    }

    #[test]
    fn deletions_settle_when_the_pod_terminates_or_is_gone() {
        let now = Instant::now();
        let mut terminating = pod("a");
        terminating.meta_mut().deletion_timestamp = Some(prost_types::Timestamp::default());
        for seen in [vec![&terminating], vec![]] {
            let mut expectations = Expectations::default();
            expectations.deleted("a", now);
            assert!(!expectations.settle(&[&pod("a")], now));
            assert!(expectations.settle(&seen, now));
        }
        let mut expectations = Expectations::default();
        expectations.deleted("a", now);
        expectations.not_deleted("a");
        assert!(expectations.settle(&[&pod("a")], now));
    }

    #[test]
    fn nothing_is_waited_for_for_ever() {
        let mut expectations = Expectations::default();
        let now = Instant::now();
        expectations.created("a", now);
        assert!(expectations.settle(&[], now + PATIENCE));
    }
}
