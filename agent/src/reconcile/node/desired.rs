//! What this node's object should look like: pure.

use std::time::{Duration, SystemTime};

use causeway_proto::v1::{Condition, DaemonEndpoint, DaemonEndpoints, Node, NodeSpec, NodeStatus, ObjectMeta};
use prost_types::Timestamp;

use super::facts::Facts;
use crate::net::Ranges;

/// Whether pods can run here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// They can.
    Ready,
    /// They cannot, and why.
    NotReady {
        /// CamelCase word for machines.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// The object to create when there is none; `ranges` are the pod ranges the node has from before.
pub fn node(facts: &Facts, ranges: Option<&Ranges>, health: &Health, now: SystemTime) -> Node {
    Node {
        metadata: Some(ObjectMeta {
            name: facts.name.clone(),
            labels: facts.labels.clone(),
            ..ObjectMeta::default()
        }),
        spec: ranges.map(|ranges| NodeSpec {
            pod_cidr: ranges.primary().to_string(),
            pod_cidrs: ranges.iter().map(|range| range.to_string()).collect(),
            ..NodeSpec::default()
        }),
        status: Some(status(facts, &NodeStatus::default(), health, now)),
    }
}

/// The labels to set, as a JSON merge patch; `None` when all are as they should be. Others' labels stay.
pub fn label_patch(facts: &Facts, present: &Node) -> Option<serde_json::Value> {
    let labels = present.metadata.as_ref().map(|meta| &meta.labels);
    let wrong: serde_json::Map<_, _> = facts
        .labels
        .iter()
        .filter(|(key, value)| labels.and_then(|labels| labels.get(*key)) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone().into()))
        .collect();
    (!wrong.is_empty()).then(|| serde_json::json!({ "metadata": { "labels": wrong } }))
}

/// The status. Conditions of others stay; the transition time moves only with the condition.
pub fn status(facts: &Facts, before: &NodeStatus, health: &Health, now: SystemTime) -> NodeStatus {
    let (holds, reason, message) = match health {
        Health::Ready => ("True", "AgentReady", "causeway-agent is running pods".to_owned()),
        Health::NotReady { reason, message } => ("False", *reason, message.clone()),
    };
    let previous = before.conditions.iter().find(|condition| condition.r#type == "Ready");
    let since = previous
        .filter(|condition| condition.status == holds)
        .and_then(|condition| condition.last_transition_time);
    let ready = Condition {
        r#type: "Ready".to_owned(),
        status: holds.to_owned(),
        last_heartbeat_time: Some(stamp(now)),
        last_transition_time: since.or(Some(stamp(now))),
        reason: reason.to_owned(),
        message,
    };
    let others = before
        .conditions
        .iter()
        .filter(|condition| condition.r#type != "Ready")
        .cloned();
    NodeStatus {
        capacity: facts.capacity.clone(),
        allocatable: facts.allocatable.clone(),
        conditions: others.chain([ready]).collect(),
        addresses: facts.addresses.clone(),
        node_info: Some(facts.info.clone()),
        daemon_endpoints: Some(DaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(facts.port),
            }),
        }),
    }
}

/// Whether `present` has to be replaced by `wanted`: something differs beyond the time of the heartbeat, or that is older
/// than `interval`.
pub fn must_write(present: &NodeStatus, wanted: &NodeStatus, interval: Duration) -> bool {
    let heartbeat = |status: &NodeStatus| {
        let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
        ready
            .and_then(|condition| condition.last_heartbeat_time)
            .map_or(0, |time| time.seconds)
    };
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        status
            .conditions
            .iter_mut()
            .for_each(|condition| condition.last_heartbeat_time = None);
        status.conditions.sort_by(|a, b| a.r#type.cmp(&b.r#type));
        status
    };
    let age = heartbeat(wanted).saturating_sub(heartbeat(present));
    still(present) != still(wanted) || u64::try_from(age).unwrap_or(0) >= interval.as_secs()
}

/// Whole seconds, as Kubernetes stamps its objects.
fn stamp(time: SystemTime) -> Timestamp {
    Timestamp {
        nanos: 0,
        ..time.into()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::facts::{Facts, Given},
        *,
    };

    fn facts() -> Facts {
        Facts::gather(&Given {
            name: "node-1",
            addresses: &["172.30.0.2".parse().unwrap()],
            port: 6560,
            max_pods: 20,
            cpu_millis: None,
            memory_bytes: None,
        })
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    const INTERVAL: Duration = Duration::from_secs(10);

    fn not_ready() -> Health {
        Health::NotReady {
            reason: "NetworkNotReady",
            message: "no pod range yet".into(),
        }
    }

    #[test]
    fn the_transition_time_moves_with_the_condition_only() {
        let first = status(&facts(), &NodeStatus::default(), &Health::Ready, at(1));
        let second = status(&facts(), &first, &Health::Ready, at(2));
        assert_eq!(second.conditions[0].last_transition_time, Some(at(1).into()));
        assert_eq!(second.conditions[0].last_heartbeat_time, Some(at(2).into()));
        let third = status(&facts(), &second, &not_ready(), at(3));
        assert_eq!(third.conditions[0].last_transition_time, Some(at(3).into()));
        assert_eq!(
            (third.conditions[0].status.as_str(), third.conditions[0].reason.as_str()),
            ("False", "NetworkNotReady")
        );
    }

    #[test]
    fn a_status_is_written_when_it_differs_or_is_old() {
        let written = status(&facts(), &NodeStatus::default(), &Health::Ready, at(100));
        let later = |second, health| status(&facts(), &written, &health, at(second));
        assert!(!must_write(&written, &later(105, Health::Ready), INTERVAL));
        assert!(must_write(&written, &later(110, Health::Ready), INTERVAL));
        assert!(must_write(&written, &later(101, not_ready()), INTERVAL));
        // The control plane took the node for dead.
        let mut unknown = written.clone();
        unknown.conditions[0].status = "Unknown".into();
        assert!(must_write(
            &unknown,
            &status(&facts(), &unknown, &Health::Ready, at(101)),
            INTERVAL
        ));
    }

    #[test]
    fn conditions_and_labels_of_others_stay() {
        let pressure = Condition {
            r#type: "DiskPressure".into(),
            ..Condition::default()
        };
        let before = NodeStatus {
            conditions: vec![pressure.clone()],
            ..NodeStatus::default()
        };
        assert!(
            status(&facts(), &before, &Health::Ready, at(1))
                .conditions
                .contains(&pressure)
        );
        let mut present = node(&facts(), None, &Health::Ready, at(1));
        let labels = &mut present.metadata.as_mut().unwrap().labels;
        labels.insert("zone".into(), "a".into());
        assert_eq!(label_patch(&facts(), &present), None);
        present.metadata.as_mut().unwrap().labels.remove("kubernetes.io/os");
        let patch = label_patch(&facts(), &present).unwrap();
        assert_eq!(
            patch,
            serde_json::json!({ "metadata": { "labels": { "kubernetes.io/os": "linux" } } })
        );
    }
}
