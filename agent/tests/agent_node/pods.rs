//! Lives of pods, from creation to the last trace.

use causeway_proto::{
    Resource,
    v1::{ContainerStatus, Pod},
};
use serde_json::json;

use crate::support::{Node, container, shell};

const FOREVER: &str = "exec sleep 100000";

fn statuses(pod: &Pod) -> Vec<ContainerStatus> {
    pod.status
        .as_ref()
        .map(|status| status.container_statuses.clone())
        .unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |status| &status.phase)
}

fn waiting_reason(pod: &Pod) -> Option<String> {
    Some(statuses(pod).first()?.state.as_ref()?.waiting.as_ref()?.reason.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_becomes_ready_by_its_probe_and_goes_without_a_trace() {
    let node = Node::start().await;
    let mut spec = shell("sleep 1; touch /ready; exec sleep 100000");
    spec["containers"][0]["readinessProbe"] =
        json!({ "exec": { "command": ["/bin/test", "-f", "/ready"] }, "periodSeconds": 1 });
    let created = node.create("web", spec).await;
    node.wait_pod("web", "to run unready", |pod| {
        phase(pod) == "Running" && !statuses(pod)[0].ready
    })
    .await;
    let pod = node.wait_ready("web").await;
    let status = pod.status.clone().unwrap();
    assert_eq!(
        (status.host_ip.as_str(), status.pod_ip.as_str()),
        ("172.31.9.1", "10.244.0.2")
    );
    assert!(status.container_statuses[0].image_id.starts_with("sha256:"));
    assert_eq!(
        node.traces(&created.meta().uid).len(),
        4,
        "record, sandbox, cgroup, link"
    );

    node.delete("web", 1).await;
    node.wait_gone(&created).await;
    let reasons = node.reasons(&created).await;
    for reason in ["Pulled", "Created", "Started", "Unhealthy", "Killing"] {
        assert!(reasons.contains(&reason.to_owned()), "{reason} in {reasons:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_come_first_and_the_downward_api_tells_a_pod_about_itself() {
    let node = Node::start().await;
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut check = container(
        "check",
        "test $NAME = job && test $NODE = node-1 && test $POD_IP = 10.244.0.2 && test $HOST_IP = 172.31.9.1 && \
         test $(env | /bin/busybox grep -c '^HOSTNAME=job$') = 1",
    );
    check["env"] = json!([
        field("NAME", "metadata.name"),
        field("NODE", "spec.nodeName"),
        field("POD_IP", "status.podIP"),
        field("HOST_IP", "status.hostIP"),
    ]);
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [container("first", "exit 0"), container("second", "exit 0")],
        "containers": [check],
    });
    node.create("job", spec).await;
    let pod = node
        .wait_pod("job", "to end", |pod| matches!(phase(pod), "Succeeded" | "Failed"))
        .await;
    assert_eq!(phase(&pod), "Succeeded", "{:?}", pod.status);
    let init = pod.status.unwrap().init_container_statuses;
    let finished = |at: usize| init[at].state.clone().unwrap().terminated.unwrap();
    assert!(finished(0).finished_at.unwrap().seconds <= finished(1).started_at.unwrap().seconds);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_container_backs_off_and_a_failed_one_that_may_not_restart_fails_the_pod() {
    let node = Node::start().await;
    node.create("crash", shell("exit 3")).await;
    let mut once = shell("exit 4");
    once["restartPolicy"] = json!("Never");
    node.create("once", once).await;
    let crashing = |pod: &Pod| waiting_reason(pod).as_deref() == Some("CrashLoopBackOff");
    let pod = node.wait_pod("crash", "to back off", crashing).await;
    let last = statuses(&pod)[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_str()), (3, "Error"));
    node.wait_pod("crash", "to be restarted", |pod| {
        statuses(pod).first().is_some_and(|c| c.restart_count >= 3)
    })
    .await;
    let pod = node.wait_pod("once", "to fail", |pod| phase(pod) == "Failed").await;
    assert_eq!(
        statuses(&pod)[0].state.clone().unwrap().terminated.unwrap().exit_code,
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_its_image_and_says_how_to_bring_it() {
    let mut node = Node::new();
    node.start_control().await;
    node.start_agent();
    node.ready().await;
    node.create("web", shell(FOREVER)).await;
    let pulling = |pod: &Pod| waiting_reason(pod).as_deref() == Some("ErrImagePull");
    let pod = node.wait_pod("web", "to miss its image", pulling).await;
    let message = statuses(&pod)[0].state.clone().unwrap().waiting.unwrap().message;
    assert!(
        message.contains("busybox:test") && message.contains("causeway-agent image import"),
        "{message}"
    );
    node.import();
    node.wait_ready("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_liveness_probe_restarts_the_container_alone() {
    let node = Node::start().await;
    let mut spec =
        json!({ "containers": [container("sick", "touch /well; exec sleep 100000"), container("well", FOREVER)] });
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec["containers"][0]["livenessProbe"] = json!({
        "exec": { "command": ["/bin/test", "-f", "/well"] }, "periodSeconds": 1, "failureThreshold": 1,
    });
    node.create("pair", spec).await;
    let pod = node.wait_ready("pair").await;
    let (sick, well) = (node.processes(&pod, "sick")[0], node.processes(&pod, "well")[0]);
    std::fs::remove_file(format!("/proc/{sick}/root/well")).unwrap();
    let restarted = |pod: &Pod| statuses(pod)[0].restart_count == 1 && statuses(pod)[0].ready;
    let pod = node.wait_pod("pair", "to be restarted", restarted).await;
    assert_eq!(statuses(&pod)[1].restart_count, 0);
    assert_eq!(node.processes(&pod, "well"), [well]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_without_grace_leaves_nothing_either() {
    let node = Node::start().await;
    let created = node
        .create("stubborn", shell("trap '' TERM; while true; do sleep 1; done"))
        .await;
    node.wait_ready("stubborn").await;
    node.delete("stubborn", 0).await;
    node.wait_gone(&created).await;
}
