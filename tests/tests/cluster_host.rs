//! Pods at ports of their node, and pods in their node's network, from the manifest to the answer.

use std::fmt::Write as _;

use causeway_tests::cluster::{SOON, TestCluster, pod};
use causeway_tests::wait;
use nix::sys::signal::Signal;
use xtask::cluster::Store;

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
    cluster.wait_for_ready(&["at-port", "hosted-1", "hosted-2"]);

    let node_1 = cluster.spec().node_ip(1);
    cluster.wait_for_answers(&format!("http://{node_1}:{HOST_PORT}/"), &["at-port"]);
    for (name, number) in [("hosted-1", 1), ("hosted-2", 2)] {
        let (pod, ip) = (pod(&cluster, name).unwrap(), cluster.spec().node_ip(number));
        assert_eq!(pod["status"]["podIP"], ip.to_string(), "{pod}");
        assert_eq!(pod["status"]["hostIP"], pod["status"]["podIP"]);
        cluster.wait_for_answers(&format!("http://{ip}:{HOSTED_PORT}/"), &[name]);
    }
    let vip = cluster.virtual_ip("hosted").expect("a virtual IP");
    cluster.wait_for_answers(&format!("http://{vip}/"), &["hosted-1", "hosted-2"]);
    cluster.wait_for_kernel_to_agree();

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
    cluster.wait_for_ready(&["rival-1", "rival-2"]);
    cluster.wait_for_answers(&format!("http://{node_1}:{HOST_PORT}/"), &["rival-1"]);
    cluster.wait_for_answers(&format!("http://{vip}/"), &["hosted-1"]);
    cluster.wait_for_kernel_to_agree();

    // Its own node needs nobody to know that a pod in its network is unready.
    cluster.stop("control", Signal::SIGKILL).expect("a signal");
    let hosted = (node_1, HOSTED_PORT).into();
    let answer = cluster.http("node-1", "POST", hosted, "/unready");
    assert_eq!(answer.expect("the pod answers").status, 200);
    wait::for_true("its node to stop sending to it", SOON, || {
        let tally = cluster.fetch_from_node("node-1", &format!("http://{vip}/"), 5);
        tally.expect("a client that runs").by_pod.is_empty()
    });
}
