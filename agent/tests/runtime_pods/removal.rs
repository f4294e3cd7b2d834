//! A removed sandbox leaves nothing.

use std::{fs, time::Duration};

use causeway_agent::{cgroup::layout::Layout, runtime::SandboxId};

use crate::support::{Node, alive, pid};

#[tokio::test]
async fn nothing_is_left() {
    let node = Node::new().await;
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let sandbox = node.sandbox("p1").await;
    let id = &sandbox.id;
    let mut pids = vec![sandbox.holder];
    for name in ["a", "b"] {
        let state = node
            .runtime
            .start_container(id, node.shell(name, "trap '' TERM; sleep 1000 & sleep 2000"))
            .await
            .unwrap();
        pids.push(pid(&state));
    }
    let prefix = node.dir.path().to_string_lossy().into_owned();
    assert!(!mounts().contains(&prefix), "a mount in the node's own namespace");
    let groups: Vec<_> = Layout::detect()
        .unwrap()
        .hierarchies()
        .iter()
        .map(|root| root.join(&node.parent).join("pod-p1"))
        .collect();
    assert!(groups.iter().all(|group| group.join("a").is_dir()), "{groups:?}");

    let removed = tokio::time::timeout(Duration::from_mins(1), node.runtime.remove_sandbox(id))
        .await
        .unwrap();
    removed.unwrap();
    assert!(pids.iter().all(|pid| !alive(*pid)), "{pids:?}");
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
    assert!(!mounts().contains(&prefix));
    let left: Vec<_> = fs::read_dir(node.state_dir().join("pods")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(fs::read_dir(node.state_dir().join("pods-removed")).map_or(true, |mut dir| dir.next().is_none()));
    // No process holds the pod's network namespace any more.
    assert!(!sandbox.netns_path().exists());

    node.runtime.remove_sandbox(id).await.unwrap();
    assert_eq!(node.runtime.sandbox(id).await.unwrap(), None);
}

#[tokio::test]
async fn what_never_was_can_be_removed() {
    let node = Node::new().await;
    node.runtime.remove_sandbox(&SandboxId::from("never")).await.unwrap();
    let error = node
        .runtime
        .remove_sandbox(&SandboxId::from("../etc"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "sandbox ../etc is not wholly removed: its uid cannot be a file name"
    );
}

#[tokio::test]
async fn a_sandbox_can_be_made_again_after_removal() {
    let node = Node::new().await;
    for _ in 0..3 {
        let sandbox = node.sandbox("p1").await;
        assert!(sandbox.created);
        let (state, _) = node.run(&sandbox.id, node.container("main", &["true"])).await;
        assert_eq!(state.exit().unwrap().exit_code, 0);
        node.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    }
}

#[tokio::test]
async fn removal_cuts_a_stop_short() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    node.start(&id, "main", "trap '' TERM; echo up; while :; do sleep 0.05; done")
        .await;
    node.wait_output(&id, "main", "up").await;
    let both = async {
        tokio::join!(
            node.runtime.stop_container(&id, "main", Duration::from_hours(1)),
            node.runtime.remove_sandbox(&id)
        )
    };
    let (stopped, removed) = tokio::time::timeout(Duration::from_mins(1), both).await.unwrap();
    removed.unwrap();
    assert!(stopped.is_err() || stopped.unwrap().exit().is_some());
}
