//! Pods and their controller from end to end: restarts, quarantine, scaling, deletion, and what users get wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use causeway_tests::cluster::{REPLICAS, SOON, TestCluster, pod};
use xtask::cluster::{Spec, Store, cgroup_roots};

#[test]
fn a_crashed_container_is_restarted_and_its_pod_returns() {
    let mut cluster = TestCluster::start(1, Store::Embedded);
    let web = cluster.deploy_web();
    let chosen = &web.pods[0];
    cluster.tell(chosen, "/crash");
    let status = cluster.eventually("the container to be restarted", SOON, |cluster| {
        let pod = pod(cluster, &chosen.name)?;
        let status = pod["status"]["containerStatuses"][0].clone();
        if status["restartCount"] == 1 && status["ready"] == true {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    });
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    let pods = cluster.wait_for_web(REPLICAS);
    assert!(
        pods.contains(chosen),
        "the same pod with the same address is back: {pods:?}"
    );
    let tally = cluster.fetch_from_node("node-1", &web.url, 120).unwrap();
    assert_eq!((tally.errors, tally.by_pod.len()), (0, REPLICAS), "{tally:?}");

    // A process that hangs is found by its liveness probe.
    cluster.tell(chosen, "/hang");
    cluster.eventually("the hung container to be restarted", SOON, |cluster| {
        let status = pod(cluster, &chosen.name)?["status"]["containerStatuses"][0].clone();
        if status["restartCount"] == 2 && status["ready"] == true {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

#[test]
fn a_pod_in_quarantine_leaves_service_and_controller_runs_on_and_is_replaced() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    let web = cluster.deploy_web();
    let chosen = &web.pods[0];
    cluster.causeway_ok(&["label", "pod", &chosen.name, "env-"]).unwrap();
    let pods = cluster.wait_for_web(REPLICAS);
    assert!(pods.iter().all(|pod| pod.name != chosen.name));

    let quarantined = pod(&cluster, &chosen.name).unwrap();
    assert!(
        quarantined["metadata"]["ownerReferences"]
            .as_array()
            .is_none_or(Vec::is_empty),
        "{quarantined}"
    );
    assert_eq!(quarantined["status"]["phase"], "Running");
    let answer = cluster.http(&chosen.node, "GET", chosen.address(), "/").unwrap();
    assert!(
        answer.body.contains(&chosen.name),
        "it still serves those who ask it by address: {}",
        answer.body
    );
    cluster.eventually("no request to reach it through the service", SOON, |cluster| {
        let tally = cluster
            .fetch_from_node("node-1", &web.url, 120)
            .map_err(|error| format!("{error:#}"))?;
        if tally.errors > 0 || tally.by_pod.contains_key(&chosen.name) {
            Err(format!("{tally:?}"))
        } else {
            Ok(())
        }
    });
}

#[test]
fn scaling_up_adds_backends_and_scaling_down_fails_no_request() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    let web = cluster.deploy_web();
    cluster.causeway_ok(&["scale", "rc", "web", "--replicas", "5"]).unwrap();
    let five = cluster.wait_for_web(5);
    cluster.eventually("all five to answer", SOON, |cluster| {
        let tally = cluster
            .fetch_from_node("node-2", &web.url, 200)
            .map_err(|error| format!("{error:#}"))?;
        if tally.errors == 0 && tally.by_pod.len() == 5 {
            Ok(())
        } else {
            Err(format!("{:?}", tally.by_pod))
        }
    });

    let load = cluster.begin_load_from_pod(&web.clients[0], &web.url, Duration::from_secs(8));
    cluster.causeway_ok(&["scale", "rc", "web", "--replicas", "1"]).unwrap();
    let one = cluster.wait_for_web(1);
    assert!(five.contains(&one[0]), "a pod that was there stays: {one:?}");
    let tally = load.finish().unwrap();
    assert_eq!(tally.errors, 0, "{:?}", &tally.failures[..tally.failures.len().min(5)]);
}

#[test]
fn deleting_everything_leaves_no_namespace_link_mount_cgroup_or_file() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    let before = traces(cluster.spec());
    cluster.deploy_web();
    let uids: Vec<_> = cluster
        .list(&["pods"])
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(uids.len(), REPLICAS + 2);
    let during = traces(cluster.spec());
    assert!(
        during.len() > before.len() + 2 * uids.len(),
        "the search finds what pods leave: {during:?}"
    );

    cluster.causeway_ok(&["delete", "rc,svc", "web"]).unwrap();
    cluster.causeway_ok(&["delete", "pods", "-l", "app=client"]).unwrap();
    cluster.eventually("every trace of the pods to be gone", SOON, |cluster| {
        let left: Vec<_> = traces(cluster.spec()).difference(&before).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    assert!(cluster.list(&["pods"]).unwrap().is_empty());
    assert!(
        cluster
            .causeway(&["get", "endpoints", "web"])
            .is_ok_and(|output| !output.status.success())
    );
}

#[test]
fn mistakes_are_told_in_words() {
    let mut cluster = TestCluster::start(1, Store::Embedded);
    let web = fs::read_to_string(xtask::compile::workspace().join("examples/web.yaml")).unwrap();
    for (right, wrong, told) in [
        (
            "readinessProbe:",
            "readynessProbe:",
            "spec.template.spec.containers[0].readynessProbe",
        ),
        ("memory: 16Mi", "memory: 16Megs", "16Megs"),
        (
            "app: web\n    env: demo\n  template",
            "app: -web\n    env: demo\n  template",
            "selector",
        ),
        ("targetPort: http", "targetPort: 70000", "targetPort"),
    ] {
        assert!(web.contains(right), "{right}");
        let error = cluster.apply(&web.replace(right, wrong)).expect_err(wrong).to_string();
        assert!(error.contains(told), "{wrong}: {error}");
    }

    let client = fs::read_to_string(xtask::compile::workspace().join("examples/client.yaml")).unwrap();
    cluster
        .apply(&client.replace("causeway-demo:dev", "causeway-demo:nosuch"))
        .unwrap();
    let waiting = cluster.eventually("the missing image to be told", SOON, |cluster| {
        let status = pod(cluster, "client-node-1")?["status"].clone();
        let waiting = status["containerStatuses"][0]["state"]["waiting"].clone();
        let reason = waiting["reason"].as_str().unwrap_or_default();
        if reason.contains("Image") {
            Ok(waiting)
        } else {
            Err(status.to_string())
        }
    });
    assert!(
        waiting["message"]
            .as_str()
            .is_some_and(|text| text.contains("causeway-demo:nosuch")),
        "{waiting}"
    );
}

/// Everything that pods leave on a machine while they live: processes and directories in cgroups, links, mounts,
/// named namespaces, and what is below the directories of the nodes' state (the images' included, which are there before;
/// files beside those directories are the agent's own books).
fn traces(spec: &Spec) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("it can be read");
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if Path::new(mount).starts_with(spec.state_dir()) || mount.starts_with("/run/netns/") {
            traces.insert(format!("mount {mount}"));
        }
    }
    let cgroup_roots = cgroup_roots().expect("cgroup hierarchies");
    for node in spec.node_names() {
        for root in &cgroup_roots {
            // `host` is where the harness puts the node's own clients.
            walk(&root.join(spec.cgroup(&node)), "host", &mut traces);
        }
        let links = Command::new("ip")
            .args(["-netns", &spec.netns(&node), "-oneline", "link"])
            .output()
            .expect("ip runs");
        assert!(links.status.success());
        for link in String::from_utf8_lossy(&links.stdout).lines() {
            traces.insert(format!(
                "link {node} {}",
                link.split(':').nth(1).unwrap_or_default().trim()
            ));
        }
        for entry in fs::read_dir(spec.node_state_dir(&node)).into_iter().flatten().flatten() {
            walk(&entry.path(), "", &mut traces);
        }
    }
    traces
}

/// Names of all directories, and of files outside of cgroups, below `directory`.
fn walk(directory: &Path, skip: &str, traces: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name() == skip {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            traces.insert(path.display().to_string());
            walk(&path, skip, traces);
        } else if !directory.starts_with("/sys") {
            traces.insert(path.display().to_string());
        }
    }
}
