//! Pods at ports of their node, and pods in their node's network, from the manifest to the answer.

use std::{fmt::Write as _, time::Duration};

use causeway_tests::cluster::TestCluster;
use serde_json::Value;
use xtask::cluster::{Cluster, Store};

const REQUESTS: u64 = 40;
const SOON: Duration = Duration::from_mins(1);
const HOST_PORT: u16 = 18_080;
const HOSTED_PORT: u16 = 18_081;

/// A demo server on a node, with further lines of its specification and of its container.
fn server(name: &str, node: &str, port: u16, spec: &str, ports: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: hosted}}\nspec:\n  \
         nodeSelector: {{kubernetes.io/hostname: {node}}}\n  terminationGracePeriodSeconds: 1\n"
    );
    if !spec.is_empty() {
        let _ = writeln!(text, "  {spec}");
    }
    let _ = write!(
        text,
        "  containers:\n    - name: demo\n      image: causeway-demo:dev\n      \
         args: [serve, --drain-ms, \"0\", --listen, \"0.0.0.0:{port}\"]\n      \
         ports: [{{containerPort: {port}{ports}}}]\n      env:\n        \
         - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}\n      \
         readinessProbe: {{httpGet: {{path: /readyz, port: {port}}}, periodSeconds: 1}}\n"
    );
    text
}

fn pod(cluster: &Cluster, name: &str) -> Result<Value, String> {
    cluster
        .causeway_json(&["get", "pod", name])
        .map_err(|error| format!("{error:#}"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .filter(|condition| condition["type"] == "Ready")
        .any(|condition| condition["status"] == "True")
}

fn wait_for(cluster: &mut TestCluster, names: &[&str]) {
    for name in names {
        cluster.eventually(&format!("{name} to be Ready"), SOON, |cluster| {
            let pod = pod(cluster, name)?;
            if is_ready(&pod) {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        });
    }
}

/// Waits until every node, and a pod on every node, is answered by exactly these pods.
fn assert_answers(cluster: &mut TestCluster, url: &str, wanted: &[&str]) {
    let nodes = cluster.spec().node_names();
    let clients = cluster.wait_for_pods("app=client", nodes.len());
    cluster.eventually(&format!("{wanted:?} to answer at {url}"), SOON, |cluster| {
        let mut tallies = Vec::new();
        for node in &nodes {
            tallies.push((node.clone(), cluster.fetch_from_node(node, url, REQUESTS)));
        }
        for client in &clients {
            tallies.push((client.name.clone(), cluster.fetch_from_pod(client, url, REQUESTS)));
        }
        for (from, tally) in tallies {
            let tally = tally.map_err(|error| format!("from {from}: {error:#}"))?;
            let names: Vec<_> = tally.by_pod.keys().map(String::as_str).collect();
            if tally.errors > 0 || names != wanted {
                return Err(format!("from {from}: {tally:?}"));
            }
        }
        Ok(())
    });
}

fn assert_kernel_agrees(cluster: &mut TestCluster) {
    for node in cluster.spec().node_names() {
        cluster.eventually(&format!("no difference on {node}"), SOON, |cluster| {
            cluster
                .causeway_ok(&["bpf", "check", "--node", &node])
                .map(drop)
                .map_err(|error| format!("{error:#}"))
        });
    }
}

#[test]
fn pods_are_reached_at_ports_of_their_node_and_in_its_network() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    cluster.deploy_example().expect("clients");
    let host_port = format!(", hostPort: {HOST_PORT}");
    let manifest = [
        server("at-port", "node-1", 8080, "", &host_port),
        server("hosted-1", "node-1", HOSTED_PORT, "hostNetwork: true", ""),
        server("hosted-2", "node-2", HOSTED_PORT, "hostNetwork: true", ""),
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: hosted\nspec:\n  selector: {{app: hosted, net: node}}\n  \
             ports: [{{port: 80, targetPort: {HOSTED_PORT}}}]\n"
        ),
    ];
    cluster.apply(&manifest.join("---\n")).expect("the manifest");
    cluster
        .causeway_ok(&["label", "pod", "hosted-1", "hosted-2", "net=node"])
        .expect("labels");
    wait_for(&mut cluster, &["at-port", "hosted-1", "hosted-2"]);

    let node_1 = cluster.spec().node_ip(1);
    assert_answers(&mut cluster, &format!("http://{node_1}:{HOST_PORT}/"), &["at-port"]);
    for (name, number) in [("hosted-1", 1), ("hosted-2", 2)] {
        let (pod, ip) = (pod(&cluster, name).unwrap(), cluster.spec().node_ip(number));
        assert_eq!(pod["status"]["podIP"], ip.to_string(), "{pod}");
        assert_eq!(pod["status"]["hostIP"], pod["status"]["podIP"]);
        assert_answers(&mut cluster, &format!("http://{ip}:{HOSTED_PORT}/"), &[name]);
    }
    let vip = cluster.virtual_ip("hosted").expect("a virtual IP");
    assert_answers(&mut cluster, &format!("http://{vip}/"), &["hosted-1", "hosted-2"]);
    assert_kernel_agrees(&mut cluster);

    // A port of a node goes to one pod, in whichever way it has it.
    let rivals = [
        server("rival-1", "node-1", 8080, "", &host_port),
        server("rival-2", "node-2", 8080, "", &format!(", hostPort: {HOSTED_PORT}")),
    ];
    cluster.apply(&rivals.join("---\n")).expect("the manifest");
    for name in ["rival-1", "rival-2"] {
        cluster.eventually(&format!("{name} to find no free port"), SOON, |cluster| {
            let pod = pod(cluster, name)?;
            let text = pod["status"]["conditions"].to_string();
            if text.contains("didn't have free ports for the requested pod ports") {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        });
    }

    // The one that goes makes room; nothing of a pod in the node's network goes with it but itself.
    cluster
        .causeway_ok(&["delete", "pod", "at-port", "hosted-2"])
        .expect("deletion");
    wait_for(&mut cluster, &["rival-1", "rival-2"]);
    assert_answers(&mut cluster, &format!("http://{node_1}:{HOST_PORT}/"), &["rival-1"]);
    assert_answers(&mut cluster, &format!("http://{vip}/"), &["hosted-1"]);
    assert_kernel_agrees(&mut cluster);
}
