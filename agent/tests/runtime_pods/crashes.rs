//! The agent may die at any instant, and so may a holder.

use std::{fs, time::Duration};

use causeway_agent::runtime::{ExitReason, RuntimeError, SandboxId};

use crate::support::{Node, alive, pid, sandbox_spec, wait_for};

fn kill(pid: u32, signal: i32) {
    // SAFETY: only called for processes that this test's node started and that are still unreaped.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) }, 0);
}

#[tokio::test]
async fn containers_outlive_the_agent_and_their_exit_codes_are_seen() {
    let mut node = Node::new().await;
    let sandbox = node.sandbox("p1").await;
    let id = sandbox.id.clone();
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let before = node.start(&id, "main", script).await;
    node.start(&id, "other", "exec sleep 1000").await;
    node.wait_output(&id, "main", "up").await;

    node.restart_agent().await;
    let found = node.runtime.sandboxes().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].holder, found[0].spec.clone()),
        (Some(sandbox.holder), Some(sandbox_spec("p1")))
    );
    assert_eq!(found[0].latest("main"), Some(&before));
    // Adopted, not made anew; and everything works as before.
    assert!(!node.sandbox("p1").await.created);
    let state = node
        .runtime
        .stop_container(&id, "main", Duration::from_mins(1))
        .await
        .unwrap();
    assert_eq!(state.exit().unwrap().exit_code, 7);

    // What ends while there is no agent is seen by the next one. (The old one is dropped only by the assignment, so it is
    // one that has nothing to do with this pod any more which is replaced.)
    let other = pid(&node.state(&id, "other").await);
    kill(other, libc::SIGKILL);
    node.restart_agent().await;
    let state = node.ended(&id, "other").await;
    assert_eq!(
        (state.exit().unwrap().exit_code, state.exit().unwrap().reason),
        (137, ExitReason::Error)
    );
}

#[tokio::test]
async fn a_restarted_agent_is_told_of_changes_too() {
    let mut node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    node.start(&id, "main", "exec sleep 1000").await;
    node.restart_agent().await;
    let mut changes = node.runtime.changes();
    kill(pid(&node.state(&id, "main").await), libc::SIGKILL);
    loop {
        let told = tokio::time::timeout(Duration::from_mins(1), changes.recv())
            .await
            .expect("a change")
            .unwrap();
        assert_eq!(told, id);
        if node.state(&id, "main").await.exit().is_some() {
            break;
        }
    }
}

#[tokio::test]
async fn containers_die_with_their_holder_and_count_as_lost() {
    let node = Node::new().await;
    let sandbox = node.sandbox("p1").await;
    let id = sandbox.id.clone();
    let mut changes = node.runtime.changes();
    let state = node.start(&id, "main", "sleep 1000 & sleep 2000").await;
    let main = pid(&state);
    kill(sandbox.holder, libc::SIGKILL);
    wait_for("the container's end", || async { (!alive(main)).then_some(()) }).await;
    let state = node.holder_ended(&id).await;
    let exit = state.latest("main").unwrap().exit().unwrap().clone();
    assert_eq!((exit.reason, exit.exit_code), (ExitReason::ContainerStatusUnknown, 137));
    tokio::time::timeout(Duration::from_mins(1), changes.recv())
        .await
        .expect("a change")
        .unwrap();
    let error = node
        .runtime
        .start_container(&id, node.shell("more", "true"))
        .await
        .unwrap_err();
    assert!(matches!(error, RuntimeError::NoSandbox(_)), "{error}");

    // A new holder takes over; the past stays on record, and a new attempt runs.
    let again = node.sandbox("p1").await;
    assert!(again.created && again.holder != sandbox.holder);
    assert_eq!(node.state(&id, "main").await.exit(), Some(&exit));
    let mut spec = node.shell("main", "exit 5");
    spec.attempt = 1;
    assert_eq!(node.run(&id, spec).await.0.exit().unwrap().exit_code, 5);
}

#[tokio::test]
async fn a_holder_told_to_end_ends_with_its_containers() {
    let node = Node::new().await;
    let sandbox = node.sandbox("p1").await;
    let state = node.start(&sandbox.id, "main", "exec sleep 1000").await;
    kill(sandbox.holder, libc::SIGTERM);
    wait_for("the container's end", || async { (!alive(pid(&state))).then_some(()) }).await;
    node.holder_ended(&sandbox.id).await;
    // It recorded the end itself.
    let state = node.state(&sandbox.id, "main").await;
    assert_eq!(
        (state.exit().unwrap().reason, state.exit().unwrap().signal),
        (ExitReason::Error, libc::SIGKILL)
    );
}

#[tokio::test]
async fn half_made_sandboxes_are_found_finished_and_removed() {
    let mut node = Node::new().await;
    let pods = node.state_dir().join("pods");
    // The agent died before anything was written…
    fs::create_dir_all(pods.join("bare")).unwrap();
    // …before the cgroups were made…
    fs::create_dir_all(pods.join("files")).unwrap();
    fs::write(
        pods.join("files/sandbox.json"),
        serde_json::to_vec(&sandbox_spec("files")).unwrap(),
    )
    .unwrap();
    // …before the holder was started, leaving a container's record from before a reboot…
    let record = pods.join("groups/containers/main/0");
    fs::create_dir_all(&record).unwrap();
    fs::write(
        pods.join("groups/sandbox.json"),
        serde_json::to_vec(&sandbox_spec("groups")).unwrap(),
    )
    .unwrap();
    let state = r#"{"name":"main","attempt":0,"image":"i","image_id":"d","phase":{"phase":"starting"}}"#;
    fs::write(record.join("state.json"), state).unwrap();
    fs::write(record.join("state.tmp"), "{").unwrap();
    node.cgroups()
        .create_pod("groups", &causeway_agent::cgroup::Resources::default())
        .unwrap();
    // …or in the middle of a removal.
    node.cgroups()
        .create_pod("orphan", &causeway_agent::cgroup::Resources::default())
        .unwrap();
    fs::create_dir_all(node.state_dir().join("pods-removed/x-1/containers")).unwrap();

    node.restart_agent().await;
    assert!(!node.cgroups().pods().contains("orphan"));
    assert!(!node.state_dir().join("pods-removed").exists());
    let found = node.runtime.sandboxes().await.unwrap();
    let names: Vec<_> = found.iter().map(|state| state.id.0.as_str()).collect();
    assert_eq!(names, ["bare", "files", "groups"]);
    assert!(found.iter().all(|state| state.holder.is_none()));
    assert_eq!((found[0].spec.is_none(), found[1].spec.is_some()), (true, true));
    assert_eq!(
        found[2].containers[0].exit().unwrap().reason,
        ExitReason::ContainerStatusUnknown
    );

    assert!(node.sandbox("files").await.created);
    for uid in names {
        node.runtime.remove_sandbox(&SandboxId::from(uid)).await.unwrap();
    }
    assert_eq!(node.runtime.sandboxes().await.unwrap(), []);
    assert!(node.cgroups().pods().is_empty());
}

#[tokio::test]
async fn a_holder_that_cannot_start_says_why_and_can_be_removed() {
    let node = Node::new().await;
    let mut spec = sandbox_spec("p1");
    spec.hostname = String::new();
    assert!(matches!(
        node.runtime.create_sandbox(spec).await,
        Err(RuntimeError::Invalid { .. })
    ));
    // Its cgroup vanishes between being made and being entered.
    let id = SandboxId::from("p2");
    let dir = node.state_dir().join("pods/p2");
    fs::create_dir_all(dir.join("shm")).unwrap();
    // The socket's place is taken by a directory.
    fs::create_dir_all(dir.join("holder.sock")).unwrap();
    let error = node.runtime.create_sandbox(sandbox_spec("p2")).await.unwrap_err();
    assert!(error.to_string().contains("remove an old socket"), "{error}");
    node.runtime.remove_sandbox(&id).await.unwrap();
    assert!(node.sandbox("p2").await.created);
}
