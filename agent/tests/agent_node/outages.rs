//! The agent dies, the control plane goes away: pods stay.

use std::time::Duration;

use causeway_proto::{Resource, v1::Pod};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Node, is_ready, shell, wait_for};

const FOREVER: &str = "exec sleep 100000";

fn restarts(pod: &Pod) -> i32 {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.first())
        .map_or(0, |container| container.restart_count)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_restarted_with_the_control_plane_away_finds_and_tends_its_pods() {
    let mut node = Node::start().await;
    node.create("web", shell(FOREVER)).await;
    let pod = node.wait_ready("web").await;
    let before = node.processes(&pod, "main");
    assert_eq!(before.len(), 1);

    node.stop_control().await;
    node.kill_agent();
    assert_eq!(node.processes(&pod, "main"), before, "a pod outlives its agent");
    node.start_agent();
    // It restarts what crashes, without anybody to ask.
    kill(Pid::from_raw(before[0]), Signal::SIGKILL).unwrap();
    let look = || async {
        node.processes(&pod, "main")
            .first()
            .copied()
            .filter(|pid| *pid != before[0])
    };
    let after = wait_for("a restart", look).await;

    node.start_control().await;
    let restarted = node
        .wait_pod("web", "to tell its restart", |pod| restarts(pod) == 1 && is_ready(pod))
        .await;
    assert_eq!(restarted.status.unwrap().pod_ip, pod.status.as_ref().unwrap().pod_ip);
    assert_eq!(node.processes(&pod, "main"), [after]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_stops_at_once_and_leaves_its_pods() {
    let mut node = Node::start().await;
    node.create("web", shell(FOREVER)).await;
    let pod = node.wait_ready("web").await;
    let before = node.processes(&pod, "main");
    assert!(node.stop_agent() < Duration::from_secs(5));
    assert_eq!(node.processes(&pod, "main"), before);
    assert_eq!(node.traces(&pod.meta().uid).len(), 4);
    node.start_agent();
    node.delete("web", 1).await;
    node.wait_gone(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_the_agent_was_away_goes_when_it_is_back() {
    let mut node = Node::start().await;
    let graceful = node.create("graceful", shell(FOREVER)).await;
    let forced = node.create("forced", shell(FOREVER)).await;
    let kept = node.create("kept", shell(FOREVER)).await;
    for name in ["graceful", "forced", "kept"] {
        node.wait_ready(name).await;
    }
    let before = node.processes(&kept, "main");
    node.kill_agent();
    node.delete("graceful", 1).await;
    node.delete("forced", 0).await;
    node.start_agent();
    node.wait_gone(&graceful).await;
    node.wait_gone(&forced).await;
    assert_eq!(node.processes(&kept, "main"), before);
    assert_eq!(restarts(&node.wait_ready("kept").await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_records_cost_no_pod_its_process_or_address() {
    let mut node = Node::start().await;
    node.create("web", shell(FOREVER)).await;
    let pod = node.wait_ready("web").await;
    let before = node.processes(&pod, "main");
    node.kill_agent();
    std::fs::remove_dir_all(node.state_dir().join("records")).unwrap();
    node.start_agent();
    let record = node
        .state_dir()
        .join("records")
        .join(format!("{}.json", pod.meta().uid));
    wait_for("a new record", || async { record.exists().then_some(()) }).await;
    // A new pod does not get the address of the one that was forgotten.
    node.create("next", shell(FOREVER)).await;
    let next = node.wait_ready("next").await;
    let web = node.wait_ready("web").await;
    assert_eq!(node.processes(&pod, "main"), before);
    assert_eq!(web.status.as_ref().unwrap().pod_ip, pod.status.unwrap().pod_ip);
    assert_ne!(web.status.unwrap().pod_ip, next.status.unwrap().pod_ip);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_holder_is_killed_is_made_anew_at_its_address() {
    let node = Node::start().await;
    node.create("web", shell(FOREVER)).await;
    let pod = node.wait_ready("web").await;
    for holder in node.processes(&pod, "_holder") {
        kill(Pid::from_raw(holder), Signal::SIGKILL).unwrap();
    }
    let again = node
        .wait_pod("web", "to be made anew", |pod| restarts(pod) == 1 && is_ready(pod))
        .await;
    assert_eq!(again.status.unwrap().pod_ip, pod.status.unwrap().pod_ip);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_node_registers_again_and_heartbeats_go_on() {
    let node = Node::start().await;
    let renewed = || async {
        let lease: causeway_proto::v1::Lease = node.client.get("causeway-node-lease", "node-1").await.ok()?;
        lease.spec?.renew_time.map(|time| (time.seconds, time.nanos))
    };
    let first = wait_for("a heartbeat", renewed).await;
    wait_for("the next heartbeat", || async {
        renewed().await.filter(|next| *next > first)
    })
    .await;
    let uid = node.ready().await.meta().uid.clone();
    node.client
        .delete::<causeway_proto::v1::Node>("", "node-1", &causeway_proto::client::DeleteOptions::default())
        .await
        .unwrap();
    wait_for("another registration", || async {
        (node.ready().await.meta().uid != uid).then_some(())
    })
    .await;
}
