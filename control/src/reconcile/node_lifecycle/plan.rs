//! What a node's silence, or what it says of itself, means for it and its pods: pure.

use std::time::Duration;

use causeway_proto::{
    Resource, time,
    v1::{Condition, Node, Pod, Taint},
};
use prost_types::Timestamp;

use super::{
    super::{
        objects::{condition, condition_status, set_condition},
        pod_state,
    },
    LifecycleTimes,
};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECTS: [&str; 2] = ["NoSchedule", "NoExecute"];

/// What to do for one node.
#[derive(Debug)]
pub struct NodePlan {
    /// The node with another status, to be written first.
    pub(super) status: Option<Node>,
    /// The node with other taints.
    pub(super) taints: Option<Node>,
    pub(super) pods: Vec<PodAction>,
    /// When time alone may change the plan.
    pub(super) again_in: Duration,
    name: Option<String>,
}

/// What to do with a pod of a node that is not ready.
#[derive(Debug, PartialEq)]
pub(super) enum PodAction {
    /// Write this status: nobody knows whether it serves.
    MarkNotReady(Box<Pod>),
    /// Delete it, so that it is replaced elsewhere.
    Evict(Box<Pod>),
}

impl NodePlan {
    pub(super) fn has_work(&self) -> bool {
        self.status.is_some() || self.taints.is_some() || !self.pods.is_empty()
    }

    pub(super) fn name(&self) -> Option<String> {
        self.name.clone()
    }
}

/// Plans for one node and the pods bound to it. `silence` is the time since its agent was heard of.
pub(super) fn plan(node: &Node, pods: &[&Pod], silence: Duration, times: &LifecycleTimes, now: Timestamp) -> NodePlan {
    let mut plan = NodePlan {
        status: None,
        taints: None,
        pods: Vec::new(),
        again_in: times.grace_period,
        name: Some(node.meta().name.clone()),
    };
    let is_silent = silence >= times.grace_period;
    if let Some(left) = times.grace_period.checked_sub(silence).filter(|_| !is_silent) {
        plan.again_in = left;
    }
    let mut node = node.clone();
    if is_silent && make_unknown(&mut node, now) {
        plan.status = Some(node.clone());
    }
    let conditions = node
        .status
        .as_ref()
        .map_or(&[][..], |status| status.conditions.as_slice());
    let ready = condition_status(conditions, "Ready");
    let taint = match ready {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        // Not said yet, or said to be false.
        _ => Some(NOT_READY),
    };
    let since = condition(conditions, "Ready").and_then(|ready| ready.last_transition_time);
    if set_taints(&mut node, taint) {
        plan.taints = Some(node);
    }
    if let Some(taint) = taint {
        let lasted = since.map_or(0.0, |since| time::seconds_between(&since, &now).max(0.0));
        for pod in pods {
            // Pods of an agent that speaks, or that could not be heard until now, are given the time to be reported.
            let lasted = (is_silent || taint == NOT_READY).then(|| Duration::from_secs_f64(lasted));
            plan.consider(pod, taint, lasted, times, now);
        }
    }
    plan
}

impl NodePlan {
    fn consider(&mut self, pod: &Pod, taint: &str, lasted: Option<Duration>, times: &LifecycleTimes, now: Timestamp) {
        if pod_state::is_finished(pod) {
            return;
        }
        // A node that says it is not ready has an agent that reports its pods itself.
        if taint == UNREACHABLE
            && lasted.is_some()
            && let Some(marked) = not_ready(pod, now)
        {
            self.pods.push(PodAction::MarkNotReady(Box::new(marked)));
        }
        if pod.meta().is_terminating() {
            return;
        }
        let (Some(patience), Some(lasted)) = (patience(pod, taint, times), lasted) else {
            return;
        };
        match patience.checked_sub(lasted) {
            Some(left) if !left.is_zero() => self.again_in = self.again_in.min(left),
            _ => self.pods.push(PodAction::Evict(Box::new(pod.clone()))),
        }
    }
}

/// True if anything changed.
fn make_unknown(node: &mut Node, now: Timestamp) -> bool {
    let conditions = &mut node.status.get_or_insert_default().conditions;
    let mut changed = false;
    let unknown = |kind: &str| Condition {
        r#type: kind.to_owned(),
        status: "Unknown".to_owned(),
        reason: "NodeStatusUnknown".to_owned(),
        message: "the node's agent has stopped renewing its lease".to_owned(),
        last_transition_time: Some(now),
        ..Condition::default()
    };
    // The network condition is the control plane's own and stays true.
    let kinds: Vec<String> = conditions
        .iter()
        .map(|c| c.r#type.clone())
        .filter(|kind| kind != "NetworkUnavailable")
        .collect();
    for kind in kinds.iter().map(String::as_str).chain(["Ready"]) {
        changed |= set_condition(conditions, unknown(kind));
    }
    changed
}

/// Leaves of our taints only the given one; true if anything changed.
fn set_taints(node: &mut Node, wanted: Option<&str>) -> bool {
    let taints = &mut node.spec.get_or_insert_default().taints;
    let before = taints.clone();
    taints
        .retain(|taint| ![UNREACHABLE, NOT_READY].contains(&taint.key.as_str()) || Some(taint.key.as_str()) == wanted);
    for (key, effect) in wanted.into_iter().flat_map(|key| EFFECTS.map(|effect| (key, effect))) {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                value: String::new(),
                effect: effect.to_owned(),
            });
        }
    }
    *taints != before
}

/// The pod with its readiness taken back; `None` if it claims none.
fn not_ready(pod: &Pod, now: Timestamp) -> Option<Pod> {
    if !pod_state::is_ready(pod) {
        return None;
    }
    let mut pod = pod.clone();
    let condition = Condition {
        r#type: "Ready".to_owned(),
        status: "False".to_owned(),
        reason: "NodeNotReady".to_owned(),
        message: "the pod's node is unreachable".to_owned(),
        last_transition_time: Some(now),
        ..Condition::default()
    };
    set_condition(&mut pod.status.get_or_insert_default().conditions, condition);
    Some(pod)
}

/// How long a pod stays on such a node; `None`: for ever.
fn patience(pod: &Pod, key: &str, times: &LifecycleTimes) -> Option<Duration> {
    let taint = Taint {
        key: key.to_owned(),
        value: String::new(),
        effect: "NoExecute".to_owned(),
    };
    let tolerations = pod.spec.iter().flat_map(|spec| &spec.tolerations);
    let mut matching = tolerations
        .filter(|toleration| pod_state::tolerates(toleration, &taint))
        .peekable();
    if matching.peek().is_none() {
        return Some(times.eviction_timeout);
    }
    // The shortest of several; one without a time is for ever (Kubernetes' `getMinTolerationTime`).
    let seconds = matching.filter_map(|toleration| toleration.toleration_seconds).min()?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{NodeSpec, NodeStatus, PodSpec, PodStatus, Toleration};

    use super::*;

    const TIMES: LifecycleTimes = LifecycleTimes {
        grace_period: Duration::from_secs(10),
        eviction_timeout: Duration::from_mins(5),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn ready(status: &str, since: i64) -> Condition {
        Condition {
            r#type: "Ready".into(),
            status: status.into(),
            last_transition_time: Some(at(since)),
            ..Condition::default()
        }
    }

    fn node(status: &str, since: i64, taints: &[&str]) -> Node {
        let taints = taints.iter().flat_map(|key| {
            EFFECTS.map(|effect| Taint {
                key: (*key).into(),
                value: String::new(),
                effect: effect.into(),
            })
        });
        let mut node = Node {
            spec: Some(NodeSpec {
                taints: taints.collect(),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                conditions: vec![ready(status, since)],
                ..NodeStatus::default()
            }),
            ..Node::default()
        };
        node.meta_mut().name = "n1".into();
        node
    }

    fn pod(name: &str) -> Pod {
        let mut pod = Pod {
            spec: Some(PodSpec {
                node_name: "n1".into(),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: "Running".into(),
                conditions: vec![ready("True", 1)],
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        pod.meta_mut().name = name.into();
        pod
    }

    fn planned(node: &Node, pods: &[&Pod], silence: u64, now: i64) -> NodePlan {
        plan(node, pods, Duration::from_secs(silence), &TIMES, at(now))
    }

    #[test]
    fn a_node_that_speaks_is_left_alone() {
        let plan = planned(&node("True", 1, &[]), &[&pod("a")], 9, 1000);
        assert!(!plan.has_work());
        assert_eq!(plan.again_in, Duration::from_secs(1));
    }

    #[test]
    fn a_silent_node_is_unknown_and_tainted_and_its_pods_are_not_ready() {
        let plan = planned(&node("True", 1, &[]), &[&pod("a")], 10, 1000);
        let status = plan.status.expect("new status").status.expect("status");
        let condition = condition(&status.conditions, "Ready").expect("condition");
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_str()),
            ("Unknown", "NodeStatusUnknown")
        );
        assert_eq!(condition.last_transition_time, Some(at(1000)));
        let taints = plan.taints.expect("taints").spec.expect("spec").taints;
        assert_eq!(
            taints
                .iter()
                .map(|taint| (taint.key.as_str(), taint.effect.as_str()))
                .collect::<Vec<_>>(),
            [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]
        );
        let [PodAction::MarkNotReady(marked)] = plan.pods.as_slice() else {
            panic!("{:?}", plan.pods)
        };
        assert!(!pod_state::is_ready(marked));
    }

    #[test]
    fn what_was_done_is_not_done_again() {
        let marked = not_ready(&pod("a"), at(1000)).expect("was ready");
        let mut silent = node("True", 1, &[UNREACHABLE]);
        assert!(make_unknown(&mut silent, at(1000)));
        let plan = planned(&silent, &[&marked], 20, 1010);
        assert!(!plan.has_work(), "{plan:?}");
        assert_eq!(plan.again_in, Duration::from_secs(10));
    }

    #[test]
    fn a_node_that_never_spoke_becomes_unknown_too() {
        let mut mute = node("True", 1, &[]);
        mute.status = None;
        let plan = planned(&mute, &[], 10, 5);
        assert_eq!(
            condition_status(
                &plan.status.expect("status").status.expect("status").conditions,
                "Ready"
            ),
            "Unknown"
        );
    }

    #[test]
    fn a_node_that_returns_loses_the_taints_and_keeps_others() {
        let mut back = node("True", 1000, &[UNREACHABLE]);
        let own = Taint {
            key: "gpu".into(),
            value: "yes".into(),
            effect: "NoSchedule".into(),
        };
        back.spec.as_mut().expect("spec").taints.push(own.clone());
        let plan = planned(&back, &[&pod("a")], 0, 1001);
        assert_eq!(plan.taints.expect("taints").spec.expect("spec").taints, [own]);
        assert!(plan.status.is_none() && plan.pods.is_empty());
    }

    #[test]
    fn a_node_that_says_it_is_not_ready_reports_its_pods_itself() {
        let plan = planned(&node("False", 990, &[UNREACHABLE]), &[&pod("a")], 0, 1000);
        let taints = plan.taints.expect("taints").spec.expect("spec").taints;
        assert!(taints.iter().all(|taint| taint.key == NOT_READY));
        assert!(plan.pods.is_empty(), "{:?}", plan.pods);
    }

    #[test]
    fn pods_are_evicted_after_the_time_out() {
        let silent = node("Unknown", 1000, &[UNREACHABLE]);
        let marked = not_ready(&pod("a"), at(1000)).expect("was ready");
        let plan = planned(&silent, &[&marked], 15, 1299);
        assert!(plan.pods.is_empty());
        assert_eq!(plan.again_in, Duration::from_secs(1));
        let evicted = planned(&silent, &[&marked], 15, 1300).pods;
        assert_eq!(evicted, [PodAction::Evict(Box::new(marked.clone()))]);
        assert!(
            planned(&silent, &[&marked], 5, 2000).pods.is_empty(),
            "its agent speaks again"
        );
        let mut terminating = marked;
        terminating.meta_mut().deletion_timestamp = Some(at(1300));
        assert!(planned(&silent, &[&terminating], 15, 2000).pods.is_empty());
    }

    #[test]
    fn tolerations_change_the_time_out() {
        let tolerating = |seconds: &[Option<i64>]| {
            let mut pod = not_ready(&pod("a"), at(1000)).expect("was ready");
            pod.spec.as_mut().expect("spec").tolerations = seconds
                .iter()
                .map(|seconds| Toleration {
                    key: UNREACHABLE.into(),
                    operator: "Exists".into(),
                    effect: "NoExecute".into(),
                    toleration_seconds: *seconds,
                    ..Toleration::default()
                })
                .collect();
            pod
        };
        let silent = node("Unknown", 1000, &[UNREACHABLE]);
        let evicted = |pod: &Pod, now| !planned(&silent, &[pod], 15, now).pods.is_empty();
        assert!(evicted(&tolerating(&[Some(5)]), 1005));
        assert!(!evicted(&tolerating(&[Some(500)]), 1400));
        assert!(!evicted(&tolerating(&[None]), 1_000_000));
        assert!(evicted(&tolerating(&[None, Some(5)]), 1005));
        assert!(evicted(&tolerating(&[Some(-1)]), 1000));
    }
}
