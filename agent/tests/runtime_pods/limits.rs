//! Limits are enforced, and processes are where they are accounted.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use causeway_agent::{
    cgroup::{
        Resources,
        layout::{Controller, Layout},
    },
    runtime::{ExecSpec, ExitReason, SandboxId, SandboxSpec},
};

use crate::support::{Node, PATIENCE, pid, sandbox_spec, wait_for};

impl Node {
    /// A file of a container's cgroup in the hierarchy of `controller`; with its names in v1 and in v2.
    fn cgroup_file(&self, id: &SandboxId, container: &str, controller: Controller, v1: &str, v2: &str) -> PathBuf {
        let layout = Layout::detect().unwrap();
        let (root, is_v2) = layout.find(controller).unwrap();
        root.join(&self.parent)
            .join(format!("pod-{id}"))
            .join(container)
            .join(if is_v2 { v2 } else { v1 })
    }

    /// Processor time a container has used.
    fn cpu_time(&self, id: &SandboxId, container: &str) -> Duration {
        let v2 = Layout::detect().unwrap().v2_controllers.contains(&Controller::Cpu);
        let controller = if v2 { Controller::Cpu } else { Controller::Cpuacct };
        let text =
            fs::read_to_string(self.cgroup_file(id, container, controller, "cpuacct.usage", "cpu.stat")).unwrap();
        if let Ok(nanoseconds) = text.trim().parse() {
            return Duration::from_nanos(nanoseconds);
        }
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
        Duration::from_micros(line.parse().unwrap())
    }
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_oom_killed() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut hog = node.container("hog", &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    hog.resources.memory_limit_bytes = Some(32 << 20);
    let (state, _) = node.run(&id, hog.clone()).await;
    let exit = state.exit().unwrap();
    assert_eq!(
        (exit.reason, exit.exit_code, exit.signal),
        (ExitReason::OomKilled, 137, libc::SIGKILL)
    );
    // With enough it ends well: the limit made the difference.
    hog.name = "fed".to_owned();
    hog.resources.memory_limit_bytes = Some(400 << 20);
    let (state, output) = node.run(&id, hog).await;
    assert_eq!(state.exit().unwrap().reason, ExitReason::Completed, "{output}");
}

#[tokio::test]
async fn a_restarted_container_is_not_blamed_for_an_earlier_oom_kill() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut spec = node.container("main", &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    spec.resources.memory_limit_bytes = Some(32 << 20);
    assert_eq!(
        node.run(&id, spec.clone()).await.0.exit().unwrap().reason,
        ExitReason::OomKilled
    );
    spec.attempt = 1;
    spec.argv = vec!["false".to_owned()];
    assert_eq!(node.run(&id, spec).await.0.exit().unwrap().reason, ExitReason::Error);
}

#[tokio::test]
async fn the_pods_limit_bounds_its_containers_together() {
    let node = Node::new().await;
    let resources = Resources {
        memory_limit_bytes: Some(48 << 20),
        ..Resources::default()
    };
    let spec = SandboxSpec {
        resources,
        ..sandbox_spec("p1")
    };
    let id = node.runtime.create_sandbox(spec).await.unwrap().id;
    let hog = node.container("hog", &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    let (state, _) = node.run(&id, hog).await;
    assert_eq!(state.exit().unwrap().reason, ExitReason::OomKilled);
    assert!(
        node.runtime.sandbox(&id).await.unwrap().unwrap().holder.is_some(),
        "the holder was killed instead"
    );
}

#[tokio::test]
async fn a_container_gets_no_more_processor_time_than_its_limit() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut spinner = node.shell("spinner", "echo up; while :; do :; done");
    spinner.resources.cpu_limit_millis = Some(200);
    node.runtime.start_container(&id, spinner).await.unwrap();
    node.wait_output(&id, "spinner", "up").await;
    let (before, began) = (node.cpu_time(&id, "spinner"), Instant::now());
    let work = Duration::from_millis(300);
    let used = || async {
        node.cpu_time(&id, "spinner")
            .checked_sub(before)
            .filter(|used| *used >= work)
    };
    let used = wait_for("300 ms of processor time", used).await;
    let elapsed = began.elapsed();
    // A fifth of a processor, plus at most the quota of the periods that began before and end after.
    let most = elapsed.mul_f64(0.2) + Duration::from_millis(50);
    assert!(used <= most, "{used:?} of processor time in {elapsed:?}");
    let stat = fs::read_to_string(node.cgroup_file(&id, "spinner", Controller::Cpu, "cpu.stat", "cpu.stat")).unwrap();
    let throttled = stat
        .lines()
        .find_map(|line| line.strip_prefix("nr_throttled "))
        .unwrap();
    assert_ne!(throttled, "0", "{stat}");
}

#[tokio::test]
async fn requests_become_shares() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut spec = node.shell("main", "exec sleep 1000");
    spec.resources.cpu_request_millis = Some(500);
    node.runtime.start_container(&id, spec).await.unwrap();
    let share = fs::read_to_string(node.cgroup_file(&id, "main", Controller::Cpu, "cpu.shares", "cpu.weight")).unwrap();
    assert!(["512", "20"].contains(&share.trim()), "{share}");
}

#[tokio::test]
async fn processes_are_counted() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut spec = node.shell("main", "for i in $(seq 1 30); do sleep 1000 & done; echo ALL STARTED");
    spec.resources.pids_limit = Some(10);
    let (state, output) = node.run(&id, spec).await;
    assert!(!output.contains("ALL STARTED") && output.contains("fork"), "{output}");
    assert_ne!(state.exit().unwrap().exit_code, 0);
}

#[tokio::test]
async fn every_process_is_in_the_pods_groups_in_every_hierarchy() {
    let node = Node::new().await;
    let sandbox = node.sandbox("p1").await;
    let id = &sandbox.id;
    let script = "sleep 1000 & echo up; wait";
    let state = node
        .runtime
        .start_container(id, node.shell("main", script))
        .await
        .unwrap();
    node.wait_output(id, "main", "up").await;
    let of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let in_v2 = |text: &str, group: &str| {
        let path = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap()
            .to_owned();
        // Paths are told relative to the reader's own cgroup namespace, which here is the machine's.
        assert!(path.ends_with(&format!("{}/pod-p1/{group}", node.parent)), "{text}");
    };
    in_v2(&of(pid(&state)), "main");
    in_v2(&of(sandbox.holder), "_holder");
    // A command beside it, and the children of both.
    let spec = ExecSpec {
        argv: vec!["sleep".into(), "2000".into()],
        timeout: Some(PATIENCE),
        output_limit_bytes: 0,
    };
    let exec = node.runtime.exec(id, "main", spec);
    let layout = Layout::detect().unwrap();
    let counted = async {
        for root in layout.hierarchies() {
            let procs = root.join(&node.parent).join("pod-p1/main/cgroup.procs");
            let count = || async {
                let count = fs::read_to_string(&procs).unwrap().lines().count();
                (count == 3).then_some(())
            };
            wait_for(&format!("three processes in {}", procs.display()), count).await;
        }
    };
    tokio::select! {
        result = exec => panic!("the command ended: {result:?}"),
        () = counted => {}
    }
}

#[tokio::test]
async fn a_limit_needs_its_controller_and_oom_scores_are_set() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut spec = node.container("main", &["cat", "/proc/self/oom_score_adj"]);
    spec.oom_score_adj = 321;
    assert_eq!(node.run(&id, spec).await.1, "321\n");
}
