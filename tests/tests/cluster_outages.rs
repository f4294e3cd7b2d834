//! Parts that die and come back: traffic does not notice.

use std::time::{Duration, Instant};

use causeway_tests::cluster::{REPLICAS, SOON, TestCluster};
use causeway_tests::wait;
use nix::sys::signal::Signal;
use xtask::cluster::Store;
use xtask::cluster::example::Load;

/// How long the load goes on, outage included.
const LOAD: Duration = Duration::from_secs(8);
/// How long a part stays away.
const AWAY: Duration = Duration::from_secs(2);

/// Lets time pass under load: what is tested is that nothing happens meanwhile.
fn stay_away(loads: &[Load]) {
    let begun = Instant::now();
    wait::for_true("the outage to have lasted", AWAY * 2, || begun.elapsed() >= AWAY);
    assert!(
        loads.iter().all(|load| !load.is_over()),
        "the load ended before the outage"
    );
}

fn begin_loads(cluster: &TestCluster, web: &causeway_tests::cluster::Web) -> Vec<Load> {
    let mut loads: Vec<_> = web
        .clients
        .iter()
        .map(|client| cluster.begin_load_from_pod(client, &web.url, LOAD))
        .collect();
    loads.push(cluster.begin_load_from_node("node-1", &web.url, LOAD).expect("a load"));
    loads
}

fn assert_nothing_failed(loads: Vec<Load>) {
    for load in loads {
        let tally = load.finish().expect("a tally");
        assert_eq!(tally.errors, 0, "{:?}", &tally.failures[..tally.failures.len().min(5)]);
        assert_eq!(tally.by_pod.len(), REPLICAS, "{:?}", tally.by_pod);
        assert!(tally.answers > 200, "hardly a load: {} answers", tally.answers);
    }
}

#[test]
fn an_agent_killed_and_restarted_under_load_fails_no_request() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    let web = cluster.deploy_web();
    let pods_before = cluster.list(&["pods"]).unwrap();
    let loads = begin_loads(&cluster, &web);
    for node in ["node-1", "node-2"] {
        cluster.stop(node, Signal::SIGKILL).unwrap();
    }
    stay_away(&loads);
    for node in ["node-1", "node-2"] {
        cluster.restart(node).unwrap();
    }
    assert_nothing_failed(loads);

    // The agents found the same containers: nothing was started again.
    cluster.wait_for_web(REPLICAS);
    let identity = |pods: &[serde_json::Value]| -> Vec<_> {
        let of = |pod: &serde_json::Value| {
            let container = &pod["status"]["containerStatuses"][0];
            (
                pod["metadata"]["uid"].clone(),
                container["containerID"].clone(),
                container["restartCount"].clone(),
            )
        };
        let mut all: Vec<_> = pods.iter().map(|pod| format!("{:?}", of(pod))).collect();
        all.sort();
        all
    };
    assert_eq!(identity(&pods_before), identity(&cluster.list(&["pods"]).unwrap()));

    // And they are in charge again: readiness is still watched.
    cluster.tell(&web.pods[0], "/unready");
    cluster.eventually("the restarted agent to see the pod unready", SOON, |cluster| {
        let ready = cluster.ready_endpoints("web").map_err(|error| format!("{error:#}"))?;
        if ready.contains(&web.pods[0].name) {
            Err(format!("{ready:?}"))
        } else {
            Ok(())
        }
    });
}

#[test]
fn traffic_goes_on_without_the_control_plane_and_readiness_still_counts() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    let web = cluster.deploy_web();
    let loads = begin_loads(&cluster, &web);
    cluster.stop("control", Signal::SIGKILL).unwrap();
    stay_away(&loads);
    assert_nothing_failed(loads);

    // A pod's own node needs nobody to know that it is unready.
    let chosen = &web.pods[0];
    cluster.tell(chosen, "/unready");
    wait::for_true("its node to stop sending to it", SOON, || {
        let tally = cluster.fetch_from_node(&chosen.node, &web.url, 30).unwrap();
        assert_eq!(tally.errors, 0, "{:?}", tally.failures.first());
        !tally.by_pod.contains_key(&chosen.name)
    });
    cluster.tell(chosen, "/ready");

    cluster.restart("control").unwrap();
    cluster.wait_for_web(REPLICAS);
    let nodes = cluster.spec().nodes;
    cluster.eventually("the nodes to be Ready again", SOON, |cluster| {
        let ready = cluster.ready_nodes().map_err(|error| format!("{error:#}"))?;
        if ready.len() == nodes {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        }
    });
}

#[test]
fn etcd_away_in_the_middle_is_an_error_for_writers_only_until_it_is_back() {
    let mut cluster = TestCluster::start(1, Store::Etcd);
    let web = cluster.deploy_web();
    cluster.stop("etcd", Signal::SIGKILL).unwrap();
    let tally = cluster.fetch_from_pod(&web.clients[0], &web.url, 100).unwrap();
    assert_eq!(tally.errors, 0, "{:?}", tally.failures.first());
    let begun = Instant::now();
    let refused = cluster.causeway(&["scale", "rc", "web", "--replicas", "2"]).unwrap();
    assert!(!refused.status.success(), "nothing can be written without the store");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "the refusal took {:?}",
        begun.elapsed()
    );
    cluster.restart("etcd").unwrap();
    cluster.eventually("writes to work again", SOON, |cluster| {
        cluster
            .causeway_ok(&["scale", "rc", "web", "--replicas", "2"])
            .map_err(|error| format!("{error:#}"))
    });
    cluster.wait_for_web(2);
}

#[test]
fn a_silent_node_turns_not_ready_and_its_endpoints_leave() {
    let mut cluster = TestCluster::start_with(2, Store::Embedded, |spec| {
        spec.control_args = ["--node-monitor-grace-period", "6s"].map(str::to_owned).into();
    });
    let web = cluster.deploy_web();
    let on_node_2: Vec<_> = web
        .pods
        .iter()
        .filter(|pod| pod.node == "node-2")
        .map(|pod| pod.name.clone())
        .collect();
    assert!(!on_node_2.is_empty(), "the scheduler spreads replicas");
    cluster.stop("node-2", Signal::SIGKILL).unwrap();
    cluster.eventually("node-2 to be NotReady", SOON, |cluster| {
        let ready = cluster.ready_nodes().map_err(|error| format!("{error:#}"))?;
        if ready == ["node-1"] {
            Ok(())
        } else {
            Err(format!("ready: {ready:?}"))
        }
    });
    cluster.eventually("its pods to leave the endpoints", SOON, |cluster| {
        let ready = cluster.ready_endpoints("web").map_err(|error| format!("{error:#}"))?;
        if ready.iter().any(|pod| on_node_2.contains(pod)) {
            Err(format!("{ready:?}"))
        } else {
            Ok(())
        }
    });
    wait::for_true("node-1 to send to its own pods only", SOON, || {
        let tally = cluster.fetch_from_node("node-1", &web.url, 60).unwrap();
        assert_eq!(tally.errors, 0, "{:?}", tally.failures.first());
        !tally.by_node.contains_key("node-2")
    });

    cluster.restart("node-2").unwrap();
    cluster.eventually("node-2 to be Ready again", SOON, |cluster| {
        let ready = cluster.ready_nodes().map_err(|error| format!("{error:#}"))?;
        if ready.len() == 2 {
            Ok(())
        } else {
            Err(format!("ready: {ready:?}"))
        }
    });
    cluster.wait_for_web(REPLICAS);
}
