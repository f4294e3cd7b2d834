//! Services from end to end: who answers, who no longer does, and what happens when nobody can.

use std::time::Duration;

use causeway_tests::cluster::{REPLICAS, TestCluster, Web, unix_ms};
use serde_json::Value;
use xtask::cluster::example::Pod;
use xtask::cluster::traffic::Tally;
use xtask::cluster::{Cluster, Store};

/// Requests per client.
const REQUESTS: u64 = 300;

/// Bound for what follows from one event, on a busy machine: still well below the 30 s after which agents look at everything
/// anyway.
const SOON: Duration = Duration::from_secs(20);

/// Every pod gets its share: with three of them and 300 requests the expected 100 have a standard deviation of 8 when
/// backends are drawn at random, so 50 and 150 are more than six of those away.
fn assert_spread(tally: &Tally, pods: &[Pod], from: &str) {
    assert_eq!(tally.errors, 0, "from {from}: {:?}", tally.failures.first());
    assert_eq!(tally.answers, REQUESTS, "from {from}");
    for pod in pods {
        let count = tally.by_pod.get(&pod.name).copied().unwrap_or(0);
        assert!(
            (50..=150).contains(&count),
            "from {from}: {} answered {count} of {REQUESTS}: {:?}",
            pod.name,
            tally.by_pod
        );
    }
}

fn assert_spread_from_everywhere(cluster: &TestCluster, web: &Web) {
    for client in &web.clients {
        let tally = cluster.fetch_from_pod(client, &web.url, REQUESTS).expect("a tally");
        assert_spread(&tally, &web.pods, &client.name);
    }
    for node in cluster.spec().node_names() {
        let tally = cluster.fetch_from_node(&node, &web.url, REQUESTS).expect("a tally");
        assert_spread(&tally, &web.pods, &node);
    }
}

#[test]
fn requests_spread_evenly_over_pods_and_nodes_from_everywhere() {
    let mut cluster = TestCluster::start(3, Store::Embedded);
    let web = cluster.deploy_web();
    let mut nodes: Vec<_> = web.pods.iter().map(|pod| pod.node.clone()).collect();
    nodes.sort();
    assert_eq!(
        nodes,
        cluster.spec().node_names(),
        "the scheduler spreads replicas over the nodes"
    );
    assert_spread_from_everywhere(&cluster, &web);
    // A replica is a client of its own service too, and of itself among the backends (hairpin).
    let tally = cluster.fetch_from_pod(&web.pods[0], &web.url, REQUESTS).unwrap();
    assert_spread(&tally, &web.pods, "a replica");
}

#[test]
fn datagrams_spread_too_and_answers_come_from_the_virtual_ip() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    let web = cluster.deploy_web();
    let to = (cluster.virtual_ip("web").unwrap(), 7).into();
    for client in &web.clients {
        let tally = cluster.datagrams_from_pod(client, to, REQUESTS).unwrap();
        assert_spread(&tally, &web.pods, &client.name);
    }
    for node in cluster.spec().node_names() {
        let tally = cluster.datagrams_from_node(&node, to, REQUESTS).unwrap();
        assert_spread(&tally, &web.pods, &node);
    }
}

#[test]
fn the_same_holds_with_etcd_as_the_store() {
    let mut cluster = TestCluster::start(2, Store::Etcd);
    let web = cluster.deploy_web();
    assert_spread_from_everywhere(&cluster, &web);
    // What was written is really in etcd: a control plane with nothing but etcd finds it.
    cluster.stop("control", nix::sys::signal::Signal::SIGKILL).unwrap();
    cluster.restart("control").unwrap();
    let names = cluster.eventually("the control plane to serve again", SOON, |cluster| {
        cluster
            .list(&["pods", "-l", "app=web"])
            .map_err(|error| format!("{error:#}"))
    });
    assert_eq!(names.len(), REPLICAS);
}

#[test]
fn a_pod_turned_unready_gets_no_new_connection() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    let web = cluster.deploy_web();
    let chosen = &web.pods[0];
    let other_node = cluster
        .spec()
        .node_names()
        .into_iter()
        .find(|node| *node != chosen.node)
        .unwrap();

    let duration = Duration::from_secs(8);
    let near = cluster.begin_load_from_node(&chosen.node, &web.url, duration).unwrap();
    let near_pod = cluster.begin_load_from_pod(web.client_on(&chosen.node), &web.url, duration);
    let far = cluster.begin_load_from_node(&other_node, &web.url, duration).unwrap();
    cluster.tell(chosen, "/unready");
    // The map is read in the other order than written: once it says unready, the bit has flipped.
    let seen_at = |cluster: &mut TestCluster, node: &str| {
        let address = format!("{}/TCP", chosen.address());
        cluster.eventually(&format!("the backend to turn unready on {node}"), SOON, |cluster| {
            let backends = backends(cluster, node)?;
            let ready = backends.iter().any(|backend| is_ready_backend(backend, &address));
            if ready {
                Err(format!("{backends:?}"))
            } else {
                Ok(unix_ms())
            }
        })
    };
    let near_since = seen_at(&mut cluster, &chosen.node);
    let far_since = seen_at(&mut cluster, &other_node);

    for (load, since, from) in [
        (near, near_since, "its node"),
        (near_pod, near_since, "a pod on its node"),
        (far, far_since, "another node"),
    ] {
        let tally = load.finish().unwrap();
        assert_eq!(tally.errors, 0, "from {from}: {:?}", tally.failures.first());
        let last = tally.last_connect_unix_ms.get(&chosen.name).copied().unwrap_or(0);
        assert!(
            last <= since,
            "from {from}: a connection begun {} ms after the bit flipped",
            last - since
        );
        assert!(
            tally.by_pod.len() == REPLICAS,
            "from {from}: the others went on: {:?}",
            tally.by_pod
        );
    }
    // Nor one of many that begin later, whatever became of the load on a busy machine.
    let after = [
        cluster.fetch_from_node(&chosen.node, &web.url, REQUESTS),
        cluster.fetch_from_pod(web.client_on(&chosen.node), &web.url, REQUESTS),
        cluster.fetch_from_node(&other_node, &web.url, REQUESTS),
    ];
    for tally in after {
        let tally = tally.unwrap();
        assert_eq!(
            (tally.answers, tally.errors),
            (REQUESTS, 0),
            "{:?}",
            tally.failures.first()
        );
        assert!(
            tally.by_pod.len() == REPLICAS - 1 && !tally.by_pod.contains_key(&chosen.name),
            "{:?}",
            tally.by_pod
        );
    }

    cluster.tell(chosen, "/ready");
    cluster.wait_for_web(REPLICAS);
    let tally = cluster.fetch_from_node(&other_node, &web.url, REQUESTS).unwrap();
    assert_spread(&tally, &web.pods, "the other node, after the pod turned ready again");
}

#[test]
fn a_service_without_ready_backends_refuses_at_once() {
    let mut cluster = TestCluster::start(1, Store::Embedded);
    let web = cluster.deploy_web();
    for pod in &web.pods {
        cluster.tell(pod, "/unready");
    }
    cluster.eventually("no backend to be ready", SOON, |cluster| {
        let ready = cluster.ready_endpoints("web").map_err(|error| format!("{error:#}"))?;
        if ready.is_empty() {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        }
    });
    let from_pod = cluster.fetch_from_pod(&web.clients[0], &web.url, 1).unwrap();
    let from_node = cluster.fetch_from_node("node-1", &web.url, 1).unwrap();
    for tally in [from_pod, from_node] {
        let failure = tally.failures.first().expect("nobody can answer");
        // Who asks is told, instead of asking until it gives up.
        assert!(failure.error.starts_with("connect: Connection refused"), "{failure:?}");
    }
}

/// The backends in a node's live map.
fn backends(cluster: &Cluster, node: &str) -> Result<Vec<Value>, String> {
    let args = ["bpf", "backends", "--cluster", &cluster.spec().name, "--node", node];
    let list = cluster.causeway_json(&args).map_err(|error| format!("{error:#}"))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn is_ready_backend(backend: &Value, address: &str) -> bool {
    let mut states = backend["state"].as_array().into_iter().flatten();
    backend["address"].as_str() == Some(address) && states.any(|state| state == "READY")
}
