use std::collections::BTreeMap;

use causeway_proto::{
    Resource,
    v1::{ContainerStatus, ObjectMeta, PodSpec, PodStatus, PodTemplateSpec, ReplicationControllerSpec},
};
use proptest::prelude::*;

use super::{super::super::objects::controller_reference, *};

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn controller(replicas: i32) -> ReplicationController {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: labels(&[("app", "web"), ("env", "prod")]),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec::default()),
    };
    let spec = ReplicationControllerSpec {
        replicas: Some(replicas),
        selector: labels(&[("app", "web")]),
        template: Some(template),
        ..ReplicationControllerSpec::default()
    };
    let mut controller = ReplicationController {
        spec: Some(spec),
        ..ReplicationController::default()
    };
    let meta = controller.meta_mut();
    (meta.name, meta.namespace, meta.uid, meta.generation) = ("web".into(), "default".into(), "rc".into(), 3);
    controller
}

fn pod(name: &str) -> Pod {
    let mut pod = Pod {
        spec: Some(PodSpec {
            node_name: "n1".into(),
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: "Running".into(),
            ..PodStatus::default()
        }),
        ..Pod::default()
    };
    let meta = pod.meta_mut();
    (meta.name, meta.namespace, meta.uid) = (name.into(), "default".into(), format!("uid-{name}"));
    meta.labels = labels(&[("app", "web"), ("env", "prod")]);
    pod
}

fn owned(name: &str) -> Pod {
    let mut pod = pod(name);
    pod.meta_mut().owner_references = vec![controller_reference(&controller(1))];
    pod
}

fn ready(mut pod: Pod, since: i64) -> Pod {
    let condition = Condition {
        r#type: "Ready".into(),
        status: "True".into(),
        last_transition_time: Some(at(since)),
        ..Condition::default()
    };
    pod.status.as_mut().expect("status").conditions = vec![condition];
    pod
}

fn names(pods: &[Pod]) -> Vec<&str> {
    pods.iter().map(|pod| pod.meta().name.as_str()).collect()
}

fn planned(controller: &ReplicationController, pods: &[Pod]) -> Plan {
    plan(controller, &pods.iter().collect::<Vec<_>>(), true, None, at(1000))
}

#[test]
fn missing_pods_are_created_and_surplus_ones_deleted() {
    let pods = [owned("a"), owned("b")];
    assert_eq!(planned(&controller(5), &pods).create, 3);
    let plan = planned(&controller(2), &pods);
    assert_eq!((plan.create, plan.delete.len()), (0, 0));
    assert_eq!(planned(&controller(0), &pods).delete.len(), 2);
    assert_eq!(planned(&controller(10_000), &[]).create, BURST);
}

#[test]
fn what_is_not_seen_yet_is_not_done_again() {
    let plan = plan(&controller(5), &[], false, None, at(0));
    assert_eq!((plan.create, plan.delete.len()), (0, 0));
}

#[test]
fn finished_and_terminating_pods_are_replaced() {
    let mut failed = owned("failed");
    failed.status.as_mut().expect("status").phase = "Failed".into();
    let mut terminating = owned("terminating");
    terminating.meta_mut().deletion_timestamp = Some(at(1));
    let plan = planned(&controller(3), &[failed, terminating, owned("a")]);
    assert_eq!((plan.create, plan.delete.len()), (2, 0));
    assert_eq!(plan.status.expect("status").replicas, 1);
}

#[test]
fn a_pod_that_loses_its_label_is_released_and_replaced() {
    let mut quarantined = owned("a");
    quarantined.meta_mut().labels.remove("app");
    let plan = planned(&controller(2), &[quarantined, owned("b")]);
    assert_eq!((names(&plan.release), plan.create), (vec!["a"], 1));
}

#[test]
fn pods_without_controller_are_adopted_and_others_left_alone() {
    let mut theirs = pod("theirs");
    let mut reference = controller_reference(&controller(1));
    reference.uid = "other".into();
    theirs.meta_mut().owner_references = vec![reference];
    let mut other = pod("other");
    other.meta_mut().labels.clear();
    let plan = planned(&controller(2), &[theirs, other, pod("stray")]);
    assert_eq!((names(&plan.adopt), plan.create), (vec!["stray"], 1));
}

#[test]
fn a_controller_that_goes_away_touches_nothing() {
    let mut controller = controller(3);
    controller.meta_mut().deletion_timestamp = Some(at(1));
    let mut unlabelled = owned("b");
    unlabelled.meta_mut().labels.clear();
    let plan = planned(&controller, &[pod("stray"), unlabelled]);
    assert_eq!(
        (plan.adopt.len(), plan.release.len(), plan.create, plan.delete.len()),
        (0, 0, 0, 0)
    );
}

#[test]
fn a_surplus_stray_is_deleted_rather_than_adopted() {
    let mut stray = pod("stray");
    stray.spec.as_mut().expect("spec").node_name.clear();
    let plan = planned(&controller(1), &[owned("a"), stray]);
    assert_eq!((names(&plan.delete), plan.adopt.len()), (vec!["stray"], 0));
}

#[test]
fn the_least_missed_pod_goes_first() {
    let mut unscheduled = owned("unscheduled");
    unscheduled.spec.as_mut().expect("spec").node_name.clear();
    unscheduled.status.as_mut().expect("status").phase = "Pending".into();
    let mut pending = owned("pending");
    pending.status.as_mut().expect("status").phase = "Pending".into();
    let not_ready = owned("not-ready");
    let crowded = |name: &str, since| {
        let mut pod = ready(owned(name), since);
        pod.spec.as_mut().expect("spec").node_name = "crowded".into();
        pod
    };
    let mut restarted = ready(owned("restarted"), 10);
    restarted.status.as_mut().expect("status").container_statuses = vec![ContainerStatus {
        restart_count: 3,
        ..ContainerStatus::default()
    }];
    let aged = |name: &str, since, created| {
        let mut pod = ready(owned(name), since);
        pod.meta_mut().creation_timestamp = Some(at(created));
        // Each on a node of its own.
        pod.spec.as_mut().expect("spec").node_name = name.into();
        pod
    };
    restarted.spec.as_mut().expect("spec").node_name = "restarted".into();
    let pods = [
        aged("old", 50, 1),
        aged("young", 50, 2),
        aged("just-ready", 60, 1),
        restarted,
        crowded("crowded-1", 10),
        crowded("crowded-2", 5),
        not_ready,
        pending,
        unscheduled,
    ];
    let order: Vec<_> = (1..=9)
        .map(|count| {
            let plan = planned(&controller(9 - count), &pods);
            plan.delete.last().expect("one more").meta().name.clone()
        })
        .collect();
    assert_eq!(
        order,
        [
            "unscheduled",
            "pending",
            "not-ready",
            "crowded-1",
            "restarted",
            "just-ready",
            "young",
            "old",
            "crowded-2"
        ]
    );
}

#[test]
fn what_is_left_is_spread_evenly() {
    let pods: Vec<_> = (0..7)
        .map(|n| {
            let mut pod = ready(owned(&format!("p{n}")), n);
            pod.spec.as_mut().expect("spec").node_name = format!("n{}", n % 3);
            pod
        })
        .collect();
    for (replicas, expected) in [(6, [2, 2, 2]), (4, [2, 1, 1]), (3, [1, 1, 1])] {
        let gone = planned(&controller(replicas), &pods).delete;
        let mut counts = [3, 2, 2];
        for pod in gone {
            let node = pod.spec.expect("spec").node_name;
            counts[node[1..].parse::<usize>().expect("number")] -= 1;
        }
        counts.sort_by(|a, b| b.cmp(a));
        assert_eq!(counts, expected);
    }
}

#[test]
fn the_status_tells_what_is_there() {
    let mut controller = controller(4);
    controller.spec.as_mut().expect("spec").min_ready_seconds = Some(10);
    let mut bare = owned("c");
    bare.meta_mut().labels.remove("env");
    let pods = [ready(owned("a"), 980), ready(owned("b"), 994), bare];
    let plan = planned(&controller, &pods);
    let status = plan.status.expect("differs from none");
    assert_eq!(
        (
            status.replicas,
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas
        ),
        (3, 2, 2, 1)
    );
    assert_eq!(status.observed_generation, 3);
    assert_eq!(plan.again_in, Some(Duration::from_secs(4)), "b becomes available");
    controller.status = Some(status);
    assert!(planned(&controller, &pods).status.is_none(), "nothing new to tell");
}

#[test]
fn a_failure_is_told_until_it_is_over() {
    let failure = Condition {
        r#type: "ReplicaFailure".into(),
        status: "True".into(),
        reason: "FailedCreate".into(),
        ..Condition::default()
    };
    let mut controller = controller(0);
    let status = plan(&controller, &[], true, Some(&failure), at(0))
        .status
        .expect("new condition");
    assert_eq!(status.conditions, [failure]);
    controller.status = Some(status);
    let status = planned(&controller, &[]).status.expect("condition gone");
    assert!(status.conditions.is_empty());
}

prop_compose! {
    fn any_pod()(
        number in 0..10_000_u32,
        matches in prop::bool::weighted(0.8),
        owner in 0..3_u8,
        phase in prop::sample::select(vec!["Pending", "Running", "Succeeded", "Failed"]),
        terminating in prop::bool::weighted(0.2),
    ) -> Pod {
        let name = number.to_string();
        let mut pod = match owner { 0 => pod(&name), _ => owned(&name) };
        if owner == 2 {
            pod.meta_mut().owner_references[0].uid = "other".into();
        }
        if !matches {
            pod.meta_mut().labels.clear();
        }
        pod.status.as_mut().expect("status").phase = phase.into();
        pod.meta_mut().deletion_timestamp = terminating.then(|| at(1));
        pod
    }
}

proptest! {
    /// Doing what the plan says leaves exactly as many replicas as wanted, and nothing more to do.
    #[test]
    fn a_plan_leads_to_the_goal(mut pods in prop::collection::vec(any_pod(), 0..20), replicas in 0..20_i32) {
        pods.sort_by_key(|pod| pod.meta().uid.clone());
        pods.dedup_by_key(|pod| pod.meta().uid.clone());
        let controller = controller(replicas);
        let plan = planned(&controller, &pods);
        prop_assert!(plan.create == 0 || plan.delete.is_empty());
        for gone in &plan.delete {
            pods.retain(|pod| pod.meta().uid != gone.meta().uid);
        }
        for pod in &mut pods {
            if plan.adopt.iter().any(|adopted| adopted.meta().uid == pod.meta().uid) {
                pod.meta_mut().owner_references = vec![controller_reference(&controller)];
            }
            if plan.release.iter().any(|released| released.meta().uid == pod.meta().uid) {
                pod.meta_mut().owner_references.clear();
            }
        }
        pods.extend((0..plan.create).map(|n| owned(&format!("new-{n}"))));
        let after = planned(&controller, &pods);
        prop_assert_eq!((after.create, after.delete.len(), after.adopt.len(), after.release.len()), (0, 0, 0, 0));
        prop_assert_eq!(after.status.expect("status").replicas, replicas);
    }
}
