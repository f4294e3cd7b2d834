//! When each node was last heard of.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use causeway_proto::{
    Resource,
    v1::{Lease, Node},
};

use super::super::objects::condition;

/// What an agent changes to show that it lives: its lease, and the heartbeat in its own Ready condition.
#[derive(Debug, PartialEq)]
struct Sign {
    renewed: Option<prost_types::Timestamp>,
    reported: Option<prost_types::Timestamp>,
}

#[derive(Debug)]
struct Entry {
    sign: Sign,
    changed: Instant,
}

/// By node uid. A node seen for the first time counts as heard of now: who has just begun to listen has heard nothing yet.
#[derive(Debug, Default)]
pub(super) struct Heartbeats(HashMap<String, Entry>);

impl Heartbeats {
    /// Takes note of a node's signs; answers for how long there was none.
    pub(super) fn silence(&mut self, node: &Node, lease: Option<&Lease>, now: Instant) -> Duration {
        let conditions = node
            .status
            .as_ref()
            .map_or(&[][..], |status| status.conditions.as_slice());
        let sign = Sign {
            renewed: lease
                .and_then(|lease| lease.spec.as_ref())
                .and_then(|spec| spec.renew_time),
            reported: condition(conditions, "Ready").and_then(|ready| ready.last_heartbeat_time),
        };
        match self.0.get_mut(&node.meta().uid) {
            Some(entry) if entry.sign == sign => now.duration_since(entry.changed),
            _ => {
                self.0.insert(node.meta().uid.clone(), Entry { sign, changed: now });
                Duration::ZERO
            }
        }
    }

    /// Forgets nodes that are gone.
    pub(super) fn forget_others<'n>(&mut self, nodes: impl Iterator<Item = &'n Node>) {
        let present: HashSet<&str> = nodes.map(|node| node.meta().uid.as_str()).collect();
        self.0.retain(|uid, _| present.contains(uid.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::LeaseSpec;

    use super::*;

    fn lease(second: i64) -> Lease {
        let renew_time = Some(prost_types::Timestamp {
            seconds: second,
            nanos: 0,
        });
        Lease {
            spec: Some(LeaseSpec {
                renew_time,
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn silence_counts_from_the_last_change_seen_here() {
        let (mut heartbeats, node, start) = (Heartbeats::default(), Node::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        // The lease's own time is long past: it does not matter.
        assert_eq!(heartbeats.silence(&node, Some(&lease(1)), at(0)), Duration::ZERO);
        assert_eq!(
            heartbeats.silence(&node, Some(&lease(1)), at(7)),
            Duration::from_secs(7)
        );
        assert_eq!(heartbeats.silence(&node, Some(&lease(2)), at(8)), Duration::ZERO);
        assert_eq!(
            heartbeats.silence(&node, Some(&lease(2)), at(9)),
            Duration::from_secs(1)
        );
        assert_eq!(
            heartbeats.silence(&node, None, at(10)),
            Duration::ZERO,
            "a lease that was deleted is a change too"
        );
        heartbeats.forget_others([].into_iter());
        assert_eq!(heartbeats.silence(&node, None, at(99)), Duration::ZERO);
    }
}
